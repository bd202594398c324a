"""The one oracle of the tests: the arithmetic of docs/format.md in float64 NumPy, written for reading, not for speed.

It is itself checked against what the official PyTorch code recorded (heads/test_compute.py).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from autodeco_gguf.heads.weights import HEADS, HeadWeights, Mlp

Array = npt.NDArray[np.float64]

ROUNDING = 3e-6
"""What float32 may do to a mass relative to the whole: where it matters, a cut may fall on either side."""


def sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


# ---- the heads ----


def run_mlp(mlp: Mlp, x: Array) -> Array:
    """[n, in] -> sigmoid of the last layer, [n]."""
    for i, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
        if i > 0:
            x = np.maximum(x, 0.0) if mlp.activation == "relu" else 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))
        x = x @ weight.astype(np.float64).T + bias
    return sigmoid(x[:, 0])


def statistics(logits: Array, temperature: Array) -> list[Array]:
    """max_prob, entropy, prob_variance, top5_prob of softmax(logits / (T + 1e-8)), each [n]."""
    p = softmax(logits / (temperature[:, None] + 1e-8))
    n_vocab = p.shape[1]
    variance = p.var(axis=1, ddof=1) if n_vocab > 1 else np.zeros(len(p))
    entropy = -(p * np.log(p + 1e-8)).sum(axis=1)
    return [p.max(axis=1), entropy, variance, np.sort(p, axis=1)[:, -5:].sum(axis=1)]


def predict(
    heads: HeadWeights, hidden: npt.ArrayLike, logits: npt.ArrayLike, enabled: Collection[str] = HEADS
) -> tuple[Array, Array]:
    """[n, hidden_size], [n, vocab_size] -> temperature [n], top-p [n]; 1 for a head that takes no part."""
    h, raw = np.asarray(hidden, np.float64), np.asarray(logits, np.float64)
    temperature, top_p = np.ones(len(h)), np.ones(len(h))
    if heads.temperature is not None and "temperature" in enabled:
        temperature = heads.temperature_scale * run_mlp(heads.temperature, h)
    if heads.top_p is not None and "top_p" in enabled:
        features = [temperature] + (statistics(raw, temperature) if len(heads.features) > 1 else [])
        top_p = run_mlp(heads.top_p, np.column_stack([h, *features]))
    return temperature, top_p


def entropy(logits: npt.ArrayLike) -> float:
    """Of softmax(logits), in nats."""
    p = softmax(np.asarray(logits, np.float64))
    p = p[p > 0.0]
    return float(-(p * np.log(p)).sum())


# ---- scale, cut, draw ----


def weights(logits: npt.ArrayLike, temperature: float) -> Array:
    """exp((logit - max) / T), as 1 and 0 for T = 0."""
    x = np.asarray(logits, np.float32).astype(np.float64)
    t = float(np.float32(temperature))
    if t == 0.0:
        return (np.arange(len(x)) == x.argmax()).astype(np.float64)
    return np.asarray(np.exp((x - x.max()) / t))


def nucleus(logits: npt.ArrayLike, temperature: float, top_p: float, slack: float = 0.0) -> npt.NDArray[np.bool_]:
    """The smallest set of most likely tokens whose probabilities reach top_p + slack, as a mask.

    Of equal tokens the first come first; never empty.
    """
    w = weights(logits, temperature)
    order = np.argsort(-w, kind="stable")
    mass = np.cumsum(w[order]) / w.sum()
    target = min(max(float(np.float32(top_p)) + slack, 0.0), 1.0)
    size = min(1 + int(np.searchsorted(mass, target, side="left")), len(w))
    mask = np.zeros(len(w), bool)
    mask[order[:size]] = True
    return mask & (w > 0.0)


def distribution(logits: npt.ArrayLike, temperature: float, top_p: float) -> Array:
    """What a token is drawn from: softmax(logits / T), cut, renormalized."""
    w = np.where(nucleus(logits, temperature, top_p), weights(logits, temperature), 0.0)
    return np.asarray(w / w.sum())


def uniforms(seed: int, n: int) -> Array:
    """The stream behind ``draw``: MT19937, 53 bits at a time, which is also NumPy's legacy generator."""
    return np.asarray(np.random.RandomState(seed).random_sample(n))


def draws(p: Array, u: Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """The tokens that u selects from p in ascending order of index, and which of them rounding may change."""
    edges = np.cumsum(p)
    tokens = np.searchsorted(edges, u, side="right")
    last = int(np.flatnonzero(p)[-1])
    distance = np.minimum(np.abs(edges[tokens.clip(0, last)] - u), np.abs(edges[(tokens - 1).clip(0)] - u))
    return tokens.clip(0, last), distance < ROUNDING
