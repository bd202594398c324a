"""The gradient of a step on reward: by the T and P with which tokens were drawn, and from there by the heads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from autodeco_gguf.model.features import Features, together
from autodeco_gguf.training import losses
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.objective import CHUNK_FLOATS, predict, tensors_of
from autodeco_gguf.training.settings import Objective

Range = tuple[float, float]


@dataclass(frozen=True)
class Limits:
    """What holds the heads back.

    Attributes:
        pull: weight of the squared distance of T and P from those of the heads that the training began with.
        temperature: the range that T is kept in: beyond it nothing pushes further, and ``RETURN`` pulls it back.
        top_p: likewise of P.
    """

    pull: float = 0.001
    temperature: Range = (0.1, 1.5)
    top_p: Range = (0.1, 1.0)


RETURN = 10.0
"""Weight of the squared distance of T or P from its range."""


def drawn_nll(
    logits: Tensor, tokens: Tensor, temperature: Tensor, top_p: Tensor, *, alpha: float, tolerance: float
) -> Tensor:
    """Negative log-probability [n] with which tokens [n] are drawn from softmax(logits / T) cut softly at P, in nats.

    It is ``losses.top_p_loss`` with P at least the largest probability, which changes no ratio of two probabilities:
    there the mask of a nucleus of one token would vanish beside the loss's 1e-9, although the token is certain. The
    sampler's own cut is hard; the soft one gives the tokens at its edge a derivative by P, which the hard one has not.
    """
    scaled = (logits - logits.max(-1, keepdim=True).values) / temperature.clamp_min(1e-8).unsqueeze(-1)
    largest = torch.exp(-torch.logsumexp(scaled, -1))
    return losses.top_p_loss(
        logits, tokens, temperature, torch.maximum(top_p, largest), alpha=alpha, tolerance=tolerance
    )


def accumulate(
    heads: HeadsModule,
    start: HeadsModule,
    stream: Iterable[Features],
    weights: Tensor,
    n_tokens: int,
    objective: Objective,
    limits: Limits,
) -> None:
    """Add the gradients of a step to those of the heads.

    Args:
        heads: those that have drawn the answers.
        start: those that the training began with.
        stream: the features of the answers' tokens, numbered by ``sequence``.
        weights: [answers], rewards minus their group's means.
        n_tokens: what the sum over tokens is divided by: all that were drawn, so that a step is the smaller the fewer
            groups have a difference.
        objective: the heads that are trained, and the soft cut.
        limits: what holds them back at the positions of the stream.
    """
    for features in together(stream, CHUNK_FLOATS):
        _backward(heads, start, features, weights.to(heads.device) / n_tokens, 1 / n_tokens, objective, limits)


def _backward(
    heads: HeadsModule,
    start: HeadsModule,
    at: Features,
    weights: Tensor,
    scale: float,
    objective: Objective,
    limits: Limits,
) -> None:
    sequence, tokens, hidden, logits, raw = tensors_of(at, heads.device)
    with torch.no_grad():
        t, p, features = predict(heads, hidden, raw, objective)
        t0, p0, _ = predict(start, hidden, raw, objective) if limits.pull else (t, p, features)
    t_leaf, p_leaf = t.clone().requires_grad_(), p.clone().requires_grad_()
    nll = drawn_nll(logits, tokens, t_leaf, p_leaf, alpha=objective.alpha, tolerance=objective.sort_tolerance)
    by_t, by_p = torch.autograd.grad((weights[sequence] * nll).sum(), (t_leaf, p_leaf))
    loss = t.new_zeros(())
    if objective.temperature:
        by_t = limited(by_t, t, t0, limits.temperature, limits.pull, scale)
        loss = loss + (heads.temperature(hidden) * by_t).sum()
    if objective.top_p:
        by_p = limited(by_p, p, p0, limits.top_p, limits.pull, scale)
        loss = loss + (heads.top_p(hidden, features) * by_p).sum()
    loss.backward()


def limited(gradient: Tensor, value: Tensor, start: Tensor, within: Range, pull: float, scale: float) -> Tensor:
    """The gradient by T or P [n] with that of the limits: none that pushes out of the range, and what pulls back."""
    low, high = within
    out = ((value <= low) & (gradient > 0)) | ((value >= high) & (gradient < 0))  # a step goes against the gradient
    back = pull * (value - start) + RETURN * (value - value.clamp(low, high))
    return gradient.masked_fill(out, 0.0) + 2.0 * scale * back
