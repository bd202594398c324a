"""What a model runs on: values, which load nothing, and how llama.cpp is told of them."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from autodeco_gguf.files.gguf import GgufFile

DEFAULT_CONTEXT: Final = 4096
"""Tokens of context at most, where nobody says otherwise."""

_SMALL_MODEL: Final = 16 << 20
"""Bytes of a file below which a second thread gains a fifth at best."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """On what a model runs, and with how much noise.

    Attributes:
        n_threads: CPU threads, of prompts as of answers; None: :func:`default_threads`.
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
        """The same as arguments of :class:`~autodeco_gguf.Llama`, which chooses threads where none are given."""
        import llama_cpp

        cache = llama_cpp.GGML_TYPE_F32 if self.cache_type == "f32" else llama_cpp.GGML_TYPE_F16
        return {
            "n_gpu_layers": self.n_gpu_layers,
            **dict.fromkeys(("n_threads", "n_threads_batch"), self.n_threads),
            **dict.fromkeys(("type_k", "type_v"), cache),
            "flash_attn": bool(self.flash_attn),
            "verbose": self.verbose,
        }

    def set_params(self, base: GgufFile, model: Any, context: Any) -> None:
        """Set what the ``llama_model_params`` and ``llama_context_params`` of a base model have of it."""
        import llama_cpp as lib

        arguments = self.llama_arguments()
        context.n_threads = context.n_threads_batch = self.n_threads or default_threads(base)
        model.n_gpu_layers = 0x7FFFFFFF if self.n_gpu_layers == -1 else self.n_gpu_layers
        context.flash_attn_type = (
            lib.LLAMA_FLASH_ATTN_TYPE_AUTO if self.flash_attn else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        context.type_k, context.type_v = arguments["type_k"], arguments["type_v"]


def default_threads(base: GgufFile | None = None) -> int:
    """One a core, half of them above four, since hyper-threads do not help; never more than this process may use.

    Args:
        base: the model. A small one gets a single thread: waiting for each other takes threads as long as its work,
            and many times as long beside another busy process (benchmarks/busy.py).
    """
    if base is not None and base.file_size < _SMALL_MODEL and base.get("split.count", int, 1) == 1:
        return 1
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, int(min(cores if cores <= 4 else cores // 2, allowed, cpu_quota())))


def cpu_quota(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float:
    """CPU time that the control groups of this process leave it, in cores; infinity where nothing is limited.

    Args:
        groups: lists the groups, as cgroups(7) describes it.
        mount: where their files are: ``cpu.max`` of version 2, ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` of
            version 1.
    """
    quota = math.inf
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path.lstrip("/"))
        for root in (mount, mount / (controllers or "unified"), mount / "cpu"):
            # a limit of a parent binds too; a container may see the host's path, of which only the root is its own
            for folder in (root / group, *(root / parent for parent in group.parents)):
                limit = _read(folder / "cpu.max").split() or [
                    _read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
                ]
                if len(limit) == 2 and all(value.isdecimal() for value in limit) and int(limit[1]):
                    quota = min(quota, int(limit[0]) / int(limit[1]))
    return quota


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeError):
        return ""
