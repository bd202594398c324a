"""Estimates from k draws, means with standard errors, and paired differences."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autodeco_gguf.errors import InvalidInput

Array = NDArray[np.float64]

SE_FLOOR = 1 / 3
"""A resample's standard error is taken for at least this share of the sample's. Where few problems differ, a resample
may hold none of them and would stretch the interval without end."""

_ROUNDING = 1e-12
_CHUNK = 1 << 21
"""Numbers resampled at a time."""


# ---- estimates of k draws ----


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Array:
    """Probability that k of n samples, drawn without replacement, hold one of the c right ones: 1 - C(n-c,k)/C(n,k).

    The unbiased estimator of pass@k of Chen et al., Evaluating Large Language Models Trained on Code (2021), as a
    product of k factors, so that nothing overflows. ``n`` and ``c`` broadcast.

    Examples:
        >>> pass_at_k([4, 4], [0, 2], 2).round(3).tolist()
        [0.0, 0.833]

    Raises:
        InvalidInput: k above the smallest n, or below 1; c outside [0, n].
    """
    n, c = np.broadcast_arrays(np.asarray(n, np.float64), np.asarray(c, np.float64))
    if k < 1 or np.any(k > n):
        expected = f"k from 1 to {n.min():g}"
        message = f"pass@{k} of {n.min():g} samples, expected {expected}; draw more samples"
        raise InvalidInput(message, key="k", expected=expected, found=k)
    if np.any((c < 0) | (c > n)):
        raise InvalidInput(f"{c.max():g} right of {n.min():g} samples, expected 0 to all of them", found=c.max())
    drawn = np.arange(k)
    none = np.maximum(n[..., None] - c[..., None] - drawn, 0.0) / (n[..., None] - drawn)
    return np.asarray(1.0 - none.prod(axis=-1))


def distinct_at_k(counts: ArrayLike, n: int, k: int) -> float:
    """Expected number of different right answers among k of n samples, drawn without replacement.

    ``counts``, [different right answers], says how often each of them is among the n. Raises as :func:`pass_at_k` does.
    """
    values, times = np.unique(np.append(counts, 0.0), return_counts=True)
    return float(pass_at_k(n, values, k) @ times)


_MOST_VALUES = 1 << 20
"""Complex numbers that :func:`majority_at_k` holds at a time."""


@functools.lru_cache(maxsize=1024)
def majority_at_k(counts: tuple[int, ...], right: tuple[float, ...], n: int, k: int) -> float:
    """Probability that the most frequent answer among k of n samples, drawn without replacement, is right.

    Of answers that are level one is taken at random, and samples that give no answer have no vote; where none of the k
    gives one it is wrong. That is the mean over all C(n, k) choices, so an unbiased estimate of the majority's chance.

    Args:
        counts: how often each answer is among the n; the rest give none.
        right: of each answer, 1 or 0, or the share of its samples that are right.
        n: samples.
        k: of these, that vote.

    Examples:
        >>> round(majority_at_k((2, 1), (1.0, 0.0), 3, 2), 12)  # right and right, or a draw, twice
        0.666666666667

    Raises:
        InvalidInput: k above n, or below 1.
    """
    pass_at_k(n, 0, k)  # checks
    if counts == (n,):
        return right[0]
    # How often each answer is drawn is binomial, given that it is k in all: the coefficient of x^k in a product of
    # polynomials, one for each answer, here by their values on the unit circle. Of answers drawn t times, all others
    # less often, 1 / (1 + others that are level) is an integral over y of y^others, exact by Gauss' rule.
    size = max(k, n - k) + 1
    circle = np.exp(2j * np.pi * np.arange(size) / size)
    answers = Counter(counts)
    wins = {c: sum(share for count, share in zip(counts, right, strict=True) if count == c) for c in answers}
    most = min(k, max((count for count in wins if wins[count]), default=0))
    chances = {c: _binomial(c, k / n) for c in answers}
    levels = [min(k // t, sum(count >= t for count in counts)) for t in range(1, most + 1)]

    def part(place: NDArray[np.int64]) -> float:
        """Of the coefficient, times the values that there are."""
        none = (1 - k / n + k / n * circle[place]) ** (n - sum(counts))
        below, total = dict.fromkeys(answers, 0 * none), 0 * none
        for t, level in enumerate(levels, 1):
            nodes, weights = _gauss((level + 1) // 2)
            before, now = (circle[t * place % size] for t in (t - 1, t))
            at = {}
            for count in answers:
                if count >= t - 1:
                    below[count] = below[count] + chances[count][t - 1] * before
                drawn = (nodes[:, None] + 1) / 2 * chances[count][t] * now if count >= t else 0.0
                at[count] = below[count] + drawn
            for count in (c for c in answers if c >= t and wins[c]):
                others = math.prod((at[c] ** (m - (c == count)) for c, m in answers.items()), start=none)
                total += wins[count] * chances[count][t] * now * np.sum(weights[:, None] / 2 * others, axis=0)
        return float((total * circle[-k * place % size]).real.sum())

    n_parts = 1 + size * max(levels, default=0) * len(answers) // _MOST_VALUES
    coefficient = sum(map(part, np.array_split(np.arange(size), n_parts))) / size
    return min(1.0, max(0.0, coefficient / float(_binomial(n, k / n)[k])))


_gauss = functools.cache(np.polynomial.legendre.leggauss)


def _binomial(n: int, p: float) -> Array:
    """Probabilities of 0 to n."""
    if p == 1:
        return np.asarray(np.eye(n + 1)[n])
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(n + 1)]
    i = np.arange(n + 1)
    return np.asarray(np.exp(logs + i * math.log(p) + (n - i) * math.log1p(-p)))


# ---- means and differences ----


def mean_se(values: ArrayLike, strata: Sequence[Hashable] | None = None) -> tuple[float, float | None]:
    """Mean and its standard error; None for the error of a single value.

    With ``strata`` the error is that of drawing anew within each of them, as :func:`paired_bootstrap` does.
    """
    values = np.asarray(values, np.float64)
    return float(values.mean()), _standard_error(_split(values, strata))


def student(mean: float, se: float, n: int) -> float:
    """Probability that the mean of n values, drawn from a normal distribution around 0, is nearer to it.

    By Student's t with n - 1 degrees of freedom, of which Abramowitz and Stegun, 26.7.3 and 26.7.4, have the sum.
    ``se`` is its standard error, ``n`` at least 2.

    Examples:
        >>> round(student(12.706, 1.0, 2), 5), round(student(2.0, 1.0, 10_000), 4)
        (0.95, 0.9545)
    """
    degrees = n - 1
    angle = math.atan2(abs(mean), se * math.sqrt(degrees))
    odd, cosine = degrees % 2, math.cos(angle)
    term, total = cosine if odd else 1.0, 0.0
    for i in range(2 + odd, n, 2):
        total += term
        term *= cosine**2 * (i - 1) / i
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


def sd_over_seeds(by_seed: ArrayLike) -> float | None:
    """Standard deviation over the seeds that were drawn, with their number as divisor; None for a single one.

    What the official evaluation gives behind its ±. A standard error, of the mean of all seeds, is smaller.

    Examples:
        >>> sd_over_seeds([0.25, 0.75])
        0.25
    """
    by_seed = np.asarray(by_seed, np.float64)
    return float(by_seed.std()) if len(by_seed) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A mean difference over problems, its confidence interval, and the two-sided p-value of there being none."""

    mean: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    strata: Sequence[Hashable] | None = None,
    n: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    limit: float = math.inf,
) -> Difference:
    """The mean of a - b over problems, with a symmetric bootstrap-t interval.

    Problems are resampled, both values of one together, and |resampled mean - mean| in standard errors of the resample
    gives the number of standard errors of the sample that the interval reaches. At 10 to 30 problems this covers best
    of the intervals that docs/evaluation.md compares. p is at or below 1 - level just where the interval leaves 0 out,
    and neither claims what a test by flipping signs could not: with m problems that differ at all, p is at least
    2^(1 - m).

    ``a``, ``b`` and ``strata`` are [problems]: both methods' values, and the task of each problem, within which it is
    resampled unless a task has a single one. ``n`` counts the resamples. The interval of ``level`` ends at ``limit``,
    the largest difference there can be.

    Raises:
        InvalidInput: a and b differ in length or are empty.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise InvalidInput(f"paired values of {a.size} and {b.size} problems, expected as many, and at least one")
    d = a - b
    d[np.abs(d) < _ROUNDING] = 0.0
    if not d.any():
        return Difference(0.0, 0.0, 0.0, 1.0)
    mean, groups = float(d.mean()), _split(d, strata)
    se = _standard_error(groups)
    if se is None:
        return Difference(mean, -limit, limit, 1.0)
    margin, p = 0.0, 1 / (n + 1) if abs(mean) > _ROUNDING else 1.0
    if se > _ROUNDING * abs(mean):
        t = np.sort(_studentized(groups, se, n, seed))
        rank = math.ceil((n + 1) * level - _ROUNDING)
        margin = float(t[rank - 1]) * se if rank <= n else math.inf
        p = float(1 + (t >= abs(mean) / se).sum()) / (n + 1)
    low, high = max(-limit, mean - margin), min(limit, mean + margin)
    least = 0.5 ** float(np.count_nonzero(d) - 1)
    if least > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference(mean, low, high, max(p, least))


def _split(values: Array, strata: Sequence[Hashable] | None) -> list[Array]:
    """The values of each stratum; all together where one of them has a single value, and so no spread."""
    groups: dict[Hashable, list[float]] = {}
    for value, stratum in zip(values.tolist(), strata if strata is not None else [None] * len(values), strict=True):
        groups.setdefault(stratum, []).append(value)
    if any(len(group) < 2 for group in groups.values()):
        return [values]
    return [np.array(group) for group in groups.values()]


def _standard_error(groups: list[Array]) -> float | None:
    """Of the mean of all values, drawn anew within each group; None for a single value."""
    total = sum(map(len, groups))
    return None if total < 2 else math.sqrt(sum(len(x) * float(x.var(ddof=1)) for x in groups)) / total


def _studentized(groups: list[Array], se: float, n: int, seed: int) -> Array:
    """|t| of n resamples: the distance of their means from the sample's, in standard errors of their own."""
    rng = np.random.default_rng(seed)
    total = sum(map(len, groups))
    shift, variance = np.zeros(n), np.zeros(n)
    for group in groups:
        centred, size = group - group.mean(), len(group)
        step = max(1, _CHUNK // size)
        for at in range(0, n, step):
            drawn = centred[rng.integers(size, size=(min(step, n - at), size))]
            shift[at : at + step] += drawn.sum(axis=1) / total
            variance[at : at + step] += drawn.var(axis=1, ddof=1) * size / total**2
    return np.asarray(np.abs(shift) / np.maximum(np.sqrt(variance), SE_FLOOR * se))


# ---- several claims, parts of a whole ----


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm 1979): the chance of one false claim among them stays at its level.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def pooled(counts: ArrayLike, means: ArrayLike, sds: ArrayLike) -> tuple[float, float]:
    """Mean and standard deviation of all values of parts whose sizes, means and standard deviations are known."""
    counts, means, sds = (np.asarray(x, np.float64) for x in (counts, means, sds))
    mean = float(np.average(means, weights=counts))
    return mean, math.sqrt(float(np.average(sds**2 + (means - mean) ** 2, weights=counts)))


def histogram_box(counts: ArrayLike, top: float) -> tuple[float, ...] | None:
    """Least value, quartiles and greatest value of a histogram over [0, top], taken as even within a bin.

    ``counts`` is [bins], of equal width. None where nothing is counted.
    """
    counts = np.asarray(counts, np.float64)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return None
    edges: NDArray[Any] = np.linspace(0.0, top, len(counts) + 1)
    below = np.concatenate([[0.0], np.cumsum(counts)])[filled[0] : filled[-1] + 2]
    return tuple(np.interp(np.linspace(0, 1, 5) * below[-1], below, edges[filled[0] : filled[-1] + 2]).tolist())
