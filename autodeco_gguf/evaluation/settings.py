"""What an evaluation asks a model: how much, which problems, with which seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from autodeco_gguf.errors import AutoDecoError

if TYPE_CHECKING:
    from autodeco_gguf.engine import Engine
    from autodeco_gguf.evaluation.tasks import Task
    from autodeco_gguf.problems import Problem
    from autodeco_gguf.request import Request, Result
    from autodeco_gguf.sampler import Sampling

VERSION = 1
"""Of the files in the directory of an evaluation."""

ADVICE = "use the same settings, or another directory"
DIGESTS = {"model": "another model", "digest": "other problems or prompts"}


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """What decides about the samples of an evaluation, whatever the method.

    Attributes:
        tasks: their names.
        k: samples a problem and seed.
        seeds: how often k samples of all problems are drawn.
        seed: in [0, 2**32); the same seed gives the same samples.
        max_tokens: longest answer, the end-of-generation token included; None: until the context is full.
        search_samples: samples a problem for each point of a search, of the first seed; None: k.
    """

    tasks: tuple[str, ...] = ()
    k: int = 16
    seeds: int = 8
    seed: int = 0
    max_tokens: int | None = None
    search_samples: int | None = None

    @property
    def n_search(self) -> int:
        """Samples a problem for each point of a search."""
        return self.k if self.search_samples is None else self.search_samples

    def check(self) -> None:
        """Raise AutoDecoError for a value out of range."""
        for name in ("k", "seeds", "max_tokens", "search_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise AutoDecoError(f"{name} {value}, expected at least 1")
        if self.n_search > self.k:
            raise AutoDecoError(f"search_samples {self.search_samples}, expected at most k, which is {self.k}")
        if not 0 <= self.seed < 1 << 32:
            raise AutoDecoError(f"seed {self.seed}, expected 0 to 2**32 - 1")
        twice = next((name for name in self.tasks if self.tasks.count(name) > 1), None)
        if twice is not None:
            raise AutoDecoError(f"two tasks are called {twice!r}; rename a file")


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
    from autodeco_gguf.request import seed_from

    return seed_from(json.dumps([seed, *key]))


class Shard(NamedTuple):
    """Part ``number`` of ``of`` parts of the problems, from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "1/4". Raises AutoDecoError for anything else."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise AutoDecoError(f"shard {text!r}, expected I/N with I from 1 to N, such as 1/4")
        return cls(int(number), int(of))

    def holds(self, number: int) -> bool:
        """Whether a problem belongs to it, numbered from 0 over all tasks."""
        return number % self.of == self.number - 1


# ---- problems ----


@dataclass(frozen=True)
class Item:
    """A problem, its place in its task, and its prompt."""

    task: str
    number: int
    problem: Problem
    tokens: list[int]


def render(engine: Engine, tasks: Iterable[Task], settings: EvalSettings) -> list[Item]:
    """The problems of all tasks, all known to fit.

    Raises:
        AutoDecoError: one that does not, named as file:line.
    """
    return [
        make_item(engine, task.name, number, problem, settings)
        for task in tasks
        for number, problem in enumerate(task.problems)
    ]


def make_item(engine: Engine, task: str, number: int, problem: Problem, settings: EvalSettings) -> Item:
    """Render a problem as one message of a user.

    Raises:
        AutoDecoError: it does not fit, named as file:line.
    """
    from autodeco_gguf.sampler import Sampling

    try:
        item = Item(task, number, problem, engine.prompt(problem.text)[1])
        engine.check(make_request(item, Sampling(temperature=1.0, top_p=1.0), 0, settings))
    except AutoDecoError as e:
        raise AutoDecoError(f"{problem.where}: {e}") from e
    return item


def make_request(item: Item, sampling: Sampling, seed: int, settings: EvalSettings) -> Request:
    """A request for an answer."""
    from autodeco_gguf.request import Request

    values = {f.name: getattr(sampling, f.name) for f in fields(sampling)}
    return Request(item.tokens, max_tokens=settings.max_tokens, **{**values, "seed": seed})


def make_header(
    kind: str, engine: Engine, tasks: Iterable[Task], items: Iterable[Item], settings: EvalSettings
) -> dict[str, Any]:
    """All that a sample depends on; how many there are is no part of it."""
    digests = {task.name: hashlib.sha256() for task in tasks}
    for item in items:
        digests[item.task].update(repr((item.problem.answer, item.tokens)).encode("utf-8", "surrogatepass"))
    parts = {
        task.name: {
            "problems": len(task.problems),
            "checker": task.checker,
            "digest": digests[task.name].hexdigest()[:16],
        }
        for task in tasks
    }
    same = {"ctx": engine.n_ctx, "seed": settings.seed, "max_tokens": settings.max_tokens}
    return {kind: VERSION, "model": engine.fingerprint[:16], **same, "tasks": parts}


def make_directory(directory: Path) -> None:
    """Make it where it is not there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise AutoDecoError(f"{directory}: no directory can be made there: {e.strerror or e}") from e


# ---- samples ----

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
    import numpy as np

    wide = values.astype(np.float64)
    statistics = {"mean": round(float(wide.mean()), 6), "sd": round(float(wide.std()), 6)}
    if fixed is not None or name not in heads:
        return statistics
    counts, _ = np.histogram(wide.clip(0, PARAMETERS[name]), bins=_BINS, range=(0, PARAMETERS[name]))
    return {**statistics, "bins": counts.tolist()}
