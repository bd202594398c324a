"""The text of tokens."""

from __future__ import annotations

import ctypes
import operator
from typing import Any

import llama_cpp

from autodeco_gguf.errors import InvalidInput


def check_token(token: Any, n_vocab: int, what: str = "token") -> int:
    """A token id; InvalidInput for what is none of the vocabulary, which llama.cpp would abort for."""
    try:
        number = operator.index(token)
    except TypeError as e:
        raise InvalidInput.of(what, repr(token), f"0 to {n_vocab - 1}") from e
    if not 0 <= number < n_vocab:
        raise InvalidInput.of(what, number, f"0 to {n_vocab - 1}")
    return number


def token_bytes(vocab: Any, token: int, *, special: bool = True) -> bytes:
    """The text piece of a token of a ``llama_vocab``; with special False, control tokens give nothing.

    Raises:
        InvalidInput: no such token.
    """
    token = check_token(token, llama_cpp.llama_vocab_n_tokens(vocab))
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = llama_cpp.llama_token_to_piece(vocab, token, buffer, size, 0, special)
        if n >= 0:
            return buffer.raw[:n]
        size = -n
