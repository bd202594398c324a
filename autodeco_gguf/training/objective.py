"""The objective over a batch: streamed features to losses, and to gradients of the heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autodeco_gguf.model.features import Features
from autodeco_gguf.training import losses
from autodeco_gguf.training.module import HeadsModule, feature_slopes, probability_features
from autodeco_gguf.training.settings import Objective

CHUNK_FLOATS = 1 << 22
"""Logits worked on at a time: bounds the losses' memory to some 16 MiB buffers, whatever the vocabulary."""

CHUNK_ROWS = 1 << 13
"""Positions that the heads learn from at a time, which takes some thousand floats each."""


@dataclass
class Positions:
    """What is kept of a batch's predicted positions: no more than the hidden state wide."""

    sequence: Tensor  # [n] which one of the batch
    hidden: Tensor  # [n, hidden_size]
    features: Tensor  # [n, 5] of the top-p head, [n, 1] of a plain one; [n, 0] where it is not there
    slopes: Tensor  # their derivatives by T; [n, 0] where they carry no gradient
    temperature: Tensor  # [n] predicted
    top_p: Tensor  # [n] predicted
    counts: Tensor  # [n] whether it has losses of its own; False for variants with a command
    kept: Tensor  # [n] weight where easy ones are dropped: 0 or 1 in training, its expectation in validation
    temperature_loss: Tensor  # [n] weighted, before averaging
    top_p_loss: Tensor  # [n] likewise
    gradients: Tensor  # [n, 3] of the temperature loss by T, and of the top-p loss by T and by P


@dataclass(frozen=True)
class Losses:
    """A batch's losses, in nats, as averaged for the objective, and its mean predictions."""

    temperature: float
    top_p: float
    ranking: float
    mean_temperature: float
    mean_top_p: float
    positions: int
    examples: int

    @property
    def total(self) -> float:
        """The objective: their sum."""
        return self.temperature + self.top_p + self.ranking

    @classmethod
    def mean(cls, parts: Sequence[Losses], average: str = "token") -> Losses:
        """Of several batches: the losses by their positions or by their examples, T and P by the positions."""
        positions, examples = sum(p.positions for p in parts), sum(p.examples for p in parts)
        means = {}
        for name in ("temperature", "top_p", "ranking", "mean_temperature", "mean_top_p"):
            by_example = average == "example" and not name.startswith("mean_")
            weights = [p.examples if by_example else p.positions for p in parts]
            means[name] = sum(getattr(p, name) * w for p, w in zip(parts, weights, strict=True)) / sum(weights)
        return cls(**means, positions=positions, examples=examples)


def collect(
    heads: HeadsModule,
    stream: Iterable[Features],
    n: int,
    objective: Objective,
    draws: torch.Generator | None,
    triples: Tensor,
) -> Positions:
    """Run the heads over n streamed positions and work out each one's losses and their gradients by T and P.

    Variants of an example with a command take part in the ranking loss alone: the model was not asked to follow the
    command when the answer was written, so the answer does not tell the right T. ``triples`` [m, 3] are the sequences
    that are an example plain, with a low and with a high command; without ``draws``, which the easy-token mask takes,
    it takes its expectation, and there are no gradients.
    """
    commanded = triples[:, 1:].flatten().to(heads.device)
    kept, done = dict[str, Tensor](), 0
    for features in stream:
        rows = max(1, CHUNK_FLOATS // features.logits.shape[1])
        for i in range(0, len(features), rows):
            part = vars(_positions(heads, features[i : i + rows], commanded, objective, draws))
            kept = kept or {name: values.new_empty(n, *values.shape[1:]) for name, values in part.items()}
            end = done + len(part["hidden"])
            for name, values in part.items():
                kept[name][done:end] = values  # at once: to join them at the end takes all twice
            done = end
    assert done == n, f"{done} positions, expected {n}"
    return Positions(**kept)


def predict(heads: HeadsModule, hidden: Tensor, raw: Tensor, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """T [n] and P [n], 1 for a head that is not there, and what the top-p head sees besides the hidden state.

    ``raw`` are the logits [n, n_vocab] before a soft cap or a scale of the model's.
    """
    ones = torch.ones(len(hidden), device=hidden.device)
    t = heads.temperature(hidden) if "temperature" in objective.there else ones
    if "top_p" not in objective.there:
        return t, ones.clone(), hidden[:, :0]
    features = probability_features(raw, t) if len(heads.features) > 1 else t.detach().unsqueeze(-1)
    return t, heads.top_p(hidden, features), features


def tensors_of(at: Features, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sequences, targets, hidden states, logits and raw logits on a device."""
    arrays = (torch.from_numpy(x) for x in (at.sequence, at.target, at.hidden.copy()))
    sequence, target, hidden = (x.to(device) for x in arrays)
    logits = torch.from_numpy(at.logits).to(device).clamp(min=losses.NEVER)
    raw = logits if at.raw is None else torch.from_numpy(at.raw).to(device).clamp(min=losses.NEVER)
    return sequence, target, hidden, logits, raw


def _positions(
    heads: HeadsModule, at: Features, commanded: Tensor, objective: Objective, draws: torch.Generator | None
) -> Positions:
    """The positions of one chunk; those of ``commanded`` sequences have no loss of their own."""
    sequence, target, hidden, logits, raw = tensors_of(at, heads.device)
    counts = ~torch.isin(sequence, commanded)
    with torch.no_grad():
        temperature, top_p, features = predict(heads, hidden, raw, objective)
    slopes = hidden[:, :0]
    if objective.feature_gradient and objective.temperature and objective.top_p_loss and draws is not None:
        slopes = feature_slopes(raw, temperature)[:, : features.shape[1]]
    rest = torch.zeros(len(target), 6, device=heads.device)
    if bool(counts.any()):
        own = slice(None) if bool(counts.all()) else counts  # of the others' logits no copy is made
        rest[own] = _own_losses(logits[own], target[own], temperature[own], top_p[own], objective, draws)
    kept, t_loss, p_loss = rest[:, :3].unbind(-1)
    return Positions(sequence, hidden, features, slopes, temperature, top_p, counts, kept, t_loss, p_loss, rest[:, 3:])


def _own_losses(
    logits: Tensor, target: Tensor, t: Tensor, p: Tensor, objective: Objective, draws: torch.Generator | None
) -> Tensor:
    """Of positions with losses of their own [n, 6]: which are not dropped as easy, two losses, three gradients."""
    with torch.no_grad():
        kept = _kept(logits, target, objective, draws)
    t, p = t.clone().requires_grad_(), p.clone().requires_grad_()
    gradients = logits.new_zeros(len(target), 3)
    with torch.set_grad_enabled(draws is not None):
        t_loss, p_loss = _losses(logits, target, t, p, objective)
        t_loss, p_loss = kept * t_loss, kept * p_loss if objective.masks_top_p else p_loss
        if draws is not None and objective.temperature_loss:
            (gradients[:, 0],) = torch.autograd.grad(t_loss.sum(), t)
        if draws is not None and objective.top_p_loss:
            gradients[:, 1], gradients[:, 2] = torch.autograd.grad(p_loss.sum(), (t, p))
    return torch.cat([torch.stack([kept, t_loss.detach(), p_loss.detach()], dim=-1), gradients], dim=-1)


def _kept(logits: Tensor, target: Tensor, objective: Objective, draws: torch.Generator | None) -> Tensor:
    """Which positions [n] are not dropped as easy; without draws, with which probability."""
    if draws is not None:
        uniform = torch.rand(len(target), generator=draws).to(logits.device)  # the same ones on every device
        return losses.easy_token_mask(logits, target, uniform, objective.easy_mask).float()
    always = losses.easy_token_mask(logits, target, logits.new_zeros(len(target)), 1.0).float()
    return always + (1.0 - always) * (1.0 - objective.easy_mask)


def _losses(logits: Tensor, target: Tensor, t: Tensor, p: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """The temperature loss and that of the cut distribution, each [n], weighted; 0 for one that is not there."""
    t_loss = p_loss = torch.zeros_like(t)
    weight = losses.target_weights(logits, target) if objective.dynamic_fine_tuning else torch.ones_like(t)
    if objective.temperature_loss:
        t_loss = losses.temperature_loss(logits, target, t)
        at_t = objective.dynamic_fine_tuning and objective.weight_at == "T"
        t_loss = (torch.exp(-t_loss.detach()) if at_t else weight) * t_loss
    if objective.top_p_loss:
        alpha, tolerance = objective.alpha, objective.sort_tolerance
        p_loss = weight * losses.top_p_loss(logits, target, t, p, alpha=alpha, tolerance=tolerance)
    return t_loss, p_loss


def _averages(at: Positions, objective: Objective) -> tuple[Tensor, Tensor]:
    """What each position's two losses are multiplied by before they are added up, [n] each."""
    counts, kept = at.counts.float(), at.kept
    of_top_p = kept if objective.masks_top_p else counts
    if objective.average == "token":
        ones = torch.ones_like(counts)
        return ones / kept.sum().clamp_min(1.0), ones / of_top_p.sum().clamp_min(1.0)
    n = int(at.sequence.max()) + 1
    lengths = [counts.new_zeros(n).index_add(0, at.sequence, x) for x in (kept, of_top_p, counts)]
    examples = float((lengths[2] > 0).sum())
    of_t, of_p = (1.0 / (examples * x[at.sequence].clamp_min(1.0)) for x in lengths[:2])
    return of_t, of_p


def batch_losses(at: Positions, triples: Tensor, objective: Objective) -> Losses:
    """Average a batch's losses: over the kept positions, over those that count, over the triples."""
    of_temperature, of_top_p = _averages(at, objective)
    return Losses(
        temperature=float((at.temperature_loss * of_temperature).sum()),
        top_p=float((at.top_p_loss * of_top_p).sum()),
        ranking=float(_ranking(at.temperature, at.top_p, at.sequence, triples, objective)),
        mean_temperature=float(at.temperature[at.counts].mean()),
        mean_top_p=float(at.top_p[at.counts].mean()),
        positions=int(at.counts.sum()),
        examples=len(at.sequence[at.counts].unique()),
    )


def backward(heads: HeadsModule, at: Positions, triples: Tensor, objective: Objective) -> None:
    """Add the objective's gradients to the heads' parameters.

    The losses' gradients by T and P are known for each position, and those of the ranking loss are added; what remains
    is the heads' own backward pass. The top-p loss also teaches T; what the top-p head sees carries a gradient where
    the objective says so.
    """
    of_temperature, of_top_p = _averages(at, objective)
    by_temperature = at.gradients[:, 0] * of_temperature + at.gradients[:, 1] * of_top_p
    by_top_p = at.gradients[:, 2] * of_top_p
    if len(triples):
        values = at.temperature.clone().requires_grad_(), at.top_p.clone().requires_grad_()
        ranking = torch.autograd.grad(
            _ranking(*values, at.sequence, triples, objective), values, allow_unused=True, materialize_grads=True
        )
        by_temperature, by_top_p = by_temperature + ranking[0], by_top_p + ranking[1]
    for i in range(0, len(at.hidden), CHUNK_ROWS):
        rows = slice(i, i + CHUNK_ROWS)
        hidden, seen, slopes = at.hidden[rows], at.features[rows], at.slopes[rows]
        temperature = heads.temperature(hidden) if objective.temperature else at.temperature[rows]
        top_p = at.top_p[rows]
        if objective.top_p or slopes.shape[1]:
            if slopes.shape[1]:
                seen = seen + slopes * (temperature - temperature.detach()).unsqueeze(-1)  # its value stays
            top_p = heads.top_p(hidden, seen)
        ((temperature * by_temperature[rows]).sum() + (top_p * by_top_p[rows]).sum()).backward()


def _ranking(temperature: Tensor, top_p: Tensor, sequence: Tensor, triples: Tensor, objective: Objective) -> Tensor:
    """The ranking loss of T and P, averaged over the triples [m, 3] of sequences: plain, low, high.

    Of each triple it is the mean over the beginnings of the answer, one for each token: the means of all are to be in
    order, which says more than the whole answer's alone. The three of a triple are as long.
    """
    total = temperature.new_zeros(())
    if not len(triples):
        return total
    triples = triples.to(temperature.device)
    order, lengths = torch.argsort(sequence, stable=True), torch.bincount(sequence)
    begins = (lengths.cumsum(0) - lengths)[sequence[order]]
    places = sequence[order], torch.arange(len(order), device=order.device) - begins
    n = torch.arange(1, int(lengths.max()) + 1, device=order.device)
    there = n <= lengths[triples[:, :1]]
    for on, values in ((objective.temperature, temperature), (objective.top_p, top_p)):
        if on:
            rows = values.new_zeros(len(lengths), len(n)).index_put(places, values[order])
            plain, low, high = (rows.cumsum(-1) / n)[triples].unbind(1)
            loss = losses.ranking_loss(low, plain, high, objective.control_margin) * there
            total = total + (loss.sum(-1) / there.sum(-1)).mean()
    return objective.control_weight * total
