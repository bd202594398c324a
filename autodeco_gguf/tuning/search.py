"""Successive halving: the best of many candidates, when every look at one has noise and takes time.

All candidates are tried on a few problems, the better ones on more, and so on; which go on is told by all that has
been seen of them. Jamieson and Talwalkar, Non-stochastic Best Arm Identification (2016); here the number of problems
of every round is given, as it is planned from the time there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from autodeco_gguf.evaluation.estimates import mean_se

Candidate = TypeVar("Candidate")
C = TypeVar("C")


@dataclass(frozen=True)
class Rung:
    """A round: so many candidates, each tried on so many problems more."""

    candidates: int
    problems: int


@dataclass(frozen=True)
class Found(Generic[Candidate]):
    """What was seen of a candidate: its mean over problems, the standard error of that, and how many problems."""

    candidate: Candidate
    mean: float
    se: float | None
    problems: int


Seen = Sequence[tuple[Hashable, float]]
"""Problems, which may come again, and the value of each time."""

Score = Callable[[int, Sequence[C]], Mapping[C, Seen]]
"""(number of the round, candidates) -> what is seen in that round, on the same problems for all of them."""


def halve(candidates: Sequence[Candidate], rungs: Sequence[Rung], score: Score[Candidate]) -> list[Found[Candidate]]:
    """All candidates, the best first: those that came further before others, and then by their means.

    Of equals the one that stands first in ``candidates`` is the better; the simplest should.
    """
    seen: dict[Candidate, list[tuple[Hashable, float]]] = {candidate: [] for candidate in candidates}
    left = list(candidates)
    ranking: list[Candidate] = []
    for number, rung in enumerate(rungs):
        ranking = [*left[rung.candidates :], *ranking]
        left = left[: rung.candidates]
        values = score(number, left)
        for candidate in left:
            seen[candidate].extend(values[candidate])
        left.sort(key=lambda c: (-_rounded(by_problem(seen[c])), candidates.index(c)))
    return [_found(candidate, seen[candidate]) for candidate in [*left, *ranking]]


def _rounded(values: Sequence[float]) -> float:
    """Their mean, equal for values that are equal but for their order."""
    return round(math.fsum(values) / len(values), 9)


def by_problem(seen: Seen) -> list[float]:
    """The mean of each problem: that it was seen again makes it no other one."""
    values: dict[Hashable, list[float]] = {}
    for problem, value in seen:
        values.setdefault(problem, []).append(value)
    return [math.fsum(times) / len(times) for times in values.values()]


def _found(candidate: Candidate, seen: Seen) -> Found[Candidate]:
    values = by_problem(seen)
    mean, se = mean_se(np.array(values))
    return Found(candidate, mean, se, len(values))
