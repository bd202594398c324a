"""The samples of an evaluation: what one is, and those that a directory keeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autodeco_gguf.engine.request import Result
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.evaluation.settings import ADVICE, DIGESTS, EvalSettings
from autodeco_gguf.files.journal import Journal
from autodeco_gguf.model.sampling import Sampling, seed_from

SAMPLES = "samples.jsonl"
"""Where they stand in the directory of an evaluation."""


class Key(NamedTuple):
    """Which sample of a config: place of the problem in its task, number of the seed, and number, all from 0."""

    task: str
    problem: int
    seed: int
    sample: int

    @classmethod
    def of(cls, sample: Mapping[str, Any]) -> Key:
        """Of a line of samples.jsonl."""
        return cls(*(sample[name] for name in cls._fields))


def sample_seed(seed: int, key: Key) -> int:
    """31 bits for one sample: the same for every method, so that their differences have less noise."""
    return seed_from(json.dumps([seed, *key]))


Sample = Mapping[str, Any]
"""A line of samples.jsonl."""

_BINS = 40
PARAMETERS = {"temperature": 2.0, "top_p": 1.0}
"""What is predicted, and the largest value: the last bin of a histogram ends there."""

_TYPES = {"config": str, "text": str, "finish_reason": str, "tokens": int, "temperature": dict, "top_p": dict}


def place_of(sample: Any, tasks: Mapping[str, Any]) -> tuple[str, Key]:
    """Config and key of a line of samples.jsonl; ``tasks`` is that of its header.

    Raises:
        AutoDecoError: it is no sample of these tasks.
    """
    if not isinstance(sample, dict) or not all(isinstance(sample.get(key), kind) for key, kind in _TYPES.items()):
        raise AutoDecoError("no sample")
    key = Key.of({name: sample.get(name) for name in Key._fields})
    numbers = all(type(number) is int and number >= 0 for number in key[1:])
    if not numbers or key.task not in tasks or key.problem >= tasks[key.task]["problems"]:
        raise AutoDecoError(f"no sample of these tasks: {key}")
    if sample.get("correct", "missing") not in (True, False, None):
        raise AutoDecoError(f"correct is {sample.get('correct', 'missing')}, expected true, false or null")
    return sample["config"], key


def text_digest(text: str) -> str:
    """The same for two answers that differ in nothing but the white space around them."""
    return hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def make_sample(config: str, key: Key, sampling: Sampling, result: Result, heads: Collection[str]) -> dict[str, Any]:
    """A sample that is not yet graded."""
    return {
        "task": key.task,
        "problem": key.problem,
        "config": config,
        "seed": key.seed,
        "sample": key.sample,
        "text": result.text,
        "correct": None,
        "error": None,
        "finish_reason": result.finish_reason,
        "tokens": len(result.temperature),
        **{name: parameter(name, sampling, result, heads) for name in PARAMETERS},
    }


def parameter(name: str, sampling: Sampling, result: Result, heads: Collection[str]) -> dict[str, Any]:
    """Mean and standard deviation of T or P over tokens, None where there is no telling; a histogram if predicted."""
    fixed, values = getattr(sampling, name), getattr(result, name)
    if sampling.order == "llama.cpp":  # of which a trace shows nothing
        unknown = sampling.dynatemp_range if name == "temperature" else sampling.mirostat_mode
        return {"mean": None, "sd": None} if unknown else {"mean": fixed, "sd": 0.0}
    if len(values) == 0:
        return {"mean": None, "sd": None}
    wide = values.astype(np.float64)
    statistics = {"mean": round(float(wide.mean()), 6), "sd": round(float(wide.std()), 6)}
    if fixed is not None or name not in heads:
        return statistics
    counts, _ = np.histogram(wide.clip(0, PARAMETERS[name]), bins=_BINS, range=(0, PARAMETERS[name]))
    return {**statistics, "bins": counts.tolist()}


# ---- those of a directory ----


class Samples:
    """The samples in a directory. Their texts stay in the file; in memory a digest takes their place."""

    def __init__(self, directory: Path, header: Mapping[str, Any]) -> None:
        self._directory, self._tasks = directory, header["tasks"]
        self._journal = Journal(directory / SAMPLES, header, advice=ADVICE, digests=DIGESTS)
        self._samples: dict[str, dict[Key, Sample]] = {}
        self._ungraded: dict[tuple[str, Key], int] = {}  # -> place

    def __enter__(self) -> Samples:
        self._journal.__enter__()
        try:
            for line in self._journal.lines():
                try:
                    self._take(line.value, line.place)
                except AutoDecoError as e:
                    raise self._journal.refused(line.number, f"damaged: {e}") from e
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.__exit__()

    def _take(self, sample: Sample, place: int) -> None:
        config, key = place_of(sample, self._tasks)
        self._samples.setdefault(config, {})[key] = {**sample, "text": text_digest(sample["text"])}
        if sample["correct"] is None:
            self._ungraded[config, key] = place
        else:
            self._ungraded.pop((config, key), None)

    def add(self, sample: Sample) -> None:
        """Keep a sample, or take it for an earlier one of the same key."""
        self._take(sample, self._journal.append(sample))

    def of(self, config: str) -> Mapping[Key, Sample]:
        """The samples of one config."""
        return self._samples.get(config, {})

    def ungraded(self) -> list[Sample]:
        """Those on which the checker failed, with their texts."""
        return [self._journal.read(place) for place in self._ungraded.values()]

    def check_graded(self) -> None:
        """Raise AutoDecoError where a checker has failed."""
        failed = self.ungraded()
        if failed:
            config, key = place_of(failed[0], self._tasks)
            total = sum(map(len, self._samples.values()))
            first = f"problem {key.problem} of {key.task} with {config}: {failed[0]['error']}"
            raise AutoDecoError(
                f"{self._directory}: {len(failed)} of {total} samples could not be graded; the first, {first}; "
                "run again to grade them, nothing is drawn twice"
            )

    def within(self, settings: EvalSettings) -> list[Sample]:
        """The samples that these settings ask for, in an order that does not tell how they were drawn."""
        return [
            samples[key]
            for samples in self._samples.values()
            for key in sorted(samples)
            if key.seed < settings.seeds and key.sample < settings.k
        ]
