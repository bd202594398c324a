"""Reads right answers twice: for the heads' T and P, then for what those and their means are worth at each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.explain.tokens import Centred, Floats, Ints, Ordered, best, local, value
from autodeco_gguf.model.features import Features, Tokens, stream, together

CONSTANTS = tuple(round(0.1 * i, 1) for i in range(1, 21))
"""The single temperatures that are tried."""

LOWEST, HIGHEST = 0.1, 2.0
"""The range of the best T at a token, wider where the heads' own T is."""

MIDDLE = (0.05, 0.95)
"""The quantiles of the heads' P that the range they use lies between."""

_FLOATS = 1 << 21
"""Logits worked on at a time: 16 MiB in float64, of which a dozen are in use."""

_TOGETHER = 64
"""Answers that are handed to the model at a time."""

_MIN_TEMPERATURE = 1e-2
"""As in training; the float32 of a sigmoid can be 0."""

ReadWatch = Callable[[int, int], None]
"""Called with the tokens read and those to read, both readings together."""


class Heads(NamedTuple):
    """What the heads predict at each token: T [n], P [n]."""

    temperature: Floats
    top_p: Floats


@dataclass(frozen=True)
class Reading:
    """What was read at each of n tokens, in the order of the answers.

    Log-likelihoods are those of the right token under softmax(l / T) without a cut, in nats.
    """

    answer: Ints  # [n] which answer, from 0
    problem: Ints  # [n] which prompt; answers to the same prompt have the same one, a text one of its own
    temperature: Floats  # [n] the heads' T
    top_p: Floats  # [n] the heads' P
    value: Floats  # [n] log-likelihood at the heads' T
    mean_value: Floats  # [n] at the constant, whose 1/T is the mean of the heads' 1/T
    shift_value: Floats  # [n] at the constant that is the mean of the heads' T
    gradient: Floats  # [n] the derivative of mean_value by 1/T
    curvature: Floats  # [n] minus the second one
    best: Floats  # [n] the best T
    best_value: Floats  # [n] log-likelihood there
    constants: Floats  # [n, len(CONSTANTS)] at single temperatures
    size: Ints  # [n] tokens in the nucleus of the heads' T and P
    keeps: npt.NDArray[np.bool_]  # [n] whether the right token is in it
    mass: Floats  # [n] of the nucleus
    mean_size: Ints  # [n] the same of the heads' T and the mean of their P
    mean_keeps: npt.NDArray[np.bool_]  # [n]
    mean_mass: Floats  # [n]
    breakpoints: Ints  # [n] values of P in the range that the heads use at which the nucleus gains a token
    mass_to_right: Floats  # [n] of the smallest nucleus that keeps the right token


def read(
    engine: Engine, answers: Sequence[Tokens], problems: npt.NDArray[Any], watch: ReadWatch = lambda done, total: None
) -> Reading:
    """Read answers, which fit into the engine's context, with its heads; nothing of it is under way.

    ``problems``, [answers], has the same number for answers to one prompt.

    Logits are used as they come and not kept: memory grows by some 400 bytes a token.

    Raises:
        Busy: the engine has requests under way.
    """
    total = 2 * sum(int((tokens < 0).sum()) for tokens in answers)
    done = 0

    def parts() -> Iterator[Features]:
        nonlocal done
        for first in range(0, len(answers), _TOGETHER):
            batch = stream(engine.context, answers[first : first + _TOGETHER])
            for part in together(batch, _FLOATS):
                done += len(part)
                watch(done, total)
                yield replace(part, sequence=first + part.sequence)

    engine.forget()
    try:
        found = [engine.predict(part.hidden, part.read) for part in parts()]
        heads = Heads(*(np.concatenate(column).astype(np.float64) for column in zip(*found, strict=True)))
        columns = list(_columns(parts(), heads))
    finally:
        engine.forget()
    joined = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    order = np.argsort(joined["answer"], kind="stable")
    joined["problem"] = np.unique(problems, return_inverse=True)[1][joined["answer"]]
    return Reading(**{name: values[order] for name, values in joined.items()})


def _columns(parts: Iterator[Features], heads: Heads) -> Iterator[dict[str, Any]]:
    """The fields of a Reading but for the problem, piece by piece; the heads' values are those of the same tokens."""
    inverse = 1 / np.maximum(heads.temperature, _MIN_TEMPERATURE)
    mean_b, mean_t, mean_p = inverse.mean(), (1 / inverse).mean(), heads.top_p.mean()
    low, high = min(1 / HIGHEST, inverse.min()), max(1 / LOWEST, inverse.max())
    p_low, p_high = np.quantile(heads.top_p, MIDDLE)
    first = 0
    for part in parts:
        n, at = len(part), Centred.of(part.logits, part.target)
        b, p = inverse[first : first + n], heads.top_p[first : first + n]
        here, best_b = local(at, np.full(n, mean_b)), best(at, low, high)
        ordered = Ordered.of(at, part.target, b)
        ours, means = ordered.cut(p), ordered.cut(np.full(n, mean_p))
        ends = [ordered.cut(np.full(n, end)).size for end in (p_low, p_high)]
        yield {
            "answer": part.sequence,
            "temperature": 1 / b,
            "top_p": p,
            "value": local(at, b).value,
            "mean_value": here.value,
            "shift_value": value(at, 1 / mean_t),
            "gradient": here.gradient,
            "curvature": here.curvature,
            "best": 1 / best_b,
            "best_value": local(at, best_b).value,
            "constants": np.stack([value(at, 1 / t) for t in CONSTANTS], axis=1),
            **ours._asdict(),
            **{f"mean_{name}": values for name, values in means._asdict().items()},
            "breakpoints": ends[1] - ends[0],
            "mass_to_right": ordered.mass_to_right,
        }
        first += n
