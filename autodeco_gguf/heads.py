"""The heads: their weights as arrays, and as what computes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autodeco_gguf._native import core
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.format import ACTIVATIONS, FEATURES, HEAD_PREFIX, TEMPERATURE_SCALE

if TYPE_CHECKING:
    from os import PathLike

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


class Heads:
    """AutoDeco heads, ready to compute on any ggml device.

    Examples:
        >>> heads = Heads.load("model-autodeco.gguf")  # doctest: +SKIP
        >>> temperature, top_p = heads.evaluate(hidden, logits)  # doctest: +SKIP
    """

    def __init__(self, weights: HeadWeights) -> None:
        """Copy the weights into native memory; the arrays are not needed afterwards.

        Raises:
            AutoDecoError: the weights do not fit together or are not finite.
        """
        weights.check("heads")
        self.hidden_size = weights.hidden_size
        self.vocab_size = weights.vocab_size
        self.base_model = weights.base_model
        self.names = frozenset(weights.mlps)

        def layers(mlp: Mlp | None) -> list[tuple[Float32Array, Float32Array]]:
            return list(zip(mlp.weights, mlp.biases, strict=True)) if mlp else []

        self.native: Any = core.Heads(
            n_embd=weights.hidden_size,
            n_vocab=weights.vocab_size,
            temp_scale=weights.temperature_scale,
            enhanced=weights.features == FEATURES[True],
            temp=layers(weights.temperature),
            temp_gelu=weights.temperature is not None and weights.temperature.activation == "gelu",
            top_p=layers(weights.top_p),
            top_p_gelu=weights.top_p is not None and weights.top_p.activation == "gelu",
        )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Heads:
        """Read the heads of a merged GGUF or an adapter.

        Raises:
            AutoDecoError: not a GGUF, no heads in it, or heads that are broken.
        """
        from autodeco_gguf.model_file import ModelFile

        return cls(ModelFile.open(Path(path)).read_heads())

    def evaluate(
        self,
        hidden: npt.ArrayLike,
        logits: npt.ArrayLike,
        *,
        device: str = "CPU",
        heads_enabled: Collection[str] | None = None,
    ) -> tuple[Float32Array, Float32Array]:
        """Predict from hidden states and logits, FORMAT's arithmetic in float32 on one ggml device.

        Args:
            hidden: [n, hidden_size], after the model's final norm (llama.cpp's ``result_norm``).
            logits: [n, vocab_size] of the same positions, raw; -inf is allowed.
            device: one of :func:`devices`.
            heads_enabled: which heads take part; what the others would predict is 1.

        Returns:
            temperature [n] in (0, 2) and top-p [n] in (0, 1); 1 where there is no such head.

        Raises:
            AutoDecoError: wrong shapes, values that are not finite, no such device.
        """
        enabled = check_enabled(heads_enabled)
        temperature, top_p = self.native.evaluate(
            np.asarray(hidden, np.float32),
            np.asarray(logits, np.float32),
            device,
            "temperature" in enabled,
            "top_p" in enabled,
        )
        return temperature, top_p


def devices() -> dict[str, str]:
    """The ggml devices of this build, name -> description. ``"CPU"`` is always there."""
    return dict(core.devices())


def draw(
    logits: npt.ArrayLike,
    temperature: float = 1.0,
    top_p: float = 1.0,
    *,
    n: int = 1,
    seed: int | None = None,
) -> npt.NDArray[np.int32]:
    """Draw n tokens from softmax(logits / temperature) cut to the nucleus of mass top_p, renormalized.

    The order is a contract: first scale, then cut. The nucleus is the smallest set of most likely tokens
    whose probabilities reach top_p, never empty. Temperature 0 gives the most likely token.

    Args:
        logits: [n_vocab]; -inf excludes a token.
        temperature: >= 0.
        top_p: in [0, 1].
        n: how many.
        seed: 32 bits; random when None.

    Returns:
        Token ids [n].

    Raises:
        AutoDecoError: NaN or +inf among the logits, or nothing but -inf; a parameter out of range.
    """
    check_temperature(temperature)
    check_top_p(top_p)
    array = np.asarray(logits, np.float32)
    return np.asarray(core.draw(array, temperature, top_p, n, check_seed(seed)))


def check_temperature(value: float) -> None:
    """Raise AutoDecoError unless value is a temperature: 0 to a million, beyond which float32 has no use for it."""
    if not 0.0 <= value <= 1e6:
        raise AutoDecoError(f"temperature {value}, expected a number >= 0 (0 is greedy) and <= 1e6")


def check_top_p(value: float) -> None:
    """Raise AutoDecoError unless value is a probability mass in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise AutoDecoError(f"top_p {value}, expected a number in [0, 1]")


def check_seed(seed: int | None) -> int:
    """A seed of 32 bits; a random one for None and for llama.cpp's LLAMA_DEFAULT_SEED (2**32 - 1)."""
    if seed is None or seed & 0xFFFFFFFF == 0xFFFFFFFF:
        return random.SystemRandom().getrandbits(32)
    return seed & 0xFFFFFFFF
