"""The heads as what computes, on any ggml device."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.weights import Float32Array, HeadWeights, check_enabled


class Heads:
    """AutoDeco heads, ready to compute on any ggml device.

    Examples:
        >>> from autodeco_gguf.model.shipped import DEMO_MODEL
        >>> heads = Heads.load(DEMO_MODEL)
        >>> temperature, top_p = heads.evaluate(np.zeros((3, heads.hidden_size)), np.zeros((3, heads.vocab_size)))
        >>> temperature.shape, top_p.shape
        ((3,), (3,))
    """

    def __init__(self, weights: HeadWeights) -> None:
        """Copy the weights into native memory; the arrays are not needed afterwards.

        Raises:
            InvalidInput: the weights do not fit together or are not finite.
        """
        try:
            weights.check()
        except InvalidInput as e:
            raise e.within("heads") from e
        self.hidden_size = weights.hidden_size
        self.vocab_size = weights.vocab_size
        self.base_model = weights.base_model
        self.names = frozenset(weights.mlps)
        temperature, top_p = weights.temperature, weights.top_p
        self.native = core.Heads(
            n_embd=weights.hidden_size,
            n_vocab=weights.vocab_size,
            temp_scale=weights.temperature_scale,
            n_features=len(weights.features),
            temp=temperature.layers if temperature else [],
            temp_gelu=temperature is not None and temperature.activation == "gelu",
            top_p=top_p.layers if top_p else [],
            top_p_gelu=top_p is not None and top_p.activation == "gelu",
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Heads:
        """Read the heads of a merged GGUF or an adapter.

        Raises:
            BadFile: not a GGUF, no heads in it, or heads that are broken.
        """
        return cls(ModelFile.open(path).read_heads())

    def evaluate(
        self,
        hidden: npt.ArrayLike,
        logits: npt.ArrayLike,
        *,
        device: str = "CPU",
        heads_enabled: Collection[str] | None = None,
    ) -> tuple[Float32Array, Float32Array]:
        """Predict from hidden states and logits, the arithmetic of docs/format.md in float32 on one ggml device.

        Args:
            hidden: [n, hidden_size], after the model's final norm (llama.cpp's ``result_norm``).
            logits: [n, vocab_size] of the same positions, raw; -inf is allowed.
            device: one of :func:`devices`. Where it fails, or lacks an operation, the CPU computes instead, with a
                RuntimeWarning.
            heads_enabled: which heads take part; what the others would predict is 1.

        Returns:
            temperature [n] in (0, 2) and top-p [n] in (0, 1); 1 where there is no such head.

        Raises:
            InvalidInput: wrong shapes, values that are not finite or so large that the results are not, no such device.
        """
        enabled = check_enabled(heads_enabled)
        inputs = _floats("hidden", hidden), _floats("logits", logits)
        on = "temperature" in enabled, "top_p" in enabled
        try:
            return self.native.evaluate(*inputs, device, *on)
        except ModelFailed as e:
            if device == "CPU":
                raise
            warnings.warn(f"{e}: the CPU computes the heads instead", RuntimeWarning, stacklevel=2)
        return self.native.evaluate(*inputs, "CPU", *on)


def _floats(name: str, values: Any) -> Float32Array:
    try:
        return np.asarray(values, np.float32)
    except (TypeError, ValueError) as e:
        raise InvalidInput(f"{name}: {e}", key=name) from e


def devices() -> dict[str, str]:
    """The ggml devices of this build, name -> description. ``"CPU"`` is always there."""
    return {name: description for name, description, *_ in core.devices()}
