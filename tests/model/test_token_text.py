"""The text pieces of tokens."""

from __future__ import annotations

from pathlib import Path

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
