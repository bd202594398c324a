"""The text pieces of tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import STRINGS, Kind, metadata_of, rewrite
from conftest import Case, load
from family_helpers import FAMILIES
from llama_cpp import LlamaTokenizer

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.export import extract
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.model.token_text import token_bytes

TOKENS_KEY = "tokenizer.ggml.tokens"


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


def test_a_token_of_many_bytes(qwen2: Case, tmp_path: Path) -> None:
    tokens = metadata_of(qwen2.base)[TOKENS_KEY][0]
    for n in (64, 65, 300):
        names = [*tokens[:300], "a" * n, *tokens[301:]]
        path = rewrite(qwen2.base, tmp_path / f"{n}.gguf", metadata={TOKENS_KEY: (names, *STRINGS)})
        assert Context(path, n_ctx=32).token_bytes(300) == b"a" * n


LONG_LINES = """
import json, sys, threading
import autodeco_gguf as ad
from autodeco_gguf.engine.request import Request
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.grammar import SchemaGrammar

path = sys.argv[1]
found = []

def tokenize():
    context = Context(path, n_ctx=32)
    for text in ("a" * 200_000, " " * 200_000, "a1" * 100_000, "a b" * 70_000, "\u00e9" * 100_000, "/\\n" * 50_000):
        tokens = context.tokenize(text)
        assert context.text(tokens) == text
        found.append(len(tokens))

threading.stack_size(256 * 1024)  # less than any thread of ours has
thread = threading.Thread(target=tokenize)
thread.start()
thread.join()
llm = ad.Llama(path, heads_enabled=(), n_ctx=32, verbose=False)
found.append(len(llm.tokenize(b"a" * 200_000, add_bos=False)))
with ad.Engine(path, heads_enabled=(), n_ctx=32) as engine:
    schema = SchemaGrammar(json.dumps({"const": "a" * 100_000}))
    request = Request("x", grammar=schema, temperature=0.0, top_p=1.0, max_tokens=4, stop=["b" * 16_000])
    found.append(engine.submit(request).result().text)
print(json.dumps(found))
"""


def of_pre_tokenizer(name: str, directory: Path) -> Path:
    base = directory / "base.gguf"
    extract(DEMO_MODEL, base=base, force=True)
    return rewrite(base, directory / f"{name}.gguf", metadata={"tokenizer.ggml.pre": (name, Kind.STRING)})


@pytest.mark.parametrize("name", ["gpt-2", "gpt-4o", "deepseek-llm", "tekken", "bloom", "exaone-moe"])
def test_long_lines(name: str, tmp_path: Path) -> None:
    """For all but the first llama.cpp calls itself for every character, and had the stack of no thread."""
    command = [sys.executable, "-c", LONG_LINES, of_pre_tokenizer(name, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    a, *_, from_llama, text = json.loads(done.stdout)
    assert a == from_llama == 200_000  # the demo has no token of more than one
    assert text == '"aaa'


BLANKS = [char for char in map(chr, range(0x3001)) if char.isspace()]
# which are no UTF-8, but blanks to llama.cpp
OVERLONG = [b"\xc0\x8a", b"\xe0\x80\x8d", b"\xe0\x82\xa0", b"\xf0\x80\x80\x8a", b"\xf0\x83\x80\x80"]


def test_a_line_that_is_too_long(tmp_path: Path) -> None:
    """Line breaks among white space and slashes are within a line: a match of expressions goes on there."""
    context = Context(of_pre_tokenizer("gpt-4o", tmp_path), n_ctx=32)
    lines = ["a" * ((1 << 20) + 1), "aa" + "\n" * (1 << 20), *(f"\n{char}" * (1 << 20) for char in [*BLANKS, "/"])]
    for text in [*(line.encode() for line in lines), *(b"/\n" + blank * (1 << 20) for blank in OVERLONG)]:
        with pytest.raises(InvalidInput, match=r"^a line of \d{7} bytes, expected at most 1048576$"):
            context.model.tokenize(text, False, False)


@pytest.mark.parametrize(
    "line",
    ["ab cd", "    if a / b:", "今天天气很好。我们去公园。", "　　今天 天气", "「ありがとう」", "สวัสดี", "é 😀"],
)
def test_many_lines_are_no_long_one(line: str, tmp_path: Path) -> None:
    context = Context(of_pre_tokenizer("gpt-4o", tmp_path), n_ctx=32)
    text = f"{line}\n" * ((1 << 20) // len(line.encode()))
    assert len(context.tokenize(text)) >= len(text) // 2


@pytest.mark.parametrize("name", ["gpt-2", "superbpe"])
def test_digits_in_a_row(name: str, tmp_path: Path) -> None:
    """llama.cpp takes 37 s for 16,000 with the latter, and for more the longer."""
    context = Context(of_pre_tokenizer(name, tmp_path), n_ctx=32)
    text = "1" * 2000 + "a" + "1" * 2001
    assert context.text(context.tokenize(text)) == text
    if name == "gpt-2":
        assert len(context.tokenize("1" * 100_000)) == 100_000
    else:
        with pytest.raises(InvalidInput, match=r"^over 4000 digits in a row, .* superbpe takes too long to split$"):
            context.tokenize("a" + "1" * 4001)


@pytest.mark.parametrize("blank", [b"\xc0\xa0", b"\xe0\x80\xa0", b"\xf0\x80\x80\xa0"])
def test_a_space_of_several_bytes(blank: bytes, tmp_path: Path) -> None:
    """llama.cpp ends the process for one, by an assertion that a text of this vocabulary has no spaces any more."""
    model = Context(of_pre_tokenizer("gemma4", tmp_path), n_ctx=32).model
    with pytest.raises(InvalidInput, match=r"^a text with a space of several bytes, which is no UTF-8$"):
        model.tokenize(b"a" + blank + b"a", False, False)


def test_bytes_that_have_no_token(tmp_path: Path) -> None:
    """llama.cpp throws errors of the C++ library, which were a ValueError and an IndexError."""
    model = Context(DEMO_MODEL, n_ctx=32).model
    for n in (1, 5000):  # of which the longer is read in a thread of its own
        with pytest.raises(InvalidInput, match=r"^a text that the vocabulary cannot tokenize: invalid codepoint$"):
            model.tokenize(b"a" * n + b"\xf4\x90\x80\x80", False, False)
    source = FAMILIES / "mistral.gguf"
    tokens = ["another" if token == "<0x00>" else token for token in metadata_of(source)[TOKENS_KEY][0]]
    renamed = rewrite(source, tmp_path / "renamed.gguf", metadata={TOKENS_KEY: (tokens, *STRINGS)})
    with pytest.raises(InvalidInput, match=r"^a text that the vocabulary cannot tokenize: "):
        Context(renamed, n_ctx=32).model.tokenize(b"a\0", False, False)


def test_lines_of_other_vocabularies_have_no_bound() -> None:
    context = Context(FAMILIES / "mistral.gguf", n_ctx=32)
    text = "ab" * (1 << 20)
    assert context.text(context.tokenize(text)).strip() == text
