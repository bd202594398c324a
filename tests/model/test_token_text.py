"""The text pieces of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import load
from llama_cpp import LlamaTokenizer

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.token_text import token_bytes


def test_pieces_together_are_the_text(merged: Path) -> None:
    context = Context(merged, n_ctx=32)
    text = "Hello é, and a longer text"
    tokens = context.tokenize(text)
    assert b"".join(token_bytes(context.vocab, token) for token in tokens).decode() == text
    assert context.text(tokens) == text


def test_control_tokens_have_a_name_or_no_text(merged: Path) -> None:
    context = Context(merged, n_ctx=32)
    assert token_bytes(context.vocab, context.eos) != b""
    assert token_bytes(context.vocab, context.eos, special=False) == b""
    assert context.text([context.eos]) == ""


@pytest.mark.parametrize("token", [-1, 384, 2**31, 2**40, "5x", 1.5, None], ids=str)
def test_a_token_that_is_none(merged: Path, token: Any) -> None:
    """llama.cpp aborts for some, and takes the rest for another token."""
    llm = load(merged)
    with Engine(merged, n_parallel=1, n_ctx=32) as engine:
        calls = [
            lambda: token_bytes(engine.context.vocab, token),
            lambda: engine.context.token_bytes(token),
            lambda: engine.context.text([5, token]),
            lambda: engine.submit(Request([5], logit_bias={token: 1.0})),
            lambda: llm.token_bytes(token),
            lambda: llm.detokenize([5, token]),
            lambda: llm.tokenizer().detokenize([5, token]),
            lambda: LlamaTokenizer(llm).decode([token]),
            lambda: llm._model.token_get_text(token),
            lambda: llm._model.token_get_attr(token),
            lambda: llm._model.token_get_score(token),
            lambda: llm._model.token_to_piece(token),
            lambda: engine.context.model.detokenize([token]),
            lambda: llm.predict([5, token]),
            lambda: llm([5, token], max_tokens=1),
        ]
        if not isinstance(token, str):
            calls.append(lambda: llm([5], max_tokens=1, logit_bias={token: 1.0}))
        for call in calls:
            with pytest.raises(InvalidInput, match=r"^(logit_bias of )?token .*, expected 0 to 383$"):
                call()


def test_a_token_of_numpy(merged: Path) -> None:
    context = Context(merged, n_ctx=32)
    assert token_bytes(context.vocab, np.int32(70)) == token_bytes(context.vocab, 70)
