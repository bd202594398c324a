"""The same weights as files of other types, made of a file that is at hand."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

import llama_cpp

from autodeco_gguf._native import core

TYPES = {
    "F32": llama_cpp.LLAMA_FTYPE_ALL_F32,
    "F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def requantized(source: Path, directory: Path, types: Iterable[str]) -> dict[str, Path]:
    """A model as these types, written unless they are there: what is quantized already loses nothing by F16 and F32."""
    found = {}
    for name in types:
        path = found[name] = directory / f"{source.stem}-{name}.gguf"
        if not path.exists():
            params = llama_cpp.llama_model_quantize_default_params()
            params.ftype, params.allow_requantize = TYPES[name], True
            capture = core.LogCapture(False)  # a line for every tensor
            status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(path), ctypes.byref(params))
            if status:
                raise RuntimeError(f"{path}: cannot be made: {capture.first_error}")
            del capture
    return found
