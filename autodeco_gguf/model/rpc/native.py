"""The functions of llama.cpp's RPC backend, which only some builds have."""

from __future__ import annotations

import ctypes
from typing import Any

from llama_cpp import llama_cpp as lib

from autodeco_gguf.errors import AutoDecoError

_BUILD = 'CMAKE_ARGS="-DGGML_RPC=on" pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python .'


def rpc_function(name: bytes, result: Any, *arguments: Any) -> Any:
    """A function of ``ggml-rpc.h``; other threads run while it does.

    Raises:
        AutoDecoError: llama.cpp was built without RPC, and how to build it.
    """
    registry = ggml_function("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)(b"RPC")
    if not registry:
        raise AutoDecoError(f"llama.cpp was built without RPC, which workers need; in a clone: {_BUILD}", key="rpc")
    find = ggml_function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    return ctypes.CFUNCTYPE(result, *arguments)(find(registry, name))


def ggml_function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the ggml that libllama uses: the one that llama_cpp loads besides may have another registry."""
    function = getattr(lib._lib, name)  # noqa: SLF001
    function.restype, function.argtypes = result, arguments
    return function
