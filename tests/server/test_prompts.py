"""Prompts of requests."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from server_helpers import demo_engine

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.chat import Chat
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.prompts import Prompts

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{{ 'yes' if thinks else 'no' }}{{ style }}"
HI = [{"role": "user", "content": "hi "}]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with demo_engine(1) as engine:
        engine.chat = Chat(TEMPLATE, engine.context.vocab, engine.context.file.path)
        yield engine


def test_template_kwargs(engine: Engine) -> None:
    engine.chat = Chat(TEMPLATE, engine.context.vocab, engine.context.file.path, {"style": "!"})
    prompts = Prompts(engine, {"style": "!"})

    def text(**kwargs: object) -> str:
        return engine.context.text(prompts.chat(HI, kwargs=kwargs or None))

    assert text() == "hi no!"
    assert text(thinks=True) == "hi yes!"
    assert text(style="?") == "hi no?"
    assert prompts.reads >= {"thinks", "style", "messages"}
    for n in range(20):
        assert text(style=str(n)) == f"hi no{n}"
    kept = list(prompts._chats)
    assert text(style="!" * 5000) == f"hi no{'!' * 5000}"
    assert list(prompts._chats) == kept  # what a client sends is not kept, as large as it is
    for wrong in ({"other": 1}, {"messages": []}):
        with pytest.raises(ApiError, match="chat_template_kwargs") as error:
            prompts.chat(HI, kwargs=wrong)
        assert str(engine.context.file.path) not in str(error.value)


def test_without_a_template(engine: Engine) -> None:
    chat, engine.chat = engine.chat, None
    with pytest.raises(ApiError, match="no chat template"):
        Prompts(engine).chat(HI)
    assert Prompts(engine).reads == set()
    engine.chat = chat


def test_a_template_that_does_not_parse(engine: Engine) -> None:
    engine.chat = Chat("{% if", engine.context.vocab, engine.context.file.path)
    prompts = Prompts(engine)
    assert prompts.reads == set()
    with pytest.raises(InvalidInput, match="does not parse"):
        prompts.chat(HI)


def test_what_is_far_too_long_is_not_tokenized(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = Prompts(engine)
    with monkeypatch.context() as patch:
        patch.setattr(engine.context, "tokenize", None)
        begun = time.monotonic()
        with pytest.raises(InvalidInput, match=r"at least [0-9]+ tokens, the context holds 512"):
            prompts.tokens("\n" * 8_000_000, add_bos=False)
        assert time.monotonic() - begun < 1
    text = "Tell a story about Mia " * 500
    assert len(prompts.tokens(text, add_bos=False)) > 512
