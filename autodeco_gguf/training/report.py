"""What the heads are worth on validation data, against constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from autodeco_gguf.model.features import Features
from autodeco_gguf.training import losses
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.objective import predict, tensors_of
from autodeco_gguf.training.settings import Objective

LEAST_EXAMPLES, LEAST_TOKENS = 10, 200
"""To validate on, for a verdict: the standard error of fewer says little itself."""

MEAN_SHIFT = "mean-shift"
T_ALONE = "heads, T alone"
"""The method that leaves the predicted cut out: whatever a cut excludes costs likelihood."""

GRID = tuple(round(0.1 * i, 1) for i in range(1, 21))
"""The single temperatures tried."""


@dataclass(frozen=True)
class ReportRow:
    """One way to set T and P, on validation data."""

    name: str
    temperature: float  # mean T
    top_p: float  # mean P
    nll: float  # negative log-likelihood a token in nats, of softmax(logits / T) cut softly at P as in training
    difference: float  # nll minus that of the heads
    standard_error: float  # of the difference, over prompts


@dataclass(frozen=True)
class Report:
    """Methods on the same validation data, the heads last, and the verdict in words.

    Answers to the same prompt are one of the ``examples``.
    """

    methods: tuple[ReportRow, ...]
    examples: int
    tokens: int
    verdict: str


def report(heads: HeadsModule, objective: Objective, stream: Callable[[], Iterable[Features]]) -> Report:
    """Compare the heads with T = 1, with the best single temperature, and with their own means as constants.

    The best single temperature is chosen on the validation data itself, which favours it. The last comparison is
    that of Token-Level Control or Just a Better Mean? (COLM 2026): what is left of the heads when they do not look.
    ``stream`` gives the validation features, is called twice, and has the same ``sequence`` for what belongs together,
    as answers to one prompt do.
    """
    sums = _sums(stream(), lambda f: _by_heads(heads, objective, f))
    n, nll, totals = sums[:, 0], sums[:, 3:], sums.sum(0)
    n_tokens, mean_t, mean_p = int(totals[0]), *(float(x) for x in totals[1:3] / totals[0])
    shift = _sums(stream(), lambda f: _by_constants(mean_t, mean_p, objective.alpha, f, heads.device))[:, 3]
    heads_nll, t_alone, single = nll[:, 0], nll[:, 1], nll[:, 2:]
    best = int(single.sum(0).argmin())
    columns = {
        "T = 1": (1.0, 1.0, single[:, GRID.index(1.0)]),
        "best single T": (GRID[best], 1.0, single[:, best]),
        MEAN_SHIFT: (mean_t, mean_p, shift),
        T_ALONE: (mean_t, 1.0, t_alone),
        "heads": (mean_t, mean_p, heads_nll),
    }
    methods = tuple(
        ReportRow(name, t, p, float(x.sum()) / n_tokens, *_difference(x - heads_nll, n))
        for name, (t, p, x) in columns.items()
    )
    if len(objective.there) == 1:  # its T alone, or its T = 1, are the heads themselves
        methods = tuple(m for m in methods if m.name != T_ALONE)
    n_examples = len(n)
    words = verdict(methods, objective)
    if is_too_little(n_examples, n_tokens):
        words = f"{n_tokens} tokens of {n_examples} example{'s' * (n_examples > 1)} are too few for a verdict: "
        words += f"at least {LEAST_TOKENS} of {LEAST_EXAMPLES} are needed."
    return Report(methods, n_examples, n_tokens, words)


def is_too_little(examples: int, tokens: int) -> bool:
    """Whether so many of them allow no verdict."""
    return examples < LEAST_EXAMPLES or tokens < LEAST_TOKENS


def verdict(methods: tuple[ReportRow, ...], objective: Objective) -> str:
    """Whether the heads beat constants, in plain words; two standard errors count as a difference.

    That a constant is better takes three: it is the better one of two, and one of these was chosen on the same data.
    """
    constants = [m for m in methods if m.name in ("best single T", MEAN_SHIFT)]
    worst = min(constants, key=lambda m: m.difference)
    others = " and ".join(f"{m.name} {m.nll:.4f}" for m in constants)
    margin = f"{abs(worst.difference):.4f} +- {worst.standard_error:.4f} nats a token"
    if worst.difference > 2 * worst.standard_error:
        better = f"The heads predict better than constants ({others}), by at least {margin}"
        return f"{better}: it is the tokens they look at."
    if worst.difference < -3 * worst.standard_error:
        text = f"A constant predicts better than the heads: {worst.name}, by {margin}."
        if objective.dynamic_fine_tuning:  # which favours likely tokens
            text += " But the objective was not likelihood alone: whether answers get better, autodeco-gguf eval tells."
    else:
        text = f"Constants do as well as the heads ({worst.name}: {margin} apart)"
        better_mean = ": what they learnt is a better mean, not token-level control."
        text += better_mean if worst.name == MEAN_SHIFT else "."
    shift = next(m for m in constants if m.name == MEAN_SHIFT)
    if shift.difference > 2 * shift.standard_error:
        text += f" Their own means as constants do worse, by {shift.difference:.4f} +- {shift.standard_error:.4f}."
    alone = next((m for m in methods if m.name == T_ALONE), None)
    if alone is not None and alone.nll < min(m.nll for m in constants):
        text += f" Their T alone does better than the constants ({alone.nll:.4f}); the cut at P costs the rest."
    return text


def _sums(stream: Iterable[Features], method: Callable[[Features], tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Of each example how many tokens, and over them the sums of T, P, and the negative log-likelihoods by method.

    [n_examples, 3 + n_methods], in doubles; the examples in the order of their numbers.
    """
    found: dict[int, Tensor] = {}
    for f in stream:
        t, p, nll = (x.cpu().double() for x in method(f))
        examples, which = torch.from_numpy(f.sequence.copy()).unique(return_inverse=True)
        rows = torch.cat([torch.stack([torch.ones_like(t), t, p], dim=-1), nll], dim=-1)
        parts = rows.new_zeros(len(examples), rows.shape[1]).index_add_(0, which, rows)
        for example, part in zip(examples.tolist(), parts, strict=True):
            found[example] = part + found.get(example, 0.0)
    return torch.stack([found[example] for example in sorted(found)])


def _by_heads(heads: HeadsModule, objective: Objective, at: Features) -> tuple[Tensor, Tensor, Tensor]:
    """T [n], P [n], and the likelihoods [n, 2 + len(GRID)] with the heads, their T alone, and every single T."""
    _, target, hidden, logits, raw = tensors_of(at, heads.device)
    with torch.no_grad():
        ones = torch.ones_like(logits[:, 0])
        t, p, _ = predict(heads, hidden, raw, objective)
        columns = [
            _nll(logits, target, t, p, objective.alpha),
            losses.temperature_loss(logits, target, t),
            *(losses.temperature_loss(logits, target, ones * x) for x in GRID),
        ]
    return t, p, torch.stack(columns, dim=-1)


def _by_constants(
    temperature: float, top_p: float, alpha: float, at: Features, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    _, target, _, logits, _ = tensors_of(at, device)
    with torch.no_grad():
        t, p = (torch.full_like(logits[:, 0], x) for x in (temperature, top_p))
        return t, p, _nll(logits, target, t, p, alpha).unsqueeze(-1)


def _nll(logits: Tensor, target: Tensor, temperature: Tensor, top_p: Tensor, alpha: float) -> Tensor:
    """Of the softly cut distribution; without a cut where P is 1 throughout."""
    if bool((top_p == 1.0).all()):
        return losses.temperature_loss(logits, target, temperature)
    return losses.top_p_loss(logits, target, temperature, top_p, alpha=alpha)


def _difference(sums: Tensor, n: Tensor) -> tuple[float, float]:
    """Mean of per-token differences and its standard error, from the sums over ``n`` tokens of each example.

    By the jackknife, as examples differ in length; 0 for a single one.
    """
    mean, examples = float(sums.sum() / n.sum()), len(n)
    without = (sums - n * mean) / (1 - n / n.sum()).clamp(min=1e-9)
    return mean, math.sqrt(float((without**2).sum()) * (examples - 1) / examples) / float(n.sum())
