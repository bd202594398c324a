"""Readings that are made up: what the tests of the explanation share."""

from __future__ import annotations

from typing import Any

import numpy as np

from autodeco_gguf.explain.reading import CONSTANTS, Reading
from autodeco_gguf.explain.tokens import Centred, Ordered, best, local, value

BOTH = frozenset(("temperature", "top_p"))


def made_up(n: int = 400, *, skill: float = 1.0, size: float = 0.3, seed: int = 3) -> Reading:
    """Tokens of twenty answers to ten problems whose logits are drawn, with heads that know so much of the best T.

    Args:
        n: tokens.
        skill: 1: 1/T deviates where it helps, 0: anywhere, -1: where it harms.
        size: standard deviation of the logarithm of T.
        seed: of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(n, 30)) * rng.uniform(1, 4, (n, 1))).astype(np.float32)
    target = np.array([rng.choice(30, p=np.exp(row - np.logaddexp.reduce(row))) for row in logits.astype(float)])
    at = Centred.of(logits, target)
    help_ = np.sign(local(at, np.ones(n)).gradient)
    direction = skill * help_ + np.sqrt(1 - skill**2) * rng.normal(size=n)
    b = np.exp(size * direction)
    p = np.clip(0.8 + 0.1 * rng.normal(size=n), 0.05, 0.99)
    here, best_b = local(at, np.full(n, b.mean())), best(at, 0.5, 10)
    ordered = Ordered.of(at, target, b)
    ours, means = ordered.cut(p), ordered.cut(np.full(n, p.mean()))
    low, high = (ordered.cut(np.full(n, x)).size for x in np.quantile(p, (0.05, 0.95)))
    fields: dict[str, Any] = {
        "answer": np.arange(n) * 20 // n,
        "problem": np.arange(n) * 10 // n,
        "temperature": 1 / b,
        "top_p": p,
        "value": local(at, b).value,
        "mean_value": here.value,
        "shift_value": value(at, 1 / float((1 / b).mean())),
        "gradient": here.gradient,
        "curvature": here.curvature,
        "best": 1 / best_b,
        "best_value": local(at, best_b).value,
        "constants": np.stack([value(at, 1 / t) for t in CONSTANTS], axis=1),
        **ours._asdict(),
        **{f"mean_{name}": values for name, values in means._asdict().items()},
        "breakpoints": high - low,
        "mass_to_right": ordered.mass_to_right,
    }
    return Reading(**fields)
