"""Chat templates: what they are given, and what is said of those that do not work."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken import Kind, rewrite
from conftest import Case

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.model.chat import TEMPLATE_KEY, Chat
from autodeco_gguf.model.context import Context

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


@pytest.fixture(scope="module")
def context(qwen2: Case) -> Context:
    return Context(qwen2.base, n_ctx=32)


def test_messages_and_the_beginning_of_an_answer(context: Context) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    chat = Chat(template, context.vocab)
    assert chat.render(MESSAGES) == "[user]Hi[assistant]Ho>"
    assert chat.render(MESSAGES, generation=False) == "[user]Hi[assistant]Ho"


def test_special_tokens_have_their_names(context: Context) -> None:
    name = context.token_bytes(context.eos).decode()
    assert Chat("{{ eos_token }}", context.vocab).render([]) == name != ""


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ a.b.c }}", "'a' is undefined"),
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_template_that_refuses(template: str, reason: str, context: Context) -> None:
    with pytest.raises(InvalidInput, match=rf"^the model's chat template refuses: .*{reason}") as caught:
        Chat(template, context.vocab).render(MESSAGES)
    assert caught.value.key == TEMPLATE_KEY


def test_a_template_that_does_not_parse(qwen2: Case, context: Context, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^its chat template does not parse: "):
        Chat("{% if %}", context.vocab)
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata={TEMPLATE_KEY: ("{% if %}", Kind.STRING)})
    with pytest.raises(BadFile, match=rf"^{path}: its chat template does not parse: ") as caught:
        Context(path, n_ctx=32).chat()
    assert (caught.value.file, caught.value.key) == (str(path), TEMPLATE_KEY)


def test_a_model_without_one(context: Context) -> None:
    assert context.chat() is None
