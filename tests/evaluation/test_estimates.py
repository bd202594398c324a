"""Estimates of k draws against all subsets, intervals against simulations with a known difference."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.evaluation import estimates
from autodeco_gguf.evaluation.estimates import (
    distinct_at_k,
    histogram_box,
    holm,
    majority_at_k,
    mean_se,
    paired_bootstrap,
    pass_at_k,
    pooled,
    student,
)

# ---- k draws ----


def subsets(n: int, k: int) -> Iterator[tuple[int, ...]]:
    return itertools.combinations(range(n), k)


def partitions(n: int, most: int) -> Iterator[list[int]]:
    """All ways to write n as a sum."""
    if n == 0:
        yield []
    for first in range(min(n, most), 0, -1):
        for rest in partitions(n - first, first):
            yield [first, *rest]


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_that_of_all_subsets(n: int) -> None:
    for k in range(1, n + 1):
        drawn = list(subsets(n, k))
        for c in range(n + 1):
            expected = sum(any(i < c for i in subset) for subset in drawn) / len(drawn)
            assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", range(1, 9))
def test_distinct_at_k_is_that_of_all_subsets(n: int) -> None:
    for counts in (part for right in range(n + 1) for part in partitions(right, right)):
        answers = [name for name, count in enumerate(counts) for _ in range(count)] + [-1] * (n - sum(counts))
        for k in range(1, n + 1):
            found = [len({answers[i] for i in subset} - {-1}) for subset in subsets(n, k)]
            assert distinct_at_k(counts, n, k) == pytest.approx(sum(found) / len(found), abs=1e-12)


def test_many_samples_by_drawing() -> None:
    rng = np.random.default_rng(0)
    counts, n, k = [30, 9, 9, 4, 1, 1, 1], 128, 16
    answers = np.repeat([*range(len(counts)), -1], [*counts, n - sum(counts)])
    drawn = [set(rng.choice(answers, k, replace=False)) - {-1} for _ in range(4000)]
    assert distinct_at_k(counts, n, k) == pytest.approx(np.mean([len(d) for d in drawn]), abs=0.06)
    assert pass_at_k(n, 4, k) == pytest.approx(np.mean([3 in d for d in drawn]), abs=0.03)


def test_pass_at_k_of_many_problems_and_huge_numbers() -> None:
    assert pass_at_k([4, 4, 8], [0, 4, 4], 2) == pytest.approx([0.0, 1.0, 1 - 6 / 28])
    assert pass_at_k(20_000, 1, 10_000) == pytest.approx(0.5)
    assert pass_at_k(20_000, 10_001, 10_000) == 1.0


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        (4, 1, 5, r"^pass@5 of 4 samples, expected k from 1 to 4; draw more samples$"),
        ([8, 3], [1, 1], 4, r"^pass@4 of 3 samples, expected k from 1 to 3"),
        (4, 1, 0, r"^pass@0 of 4 samples, expected k from 1 to 4"),
        (4, 5, 2, r"^5 right of 4 samples, expected 0 to all of them$"),
    ],
)
def test_pass_at_k_refuses(n: Any, c: Any, k: int, message: str) -> None:
    with pytest.raises(AutoDecoError, match=message):
        pass_at_k(n, c, k)


def test_distinct_at_k_refuses() -> None:
    with pytest.raises(AutoDecoError, match=r"^pass@5 of 4 samples"):
        distinct_at_k([1, 2], 4, 5)
    with pytest.raises(AutoDecoError, match=r"^pass@5 of 4 samples"):
        distinct_at_k([], 4, 5)


def test_distinct_of_many_is_that_of_each_answer() -> None:
    """Answers that are as frequent count as often as there are."""
    counts = [3, 3, 3, 1, 1, 7]
    each = [distinct_at_k([count], 20, 5) for count in counts]
    assert distinct_at_k(counts, 20, 5) == pytest.approx(sum(each))
    assert distinct_at_k([1] * 512, 512, 128) == pytest.approx(128)


def majority_by_counting(counts: Sequence[int], right: Sequence[float], n: int, k: int) -> float:
    """The mean over all choices of k of the n samples, of those that are level the mean again."""
    votes = [i for i, count in enumerate(counts) for _ in range(count)] + [None] * (n - sum(counts))
    shares = []
    for chosen in itertools.combinations(votes, k):
        tally = Counter(vote for vote in chosen if vote is not None)
        first = [vote for vote, count in tally.items() if count == max(tally.values())]
        shares.append(sum(right[vote] for vote in first) / len(first) if first else 0.0)
    return float(np.mean(shares))


@pytest.mark.parametrize(
    ("counts", "right", "n", "k", "expected"),
    [
        ((3,), (1.0,), 3, 2, 1.0),
        ((2, 1), (1.0, 0.0), 3, 2, 2 / 3),
        ((1, 1, 1), (1.0, 0.0, 0.0), 3, 3, 1 / 3),  # level
        ((1,), (1.0,), 3, 3, 1.0),  # the others have no vote
        ((1,), (1.0,), 3, 1, 1 / 3),
        ((), (), 3, 2, 0.0),
        ((2, 2), (0.5, 0.0), 4, 4, 0.25),
    ],
)
def test_majority(counts: tuple[int, ...], right: tuple[float, ...], n: int, k: int, expected: float) -> None:
    assert majority_at_k(counts, right, n, k) == pytest.approx(expected)
    assert majority_by_counting(counts, right, n, k) == pytest.approx(expected)


def test_majority_is_the_mean_over_all_choices() -> None:
    rng = random.Random(0)
    for _ in range(150):
        counts = tuple(rng.randrange(1, 5) for _ in range(rng.randrange(5)))
        right = tuple(rng.choice([0.0, 1.0, 0.5]) for _ in counts)
        n = max(1, sum(counts) + rng.randrange(3))
        k = rng.randrange(1, n + 1)
        if math.comb(n, k) < 5000:
            found = majority_at_k(counts, right, n, k)
            assert found == pytest.approx(majority_by_counting(counts, right, n, k), abs=1e-12)


def test_majority_of_many() -> None:
    """Of 512 samples, 128 of which vote; two that are as frequent, and all different ones."""
    assert majority_at_k((256, 256), (1.0, 0.0), 512, 128) == pytest.approx(0.5)
    assert majority_at_k((1,) * 512, (1.0,) + (0.0,) * 511, 512, 128) == pytest.approx(1 / 512)
    rng = np.random.default_rng(0)
    counts = (90, 80, 70, *[4] * 60)
    votes = np.repeat(np.arange(len(counts)), counts)
    won = []
    for _ in range(4000):
        tally = np.bincount(rng.choice(votes, 64, replace=False))
        won.append((tally[0] == tally.max()) / (tally == tally.max()).sum())
    right = (1.0, *[0.0] * (len(counts) - 1))
    assert majority_at_k(counts, right, len(votes), 64) == pytest.approx(np.mean(won), abs=4 * np.std(won) / 4000**0.5)


@pytest.mark.parametrize(
    ("counts", "right", "k", "expected"),
    [
        ((2048,), (0.25,), 2048, 0.25),
        ((2048,), (1.0,), 16, 1.0),
        ((1024, 1024), (0.0, 0.0), 1024, 0.0),
        ((1024, 1024), (1.0, 0.0), 16, 0.5),
    ],
)
def test_majority_keeps_no_square_of_the_samples(
    counts: tuple[int, ...], right: tuple[float, ...], k: int, expected: float
) -> None:
    tracemalloc.start()
    try:
        found = majority_at_k.__wrapped__(counts, right, 2048, k)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert found == pytest.approx(expected)


def test_majority_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of samples, whose values would fill the memory all at once."""
    counts = (5, 4, 3, *[1] * 20)
    right = (0.0, 1.0, *[0.0] * 21)
    whole = majority_at_k.__wrapped__(counts, right, 40, 13)
    monkeypatch.setattr(estimates, "_MOST_VALUES", 7)
    assert majority_at_k.__wrapped__(counts, right, 40, 13) == pytest.approx(whole, rel=1e-12)
    monkeypatch.undo()
    tracemalloc.start()
    try:
        majority_at_k.__wrapped__((2, *[1] * 3000), (1.0, *[0.0] * 3000), 4096, 2048)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_majority_refuses() -> None:
    with pytest.raises(AutoDecoError, match=r"@5 of 4 samples, expected k from 1 to 4"):
        majority_at_k((1, 2), (1.0, 0.0), 4, 5)


# ---- means ----


def test_mean_and_its_error() -> None:
    assert mean_se([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7 / 3)))
    assert mean_se([2.5]) == (2.5, None)


def test_error_within_tasks() -> None:
    """Variances 2 of two values and 8 of two; together 4 values."""
    assert mean_se([0.0, 2.0, 10.0, 14.0], ["a", "a", "b", "b"]) == (
        6.5,
        pytest.approx(math.sqrt((2 * 2 + 2 * 8) / 16)),
    )
    together = mean_se([0.0, 2.0, 10.0, 14.0])
    assert mean_se([0.0, 2.0, 10.0, 14.0], ["a", "a", "b", "a"]) == together, "a task of one problem has no spread"


def test_parts_of_a_whole() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(i, 1 + i, 5 + 7 * i) for i in range(4)]
    whole = np.concatenate(parts)
    sums = [len(p) for p in parts], [p.mean() for p in parts], [p.std() for p in parts]
    assert pooled(*sums) == (pytest.approx(whole.mean()), pytest.approx(whole.std()))


@pytest.mark.parametrize(
    ("counts", "box"),
    [
        ([0, 4, 0, 0], [0.5, 0.625, 0.75, 0.875, 1.0]),
        ([2, 3, 0, 4], [0.0, 0.5 + 0.5 / 12, 0.5 + 2.5 / 6, 1.5 + 1.75 / 8, 2.0]),
        ([0, 1, 2, 1], [0.5, 1.0, 1.25, 1.5, 2.0]),
        ([0, 0, 0, 0], None),
    ],
)
def test_box_of_a_histogram(counts: list[int], box: list[float] | None) -> None:
    assert histogram_box(counts, 2.0) == (None if box is None else pytest.approx(box))


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.001, 0.6], [1.0, 0.003, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_several_claims(p_values: list[float], corrected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(corrected)


# ---- differences ----


def difficulties(kind: str, n: int, rng: np.random.Generator, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Chances of two methods on n problems, with another effect on every problem."""
    mean, spread = {"mixed": (0, 1), "always or never": (0, 4), "easy": (4, 2)}[kind]
    logit = rng.normal(mean, spread, n)
    other = logit + (rng.normal(effect, 1, n) if effect else 0.0)
    return 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(-other))


def simulate(kind: str, n: int, effect: float, times: int = 400) -> Iterator[Any]:
    """Intervals and p-values of pairs of methods, 16 samples a problem."""
    rng = np.random.default_rng(n)
    for _ in range(times):
        a, b = difficulties(kind, n, rng, effect)
        yield paired_bootstrap(rng.binomial(16, b) / 16, rng.binomial(16, a) / 16, n=500, limit=1.0)


@pytest.mark.parametrize(
    ("kind", "n"),
    [
        *(("mixed", n) for n in (10, 20, 30, 100)),
        *(("always or never", n) for n in (10, 20, 30, 100)),
        ("easy", 20),
        ("easy", 30),
    ],
)
def test_intervals_cover(kind: str, n: int) -> None:
    effect = -0.7 if kind == "easy" else 0.7
    a, b = difficulties(kind, 1_000_000, np.random.default_rng(1), effect)
    true = float((b - a).mean())
    assert abs(true) > 0.04
    covered = [d.low <= true <= d.high for d in simulate(kind, n, effect)]
    assert 0.91 <= np.mean(covered) <= 0.985


@pytest.mark.parametrize("n", [10, 20, 30, 100])
@pytest.mark.parametrize("kind", ["mixed", "always or never", "easy"])
def test_false_alarms(kind: str, n: int) -> None:
    p_values = np.array([d.p for d in simulate(kind, n, 0.0)])
    assert (p_values <= 0.05).mean() <= 0.075
    assert 0.1 <= (p_values <= 0.2).mean() <= 0.25, "they are not just large"


def test_differences_are_found() -> None:
    found = [d.p <= 0.05 and d.low > 0 for d in simulate("mixed", 30, 1.0, 100)]
    assert np.mean(found) > 0.9


def test_intervals_over_tasks_cover() -> None:
    """Tasks that differ widely: what is between them is no noise."""
    rng = np.random.default_rng(3)
    tasks = ["a"] * 12 + ["b"] * 18
    found, unaware = [], []
    for _ in range(400):
        d = np.concatenate([rng.normal(0.5, 0.1, 12), rng.normal(-0.2, 0.3, 18)])
        found.append(paired_bootstrap(d, np.zeros(30), strata=tasks, n=500))
        unaware.append(paired_bootstrap(d, np.zeros(30), n=500))
    assert 0.91 <= np.mean([d.low <= 0.08 <= d.high for d in found]) <= 0.985
    assert np.mean([d.high - d.low for d in found]) < 0.6 * np.mean([d.high - d.low for d in unaware])


def test_p_is_that_of_a_t_test_for_many_problems() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(0.1, 1, 400)
    assert paired_bootstrap(d, np.zeros(400)).p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.01)


def test_p_and_interval_agree() -> None:
    for seed in range(300):
        rng = np.random.default_rng(seed)
        a, b = rng.binomial(4, rng.uniform(0.2, 0.9, (2, 12))) / 4
        d = paired_bootstrap(a, b, n=199, seed=seed)
        assert (d.p <= 0.05) == (not d.low <= 0 <= d.high)
        assert d.low <= d.mean <= d.high
        assert d.mean == pytest.approx((a - b).mean())


def test_it_is_symmetric_and_reproducible() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 25))
    one, other = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert one == paired_bootstrap(a, b)
    assert one != paired_bootstrap(a, b, seed=1)
    assert (one.mean, one.low, one.high, one.p) == pytest.approx((-other.mean, -other.high, -other.low, other.p))


def test_a_narrower_level_is_a_narrower_interval() -> None:
    a, b = np.random.default_rng(0).random((2, 25))
    wide, narrow = paired_bootstrap(a, b), paired_bootstrap(a, b, level=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide.p == narrow.p


def test_many_problems_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(0).random((2, 40))
    d = paired_bootstrap(a, b, n=1000)
    monkeypatch.setattr("autodeco_gguf.evaluation.estimates._CHUNK", 1234)
    assert paired_bootstrap(a, b, n=1000) == d


@pytest.mark.parametrize("n", [1, 2, 30])
def test_no_difference_at_all(n: int) -> None:
    values = np.random.default_rng(0).random(n)
    d = paired_bootstrap(values, values + 1e-15)
    assert (d.mean, d.low, d.high, d.p) == (0.0, 0.0, 0.0, 1.0)


def test_what_is_won_on_one_task_and_lost_on_the_other() -> None:
    ones, zeros, tasks = [1.0] * 8, [0.0] * 8, ["a"] * 8 + ["b"] * 8
    d = paired_bootstrap([*ones, *zeros], [*zeros, *ones], strata=tasks, limit=1.0)
    assert (d.mean, d.low, d.high, d.p) == (0.0, 0.0, 0.0, 1.0)


def test_one_problem_tells_nothing() -> None:
    d = paired_bootstrap([1.0], [0.0], limit=1.0)
    assert (d.mean, d.low, d.high, d.p) == (1.0, -1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("differing", "p"), [(2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125), (8, 0.0078125), (30, 1 / 10_001)]
)
def test_few_problems_that_differ(differing: int, p: float) -> None:
    """As likely as that all of so many coins fall on the same side, whatever the rest."""
    ones = np.ones(differing)
    d = paired_bootstrap(ones, 0 * ones)
    assert (d.mean, d.high, d.p) == (1.0, 1.0, pytest.approx(p))
    assert d.low == (0.0 if p > 0.05 else 1.0)
    ones = np.append(ones, np.zeros(3))
    assert paired_bootstrap(ones, 0 * ones, limit=1.0).p >= p


def test_few_problems_that_differ_make_no_endless_interval() -> None:
    """A resample that holds none of them has no error of its own: a third of the sample's is taken."""
    ones = np.append(np.ones(2), np.zeros(18))
    d = paired_bootstrap(ones, 0 * ones)
    assert (d.mean, d.low, d.high) == pytest.approx((0.1, 0.1 - 3 * 0.1, 0.1 + 3 * 0.1))


def test_intervals_end_at_what_is_possible() -> None:
    a, b = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, 0.0])
    assert paired_bootstrap(a, b).high > 1.0
    d = paired_bootstrap(a, b, limit=1.0)
    assert d.high == 1.0
    assert d.low >= -1.0
    assert paired_bootstrap(b, a, limit=1.0).low == -1.0


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0], r"^paired values of 2 and 1 problems, expected as many, and at least one$"),
        ([], [], r"^paired values of 0 and 0 problems"),
    ],
)
def test_unpaired_values(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(AutoDecoError, match=message):
        paired_bootstrap(a, b)


# ---- Student's t ----


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 31, 32, 1000])
def test_student(n: int) -> None:
    for mean in (0.0, 0.5, -2.0, 12.7, 1e6):
        assert student(mean, 0.5, n) == pytest.approx(1 - 2 * stats.t.sf(abs(mean) / 0.5, n - 1), abs=1e-12)
    assert student(1.0, 0.0, n) == pytest.approx(1)
