"""Problems in two parts: to search and train on, and to compare on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autodeco_gguf.errors import BadFile
from autodeco_gguf.model.sampling import seed_from
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task

TEST = 0.4
"""Share of the problems of every task to compare on."""

VALIDATION = 1 / 3
"""Share of the others that training holds out, to choose the round by."""

FEWEST, FEWEST_OF_TASK = 20, 5
"""Different problems, in all and of each task: with 8 to compare on, a difference on all of them is just shown."""


@dataclass(frozen=True)
class Split:
    """The parts, each with some problems of every task, in an order that is drawn."""

    search: tuple[Task, ...]
    test: tuple[Task, ...]


def split(tasks: Sequence[Task], seed: int) -> Split:
    """Deal the problems of every task out, by the seed. Those with the same text go to the same part.

    Raises:
        BadFile: too few problems.
    """
    search: list[Task] = []
    test: list[Task] = []
    total = 0
    for task in tasks:
        same: dict[str, list[Problem]] = {}
        for problem in task.problems:
            same.setdefault(problem.text, []).append(problem)
        if len(same) < FEWEST_OF_TASK:
            raise _too_few(f"{task.problems[0].file}: {_of(len(same))}", FEWEST_OF_TASK)
        total += len(same)
        groups = list(same.values())
        random.Random(seed_from(f"split {seed} {task.name}")).shuffle(groups)
        at = len(groups) - round(TEST * len(groups))
        for part, mine in ((search, groups[:at]), (test, groups[at:])):
            part.append(replace(task, problems=tuple(problem for group in mine for problem in group)))
    if total < FEWEST:
        raise _too_few(f"{', '.join(dict.fromkeys(task.problems[0].file for task in tasks))}: {_of(total)}", FEWEST)
    return Split(tuple(search), tuple(test))


def _of(n: int) -> str:
    return f"{n} different problem{'s' * (n != 1)}"


def _too_few(found: str, least: int) -> BadFile:
    return BadFile(
        f"{found}, expected at least {least}: they are split into those to search and train on and those to compare on",
        key="task",
        expected=least,
    )


def size(tasks: Sequence[Task]) -> int:
    """Problems of all of them."""
    return sum(len(task.problems) for task in tasks)
