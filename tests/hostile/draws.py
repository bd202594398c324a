"""Draws with extreme values against float64, many at a time: ``python tests/hostile/draws.py --count 10000000``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

import reference

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput

Array = npt.NDArray[Any]

N_SEEDS = 4096
"""Generators whose first number is known; a case takes one of them."""

TEMPERATURES = np.array([0.0, 1e-45, 1e-30, 1e-6, 0.01, 0.3, 0.7, 1.0, 1.3, 2.0, 50.0, 1e6], np.float32)
TOP_PS = np.array([0.0, 1e-30, 1e-7, 0.01, 0.3, 0.5, 0.9, 0.95, 0.999, 1 - 6e-8, 1.0], np.float32)
EXTREMES = np.array([0.0, -0.0, 1e-45, -1e-45, 88.0, -88.0, 1e4, -1e4, 3e38, -3e38, -np.inf, -np.inf], np.float32)


@cache
def first_numbers() -> Array:
    return np.array([reference.uniforms(seed, 1)[0] for seed in range(N_SEEDS)])


def cases(rng: np.random.Generator, n: int, width: int) -> tuple[Array, Array, Array, Array]:
    """Logits [n, width], T, P and the number of the generator, [n] each; some logits NaN, infinite, or masked."""
    scale = rng.choice([1e-3, 0.5, 3.0, 30.0, 1e4], (n, 1))
    logits = (rng.normal(0.0, 1.0, (n, width)) * scale).astype(np.float32)
    ties = rng.random((n, 1)) < 0.3
    logits = np.where(ties, np.round(logits), logits)
    odd = rng.random((n, width)) < rng.choice([0.0, 0.0, 0.1, 0.9], (n, 1))
    logits = np.where(odd, rng.choice(EXTREMES, (n, width)), logits)
    masked = rng.random((n, width)) < rng.choice([0.0, 0.0, 0.5, 0.99], (n, 1))
    logits = np.where(masked, np.float32(-np.inf), logits)
    bad = (rng.random((n, 1)) < 0.02) & (np.arange(width) == rng.integers(width, size=(n, 1)))
    logits = np.where(bad, rng.choice(np.array([np.nan, np.inf], np.float32), (n, 1)), logits)
    return logits, rng.choice(TEMPERATURES, n), rng.choice(TOP_PS, n), rng.integers(N_SEEDS, size=n)


def expected(logits: Array, temperature: Array, top_p: Array, u: Array, slack: float) -> tuple[Array, Array]:
    """The tokens that u selects [n], and which of them rounding may change; as ``reference`` has it, row by row."""
    x = logits.astype(np.float64)
    with np.errstate(all="ignore"):
        shifted = x - x.max(axis=1, keepdims=True)
        t = temperature.astype(np.float64)[:, None]
        w = np.where(
            t == 0.0, np.arange(x.shape[1]) == x.argmax(axis=1)[:, None], np.exp(shifted / np.where(t, t, 1.0))
        )
    order = np.argsort(-w, axis=1, kind="stable")
    mass = np.cumsum(np.take_along_axis(w, order, 1), axis=1) / w.sum(axis=1, keepdims=True)
    target = np.clip(top_p.astype(np.float64) + slack, 0.0, 1.0)[:, None]
    kept = np.zeros(w.shape, bool)
    np.put_along_axis(kept, order, np.roll(mass < target, 1, axis=1) | (np.arange(w.shape[1]) == 0), 1)
    p = np.where(kept, w, 0.0)
    edges = np.cumsum(p / p.sum(axis=1, keepdims=True), axis=1)
    last = w.shape[1] - 1 - np.argmax(p[:, ::-1] > 0.0, axis=1)
    tokens = np.minimum((edges <= u[:, None]).sum(axis=1), last)
    cut = np.where(p > 0.0, p, np.inf).min(axis=1, keepdims=True)
    equal = ((np.abs(w - cut) <= reference.ROUNDING * cut) & (w != cut)).any(axis=1)  # in float32
    return tokens, equal | (np.abs(edges - u[:, None]).min(axis=1) < reference.ROUNDING)


def drawn(logits: Array, temperature: float, top_p: float, seed: int) -> int | str:
    """The token, or what is refused: "nan" or "none"."""
    try:
        return int(core.draw(logits, temperature, top_p, 1, seed)[0])
    except InvalidInput as e:
        return {"draw: a logit is NaN or +inf": "nan", "draw: every logit is -inf": "none"}[str(e)]


def compare(seed: int, n: int, width: int) -> Counter[str]:
    """Draw n cases of one width; counts by what came of them, and AssertionError with the first that is wrong."""
    rng = np.random.default_rng([seed, width])
    logits, temperature, top_p, number = cases(rng, n, width)
    u = first_numbers()[number]
    got = list(map(drawn, logits, temperature.tolist(), top_p.tolist(), number.tolist()))
    bad = np.isnan(logits).any(axis=1) | (logits == np.inf).any(axis=1)
    none = ~bad & (logits == -np.inf).all(axis=1)
    refused = np.where(bad, "nan", np.where(none, "none", ""))
    found = Counter[str]()
    rows = np.flatnonzero(refused == "")
    right = np.zeros(n, bool)
    near = np.zeros(n, bool)
    tokens = np.array([-1 if isinstance(token, str) else token for token in got])
    for slack in (0.0, -reference.ROUNDING, reference.ROUNDING):
        wanted, unsure = expected(logits[rows], temperature[rows], top_p[rows], u[rows], slack)
        right[rows] |= tokens[rows] == wanted
        near[rows] |= unsure
    for i in range(n):
        if refused[i]:
            ok, kind = got[i] == refused[i], f"refused: {refused[i]}"
        else:
            ok, kind = right[i] or (near[i] and 0 <= tokens[i] < width and logits[i, tokens[i]] > -np.inf), "drawn"
            kind = kind if right[i] else "at an edge"
        assert ok, (seed, width, i, logits[i].tolist(), temperature[i], top_p[i], number[i], got[i], refused[i])
        found[kind] += 1
    return found


WIDTHS = (1, 2, 3, 7, 8, 9, 16, 17, 33)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first batch")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=20_000)
    args = parser.parse_args()
    total = Counter[str]()
    for i in range(-(-args.count // args.batch)):
        total += compare(args.seed + i, args.batch, WIDTHS[i % len(WIDTHS)])
        if i % 50 == 49:
            print(f"batch {i + 1}, {total.total()} cases: {dict(total)}", flush=True)
    print(f"{total.total()} cases: {dict(total)}")


if __name__ == "__main__":
    main()
