"""The heads as a torch module, with the parameter names of official checkpoints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.format import FEATURES, HEAD_PREFIX, TEMPERATURE_SCALE, default_activation
from autodeco_gguf.heads.weights import MAX_LAYERS, HeadWeights, Mlp
from autodeco_gguf.training.losses import in_core

INITIAL_TOP_P = 0.924
"""P that new heads begin near; upstream's begin at 0.5."""

WIDTH = 256
"""Width of the hidden layer (the official heads')."""

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class HeadKind:
    """How new heads are built, and what they begin with.

    Attributes:
        widths: of the hidden layers; one has ReLU behind it, several GELU, as (256, 128, 64) in the SimpleDeco fork.
        enhanced: whether the top-p head sees the probabilities too, or T alone besides the hidden state.
        initial_top_p: about what P begins at; from 0.5 the first hundred steps go into a cut that excludes what is
            right, and answers drawn with it are all the same.
    """

    widths: tuple[int, ...] = (WIDTH,)
    enhanced: bool = True
    initial_top_p: float = INITIAL_TOP_P

    def check(self) -> None:
        """Raise InvalidInput for a value out of range, naming it."""
        if not 1 <= len(self.widths) < MAX_LAYERS or not all(1 <= width <= 2**16 for width in self.widths):
            raise InvalidInput.of("widths", list(self.widths), f"1 to {MAX_LAYERS - 1} numbers from 1 to {2**16}")
        if not 0.0 < self.initial_top_p < 1.0:
            raise InvalidInput.of("initial_top_p", f"{self.initial_top_p:g}", "a number between 0 and 1")


class Head(nn.Module):
    """Linear layers with an activation between them and a sigmoid behind; upstream ``TempHead``, ``TopPHead``."""

    def __init__(self, sizes: Sequence[int], activation: str) -> None:
        """Take the width of the input, and those of the layers after it, the last of which is 1."""
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), _ACTIVATIONS[activation]()]
        self.mlp = nn.Sequential(*layers[:-1], nn.Sigmoid())
        self.activation = activation

    @classmethod
    def new(cls, n_in: int, widths: Sequence[int]) -> Head:
        """One with hidden layers of these widths, as torch draws its parameters."""
        return cls([n_in, *widths, 1], default_activation(len(widths) + 1))

    @classmethod
    def of(cls, mlp: Mlp) -> Head:
        """One with the parameters of arrays."""
        head = cls([mlp.weights[0].shape[1], *(weight.shape[0] for weight in mlp.weights)], mlp.activation)
        with torch.no_grad():
            for layer, weight, bias in zip(head.linear, mlp.weights, mlp.biases, strict=True):
                layer.weight.copy_(torch.from_numpy(weight))
                layer.bias.copy_(torch.from_numpy(bias))
        return head

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers that have parameters."""
        return [layer for layer in self.mlp if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """[n, n_in] -> [n], in (0, 1)."""
        return torch.squeeze(self.mlp(x), -1)

    def weights(self) -> Mlp:
        """The parameters as arrays."""
        weights, biases = (
            tuple(getattr(layer, name).detach().cpu().numpy().copy() for layer in self.linear)
            for name in ("weight", "bias")
        )
        return Mlp(weights, biases, self.activation)


class HeadsModule(nn.Module):
    """Both heads, new ones: T near 1, and P near that of their kind.

    The untrained one of a single-head training stays as it was drawn, as upstream.
    """

    def __init__(self, hidden_size: int, seed: int, kind: HeadKind | None = None) -> None:
        super().__init__()
        kind = kind or HeadKind()
        self.hidden_size, self.features = hidden_size, FEATURES[kind.enhanced]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.temp_head = Head.new(hidden_size, kind.widths)
            self.top_p_head = Head.new(hidden_size + len(self.features), kind.widths)
        with torch.no_grad():
            self.top_p_head.linear[-1].bias.add_(math.log(kind.initial_top_p / (1.0 - kind.initial_top_p)))

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.temp_head.linear[0].weight.device

    def temperature(self, hidden: Tensor) -> Tensor:
        """T [n] from hidden states [n, hidden_size]."""
        out: Tensor = TEMPERATURE_SCALE * self.temp_head(hidden)
        return out

    def top_p(self, hidden: Tensor, features: Tensor) -> Tensor:
        """P [n] from hidden states and :func:`probability_features` [n, 5], of which a plain head sees T alone."""
        out: Tensor = self.top_p_head(torch.cat([hidden, features[:, : len(self.features)]], dim=-1))
        return out

    def take(self, weights: HeadWeights, heads: Collection[str]) -> None:
        """Take these heads from arrays, layers and all.

        Raises:
            InvalidInput: one of them is not there, or a checkpoint could not say what T is made of.
        """
        for name in sorted(heads):
            if name not in weights.mlps:
                raise InvalidInput(f"no {name} head to start from; train the other one alone, with --heads", key=name)
        if "temperature" in heads and weights.temperature_scale != TEMPERATURE_SCALE:
            raise InvalidInput.of("temperature scale to start from", weights.temperature_scale, str(TEMPERATURE_SCALE))
        for name in sorted(heads):
            setattr(self, HEAD_PREFIX[name], Head.of(weights.mlps[name]))
        if "top_p" in heads:
            self.features = weights.features

    def weights(self, *, vocab_size: int, base_model: str) -> HeadWeights:
        """Both heads as arrays."""
        heads = (self.temp_head.weights(), self.top_p_head.weights())
        return HeadWeights(self.hidden_size, vocab_size, base_model, *heads, self.features)


def probability_features(logits: Tensor, temperature: Tensor) -> Tensor:
    """What the top-p head sees besides the hidden state (``format.FEATURES``), without gradient.

    Args:
        logits: [n, n_vocab].
        temperature: [n].

    Returns:
        [n, 5]: T, and of softmax(logits / (T + 1e-8)) the largest probability, the entropy in nats, the unbiased
        variance and the sum of the five largest.
    """
    if in_core(logits):
        statistics = core.training_features(logits.numpy(), temperature.detach().numpy(), torch.get_num_threads())
        return torch.cat(
            [temperature.detach().unsqueeze(-1), torch.from_numpy(statistics).reshape(len(logits), -1)], dim=-1
        )
    with torch.no_grad():
        probs = torch.softmax(logits / (temperature + 1e-8).unsqueeze(-1), dim=-1)
        five = probs.topk(min(5, probs.shape[-1]), dim=-1).values
        entropy = -(probs * torch.log(probs + 1e-8)).sum(-1)
        n_vocab = probs.shape[-1]  # of probabilities the mean is 1 / n_vocab
        variance = (probs.square().sum(-1) - 1.0 / n_vocab) / (n_vocab - 1)
        return torch.stack([temperature, five[:, 0], entropy, variance, five.sum(-1)], dim=-1)


def feature_slopes(logits: Tensor, temperature: Tensor) -> Tensor:
    """The derivatives [n, 5] of :func:`probability_features` by T."""
    with torch.no_grad():
        t = (temperature + 1e-8).unsqueeze(-1)
        logits = logits - logits.max(-1, keepdim=True).values  # the differences alone count, and are small
        probs = torch.softmax(logits / t, dim=-1)
        by_t = torch.where(probs > 0, -logits / t.square(), 0.0)  # of the logits over T
        slopes = probs * (by_t - (probs * by_t).sum(-1, keepdim=True))
        five = slopes.gather(-1, probs.topk(min(5, probs.shape[-1]), dim=-1).indices)
        entropy = -(slopes * (torch.log(probs + 1e-8) + probs / (probs + 1e-8))).sum(-1)
        variance = 2.0 * (probs * slopes).sum(-1) / (probs.shape[-1] - 1)
        return torch.stack([torch.ones_like(temperature), five[:, 0], entropy, variance, five.sum(-1)], dim=-1)
