"""Successive halving on made-up scores whose best is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest

from autodeco_gguf.tuning.plan import grid
from autodeco_gguf.tuning.search import Found, Rung, Seen, halve

Pair = tuple[float, float]
RUNGS = [Rung(31, 20), Rung(10, 60), Rung(4, 150)]


def seen(number: int, values: Iterable[float]) -> Seen:
    """Of problems that are a round's own."""
    return [((number, i), float(value)) for i, value in enumerate(values)]


class Scores:
    """Right answers by chance, most of them at T = 0.7, P = 0.85; problems differ, and are the same for all."""

    def __init__(self, seed: int, height: float = 0.3) -> None:
        self.rng, self.height = np.random.default_rng(seed), height
        self.asked: list[tuple[int, list[Pair]]] = []

    def truth(self, pair: Pair) -> float:
        return 0.6 - self.height * ((pair[0] - 0.7) ** 2 / 0.3 + (pair[1] - 0.85) ** 2 / 0.3)

    def __call__(self, number: int, pairs: Sequence[Pair]) -> Mapping[Pair, Seen]:
        self.asked.append((number, list(pairs)))
        ease = self.rng.uniform(-0.2, 0.2, RUNGS[number].problems)
        return {p: seen(number, self.rng.random(len(ease)) < self.truth(p) + ease) for p in pairs}


def test_it_finds_a_pair_that_is_almost_the_best() -> None:
    lost = []
    for seed in range(40):
        scores = Scores(seed)
        best = halve(grid(coarse=False), RUNGS, scores)[0]
        lost.append(0.6 - scores.truth(best.candidate))
        assert best.problems == 20 + 60 + 150
    assert np.mean(lost) < 0.03  # a pair at random loses 0.19
    assert np.quantile(lost, 0.9) < 0.06


def test_without_noise_it_finds_the_best() -> None:
    def score(number: int, pairs: Sequence[Pair]) -> dict[Pair, Seen]:
        return {p: seen(number, [-abs(p[0] - 0.5) - abs(p[1] - 0.7)] * 3) for p in pairs}

    found = halve(grid(coarse=False), RUNGS, score)
    assert found[0] == Found((0.5, 0.7), pytest.approx(0.0), pytest.approx(0.0), 9)
    assert len(found) == 31
    assert [f.problems for f in found] == [9] * 4 + [6] * 6 + [3] * 21


def test_rounds_hold_as_many_as_planned_and_all_that_was_seen_counts() -> None:
    values = {0: {"a": [1.0, 1.0], "b": [0.0, 1.0], "c": [0.0, 0.0]}, 1: {"a": [0.0, 0.0], "b": [0.0, 1.0]}}
    asked = []

    def score(number: int, names: Sequence[str]) -> dict[str, Seen]:
        asked.append(list(names))
        return {name: seen(number, values[number][name]) for name in names}

    found = halve(["c", "b", "a"], [Rung(3, 2), Rung(2, 2)], score)
    assert asked == [["c", "b", "a"], ["a", "b"]]
    assert [(f.candidate, f.mean, f.problems) for f in found] == [("b", 0.5, 4), ("a", 0.5, 4), ("c", 0.0, 2)]


def test_a_problem_that_comes_again_is_no_other_one() -> None:
    values = [0.0, 1.0, 1.0, 0.0]

    def score(number: int, names: Sequence[str]) -> dict[str, Seen]:
        return {name: seen(0, values) for name in names}

    (once,) = halve(["a"], [Rung(1, 4)], score)
    (often,) = halve(["a"], [Rung(1, 4)] * 3, score)
    assert often == once == Found("a", 0.5, pytest.approx(np.std(values, ddof=1) / 2), 4)


def test_a_problem_that_comes_again_counts_once_in_the_ranking() -> None:
    values = {"a": [("p", 1.0), ("p", 1.0), ("q", 0.0)], "b": [("p", 0.6), ("p", 0.6), ("q", 0.6)]}
    found = halve(["a", "b"], [Rung(2, 3)], lambda number, left: values)
    assert [(f.candidate, f.mean) for f in found] == [("b", 0.6), ("a", 0.5)]


SUMS = {"a": [0.3, 0.2, 0.1], "b": [0.1, 0.2, 0.3], "c": [0.1, 0.1, 0.1]}


def test_of_equals_the_first_wins_however_sums_are_rounded() -> None:
    def score(number: int, names: Sequence[str]) -> dict[str, Seen]:
        return {name: seen(number, SUMS[name]) for name in names}

    for first, second in ("ab", "ba"):
        assert [f.candidate for f in halve([first, "c", second], [Rung(3, 3)], score)] == [first, second, "c"]
