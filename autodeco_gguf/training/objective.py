"""The objective over a batch: streamed features to losses, and to gradients of the heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autodeco_gguf.model.features import Features
from autodeco_gguf.training import losses
from autodeco_gguf.training.module import HeadsModule, probability_features
from autodeco_gguf.training.settings import Objective

CHUNK_FLOATS = 1 << 22
"""Logits worked on at a time: bounds the losses' memory to some 16 MiB buffers, whatever the vocabulary."""


@dataclass
class Positions:
    """What is kept of a batch's predicted positions: no more than the hidden state wide."""

    sequence: Tensor  # [n] which one of the batch
    hidden: Tensor  # [n, hidden_size]
    features: Tensor  # [n, 5] of the top-p head; [n, 0] where it is not trained
    temperature: Tensor  # [n] predicted
    top_p: Tensor  # [n] predicted
    counts: Tensor  # [n] whether it has losses of its own; False for variants with a command
    kept: Tensor  # [n] weight in the temperature loss: 0 or 1 in training, its expectation in validation
    temperature_loss: Tensor  # [n] weighted, before averaging
    top_p_loss: Tensor  # [n] likewise
    gradients: Tensor  # [n, 3] of the temperature loss by T, and of the top-p loss by T and by P

    @classmethod
    def join(cls, parts: Sequence[Positions]) -> Positions:
        """One after the other."""
        return cls(*(torch.cat([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Losses:
    """A batch's losses, in nats, as averaged for the objective, and its mean predictions."""

    temperature: float
    top_p: float
    ranking: float
    mean_temperature: float
    mean_top_p: float
    positions: int

    @property
    def total(self) -> float:
        """The objective: their sum."""
        return self.temperature + self.top_p + self.ranking

    @classmethod
    def mean(cls, parts: Sequence[Losses]) -> Losses:
        """Of several batches, by their positions."""
        n = sum(p.positions for p in parts)
        names = [name for name in cls.__dataclass_fields__ if name != "positions"]
        means = {name: float(sum(getattr(p, name) * p.positions for p in parts) / n) for name in names}
        return cls(**means, positions=n)


def collect(
    heads: HeadsModule, stream: Iterable[Features], objective: Objective, draws: torch.Generator | None, triples: Tensor
) -> Positions:
    """Run the heads over streamed features and work out each position's losses and their gradients by T and P.

    Variants of an example with a command take part in the ranking loss alone: the model was not asked to follow the
    command when the answer was written, so the answer does not tell the right T. ``triples`` [m, 3] are the sequences
    that are an example plain, with a low and with a high command; without ``draws``, which the easy-token mask takes,
    it takes its expectation, and there are no gradients.
    """
    commanded = triples[:, 1:].flatten()
    parts = []
    for features in stream:
        rows = max(1, CHUNK_FLOATS // features.logits.shape[1])
        for i in range(0, len(features), rows):
            parts.append(_positions(heads, features[i : i + rows], commanded, objective, draws))
    return Positions.join(parts)


def _positions(
    heads: HeadsModule, at: Features, commanded: Tensor, objective: Objective, draws: torch.Generator | None
) -> Positions:
    """The positions of one chunk; those of ``commanded`` sequences have no loss of their own."""
    sequence, target, hidden = (torch.from_numpy(x) for x in (at.sequence, at.target, at.hidden.copy()))
    logits = torch.from_numpy(at.logits).clamp(min=losses.NEVER)
    counts = ~torch.isin(sequence, commanded)
    with torch.no_grad():
        ones = torch.ones(len(target))
        temperature = heads.temperature(hidden) if objective.temperature else ones
        features = probability_features(logits, temperature) if objective.top_p else hidden[:, :0]
        top_p = heads.top_p(hidden, features) if objective.top_p else ones
        weight = losses.target_weights(logits, target) if objective.dynamic_fine_tuning else ones
        if draws is None:
            always = losses.easy_token_mask(logits, target, torch.zeros(len(target)), 1.0).float()
            kept = always + (1.0 - always) * (1.0 - objective.easy_mask)
        else:
            uniform = torch.rand(len(target), generator=draws)
            kept = losses.easy_token_mask(logits, target, uniform, objective.easy_mask).float()
        kept, weight = kept * counts, weight * counts
    t, p = temperature.clone().requires_grad_(), top_p.clone().requires_grad_()
    gradients = torch.zeros(len(target), 3)
    t_loss = p_loss = torch.zeros(len(target))
    with torch.set_grad_enabled(draws is not None):
        if objective.temperature:
            t_loss = kept * weight * losses.temperature_loss(logits, target, t)
            if draws is not None:
                (gradients[:, 0],) = torch.autograd.grad(t_loss.sum(), t)
        if objective.top_p:
            alpha, tolerance = objective.alpha, objective.sort_tolerance
            p_loss = weight * losses.top_p_loss(logits, target, t, p, alpha=alpha, tolerance=tolerance)
            if draws is not None:
                gradients[:, 1], gradients[:, 2] = torch.autograd.grad(p_loss.sum(), (t, p))
    t_loss, p_loss = t_loss.detach(), p_loss.detach()
    return Positions(sequence, hidden, features, temperature, top_p, counts, kept, t_loss, p_loss, gradients)


def batch_losses(at: Positions, triples: Tensor, objective: Objective) -> Losses:
    """Average a batch's losses: over the kept positions, over those that count, over the triples."""
    ranking = _ranking(at.temperature, at.top_p, at.sequence, triples, objective)
    return Losses(
        temperature=float(at.temperature_loss.sum() / at.kept.sum().clamp_min(1.0)),
        top_p=float(at.top_p_loss.sum() / at.counts.sum()),
        ranking=float(ranking),
        mean_temperature=float(at.temperature[at.counts].mean()),
        mean_top_p=float(at.top_p[at.counts].mean()),
        positions=int(at.counts.sum()),
    )


def backward(heads: HeadsModule, at: Positions, triples: Tensor, objective: Objective) -> None:
    """Add the objective's gradients to the heads' parameters.

    The losses' gradients by T and P are known for each position; what remains is the heads' own backward pass. As
    upstream, the top-p loss also teaches T, while the top-p head's inputs carry no gradient.
    """
    n = at.counts.sum()
    by_temperature = at.gradients[:, 0] / at.kept.sum().clamp_min(1.0) + at.gradients[:, 1] / n
    by_top_p = at.gradients[:, 2] / n
    temperature = heads.temperature(at.hidden) if objective.temperature else at.temperature
    top_p = heads.top_p(at.hidden, at.features) if objective.top_p else at.top_p
    loss = (temperature * by_temperature).sum() + (top_p * by_top_p).sum()
    (loss + _ranking(temperature, top_p, at.sequence, triples, objective)).backward()


def _ranking(temperature: Tensor, top_p: Tensor, sequence: Tensor, triples: Tensor, objective: Objective) -> Tensor:
    """The ranking loss of T and P, averaged over the triples [m, 3] of sequences: plain, low, high."""
    total = torch.zeros(())
    if not len(triples):
        return total
    n = int(sequence.max()) + 1
    counts = torch.zeros(n).index_add(0, sequence, torch.ones(len(sequence))).clamp_min(1.0)
    for on, values in ((objective.temperature, temperature), (objective.top_p, top_p)):
        if on:
            means = torch.zeros(n).index_add(0, sequence, values) / counts
            plain, low, high = means[triples].unbind(-1)
            total = total + losses.ranking_loss(low, plain, high, objective.control_margin).mean()
    return objective.control_weight * total
