"""The heads as a torch module, with the parameter names of official checkpoints."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.format import FEATURES, HEAD_PREFIX, TEMPERATURE_SCALE
from autodeco_gguf.heads.weights import HeadWeights, Mlp

OPEN_TOP_P = 2.5
"""What new heads have added before the sigmoid of the top-p head."""

WIDTH = 256
"""Width of the hidden layer (the official heads')."""


class Head(nn.Module):
    """Two linear layers with a ReLU between them and a sigmoid behind; upstream ``TempHead``, ``TopPHead``."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(n_in, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """[n, n_in] -> [n], in (0, 1)."""
        return torch.squeeze(self.mlp(x), -1)

    def weights(self) -> Mlp:
        """The parameters as arrays."""
        layers = [layer for layer in self.mlp if isinstance(layer, nn.Linear)]
        return Mlp(
            tuple(layer.weight.detach().numpy().copy() for layer in layers),
            tuple(layer.bias.detach().numpy().copy() for layer in layers),
            "relu",
        )


class HeadsModule(nn.Module):
    """Both heads, new ones: T near 1, and P near 0.93, where upstream's begins at 0.5.

    From 0.5 the first hundred steps go into a cut that excludes what is right, and answers drawn with it are all the
    same. The untrained one of a single-head training stays as it was drawn, as upstream.
    """

    def __init__(self, hidden_size: int, seed: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.temp_head = Head(hidden_size)
            self.top_p_head = Head(hidden_size + len(FEATURES[True]))
        with torch.no_grad():
            self.top_p_head.mlp[2].bias += OPEN_TOP_P  # type: ignore[operator]

    def temperature(self, hidden: Tensor) -> Tensor:
        """T [n] from hidden states [n, hidden_size]."""
        out: Tensor = TEMPERATURE_SCALE * self.temp_head(hidden)
        return out

    def top_p(self, hidden: Tensor, features: Tensor) -> Tensor:
        """P [n] from hidden states and :func:`probability_features` [n, 5]."""
        out: Tensor = self.top_p_head(torch.cat([hidden, features], dim=-1))
        return out

    def take(self, weights: HeadWeights, heads: Collection[str]) -> None:
        """Take the parameters of these heads from arrays.

        Raises:
            InvalidInput: one of them is not there, or has other layers than the official heads.
        """
        for name in sorted(heads):
            mlp, head = weights.mlps.get(name), self.get_submodule(HEAD_PREFIX[name])
            if mlp is None:
                raise InvalidInput(f"no {name} head to start from; train the other one alone, with --heads", key=name)
            layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
            shapes, official = ([list(w.shape) for w in of] for of in (mlp.weights, [x.weight for x in layers]))
            if shapes != official or mlp.activation != "relu" or weights.features != FEATURES[True]:
                found = f"{mlp.activation} between layers of {shapes}"
                raise InvalidInput.of(f"{name} head to start from", found, f"relu between layers of {official}")
            with torch.no_grad():
                for layer, weight, bias in zip(layers, mlp.weights, mlp.biases, strict=True):
                    layer.weight.copy_(torch.from_numpy(weight))
                    layer.bias.copy_(torch.from_numpy(bias))

    def weights(self, *, vocab_size: int, base_model: str) -> HeadWeights:
        """Both heads as arrays."""
        heads = (self.temp_head.weights(), self.top_p_head.weights())
        return HeadWeights(self.hidden_size, vocab_size, base_model, *heads)


def probability_features(logits: Tensor, temperature: Tensor) -> Tensor:
    """What the top-p head sees besides the hidden state (``format.FEATURES``), without gradient.

    Args:
        logits: [n, n_vocab].
        temperature: [n].

    Returns:
        [n, 5]: T, and of softmax(logits / (T + 1e-8)) the largest probability, the entropy in nats, the unbiased
        variance and the sum of the five largest.
    """
    with torch.no_grad():
        probs = torch.softmax(logits / (temperature + 1e-8).unsqueeze(-1), dim=-1)
        five = probs.topk(min(5, probs.shape[-1]), dim=-1).values
        entropy = -(probs * torch.log(probs + 1e-8)).sum(-1)
        n_vocab = probs.shape[-1]  # of probabilities the mean is 1 / n_vocab
        variance = (probs.square().sum(-1) - 1.0 / n_vocab) / (n_vocab - 1)
        return torch.stack([temperature, five[:, 0], entropy, variance, five.sum(-1)], dim=-1)
