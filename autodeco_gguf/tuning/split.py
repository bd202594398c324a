"""Problems in three parts: to train heads on, to choose with, and to compare on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autodeco_gguf.errors import BadFile
from autodeco_gguf.model.sampling import seed_from
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task

SHARES = {"training": 0.4, "validation": 0.2, "test": 0.4}
"""Of the problems of every task. Pairs are searched on the first two."""

FEWEST, FEWEST_OF_TASK = 20, 5
"""Different problems, in all and of each task: with 8 to compare on, a difference on all of them is just shown."""

Tasks = tuple[Task, ...]


@dataclass(frozen=True)
class Split:
    """The parts, each with some problems of every task, in an order that is drawn."""

    training: Tasks
    validation: Tasks
    test: Tasks

    @property
    def search(self) -> Tasks:
        """What fixed pairs are searched on: training and validation together."""
        pairs = zip(self.training, self.validation, strict=True)
        return tuple(replace(a, problems=a.problems + b.problems) for a, b in pairs)


def split(tasks: Sequence[Task], seed: int) -> Split:
    """Deal the problems of every task out, by the seed. Those with the same text go to the same part.

    Raises:
        BadFile: too few problems.
    """
    parts: dict[str, list[Task]] = {name: [] for name in SHARES}
    total = 0
    for task in tasks:
        same: dict[str, list[Problem]] = {}
        for problem in task.problems:
            same.setdefault(problem.text, []).append(problem)
        if len(same) < FEWEST_OF_TASK:
            raise _too_few(f"{task.problems[0].file}: {_of(len(same))}", FEWEST_OF_TASK)
        total += len(same)
        texts = list(same)
        random.Random(seed_from(f"split {seed} {task.name}")).shuffle(texts)
        for name, (first, last) in _ranges(len(texts)).items():
            problems = tuple(problem for text in texts[first:last] for problem in same[text])
            parts[name].append(replace(task, problems=problems))
    if total < FEWEST:
        names = ", ".join(dict.fromkeys(task.problems[0].file for task in tasks))
        raise _too_few(f"{names}: {_of(total)}", FEWEST)
    return Split(*(tuple(parts[name]) for name in ("training", "validation", "test")))


def _of(n: int) -> str:
    return f"{n} different problem{'s' * (n != 1)}"


def _too_few(found: str, least: int) -> BadFile:
    return BadFile(
        f"{found}, expected at least {least}: they are split into parts to train, to choose and to compare on",
        key="task",
        expected=least,
    )


def _ranges(n: int) -> dict[str, tuple[int, int]]:
    """First and last of n problems of each part; none is empty for n >= 5."""
    test, validation = round(SHARES["test"] * n), max(1, round(SHARES["validation"] * n))
    training = n - test - validation
    return {"training": (0, training), "validation": (training, n - test), "test": (n - test, n)}


def size(tasks: Sequence[Task]) -> int:
    """Problems of all of them."""
    return sum(len(task.problems) for task in tasks)
