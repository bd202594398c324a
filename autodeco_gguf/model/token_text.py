"""The text of tokens."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp


def token_bytes(vocab: Any, token: int, *, special: bool = True) -> bytes:
    """The text piece of a token of a ``llama_vocab``; with special False, control tokens give nothing."""
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = llama_cpp.llama_token_to_piece(vocab, token, buffer, size, 0, special)
        if n >= 0:
            return buffer.raw[:n]
        size = -n
