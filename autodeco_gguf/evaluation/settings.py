"""What an evaluation asks a model: how much, which problems, with which seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.evaluation.methods import Config
from autodeco_gguf.files.atomic import bad_file, check_name
from autodeco_gguf.model.sampling import check_seed_range
from autodeco_gguf.tasks.checkers import OTHER_RULES, RULES

if TYPE_CHECKING:
    from autodeco_gguf.answers.drawer import Drawer
    from autodeco_gguf.answers.items import Item
    from autodeco_gguf.tasks.tasks import Task

VERSION = 1
"""Of the files in the directory of an evaluation."""

_LONGEST_SHARD = 40
"""Characters; Python reads no number of thousands of digits."""

ADVICE = "use the same settings, or another directory"
DIGESTS = {
    "model": "another model",
    "heads": "other heads",
    "digest": "other problems or prompts",
    "rules": OTHER_RULES,
}


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
        validation: the tasks that mean-shift has its constants from; None: the evaluated samples themselves.
    """

    tasks: tuple[str, ...] = ()
    k: int = 16
    seeds: int = 8
    seed: int = 0
    max_tokens: int | None = None
    search_samples: int | None = None
    validation: str | None = None

    @property
    def n_search(self) -> int:
        """Samples a problem for each point of a search."""
        return self.k if self.search_samples is None else self.search_samples

    def draws(self, config: Config) -> tuple[int, int]:
        """Seeds, and samples of each, for a problem; the one sample of a deterministic config counts for all."""
        return (1, 1) if config.deterministic else (self.seeds, self.k)

    def covers(self, seed: int, sample: int) -> bool:
        """Whether a sample of these numbers, from 0, is one of those asked for."""
        return seed < self.seeds and sample < self.k

    def check(self) -> None:
        """Raise InvalidInput for a value out of range.

        Examples:
            >>> EvalSettings(k=0).check()
            Traceback (most recent call last):
            autodeco_gguf.errors.InvalidInput: k 0, expected at least 1
        """
        for name in ("k", "seeds", "max_tokens", "search_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput.of(name, value, "at least 1")
        if self.n_search > self.k:
            raise InvalidInput.of("search_samples", self.search_samples, f"at most k, which is {self.k}")
        check_seed_range(self.seed)
        twice = next((name for name in self.tasks if self.tasks.count(name) > 1), None)
        if twice is not None:
            raise InvalidInput(f"two tasks are called {twice!r}; rename a file", key="tasks", found=twice)


class Shard(NamedTuple):
    """Part ``number`` of ``of`` parts of the problems, from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "1/4". Raises InvalidInput for anything else.

        Examples:
            >>> Shard.parse("1/4")
            Shard(number=1, of=4)
        """
        number, _, of = text.partition("/")
        is_short = len(text) <= _LONGEST_SHARD
        if not (is_short and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            shown = repr(text if is_short else text[:_LONGEST_SHARD] + "…")
            raise InvalidInput.of("shard", shown, "I/N with I from 1 to N, such as 1/4")
        return cls(int(number), int(of))

    def holds(self, number: int) -> bool:
        """Whether a problem belongs to it, numbered from 0 over all tasks in the order of their names."""
        return number % self.of == self.number - 1


def make_header(
    kind: str, engine: Drawer, tasks: Iterable[Task], items: Iterable[Item], settings: EvalSettings
) -> dict[str, Any]:
    """All that a sample depends on; how many there are is no part of it."""
    digests = {task.name: hashlib.sha256() for task in tasks}
    for item in items:
        digests[item.task].update(repr((item.problem.answer, item.tokens)).encode("utf-8", "surrogatepass"))
    parts = {}
    for task in tasks:
        digest = digests[task.name].hexdigest()[:16]
        checked = {"checker": task.checker, **({"rules": RULES[task.checker]} if task.checker in RULES else {})}
        parts[task.name] = {"problems": len(task.problems), **checked, "digest": digest}
    model, _, heads = engine.fingerprint.partition(" ")
    machine = {"cache_type": engine.machine.cache_type, "flash_attn": engine.machine.flash_attn}
    same = {"ctx": engine.n_ctx, **machine, "seed": settings.seed, "max_tokens": settings.max_tokens}
    return {kind: VERSION, "model": model[:16], "heads": heads[:16] or None, **same, "tasks": parts}


def check_free(directory: Path, names: Iterable[str], settings: str) -> None:
    """Raise BadFile where a file is there before the one that tells what it is of: it is somebody else's."""
    found = next((path for path in (directory / name for name in names) if path.exists()), None)
    if found is not None:
        raise BadFile.of(found, f"is there without the {settings} that it would be of; {ADVICE}")


def make_directory(directory: Path) -> None:
    """Make it where it is not there. Raises BadFile where it cannot be, or is "-"."""
    check_name(directory)
    with bad_file(directory, "no directory can be made there"):
        directory.mkdir(parents=True, exist_ok=True)
