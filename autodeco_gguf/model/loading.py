"""Loading a GGUF into llama.cpp from where it stands in its file."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_cpp import llama_chat_format
from llama_cpp import llama_cpp as lib
from llama_cpp._internals import LlamaModel

from autodeco_gguf._native import core
from autodeco_gguf.errors import AutoDecoError, BadFile
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.model.sampler import address
from autodeco_gguf.model.template import Formatter
from autodeco_gguf.model.vetting import check_loadable

_MMAP_ALIGNMENT = 32
"""llama.cpp maps an embedded GGUF only where its tensor data is aligned to this many bytes."""

_load_lock = threading.RLock()


@contextmanager
def loading(base: GgufFile, verbose: bool, outputs_max: int = 0) -> Iterator[str]:
    """Make llama_cpp load ``base`` from where it stands in its file; yields the path to give it.

    llama_cpp's loader takes nothing but a path, so for this thread, for the time of one load, two of its functions
    are replaced: the one that opens the model and the one that makes the context, which also gets a bound on its
    outputs. So are the reading of the metadata, which goes wrong where they are no UTF-8 or of 1,024 bytes, and what
    renders chat templates, without bounds there. Failures become BadFile with llama.cpp's own reason.
    """
    check_loadable(base)
    owner = threading.get_ident()
    open_model, make_context = lib.llama_model_load_from_file, lib.llama_init_from_model
    metadata, formatter = LlamaModel.metadata, llama_chat_format.Jinja2ChatFormatter

    def open_here(path: bytes, params: Any) -> Any:
        if threading.get_ident() != owner:
            return open_model(path, params)
        if base.data % _MMAP_ALIGNMENT or base.alignment % _MMAP_ALIGNMENT:
            params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        model = open_model(path, params) if base.start == 0 else open_inside(params)
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

    def metadata_here(model: LlamaModel) -> dict[str, str]:
        return base.metadata() if threading.get_ident() == owner else metadata(model)

    def make_here(model: Any, params: Any) -> Any:
        if threading.get_ident() == owner and outputs_max:
            params.n_outputs_max = min(outputs_max, params.n_batch)
        return make_context(model, params)

    with _load_lock:
        capture = core.LogCapture(verbose)
        lib.llama_model_load_from_file, lib.llama_init_from_model = open_here, make_here
        LlamaModel.metadata = metadata_here
        llama_chat_format.Jinja2ChatFormatter = functools.partial(Formatter, path=base.path)
        try:
            yield os.fspath(base.path)
        except AutoDecoError:
            raise
        except ValueError as e:
            raise BadFile.of(base.path, f"cannot be loaded: {capture.first_error or e}") from e
        except MemoryError as e:
            raise BadFile.of(base.path, f"cannot be loaded: too little memory for what it says of itself: {e}") from e
        finally:
            lib.llama_model_load_from_file, lib.llama_init_from_model = open_model, make_context
            LlamaModel.metadata, llama_chat_format.Jinja2ChatFormatter = metadata, formatter
            del capture
