"""A llama.cpp without RPC, and what it has with it."""

from __future__ import annotations

import ctypes

import pytest
from rpc_helpers import needs_rpc

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.rpc import native
from autodeco_gguf.model.rpc.native import ggml_function, rpc_function


def test_without_rpc_it_is_said_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "ggml_function", lambda *_: lambda *_: None)
    words = r'^llama.cpp was built without RPC, which workers need; .*CMAKE_ARGS="-DGGML_RPC=on" pip install .*$'
    with pytest.raises(AutoDecoError, match=words) as e:
        Machine(rpc=("127.0.0.1:1",)).remote()
    assert e.value.key == "rpc"


@needs_rpc
def test_functions_are_found() -> None:
    assert rpc_function(b"ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)
    assert ggml_function("ggml_backend_dev_count", ctypes.c_size_t)() >= 1
