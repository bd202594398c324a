"""Loading a GGUF into llama.cpp from where it stands in its file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import jinja2
from llama_cpp import _internals, llama
from llama_cpp import llama_cpp as lib

from autodeco_gguf._native import core
from autodeco_gguf.errors import BadFile, Closed
from autodeco_gguf.files.gguf import GgufFile

_MMAP_ALIGNMENT = 32
"""llama.cpp maps an embedded GGUF only where its tensor data is aligned to this many bytes."""

_MAX_BLOCKS = 512
"""llama.cpp's LLAMA_MAX_LAYERS; beyond it an assertion ends the process."""

_load_lock = threading.RLock()


@contextmanager
def loading(base: GgufFile, verbose: bool, outputs_max: int = 0) -> Iterator[str]:
    """Make llama_cpp load ``base`` from where it stands in its file; yields the path to give it.

    llama_cpp's loader takes nothing but a path, so for this thread, for the time of one load, some of its functions
    are replaced: the one that opens the model, the one that makes the context, which also gets a bound on its
    outputs, and the one that would send the output of the whole process to /dev/null, other threads' included; the
    log's callback is enough. Failures become BadFile with llama.cpp's own reason.
    """
    blocks = base.get(f"{base.get('general.architecture', str)}.block_count", int, 0)
    problem = base.header.check_vocab() or (f"{blocks} blocks" if blocks > _MAX_BLOCKS else "")
    if problem:
        raise BadFile.of(base.path, f"llama.cpp would crash on it: {problem}")
    owner = threading.get_ident()

    def open_here(path: bytes, params: Any) -> Any:
        if threading.get_ident() != owner or base.start == 0:
            return open_model(path, params)
        if base.data % _MMAP_ALIGNMENT:
            params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        file = core.file_open(os.fsencode(base.path), base.start)
        try:
            return lib.llama_model_load_from_file_ptr(file, params)
        finally:
            core.file_close(file)

    def make_here(model: Any, params: Any) -> Any:
        if threading.get_ident() == owner and outputs_max:
            params.n_outputs_max = min(outputs_max, params.n_batch)
        return make_context(model, params)

    def suppress_here(disable: bool = True) -> AbstractContextManager[Any]:
        return nullcontext() if threading.get_ident() == owner else suppress(disable)

    with _load_lock:
        capture = core.LogCapture(verbose)
        open_model, make_context = lib.llama_model_load_from_file, lib.llama_init_from_model
        suppress = llama.suppress_stdout_stderr
        lib.llama_model_load_from_file, lib.llama_init_from_model = open_here, make_here
        llama.suppress_stdout_stderr = _internals.suppress_stdout_stderr = suppress_here
        try:
            yield os.fspath(base.path)
        except jinja2.TemplateError as e:
            raise BadFile.of(base.path, f"its chat template does not parse: {e}") from e
        except ValueError as e:
            raise BadFile.of(base.path, f"cannot be loaded: {capture.first_error or e}") from e
        finally:
            lib.llama_model_load_from_file, lib.llama_init_from_model = open_model, make_context
            llama.suppress_stdout_stderr = _internals.suppress_stdout_stderr = suppress
            del capture


class _Freed:
    """What a part of llama_cpp becomes once it is freed, whoever still holds it."""

    def __getattr__(self, name: str) -> Any:
        file = vars(self)["file"]
        raise Closed(f"{file}: the model is closed", file=file)

    def close(self) -> None:
        """Do nothing."""


def freed(part: Any, file: str | os.PathLike[str]) -> None:
    """Close a model or a context of llama_cpp, and see to it that using it raises Closed instead of crashing."""
    part.close()
    part.__class__ = _Freed
    vars(part).clear()
    vars(part).update(file=os.fspath(file), _exit_stack=ExitStack())  # which a model closes for its contexts
