"""The training objectives: section 2.1 of the paper, as the official trainer computes them, one value a position.

Throughout, logits are [n, n_vocab], targets [n] token ids, temperature and top_p [n].
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autodeco_gguf._native import core

ALPHA = 30.0
"""Steepness of the soft top-p mask (the official trainer's)."""

SORT_DEPTH = 64
"""Largest probabilities that the top-p loss puts in order at first."""

_DEEPER = 16
"""How many times as many next, where those do not suffice; all, where that is more than a sixteenth of them."""

SORT_TOLERANCE = 1e-6
"""Error of the top-p loss, in nats, below which the rest need not be sorted: float32's own rounding."""

_MIN_TEMPERATURE = 1e-2
_EPSILON = 1e-9
NEVER = -1e30
"""A logit that gives probability 0, and, unlike -inf, derivatives."""


def in_core(logits: Tensor) -> bool:
    """Whether the core computes what is asked of these logits [n, n_vocab]: float32 on the CPU, without gradient.

    Row by row, on ``torch.get_num_threads()`` threads, with the derivatives by T and P. Elsewhere torch does.
    """
    return logits.device.type == "cpu" and logits.dtype == torch.float32 and not logits.requires_grad


class _Known(torch.autograd.Function):
    """A loss [n] as a function of inputs [n], by which its derivatives are known."""

    @staticmethod
    def forward(ctx: Any, rows: npt.NDArray[np.float32], *inputs: Tensor) -> Tensor:
        """Take the loss, then its derivatives by each of the inputs, in one row."""
        loss, *derivatives = torch.from_numpy(rows).reshape(1 + len(inputs), -1)
        ctx.save_for_backward(*derivatives)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients by the inputs."""
        return None, *(gradients[0] * derivative for derivative in ctx.saved_tensors)


def _arrays(*tensors: Tensor) -> list[npt.NDArray[Any]]:
    return [tensor.detach().numpy() for tensor in tensors]


def temperature_loss(logits: Tensor, targets: Tensor, temperature: Tensor) -> Tensor:
    """Cross-entropy of softmax(logits / T) against the next token, in nats [n].

    Upstream: ``_compute_temp_loss``; T is taken as at least 0.01, as there.
    """
    temperature = temperature.clamp_min(_MIN_TEMPERATURE)
    if in_core(logits):
        x, y, t = _arrays(logits, targets, temperature)
        rows = core.training_cross_entropy(x, y, t, torch.get_num_threads())
        loss: Tensor = _Known.apply(rows, temperature)
        return loss
    scaled = logits / temperature.unsqueeze(-1)
    return torch.nn.functional.cross_entropy(scaled, targets, reduction="none")


def easy_token_mask(logits: Tensor, targets: Tensor, draws: Tensor, rate: float = 0.6) -> Tensor:
    """True [n] for the positions that stay in the temperature loss.

    A position whose most likely token is the target, which mostly teaches T -> 0, is dropped with probability
    ``rate``: where ``draws`` [n], uniform in [0, 1), is below it. Upstream: ``_compute_temp_loss``.
    """
    return ~((logits.argmax(-1) == targets) & (draws < rate))


def target_weights(logits: Tensor, targets: Tensor) -> Tensor:
    """Dynamic fine-tuning weights [n]: the model's own probability of the target, without gradient.

    Upstream: both losses are multiplied by it.
    """
    with torch.no_grad():
        return torch.exp(-temperature_loss(logits, targets, torch.ones_like(logits[:, 0])))


def soft_mask(cumulative: Tensor, top_p: Tensor, alpha: float = ALPHA) -> Tensor:
    """exp(-alpha * relu(c - P)): 1 inside the nucleus, falling to 0 beyond it.

    c [n, k] is the probability up to and including each token, most likely first. The hard cut is the limit of large
    alpha, except that it keeps the token that crosses P.
    """
    return torch.exp(-alpha * torch.relu(cumulative - top_p.unsqueeze(-1)))


def top_p_loss(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    *,
    alpha: float = ALPHA,
    tolerance: float = SORT_TOLERANCE,
) -> Tensor:
    """Negative log-likelihood of the target under softmax(logits / T) cut softly at P, in nats [n].

    Upstream: ``_compute_top_p_loss``. Instead of the whole vocabulary only the largest logits are put in order; the
    mask's mass over the others is integrated. A row for which that may change the loss by more than ``tolerance`` nats
    is sorted deeper, in the end all of it.
    """
    if in_core(logits):
        x, y, t, p = _arrays(logits, targets, temperature, top_p)
        rows = core.training_losses(x, y, t, p, alpha, tolerance, torch.get_num_threads())
        loss: Tensor = _Known.apply(rows, temperature, top_p)
        return loss
    return sorted_top_p_loss(logits, targets, temperature, top_p, alpha=alpha, tolerance=tolerance)


def sorted_top_p_loss(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    *,
    alpha: float = ALPHA,
    depth: int = SORT_DEPTH,
    tolerance: float = SORT_TOLERANCE,
) -> Tensor:
    """:func:`top_p_loss` by torch, on any device, in any precision.

    The ``depth`` largest logits are put in order at first. What is integrated is too much by at most ``alpha / 2 * p``
    of it, where p is the smallest of the probabilities in order.
    """
    n_vocab = logits.shape[-1]
    loss, error = bounded_top_p_loss(logits, targets, temperature, top_p, alpha, largest(logits, depth))
    deep = error > tolerance
    if not deep.any():
        return loss
    rows = deep.nonzero().squeeze(-1)
    inputs = (x[rows] for x in (logits, targets, temperature, top_p))
    depth = _DEEPER * depth if _DEEPER**2 * depth <= n_vocab else n_vocab
    deeper = sorted_top_p_loss(*inputs, alpha=alpha, depth=depth, tolerance=tolerance)
    return torch.where(deep, 0.0, loss).index_add(0, rows, deeper)


def largest(logits: Tensor, depth: int) -> Tensor:
    """The largest logits [n, depth], or all, descending. Without gradient: T scales them but does not order them."""
    with torch.no_grad():
        if depth < logits.shape[-1]:
            return logits.topk(depth, dim=-1).values
        if logits.device.type != "cpu":
            return logits.sort(dim=-1, descending=True).values
        rows = np.negative(logits.detach().numpy())  # torch's sort carries indices along: twice the time
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(np.ndarray.sort, np.array_split(rows, torch.get_num_threads())))
        return torch.from_numpy(np.negative(rows, out=rows))


def bounded_top_p_loss(
    logits: Tensor, targets: Tensor, temperature: Tensor, top_p: Tensor, alpha: float, ordered: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss [n], and a bound on its error [n], from the largest logits in order [n, depth]."""
    inverse = 1.0 / temperature.clamp_min(1e-8).unsqueeze(-1)
    top = ordered[:, :1]  # taken off first: T's gradient is a difference of terms as large as the logits over T
    centred = logits - top
    log_total = torch.logsumexp(centred * inverse, dim=-1, keepdim=True)
    probs = torch.exp((ordered - top) * inverse - log_total)
    cumulative = probs.cumsum(-1)
    mass = (probs * soft_mask(cumulative, top_p, alpha)).sum(-1)

    target = logits.gather(-1, targets.unsqueeze(-1))
    prob = torch.exp((target - top) * inverse - log_total)
    rank = (ordered > target).sum(-1, keepdim=True)
    place = cumulative.gather(-1, rank.clamp_max(ordered.shape[-1] - 1))
    beyond = (rank == ordered.shape[-1]).squeeze(-1).nonzero().squeeze(-1)
    if len(beyond):  # not among those in order: what is before it is summed
        likelier = logits[beyond] > target[beyond]
        scaled = centred[beyond].masked_fill(~likelier, NEVER) * inverse[beyond]
        before = torch.exp(torch.logsumexp(scaled, -1, keepdim=True) - log_total[beyond])
        place = place.index_copy(0, beyond, before + prob[beyond])
    kept = (prob * soft_mask(place, top_p, alpha)).squeeze(-1)

    error = torch.zeros_like(mass)
    if ordered.shape[-1] < logits.shape[-1]:
        rest = _integral(cumulative[:, -1], top_p, alpha)
        mass = mass + rest
        error = (0.5 * alpha * probs[:, -1] * rest / (mass + _EPSILON)).detach()
    return -torch.log(kept / (mass + _EPSILON) + _EPSILON), error


def _integral(begin: Tensor, top_p: Tensor, alpha: float) -> Tensor:
    """The soft mask's integral [n] from a cumulative probability to 1."""
    begin = begin.clamp_max(1.0)
    inside = torch.relu(top_p - begin)
    decayed = torch.exp(-alpha * torch.relu(begin - top_p)) - torch.exp(-alpha * (1.0 - top_p))
    return inside + decayed / alpha


def ranking_loss(low: Tensor, plain: Tensor, high: Tensor, margin: float) -> Tensor:
    """How far mean T (or P) under commands is from the order low < plain < high (section 3.3), as many.

    Each is a mean over the same tokens after prompts with a low-diversity command, without one, and with a
    high-diversity command. A hinge on both gaps: it is 0 where each is at least ``margin``, >= 0. The paper names no
    formula.
    """
    return torch.relu(margin - (plain - low)) + torch.relu(margin - (high - plain))
