"""What the figures of all tokens come to; docs/explain.md has the formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autodeco_gguf.evaluation.estimates import student
from autodeco_gguf.explain.reading import CONSTANTS, HIGHEST, LOWEST, MIDDLE, Reading
from autodeco_gguf.explain.tokens import Floats, Ints

_NOTHING = 1e-12
"""What no share is taken of: float64's rounding."""

_LEVEL = 0.95
"""How sure a sign has to be."""

_ROUNDING = 1e-6
"""What a mean has to exceed for a sign: as much comes of T in float32, the same at every token."""

_AT_END = 1e-6
"""Relative distance of the best T from an end of its range within which it is that end."""


@dataclass(frozen=True)
class Estimate:
    """A mean over tokens and its standard error, the tokens of a problem taken together; None for one problem."""

    value: float
    se: float | None
    problems: int

    @property
    def sign(self) -> int:
        """1 or -1 where it is more than rounding from 0, and by Student's t at the level of 5 %, else 0."""
        if self.se is None or abs(self.value) <= _ROUNDING or student(self.value, self.se, self.problems) <= _LEVEL:
            return 0
        return 1 if self.value > 0 else -1


@dataclass(frozen=True)
class Spread:
    """The least share of tokens that holds half, and 90 %, of a sum over all tokens; None where the sum is 0."""

    half: float | None
    ninety: float | None


@dataclass(frozen=True)
class TemperatureFindings:
    """T, without a cut; gains are of log-likelihood, in nats a token, and b is 1/T.

    gain = first_order - penalty + remainder, and first_order = correlation * deviation * gradient_sd.
    """

    constant: float  # the T whose b is the mean of the heads' b: what they are compared with
    gain: Estimate  # of the heads over it
    mean: float  # of the heads' T: the constant of the method mean-shift
    gain_over_mean: Estimate  # of the heads over that
    first_order: float  # mean of gradient times deviation
    penalty: float  # half the mean of curvature times deviation squared
    remainder: float  # what the second order leaves
    deviation: float  # standard deviation of the heads' b
    gradient_sd: float  # standard deviation of the gradient by b at the constant
    correlation: float | None  # of deviation and gradient; None where one of them does not vary
    cosine: float | None  # of the same without taking means off
    best_scale: float | None  # of the deviations, by first and second order; None where nothing curves
    scaled_gain: float | None  # what that would gain, by first and second order
    best_constant: float  # of reading.CONSTANTS, constant and mean
    gain_over_best: Estimate  # of the heads over that
    oracle_gain: float  # of the best T at every token over the constant
    share: float | None  # gain by oracle_gain
    share_over_best: float | None  # of what the best T gains over the best constant
    lowest: float  # the range of the best T
    highest: float
    at_lowest: float  # share of tokens whose best T it is
    at_highest: float
    leverage: Spread  # of the gradient's absolute value
    headroom: Spread  # of what the best T gains over the constant
    constants: tuple[tuple[float, float], ...]  # each of these in order, and the mean log-likelihood there
    heads: float  # mean log-likelihood with the heads
    oracle: float  # with the best T at every token


@dataclass(frozen=True)
class TopPFindings:
    """P, at the heads' T; shares are of tokens."""

    constant: float  # the mean of the heads' P: what they are compared with
    low: float  # the range that the heads use: its quantiles of 5 and 95 %
    high: float
    breakpoints: float  # mean number of P in that range at which the nucleus gains a token
    without_breakpoint: float  # share at which no P in that range is unlike another
    single: float  # at which the nucleus of the heads is one token
    changed: float  # at which it is not that of the constant
    smaller: float
    larger: float
    lost: float  # at which the heads' nucleus leaves the right token out
    constant_lost: float  # at which the constant's does
    lost_less: Estimate  # constant_lost minus lost
    gain: Estimate | None  # log-likelihood over the constant where both keep the right token; None where nowhere
    over_no_cut: Estimate | None  # over P = 1 where the heads keep it
    oracle_over_no_cut: float | None  # what the smallest nucleus that keeps it gains over P = 1, at the same tokens
    share: float | None  # over_no_cut by oracle_over_no_cut


@dataclass(frozen=True)
class Findings:
    """All that stands in explain.json; None for a head that is not there."""

    answers: int
    problems: int
    tokens: int
    temperature: TemperatureFindings | None
    top_p: TopPFindings | None
    verdict: str = ""


def temperature_findings(at: Reading) -> TemperatureFindings:
    """What T is worth."""
    b = 1 / at.temperature
    deviation = b - b.mean()
    first = at.gradient * deviation
    second = at.curvature * deviation**2 / 2
    gain, headroom = at.value - at.mean_value, at.best_value - at.mean_value
    single = (*CONSTANTS, float(1 / b.mean()), float(at.temperature.mean()))
    at_single = np.column_stack([at.constants, at.mean_value, at.shift_value])
    constants = at_single.mean(0)
    best = int(constants.argmax())
    lowest, highest = min(LOWEST, at.temperature.min()), max(HIGHEST, at.temperature.max())
    over_best = at.value - at_single[:, best]
    first_order, penalty = float(first.mean()), float(second.mean())
    return TemperatureFindings(
        constant=single[-2],
        gain=estimate(gain, at.problem),
        mean=single[-1],
        gain_over_mean=estimate(at.value - at.shift_value, at.problem),
        first_order=first_order,
        penalty=penalty,
        remainder=float(gain.mean()) - first_order + penalty,
        deviation=float(deviation.std()),
        gradient_sd=float(at.gradient.std()),
        correlation=_ratio(float(first.mean()), float(at.gradient.std() * deviation.std())),
        cosine=_ratio(float(first.sum()), math.sqrt(float((at.gradient**2).sum() * (deviation**2).sum()))),
        best_scale=_ratio(first_order, 2 * penalty),
        scaled_gain=_ratio(first_order**2, 4 * penalty),
        best_constant=single[best],
        gain_over_best=estimate(over_best, at.problem),
        oracle_gain=float(headroom.mean()),
        share=_ratio(float(gain.mean()), float(headroom.mean())),
        share_over_best=_ratio(float(over_best.mean()), float((at.best_value - at_single[:, best]).mean())),
        lowest=float(lowest),
        highest=float(highest),
        at_lowest=float((at.best <= lowest * (1 + _AT_END)).mean()),
        at_highest=float((at.best >= highest * (1 - _AT_END)).mean()),
        leverage=spread(np.abs(at.gradient)),
        headroom=spread(headroom),
        constants=tuple(sorted(zip(single, map(float, constants), strict=True))),
        heads=float(at.value.mean()),
        oracle=float(at.best_value.mean()),
    )


def top_p_findings(at: Reading) -> TopPFindings:
    """What P is worth."""
    low, high = np.quantile(at.top_p, MIDDLE)
    both, kept = at.keeps & at.mean_keeps, at.keeps
    gain = np.log(at.mean_mass) - np.log(at.mass)
    over_no_cut = estimate(-np.log(at.mass[kept]), at.problem[kept]) if kept.any() else None
    oracle = float(-np.log(at.mass_to_right[kept]).mean()) if kept.any() else None
    return TopPFindings(
        constant=float(at.top_p.mean()),
        low=float(low),
        high=float(high),
        breakpoints=float(at.breakpoints.mean()),
        without_breakpoint=float((at.breakpoints == 0).mean()),
        single=float((at.size == 1).mean()),
        changed=float((at.size != at.mean_size).mean()),
        smaller=float((at.size < at.mean_size).mean()),
        larger=float((at.size > at.mean_size).mean()),
        lost=float(1 - at.keeps.mean()),
        constant_lost=float(1 - at.mean_keeps.mean()),
        lost_less=estimate(at.keeps.astype(float) - at.mean_keeps, at.problem),
        gain=estimate(gain[both], at.problem[both]) if both.any() else None,
        over_no_cut=over_no_cut,
        oracle_over_no_cut=oracle,
        share=None if over_no_cut is None or oracle is None else _ratio(over_no_cut.value, oracle),
    )


def estimate(values: Floats, problem: Ints) -> Estimate:
    """The mean of values [n] and its standard error: that of a ratio of sums over problems [n], by the jackknife."""
    mean = float(values.mean())
    n = len(np.unique(problem))
    if n < 2:
        return Estimate(mean, None, n)
    without = np.bincount(problem, values - mean) / (1 - np.bincount(problem) / len(values))
    return Estimate(mean, math.sqrt(float((without**2).sum()) * (n - 1) / n) / len(values), n)


def spread(values: Floats) -> Spread:
    """How localized what is not negative [n] is."""
    cumulative = np.sort(np.maximum(values, 0))[::-1].cumsum()
    if not len(cumulative) or cumulative[-1] <= 0:
        return Spread(None, None)
    least = np.searchsorted(cumulative, [0.5 * cumulative[-1], 0.9 * cumulative[-1]]) + 1
    half, ninety = np.minimum(least, len(values)) / len(values)
    return Spread(float(half), float(ninety))


def _ratio(a: float, b: float) -> float | None:
    return a / b if b > _NOTHING else None
