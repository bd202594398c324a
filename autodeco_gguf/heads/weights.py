"""The heads' weights as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.format import ACTIVATIONS, FEATURES, HEAD_PREFIX, TEMPERATURE_SCALE, tensor_name

Float32Array = npt.NDArray[np.float32]

HEADS = frozenset(HEAD_PREFIX)
"""The names of the heads: ``"temperature"`` and ``"top_p"``."""

LETTERS = {"temperature": "T", "top_p": "P"}
"""What stands for the values of each in a table or a figure."""

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

    @property
    def layers(self) -> list[tuple[Float32Array, Float32Array]]:
        """The weight and the bias of every layer."""
        return list(zip(self.weights, self.biases, strict=True))

    def check(self, where: str, n_in: int) -> None:
        """Raise InvalidInput, naming ``where`` and the layer, unless the layers connect and hold finite values."""
        if self.activation not in ACTIVATIONS:
            raise InvalidInput.of(f"{where}: activation", repr(self.activation), f"one of {', '.join(ACTIVATIONS)}")
        n_layers = len(self.weights)
        if n_layers == 0 or n_layers != len(self.biases):
            reason = f"{where}: {n_layers} weights and {len(self.biases)} biases, expected as many"
            raise InvalidInput(reason, key=where, expected=n_layers, found=len(self.biases))
        if n_layers > MAX_LAYERS:
            reason = f"{where}: {n_layers} layers, expected at most {MAX_LAYERS}"
            raise InvalidInput(reason, key=where, expected=MAX_LAYERS, found=n_layers)
        for i, (weight, bias) in enumerate(self.layers):
            n_out = 1 if i + 1 == n_layers else weight.shape[0]
            for name, array, shape in (("weight", weight, [n_out, n_in]), ("bias", bias, [n_out])):
                layer = f"{where}: {name} of layer {i}"
                found = list(array.shape)
                if found != shape:
                    raise InvalidInput(f"{layer} is {found}, expected {shape}", key=layer, expected=shape, found=found)
                if np.iscomplexobj(array):
                    raise InvalidInput(f"{layer} is complex, expected real numbers", key=layer)
                with np.errstate(over="ignore"):
                    in_float32 = np.asarray(array, np.float32)
                if not np.isfinite(in_float32).all():
                    raise InvalidInput(f"{layer} holds NaN or infinity, as float32", key=layer)
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

    @property
    def tensors(self) -> dict[str, Float32Array]:
        """The arrays under the names that a GGUF has for them, in its order."""
        return {
            tensor_name(head, i, part): array
            for head, mlp in self.mlps.items()
            for i, layer in enumerate(mlp.layers)
            for part, array in zip(("weight", "bias"), layer, strict=True)
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of the arrays, row-major."""
        return {name: array.shape for name, array in self.tensors.items()}

    def fingerprint(self) -> str:
        """A hash of the heads: the same for the same predictions."""
        digest = hashlib.sha256(repr((self.features, self.temperature_scale)).encode())
        for name, mlp in self.mlps.items():
            digest.update(f"{name} {mlp.activation}".encode())
            for array in (*mlp.weights, *mlp.biases):
                digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def check(self) -> None:
        """Raise InvalidInput, naming the layer, unless this is a set of heads that can run."""
        if not self.mlps:
            raise InvalidInput("no head in it")
        if self.features not in FEATURES.values():
            raise InvalidInput.of("top-p features", list(self.features), f"{list(FEATURES[True])} or one")
        if not 0.0 < self.temperature_scale <= float(np.finfo(np.float32).max):
            raise InvalidInput.of("temperature scale", self.temperature_scale, "a number > 0 of float32")
        for name, mlp in self.mlps.items():
            mlp.check(HEAD_PREFIX[name], self.hidden_size + (len(self.features) if name == "top_p" else 0))


def deciding(which: str, heads: frozenset[str]) -> frozenset[str]:
    """Those of a model's heads that "on", "off" or the name of one let decide; InvalidInput where none is there."""
    wanted = {"on": heads, "off": frozenset[str]()}.get(which, heads & {which})
    if which != "off" and not wanted:
        what = "heads" if which == "on" else f"{which.replace('_', '-')} head"
        raise InvalidInput(f"the model has no {what}", key="heads")
    return wanted


def check_enabled(enabled: Collection[str] | None) -> frozenset[str]:
    """The set of head names, all for None; InvalidInput for a name that is no head."""
    if enabled is None:
        return HEADS
    names = frozenset([enabled] if isinstance(enabled, str) else enabled)
    if not names <= HEADS:
        found, expected = sorted(names - HEADS), f"some of {sorted(HEADS)}"
        message = f"heads_enabled: {found}, expected {expected}"
        raise InvalidInput(message, key="heads_enabled", expected=expected, found=found)
    return names
