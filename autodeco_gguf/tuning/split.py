"""Problems in two parts: to search and train on, and to compare on."""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import zip_longest

from autodeco_gguf.errors import BadFile
from autodeco_gguf.model.sampling import seed_from
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.questions import kinds
from autodeco_gguf.tasks.tasks import Task

TEST = 0.4
"""Share of the problems of every task to compare on."""

VALIDATION = 1 / 3
"""Share of the others that training holds out, to choose the round by."""

FEWEST, FEWEST_OF_TASK = 25, 5
"""Different problems, in all and of each task: 10 of them are there to compare on, see FEWEST_TEST."""


@dataclass(frozen=True)
class Split:
    """The parts, each with some problems of every task, in an order that is drawn."""

    search: tuple[Task, ...]
    test: tuple[Task, ...]


def split(tasks: Sequence[Task], seed: int) -> Split:
    """Deal the problems of every task out, by the seed. Those with the same text, of any task, go to the same part.

    So do those that ask for the same kind of ``questions``. The first of each comes before the second of any.

    Raises:
        BadFile: too few problems; a task of which other ones leave nothing for one of the parts.
    """
    dealt = [_by_key(task, seed) for task in tasks]
    tested: dict[str, bool] = {}  # key -> whether it is to compare on
    for groups in sorted(dealt, key=len):  # a larger task makes up better for what is decided already
        new = [key for key in groups if key not in tested]
        at = len(new) - max(0, round(TEST * len(groups)) - sum(tested.get(key, False) for key in groups))
        tested |= {key: place >= at for place, key in enumerate(new)}
    if len(tested) < FEWEST:
        files = ", ".join(dict.fromkeys(task.problems[0].file for task in tasks))
        raise _too_few(f"{files}: {_of(len(tested))}", FEWEST)
    test = {key for key, is_test in tested.items() if is_test}
    return Split(_part(tasks, dealt, tested.keys() - test), _part(tasks, dealt, test))


def key_of(task: Task, problem: Problem) -> str:
    """What two problems that are one have in common: their text, or the kind of ``questions`` that they ask for."""
    return problem.answer if task.checker == "member" and problem.answer in kinds() else problem.text


def _by_key(task: Task, seed: int) -> dict[str, list[Problem]]:
    """The problems of each text, or of each kind of ``questions``, in an order that is drawn."""
    same: dict[str, list[Problem]] = {}
    for problem in task.problems:
        same.setdefault(key_of(task, problem), []).append(problem)
    if len(same) < FEWEST_OF_TASK:
        raise _too_few(f"{task.problems[0].file}: {_of(len(same))}", FEWEST_OF_TASK)
    keys = list(same)
    random.Random(seed_from(f"split {seed} {task.name}")).shuffle(keys)
    return {key: same[key] for key in keys}


def _part(tasks: Sequence[Task], dealt: Sequence[dict[str, list[Problem]]], keys: Set[str]) -> tuple[Task, ...]:
    """The tasks with the problems of these keys alone: the first of each, then the second of each, ..."""
    part = []
    for task, groups in zip(tasks, dealt, strict=True):
        rounds = zip_longest(*(group for key, group in groups.items() if key in keys))
        problems = tuple(problem for turn in rounds for problem in turn if problem is not None)
        if not problems:
            reason = "all its problems are of other tasks too, and fall into one part; use another seed"
            raise BadFile(f"{task.problems[0].file}: {reason}, or leave it out", key="task")
        part.append(replace(task, problems=problems))
    return tuple(part)


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


def different(tasks: Sequence[Task]) -> int:
    """Those of all that differ, see :func:`key_of`: the same one again says nothing new of ways to decode."""
    return len({key_of(task, problem) for task in tasks for problem in task.problems})
