"""The text of tokens."""

from __future__ import annotations

import ctypes
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
from llama_cpp._internals import LlamaModel

from autodeco_gguf._native import core
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
    return core.vocab_piece(vocab, check_token(token, llama_cpp.llama_vocab_n_tokens(vocab)), special)


def text_bytes(vocab: Any, token: int) -> bytes:
    """What a token writes within a text: nothing where it ends one, though it be text as RWKV's two line breaks."""
    return b"" if llama_cpp.llama_vocab_is_eog(vocab, token) else token_bytes(vocab, token, special=False)


DIGITS = re.compile(rb"(?<![0-9])[0-9]{4001}")
"""More digits in a row than are split for the vocabulary superbpe: from each of them llama.cpp looks on to the last.
4,000 take a second, 16,000 forty."""


class CheckedModel(LlamaModel):
    """llama_cpp's, which ends the process for a long line or no token, and loses tokens of more than 32 bytes.

    Attributes: ``hold`` calls what takes long, while which the model must not be freed.
    """

    hold: Callable[[Callable[[], Any]], Any] = staticmethod(lambda function: function())

    def tokenize(self, text: bytes, add_bos: bool, special: bool) -> list[int]:  # noqa: D102  llama_cpp's, as all here
        if DIGITS.search(text) and self._pre_tokenizer() == b"superbpe":
            raise InvalidInput("over 4000 digits in a row, which the vocabulary superbpe takes too long to split")
        return list(self.hold(lambda: core.vocab_tokenize(self.vocab, text, add_bos, special)))

    def _pre_tokenizer(self) -> bytes:
        name = ctypes.create_string_buffer(64)
        llama_cpp.llama_model_meta_val_str(self.model, b"tokenizer.ggml.pre", name, len(name))
        return name.value

    def token_get_text(self, token: int) -> str:  # noqa: D102
        return str(super().token_get_text(check_token(token, self.n_vocab())))

    def token_get_score(self, token: int) -> float:  # noqa: D102
        return float(super().token_get_score(check_token(token, self.n_vocab())))

    def token_get_attr(self, token: int) -> int:  # noqa: D102
        return int(super().token_get_attr(check_token(token, self.n_vocab())))

    def token_to_piece(self, token: int, special: bool = False) -> bytes:  # noqa: D102
        return token_bytes(self.vocab, token, special=special)

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> bytes:  # noqa: D102
        text = b"".join(token_bytes(self.vocab, token, special=special) for token in tokens)
        return text.removeprefix(b" ") if len(tokens) and tokens[0] == self.token_bos() else text
