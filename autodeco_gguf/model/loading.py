"""Loading a GGUF into llama.cpp from where it stands in its file."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from llama_cpp import _internals, llama, llama_chat_format
from llama_cpp import llama_cpp as lib
from llama_cpp._internals import LlamaModel

from autodeco_gguf._native import core
from autodeco_gguf.errors import AutoDecoError, BadFile, Closed
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.base_model import parts_of
from autodeco_gguf.model.amx import kernels_work
from autodeco_gguf.model.devices import Choice, put_on
from autodeco_gguf.model.rpc.remote import NOBODY, Remote
from autodeco_gguf.model.sampler import address
from autodeco_gguf.model.template import Formatter
from autodeco_gguf.model.vetting import check_loadable

_MMAP_ALIGNMENT = 32
"""llama.cpp maps an embedded GGUF only where its tensor data is aligned to this many bytes."""

_WITHOUT_MMAP = {
    lib.LLAMA_LOAD_MODE_MLOCK: lib.LLAMA_LOAD_MODE_MLOCK,
    lib.LLAMA_LOAD_MODE_MMAP_MLOCK: lib.LLAMA_LOAD_MODE_MLOCK,
}

Prepare = Callable[[Any, Any], object]
"""What is done with a model and the parameters of a context before it is made, both llama_cpp's."""

_load_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # in the child of a fork amid a load nothing waits for it, and LogCapture refuses
    os.register_at_fork(after_in_child=_load_lock._at_fork_reinit)  # type: ignore[attr-defined]  # noqa: SLF001

_watcher: ContextVar[Callable[[float], object] | None] = ContextVar("watcher", default=None)


@contextmanager
def loading(
    base: GgufFile, verbose: bool, prepare: Prepare | None = None, *, devices: Choice, remote: Remote = NOBODY
) -> Iterator[str]:
    """Make llama_cpp load ``base`` from where it stands in its file; yields the path to give it.

    It goes on the devices that ``devices`` gives then for those of ``remote``, None for all there are, and does without
    the CPU's AMX kernels where they do not work. A worker that is lost meanwhile is a ModelFailed that names it.

    llama_cpp's loader takes nothing but a path, so for this thread, for the time of one load, some of its functions
    are replaced: the one that opens the model; the one that makes the context, with parameters that ``prepare`` may
    change; the one that opens a LoRA adapter, of which a missing one would be used all the
    same; the reading of the metadata, which goes wrong where they are no UTF-8 or of 1,024 bytes; what renders chat
    templates, without bounds there; and what would send the output of the whole process to /dev/null, other threads'
    included: the log's callback is enough. Failures become BadFile with llama.cpp's own reason.
    """
    check_loadable(base)

    def choose(params: Any) -> None:
        put_on(params, devices(remote.devices()))
        params.use_extra_bufts = params.use_extra_bufts and (params.vocab_only or kernels_work())
        if any(part.data % _MMAP_ALIGNMENT or part.alignment % _MMAP_ALIGNMENT for part in parts_of(base)):
            params.load_mode = _WITHOUT_MMAP.get(params.load_mode, lib.LLAMA_LOAD_MODE_NONE)

    with _load_lock, core.LogCapture(bool(verbose)) as capture:
        try:
            with remote.guarding(), _replaced(_replacements(base, choose, prepare, capture, remote)):
                yield _FileName(base.path)
        except AutoDecoError:
            raise
        except ValueError as e:
            error = BadFile.of(base.path, f"cannot be loaded: {capture.first_error or e}")
            raise error.with_log(capture.later_errors) from e
        except MemoryError as e:
            raise BadFile.of(base.path, f"cannot be loaded: too little memory for what it says of itself: {e}") from e


@contextmanager
def watched(report: Callable[[float], object]) -> Iterator[None]:
    """Have ``report`` called with the share of a model that is loaded, from 0 to 1, as it grows."""
    before = _watcher.set(report)
    try:
        yield
    finally:
        _watcher.reset(before)


class _FileName(str):
    """A name that need not be UTF-8, as the bytes that the system has for it."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return os.fsencode(str(self))


@contextmanager
def _replaced(replacements: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Attributes, each of an object and by a name, with another value for a time."""
    before = [(where, name, getattr(where, name)) for where, name, _ in replacements]
    try:
        for where, name, value in replacements:
            setattr(where, name, value)
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


def _replacements(
    base: GgufFile, choose: Callable[[Any], object], prepare: Prepare | None, capture: core.LogCapture, remote: Remote
) -> list[tuple[Any, str, Any]]:
    """What stands in for functions of llama_cpp while ``base`` is loaded; other threads get those that were there.

    ``choose`` changes the model's parameters, ``prepare`` the context's.
    """
    owner = threading.get_ident()
    open_model, make_context = lib.llama_model_load_from_file, lib.llama_init_from_model
    open_adapter, suppress, metadata = lib.llama_adapter_lora_init, llama.suppress_stdout_stderr, LlamaModel.metadata

    def open_here(path: bytes, params: Any) -> Any:
        if threading.get_ident() != owner:
            return open_model(path, params)
        watch = core.LoadWatch(remote.watching(_watcher.get()))
        params.progress_callback = ctypes.cast(core.LoadWatch.callback, lib.llama_progress_callback)
        params.progress_callback_user_data = watch.address
        choose(params)
        model = open_model(path, params) if base.start == 0 else open_inside(params)
        watch.check()
        fault = core.vocab_fault(address(lib.llama_model_get_vocab(model))) if model and not params.vocab_only else ""
        if fault:
            lib.llama_model_free(model)
            raise BadFile.of(base.path, f"cannot be used: {fault}")
        return model

    def open_inside(params: Any) -> Any:
        file = core.file_open(os.fsencode(base.path), base.start)
        try:
            return lib.llama_model_load_from_file_ptr(file, params)
        finally:
            core.file_close(file)

    def make_here(model: Any, params: Any) -> Any:
        if threading.get_ident() == owner and prepare is not None:
            prepare(model, params)
        return make_context(model, params)

    def adapter_here(model: Any, path: bytes) -> Any:
        adapter = open_adapter(model, path)
        if not adapter:  # which llama_cpp would use
            reason = f"no LoRA adapter for {base.path}: {capture.first_error}"
            raise BadFile.of(os.fsdecode(path), reason).with_log(capture.later_errors)
        return adapter

    def metadata_here(model: LlamaModel) -> dict[str, str]:
        return base.metadata() if threading.get_ident() == owner else metadata(model)

    def suppress_here(disable: bool = True) -> AbstractContextManager[Any]:
        return nullcontext() if threading.get_ident() == owner else suppress(disable)

    return [
        (lib, "llama_model_load_from_file", open_here),
        (lib, "llama_init_from_model", make_here),
        (lib, "llama_adapter_lora_init", adapter_here),
        (LlamaModel, "metadata", metadata_here),
        (llama_chat_format, "Jinja2ChatFormatter", functools.partial(Formatter, path=base.path)),
        (llama, "suppress_stdout_stderr", suppress_here),
        (_internals, "suppress_stdout_stderr", suppress_here),
    ]


class _Freed:
    """What a part of llama_cpp becomes once it is freed, whoever still holds it."""

    def __getattr__(self, name: str) -> Any:
        file = vars(self)["file"]
        raise Closed(f"{file}: the model is closed", file=file)

    def close(self) -> None:
        """Free it, where that has not been done."""
        vars(self)["_exit_stack"].close()


def freed(parts: Sequence[Any], file: str | os.PathLike[str], *others: Callable[[], object]) -> None:
    """Close models and contexts of llama_cpp, after ``others``: using them raises Closed instead of crashing.

    It does so before anything is freed, which other threads may come upon.
    """
    for part in parts:
        vars(part)["file"] = os.fspath(file)
        part.__class__ = _Freed
    for free in (*others, *(part.close for part in parts)):
        free()
    for part in parts:
        part.__dict__ = {"file": os.fspath(file), "_exit_stack": ExitStack()}  # which a model closes for its contexts
