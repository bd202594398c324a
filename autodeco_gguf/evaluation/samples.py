"""The samples of an evaluation: what one is, and those that a directory keeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autodeco_gguf.answers.stream import Answer
from autodeco_gguf.engine.request import Result
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.evaluation.as_json import from_json, to_json
from autodeco_gguf.evaluation.methods import Config
from autodeco_gguf.evaluation.settings import ADVICE
from autodeco_gguf.files.journal import Journal
from autodeco_gguf.model.sampling import Sampling, seed_from
from autodeco_gguf.tasks.given import gives

SAMPLES = "samples.jsonl"
"""Where they stand in the directory of an evaluation."""

_BINS = 40
PARAMETERS = {"temperature": 2.0, "top_p": 1.0}
"""What is predicted, and the largest value: the last bin of a histogram ends there."""

ProblemKey = tuple[str, int]
"""Which problem: its task, and its place in it, from 0."""


class Key(NamedTuple):
    """Which sample of a config: place of the problem in its task, number of the seed, and number, all from 0."""

    task: str
    problem: int
    seed: int
    sample: int


def keys_of(problem: ProblemKey, seeds: int, k: int) -> Iterator[Key]:
    """All samples of a problem."""
    return (Key(*problem, seed, sample) for seed in range(seeds) for sample in range(k))


def sample_seed(seed: int, key: Key) -> int:
    """31 bits for one sample: the same for every method, so that their differences have less noise."""
    return seed_from(json.dumps([seed, *key]))


@dataclass(frozen=True, slots=True)
class Drawn:
    """T or P over the tokens of an answer: mean and standard deviation, None where there is no telling.

    ``bins``, where it was predicted: [40] tokens by its value.
    """

    mean: float | None
    sd: float | None
    bins: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A line of samples.jsonl, or the same with a digest in the place of its text.

    ``problem``, ``seed`` and ``sample`` are numbered from 0; ``correct`` is None where it is not graded, and ``error``
    says why not, or why the answer failed. ``tokens`` holds the end-of-generation token as well. ``answer`` is what
    the checker takes out of the text, "" where it finds nothing, None where it looks at the whole text.
    """

    task: str
    problem: int
    config: Config
    seed: int
    sample: int
    text: str
    correct: bool | None
    error: str | None
    finish_reason: str
    tokens: int
    temperature: Drawn
    top_p: Drawn
    answer: str | None = None

    @property
    def answered(self) -> str:
        """What tells it from another answer."""
        return self.text.strip() if self.answer is None else self.answer

    @property
    def key(self) -> Key:
        """Which of its config it is."""
        return Key(self.task, self.problem, self.seed, self.sample)

    @classmethod
    def from_json(cls, line: Any, tasks: Mapping[str, Any]) -> Sample:
        """From a line; raises InvalidInput where it is no sample of these tasks, which are those of the header."""
        if not isinstance(line, dict) or not all(isinstance(line.get(key), kind) for key, kind in _TYPES.items()):
            raise InvalidInput("no sample")
        key = Key._make(map(line.get, Key._fields))
        numbers = all(type(number) is int and number >= 0 for number in key[1:])
        task = tasks.get(key.task) if isinstance(tasks, Mapping) else None
        problems = task.get("problems") if isinstance(task, Mapping) else None
        if not numbers or line["tokens"] < 0 or not isinstance(problems, int) or key.problem >= problems:
            raise InvalidInput(f"no sample of these tasks: {key}")
        correct = line.get("correct", "missing")
        if correct not in (True, False, None):
            raise InvalidInput(f"correct is {correct}, expected true, false or null", key="correct", found=correct)
        try:
            sample = from_json(cls, line)
            if any(drawn.bins is not None and len(drawn.bins) != _BINS for drawn in (sample.temperature, sample.top_p)):
                raise ValueError("other bins")
            return sample
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise InvalidInput("no sample") from e

    def to_json(self) -> dict[str, Any]:
        """The line."""
        line: dict[str, Any] = to_json(self)
        for name in PARAMETERS:
            if line[name]["bins"] is None:
                del line[name]["bins"]
        if self.answer is None:
            del line["answer"]
        return line

    def slim(self) -> Sample:
        """With a digest in the place of its text: the same for two that differ in the white space around them only."""
        text = self.text.strip().encode("utf-8", "surrogatepass")
        return replace(self, text=hashlib.blake2b(text, digest_size=12).hexdigest())


_TYPES: dict[str, type] = {
    **dict.fromkeys(("task", "config", "text", "finish_reason"), str),
    **dict.fromkeys(PARAMETERS, dict),
    "tokens": int,
}


def make_sample(config: Config, key: Key, sampling: Sampling, answer: Answer, heads: Collection[str]) -> Sample:
    """The sample that an answer is."""
    result = answer.result
    return Sample(
        **key._asdict(),
        config=config,
        text=result.text,
        correct=answer.grade.correct,
        error=answer.grade.error,
        finish_reason=result.finish_reason,
        tokens=len(result.temperature),
        temperature=drawn("temperature", sampling, result, heads),
        top_p=drawn("top_p", sampling, result, heads),
        answer=answer.given,
    )


def drawn(name: str, sampling: Sampling, result: Result, heads: Collection[str]) -> Drawn:
    """What the tokens of a result were drawn with: T or P by its ``name``."""
    fixed, values = getattr(sampling, name), getattr(result, name)
    if sampling.order == "llama.cpp":  # of which a trace shows nothing
        unknown = sampling.dynatemp_range if name == "temperature" else sampling.mirostat_mode
        return Drawn(None, None) if unknown else Drawn(fixed, 0.0)
    if len(values) == 0:
        return Drawn(None, None)
    wide = values.astype(np.float64)
    mean, sd = round(float(wide.mean()), 6), round(float(wide.std()), 6)
    if fixed is not None or name not in heads:
        return Drawn(mean, sd)
    counts, _ = np.histogram(wide.clip(0, PARAMETERS[name]), bins=_BINS, range=(0, PARAMETERS[name]))
    return Drawn(mean, sd, tuple(counts.tolist()))


# ---- those of a directory ----


class Samples:
    """The samples in a directory. Their texts stay in the file; in memory a digest takes their place.

    The file has nothing but samples in it, so that any reader of JSON lines reads it as a table.
    """

    def __init__(self, directory: Path, tasks: Mapping[str, Any]) -> None:
        """Prepare to open the samples of these tasks, as the header of the evaluation has them."""
        self._directory, self._tasks = directory, tasks
        self._journal = Journal(directory / SAMPLES, None, advice=ADVICE)
        self._samples: dict[Config, dict[Key, Sample]] = {}
        self._ungraded: dict[tuple[Config, Key], int] = {}  # -> place
        self._unread: dict[tuple[Config, Key], int] = {}  # by an older version

    def __enter__(self) -> Samples:
        self._journal.__enter__()
        try:
            for line in self._journal.lines():
                try:
                    self._take(Sample.from_json(line.value, self._tasks), line.place)
                except InvalidInput as e:
                    raise self._journal.refused(line.number, f"damaged: {e}") from e
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.__exit__()

    def _take(self, sample: Sample, place: int) -> None:
        config, key = sample.config, sample.key
        self._samples.setdefault(config, {})[key] = sample.slim()
        if sample.correct is None:
            self._ungraded[config, key] = place
        else:
            self._ungraded.pop((config, key), None)
        if sample.answer is None and gives(self._tasks[sample.task].get("checker", "")):
            self._unread[config, key] = place
        else:
            self._unread.pop((config, key), None)

    def add(self, sample: Sample) -> None:
        """Keep a sample, or take it for an earlier one of the same key."""
        self._take(sample, self._journal.append(sample.to_json()))

    def of(self, config: Config) -> Mapping[Key, Sample]:
        """The samples of one config."""
        return self._samples.get(config, {})

    def ungraded(self) -> list[Sample]:
        """Those on which the checker failed, with their texts."""
        return self._whole(self._ungraded)

    def unread(self) -> list[Sample]:
        """Those that an older version wrote without the answer in them, with their texts."""
        return self._whole(self._unread)

    def _whole(self, places: Mapping[tuple[Config, Key], int]) -> list[Sample]:
        return [Sample.from_json(self._journal.read(place), self._tasks) for place in places.values()]

    def check_graded(self) -> None:
        """Raise BadFile where a checker has failed."""
        failed = self.ungraded()
        if failed:
            first, total = failed[0], sum(map(len, self._samples.values()))
            which = f"the first, problem {first.problem} of {first.task} with {first.config}: {first.error}"
            reason = f"{len(failed)} of {total} samples could not be graded; {which}"
            raise BadFile.of(self._directory, f"{reason}; run again to grade them, nothing is drawn twice")

    def all(self) -> list[Sample]:
        """All of them, in an order that does not tell how they were drawn."""
        return [samples[key] for samples in self._samples.values() for key in sorted(samples)]
