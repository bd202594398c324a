"""The figures of single tokens: what T and P are worth to the right token, from raw logits in float64.

With b = 1/T the log-probability of the right token y is f(b) = b l_y - log sum_i exp(b l_i). It is concave:
f'(b) = l_y - E_b[l] and f''(b) = -Var_b[l], mean and variance of the logits under softmax(b l).
docs/explain.md says what is made of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_NEVER = -1e30
"""A logit that gives probability 0 and, unlike -inf, a product with it that is 0."""

_STEPS, _TOLERANCE = 100, 1e-9
"""Of the search for the best 1/T: at most so many steps, to this relative distance."""


class Centred(NamedTuple):
    """Logits minus their maximum [n, n_vocab], and those of the right tokens [n]."""

    logits: Floats
    right: Floats

    @classmethod
    def of(cls, logits: npt.NDArray[np.float32], target: Ints) -> Centred:
        """From raw logits, of which some may be -inf, and the right tokens [n]."""
        values = logits.astype(np.float64)
        values = np.maximum(values - values.max(1, keepdims=True), _NEVER)
        return cls(values, values[np.arange(len(values)), target])


class Local(NamedTuple):
    """The right token's log-probability at some b, and its first two derivatives by b, [n] each, in nats."""

    value: Floats
    gradient: Floats
    curvature: Floats  # minus the second derivative, >= 0


def local(at: Centred, b: Floats) -> Local:
    """Value, gradient and curvature of the log-likelihood at b [n]."""
    weights = np.exp(at.logits * b[:, None])
    total = weights.sum(1)
    mean = (weights * at.logits).sum(1) / total
    variance = (weights * (at.logits - mean[:, None]) ** 2).sum(1) / total
    return Local(b * at.right - np.log(total), at.right - mean, variance)


def value(at: Centred, b: float) -> Floats:
    """The log-likelihood [n] at one b for all."""
    found: Floats = b * at.right - np.log(np.exp(at.logits * b).sum(1))
    return found


def best(at: Centred, low: float, high: float) -> Floats:
    """The b [n] in [low, high] that makes the right token likeliest.

    The gradient falls with b: where it has the same sign at both ends, the best is an end; else Newton's steps find its
    zero, halving the interval where one would leave it.
    """
    below, above = np.full(len(at.right), float(low)), np.full(len(at.right), float(high))
    rises_to_the_end = local(at, above).gradient >= 0
    inside = np.flatnonzero(~rises_to_the_end & (local(at, below).gradient > 0))
    found = np.where(rises_to_the_end, above, below)
    b = np.sqrt(below * above)
    for _ in range(_STEPS):
        if not len(inside):
            break
        here = local(Centred(at.logits[inside], at.right[inside]), b[inside])
        rises = here.gradient > 0
        below[inside[rises]], above[inside[~rises]] = b[inside[rises]], b[inside[~rises]]
        step = b[inside] + here.gradient / np.maximum(here.curvature, 1e-300)
        leaves = ~((below[inside] < step) & (step < above[inside]))
        step = np.where(leaves, np.sqrt(below[inside] * above[inside]), step)
        done = np.abs(step - b[inside]) <= _TOLERANCE * step
        b[inside] = found[inside] = step
        inside = inside[~done]
    return found


class Cut(NamedTuple):
    """What cuts at some P, the same or different ones, leave of softmax(l / T), [n] each.

    The nucleus is that of the sampler: the smallest set of most likely tokens whose mass reaches P, at least one; of
    equal ones the lower id first.
    """

    size: Ints  # tokens in the nucleus
    keeps: npt.NDArray[np.bool_]  # whether the right token is one of them
    mass: Floats  # of the nucleus


class Ordered(NamedTuple):
    """Cumulative masses of softmax(l / T), most likely first [n, n_vocab], and the right tokens' places [n] from 0."""

    cumulative: Floats
    place: Ints

    @classmethod
    def of(cls, at: Centred, target: Ints, b: Floats) -> Ordered:
        """At b = 1/T [n]."""
        order = np.argsort(-at.logits, axis=1, kind="stable")
        weights = np.exp(np.take_along_axis(at.logits, order, 1) * b[:, None])
        cumulative = weights.cumsum(1)
        return cls(cumulative / cumulative[:, -1:], (order == target[:, None]).argmax(1))

    def cut(self, top_p: Floats) -> Cut:
        """The cut at P [n]."""
        below = (self.cumulative < top_p[:, None]).sum(1)
        n_vocab = self.cumulative.shape[1]
        size = np.where(top_p >= 1, n_vocab, np.minimum(below + 1, n_vocab))
        return Cut(size, self.place < size, self.cumulative[np.arange(len(size)), size - 1])

    @property
    def mass_to_right(self) -> Floats:
        """The least mass [n] of a nucleus that keeps the right token: up to it and with it."""
        return self.cumulative[np.arange(len(self.place)), self.place]
