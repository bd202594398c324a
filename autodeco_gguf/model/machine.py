"""What a model runs on: values, which load nothing, and how llama.cpp is told of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final, Literal

DEFAULT_CONTEXT: Final = 4096
"""Tokens of context at most, where nobody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """On what a model runs, and with how much noise.

    Attributes:
        n_threads: CPU threads; None: :func:`default_threads`.
        n_gpu_layers: layers on the GPU; -1: all.
        cache_type: of keys and values.
        flash_attn: llama.cpp's flash attention where the device has it: several times as fast for many short
            sequences, and off by up to 1e-3 in T and P. None: on for an Engine without an "f32" cache, else off.
        verbose: show llama.cpp's own log.
    """

    n_threads: int | None = None
    n_gpu_layers: int = -1
    cache_type: Literal["f16", "f32"] = "f16"
    flash_attn: bool | None = None
    verbose: bool = False

    @property
    def threads(self) -> int:
        """How many threads to start."""
        return self.n_threads or default_threads()

    def llama_arguments(self) -> dict[str, Any]:
        """The same as arguments of ``llama_cpp.Llama``."""
        import llama_cpp

        cache = llama_cpp.GGML_TYPE_F32 if self.cache_type == "f32" else llama_cpp.GGML_TYPE_F16
        return {
            "n_gpu_layers": self.n_gpu_layers,
            **dict.fromkeys(("n_threads", "n_threads_batch"), self.threads),
            **dict.fromkeys(("type_k", "type_v"), cache),
            "flash_attn": bool(self.flash_attn),
            "verbose": self.verbose,
        }

    def set_params(self, model: Any, context: Any) -> None:
        """Set what a ``llama_model_params`` and a ``llama_context_params`` have of it."""
        import llama_cpp as lib

        arguments = self.llama_arguments()
        model.n_gpu_layers = 0x7FFFFFFF if self.n_gpu_layers == -1 else self.n_gpu_layers
        context.flash_attn_type = (
            lib.LLAMA_FLASH_ATTN_TYPE_AUTO if self.flash_attn else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        for name in ("n_threads", "n_threads_batch", "type_k", "type_v"):
            setattr(context, name, arguments[name])


def default_threads() -> int:
    """One a core, half of them above four: hyper-threads do not help."""
    cores = os.cpu_count() or 1
    return cores if cores <= 4 else cores // 2
