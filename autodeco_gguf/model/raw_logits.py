"""The logits as the output layer gives them, where an architecture scales or caps them in its graph.

The top-p head reads ``lm_head(hidden)`` (upstream's AutoDecoModelForCausalLM.forward). llama.cpp gives out what is
drawn from: of gemma2 after the soft cap, of cohere and granite after the scale. In the graph the heads take the tensor
before; where they run on the host a callback of llama.cpp's keeps it.
"""

from __future__ import annotations

import ctypes
from typing import Any

from llama_cpp import llama_cpp as lib

from autodeco_gguf._native import core
from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.heads.weights import Float32Array
from autodeco_gguf.model.sampler import address

_NO_LOGITS = frozenset(["lfm2", "lfm2moe"])
"""Architectures whose graph ends at the hidden state where that is asked for: the buffer of logits is stale then."""


class RawLogits:
    """Those of one context. For most architectures there is nothing to keep, and this does nothing."""

    def __init__(self, model: Any, params: Any) -> None:
        """Before the context is made: ``params`` are to make it for ``model``; both are llama_cpp's."""
        self._native: core.RawLogits | None = None
        self._ctx = 0
        name = ctypes.create_string_buffer(64)
        lib.llama_model_meta_val_str(model, b"general.architecture", name, len(name))
        self._architecture = name.value.decode("utf-8", "replace")
        if core.logits_changed_by(address(model)):
            self._native = core.RawLogits(int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))))
            params.cb_eval = ctypes.cast(core.RawLogits.callback, lib.ggml_backend_sched_eval_callback)
            params.cb_eval_user_data = self._native.address

    def bind(self, ctx: Any) -> None:
        """Say which context was made."""
        self._ctx = address(ctx)
        if self._native is not None:
            self._native.bind(self._ctx)

    def keep(self, on: bool) -> None:
        """Forget what was kept; keep those of the outputs to come, where llama.cpp keeps hidden states too.

        Raises:
            ModelFailed: the architecture has no logits then.
        """
        if on and self._architecture in _NO_LOGITS:
            raise ModelFailed(
                f"{self._architecture}: llama.cpp computes no logits of this architecture where hidden states are "
                "asked for: it can be run, but not trained on, nor with predict, logits_all or a draft model"
            )
        if self._native is not None:
            self._native.clear()
            self._native.on = on

    def read(self, logits: Float32Array) -> Float32Array:
        """What the heads read in place of ``logits`` [n, n_vocab], all outputs of the last decode; mostly the same.

        Raises:
            ModelFailed: they were not kept.
        """
        if self._native is None:
            return logits
        return core.raw_logits(self._ctx, len(logits)).reshape(logits.shape)
