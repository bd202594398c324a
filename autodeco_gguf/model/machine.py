"""What a model runs on: values that the command line can show without loading a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal

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


def default_threads() -> int:
    """One a core, half of them above four: hyper-threads do not help."""
    cores = os.cpu_count() or 1
    return cores if cores <= 4 else cores // 2
