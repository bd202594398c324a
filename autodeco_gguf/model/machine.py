"""What a model runs on: values, which load nothing, and how llama.cpp is told of them."""

from __future__ import annotations

import ctypes
import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.rpc.address import SILENCE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autodeco_gguf.files.gguf import GgufFile
    from autodeco_gguf.model.devices import Device
    from autodeco_gguf.model.rpc.remote import Remote

DEFAULT_CONTEXT: Final = 4096
"""Tokens of context at most, where nobody says otherwise."""

MAX_CONTEXT: Final = 1 << 24
"""Tokens of one sequence, more than any model has: for each llama.cpp takes memory, whatever there is."""

MAX_THREADS: Final = 512

_SMALL_MODEL: Final = 16 << 20
"""Bytes of a file below which a second thread gains a fifth at best."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """On what a model runs, and with how much noise.

    Attributes:
        n_threads: CPU threads, of prompts as of answers; None: :func:`default_threads`.
        n_gpu_layers: layers on the devices besides the CPU; -1: all.
        device: their names (``autodeco-gguf devices``), of which the first has the first layers; ("none",): the CPU
            alone. None: all GPUs.
        split_mode: over several devices, "layer": whole layers on each; "row" or "tensor": every layer on all, as far
            as the devices can; "none": all on ``main_gpu``. None: "layer", or "none" with a ``main_gpu``.
        rpc: addresses of workers, as "host:port", whose devices come before those of ``device``: parts of the model are
            put on them. (): none.
        rpc_timeout: seconds that a worker may be silent.
        tensor_split: how much of the model each device gets, in proportion, such as (3, 1). None: by their free memory.
        main_gpu: number of the device, from 0, that has everything, or by rows what is not split.
        mlock: keep the model in RAM: it is not swapped out.
        mmap: map the file where possible, so that only what is used is read; else read all of it.
        cache_type: of keys and values.
        flash_attn: llama.cpp's flash attention where the device has it: several times as fast for many short
            sequences, and off by up to 1e-3 in T and P. None: on for an Engine without an "f32" cache, else off.
        verbose: show llama.cpp's own log.
    """

    n_threads: int | None = None
    n_gpu_layers: int = -1
    device: tuple[str, ...] | None = None
    rpc: tuple[str, ...] = ()
    rpc_timeout: float = SILENCE_S
    split_mode: Literal["none", "layer", "row", "tensor"] | None = None
    tensor_split: tuple[float, ...] | None = None
    main_gpu: int | None = None
    mlock: bool = False
    mmap: bool = True
    cache_type: Literal["f16", "f32"] = "f16"
    flash_attn: bool | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidInput for a number of threads, names of devices, or a type of the cache, that are none."""
        n = self.n_threads
        if n is not None and (type(n) is not int or not 1 <= n <= MAX_THREADS):
            raise InvalidInput.of("n_threads", repr(n), f"1 to {MAX_THREADS}")
        if self.split_mode not in (None, "none", "layer", "row", "tensor"):
            raise InvalidInput.of("split_mode", repr(self.split_mode), "none, layer, row or tensor")
        if not self.rpc_timeout > 0:
            raise InvalidInput.of("rpc_timeout", repr(self.rpc_timeout), "seconds, more than 0")
        if isinstance(self.device, str):  # whose letters would pass for names
            raise InvalidInput.of("device", repr(self.device), "a tuple of names")
        if self.cache_type not in ("f16", "f32"):
            raise InvalidInput.of("cache_type", repr(self.cache_type), "f16 or f32")

    @property
    def threads(self) -> int:
        """How many threads to start."""
        return self.n_threads or default_threads()

    def remote(self) -> Remote:
        """The workers of :attr:`rpc`, each of which answers now.

        Raises:
            InvalidInput: an address that is none.
            ModelFailed: a worker that cannot be used.
        """
        from autodeco_gguf.model.rpc.remote import connect_workers

        return connect_workers(self.rpc, self.rpc_timeout)

    def devices(self, remote: Sequence[Device] = ()) -> list[Device] | None:
        """The devices besides the CPU that a model is put on, of those that are known now; None: all GPUs.

        ``remote`` are those of the workers.

        Raises:
            InvalidInput: there is no such device, or not as many as ``tensor_split`` or ``main_gpu`` speak of.
        """
        from autodeco_gguf.model.devices import after_remote, layer_devices

        chosen = after_remote(remote, self.device)
        found = layer_devices() if chosen is None else chosen
        names = ", ".join(device.name for device in found) or "none besides the CPU"
        if self.tensor_split is not None:
            shares = self.tensor_split
            if not all(0 <= share < math.inf for share in shares) or not any(shares):
                raise InvalidInput.of("tensor_split", shares, "numbers of at least 0, not all of them 0")
            if len(shares) > len(found):
                raise InvalidInput.of("tensor_split", f"of {len(shares)} devices", f"at most {len(found)}: {names}")
        if self.main_gpu is not None:
            if self.split_mode in ("layer", "tensor"):
                raise InvalidInput.of("main_gpu", f"with split_mode {self.split_mode}", "none or row, which have one")
            if not 0 <= self.main_gpu < len(found):
                raise InvalidInput.of("main_gpu", self.main_gpu, f"the number, from 0, of one of {names}")
        return chosen

    def llama_arguments(self) -> dict[str, Any]:
        """The same as arguments of :class:`~autodeco_gguf.Llama`, which chooses threads where none are given.

        Raises:
            InvalidInput: as :meth:`devices`.
            ModelFailed: as :meth:`remote`.
        """
        remote = self.remote()
        self.devices(remote.devices())
        return {
            "device": self.device,
            "rpc": remote,
            "n_gpu_layers": self.n_gpu_layers,
            "split_mode": self._split_mode(),
            "main_gpu": self.main_gpu or 0,
            "tensor_split": None if self.tensor_split is None else list(self.tensor_split),
            "use_mmap": self.mmap,
            "use_mlock": self.mlock,
            **dict.fromkeys(("n_threads", "n_threads_batch"), self.n_threads),
            **dict.fromkeys(("type_k", "type_v"), self._cache_type()),
            "flash_attn": bool(self.flash_attn),
            "verbose": self.verbose,
        }

    def _cache_type(self) -> int:
        import llama_cpp

        return int(llama_cpp.GGML_TYPE_F32 if self.cache_type == "f32" else llama_cpp.GGML_TYPE_F16)

    def _split_mode(self) -> int:
        import llama_cpp

        name = self.split_mode or ("layer" if self.main_gpu is None else "none")
        return int(getattr(llama_cpp, f"LLAMA_SPLIT_MODE_{name.upper()}"))

    def set_params(self, base: GgufFile, model: Any, context: Any) -> None:
        """Set what the ``llama_model_params`` and ``llama_context_params`` of a base model have of it.

        All but :meth:`devices`, which whoever loads the model asks for then.
        """
        import llama_cpp as lib

        context.n_threads = context.n_threads_batch = self.n_threads or default_threads(base)
        model.n_gpu_layers = 0x7FFFFFFF if self.n_gpu_layers == -1 else self.n_gpu_layers
        model.split_mode, model.main_gpu = self._split_mode(), self.main_gpu or 0
        if self.tensor_split is not None:
            shares = (ctypes.c_float * lib.llama_max_devices())(*self.tensor_split)
            model.tensor_split = shares  # which holds it
        if self.mlock:
            model.load_mode = lib.LLAMA_LOAD_MODE_MMAP_MLOCK if self.mmap else lib.LLAMA_LOAD_MODE_MLOCK
        elif not self.mmap:
            model.load_mode = lib.LLAMA_LOAD_MODE_NONE
        context.flash_attn_type = (
            lib.LLAMA_FLASH_ATTN_TYPE_AUTO if self.flash_attn else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        context.type_k = context.type_v = self._cache_type()
        context.pooling_type = lib.LLAMA_POOLING_TYPE_NONE  # a model's own mixes the hidden states of its tokens


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
