"""The heads' weights as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.heads.format import ACTIVATIONS, FEATURES, HEAD_PREFIX, TEMPERATURE_SCALE

if TYPE_CHECKING:
    pass

Float32Array = npt.NDArray[np.float32]

HEADS = frozenset(HEAD_PREFIX)
"""The names of the heads: ``"temperature"`` and ``"top_p"``."""


MAX_LAYERS = 64
"""Linear layers of one head; llama.cpp's graph has room for a few hundred."""


@dataclass(frozen=True)
class Mlp:
    """One head: linear layers with an activation between them.

    ``weights[i]`` is ``[out_i, in_i]``, ``biases[i]`` is ``[out_i]``; ``out_i == in_{i+1}`` and the last
    out is 1.
    """

    weights: tuple[Float32Array, ...]
    biases: tuple[Float32Array, ...]
    activation: str

    def check(self, where: str, n_in: int) -> None:
        """Raise AutoDecoError, naming the layer, unless the layers connect and hold finite values."""
        if self.activation not in ACTIVATIONS:
            raise AutoDecoError(f"{where}: activation {self.activation!r}, expected one of {', '.join(ACTIVATIONS)}")
        if not self.weights or len(self.weights) != len(self.biases):
            raise AutoDecoError(f"{where}: {len(self.weights)} weights and {len(self.biases)} biases, expected as many")
        if len(self.weights) > MAX_LAYERS:
            raise AutoDecoError(f"{where}: {len(self.weights)} layers, expected at most {MAX_LAYERS}")
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            n_out = 1 if i + 1 == len(self.weights) else weight.shape[0]
            if weight.shape != (n_out, n_in):
                raise AutoDecoError(f"{where}: weight of layer {i} is {list(weight.shape)}, expected [{n_out}, {n_in}]")
            if bias.shape != (n_out,):
                raise AutoDecoError(f"{where}: bias of layer {i} is {list(bias.shape)}, expected [{n_out}]")
            for name, array in (("weight", weight), ("bias", bias)):
                if not np.isfinite(array).all():
                    raise AutoDecoError(f"{where}: {name} of layer {i} holds NaN or infinity")
            n_in = n_out


@dataclass(frozen=True)
class HeadWeights:
    """The weights of a set of heads as float32 arrays, from a checkpoint or a GGUF.

    ``temperature`` or ``top_p`` is None where the set lacks that head; ``features`` is what follows the
    hidden state in the top-p head's input; temperature = ``temperature_scale`` * sigmoid(last layer).
    """

    hidden_size: int
    vocab_size: int
    base_model: str
    temperature: Mlp | None
    top_p: Mlp | None
    features: tuple[str, ...] = FEATURES[True]
    temperature_scale: float = TEMPERATURE_SCALE

    @property
    def mlps(self) -> dict[str, Mlp]:
        """The heads that are there, by name."""
        both = {"temperature": self.temperature, "top_p": self.top_p}
        return {name: mlp for name, mlp in both.items() if mlp is not None}

    def fingerprint(self) -> str:
        """A hash of the heads: the same for the same predictions."""
        digest = hashlib.sha256(repr((self.features, self.temperature_scale)).encode())
        for name, mlp in self.mlps.items():
            digest.update(f"{name} {mlp.activation}".encode())
            for array in (*mlp.weights, *mlp.biases):
                digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def check(self, source: str) -> None:
        """Raise AutoDecoError, naming ``source`` and the layer, unless this is a set of heads that can run."""
        if not self.mlps:
            raise AutoDecoError(f"{source}: no head in it")
        if self.features not in FEATURES.values():
            raise AutoDecoError(
                f"{source}: top-p features {list(self.features)}, expected {list(FEATURES[True])} or one"
            )
        if not 0.0 < self.temperature_scale < float("inf"):
            raise AutoDecoError(f"{source}: temperature scale {self.temperature_scale}, expected a number > 0")
        for name, mlp in self.mlps.items():
            n_in = self.hidden_size + (len(self.features) if name == "top_p" else 0)
            mlp.check(f"{source}: {HEAD_PREFIX[name]}", n_in)


def check_enabled(enabled: Collection[str] | None) -> frozenset[str]:
    """The set of head names, all for None; AutoDecoError for a name that is no head."""
    if enabled is None:
        return HEADS
    names = frozenset([enabled] if isinstance(enabled, str) else enabled)
    if not names <= HEADS:
        raise AutoDecoError(f"heads_enabled: {sorted(names - HEADS)}, expected some of {sorted(HEADS)}")
    return names
