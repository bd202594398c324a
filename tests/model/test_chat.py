"""Chat templates: what they are given, and what is said of those that do not work."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from threading import Thread

import llama_cpp
import pytest
from broken import Kind, rewrite
from conftest import Case, load

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.chat import Chat
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.template import TEMPLATE_KEY

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


@pytest.fixture(scope="module")
def context(qwen2: Case) -> Context:
    return Context(qwen2.base, n_ctx=32)


def test_messages_and_the_beginning_of_an_answer(context: Context) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    chat = Chat(template, context.vocab, context.file.path)
    assert chat.render(MESSAGES) == "[user]Hi[assistant]Ho>"
    assert chat.render(MESSAGES, generation=False) == "[user]Hi[assistant]Ho"


def test_threads_that_render_at_the_same_time_have_each_their_own(context: Context) -> None:
    chat = Chat("{{ messages[0].content }}{{ add_generation_prompt }}", context.vocab, context.file.path)
    found: list[str] = []

    class Slow(UserDict[str, str]):
        def __iter__(self) -> Iterator[str]:
            other = Thread(target=lambda: found.append(chat.render(MESSAGES, generation=False)))
            other.start()
            other.join()
            return super().__iter__()

    assert chat.render([Slow(MESSAGES[0])]) == "HiTrue"
    assert set(found) == {"HiFalse"}


def test_special_tokens_have_their_names(context: Context) -> None:
    name = context.token_bytes(context.eos).decode()
    assert Chat("{{ eos_token }}", context.vocab, context.file.path).render([]) == name != ""


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
    with pytest.raises(InvalidInput, match=rf"^{context.file.path}: its chat template refuses: .*{reason}") as caught:
        Chat(template, context.vocab, context.file.path).render(MESSAGES)
    assert caught.value.key == TEMPLATE_KEY


def test_a_template_that_does_not_parse_is_in_nobodys_way_before_it_is_used(qwen2: Case, tmp_path: Path) -> None:
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata={TEMPLATE_KEY: ("{% if %}", Kind.STRING)})
    chat = Context(path, n_ctx=32).chat()
    assert chat is not None
    with pytest.raises(InvalidInput, match=rf"^{path}: its chat template does not parse: ") as caught:
        chat.render(MESSAGES)
    assert (caught.value.file, caught.value.key) == (str(path), TEMPLATE_KEY)


@pytest.mark.parametrize("size", [1023, 1024, 1025, 5000])
def test_a_template_of_any_length_is_whole(size: int, qwen2: Case, tmp_path: Path) -> None:
    template = "{{ messages[0].content }}" + "." * (size - 26) + "!"
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata={TEMPLATE_KEY: (template, Kind.STRING)})
    chat = Context(path, n_ctx=32).chat()
    assert chat is not None
    assert chat.render(MESSAGES) == template.replace("{{ messages[0].content }}", "Hi")
    llm = load(path, heads_enabled=())
    assert llm.metadata[TEMPLATE_KEY] == template


def test_metadata_that_is_no_text_costs_nothing_else(qwen2: Case, tmp_path: Path) -> None:
    entries = {TEMPLATE_KEY: ("{{ 1 }}", Kind.STRING), "a.b": ("?", Kind.STRING)}
    whole = rewrite(qwen2.base, tmp_path / "x.gguf", metadata=entries)
    path = tmp_path / "y.gguf"
    name = b"Tiny Qwen2"
    path.write_bytes(whole.read_bytes().replace(name, b"Tiny \xffwen2").replace(b"a.b", b"a\xfeb"))
    for metadata in (Context(path, n_ctx=32).metadata, load(path, heads_enabled=()).metadata):
        assert metadata["general.name"] == "Tiny \ufffdwen2"
        assert metadata[TEMPLATE_KEY] == "{{ 1 }}"
    stock = llama_cpp.Llama(str(qwen2.base), n_ctx=32, verbose=False).metadata
    assert Context(qwen2.base, n_ctx=32).metadata == stock


def test_a_model_without_one(context: Context) -> None:
    assert context.chat() is None


THINKING = "{% set style = style or 'plain' %}{{ style }}{% if enable_thinking is false %}!{% endif %}"


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (None, "plain"),
        ({}, "plain"),
        ({"enable_thinking": True}, "plain"),
        ({"enable_thinking": False}, "plain!"),
        ({"enable_thinking": False, "style": "odd"}, "odd!"),
    ],
)
def test_what_a_template_reads_besides(kwargs: dict[str, object] | None, text: str, context: Context) -> None:
    chat = Chat(THINKING, context.vocab, context.file.path, kwargs)
    assert [chat.render(MESSAGES), chat.render([], generation=False)] == [text, text]


DATED = "{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}"


def test_the_date_that_a_template_writes(context: Context) -> None:
    """Given, it is the same tomorrow; else today's."""
    dated = Chat(DATED, context.vocab, context.file.path, {"strftime_now": "2026-02-28"})
    assert dated.render(MESSAGES) == "28 Feb 2026Hi"
    before = datetime.now().strftime("%d %b %Y")
    now = Chat(DATED, context.vocab, context.file.path).render(MESSAGES)
    assert now in (before + "Hi", datetime.now().strftime("%d %b %Y") + "Hi")


@pytest.mark.parametrize(
    ("template", "key", "why"),
    [
        *((THINKING, key, f"{key} is what the template gets by itself") for key in
          ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")),
        (THINKING, "strftime_now", "{path} reads no strftime_now, it reads enable_thinking, style"),
        (DATED, "strftime_now", "strftime_now is 1, expected a date such as 2026-11-29"),
        (THINKING, "thinking", "{path} reads no thinking, it reads enable_thinking, style"),
        ("{{ messages }}{{ bos_token }}", "enable_thinking", "{path} reads no enable_thinking, it reads nothing else"),
    ],
)  # fmt: skip
def test_what_a_template_is_not_given(template: str, key: str, why: str, context: Context) -> None:
    with pytest.raises(InvalidInput) as refused:
        Chat(template, context.vocab, context.file.path, {key: 1})
    assert str(refused.value) == "chat template kwargs: " + why.format(path=context.file.path)


def test_a_template_that_does_not_parse_and_is_to_read_something(context: Context) -> None:
    with pytest.raises(InvalidInput, match=r"its chat template does not parse: "):
        Chat("{% if %}", context.vocab, context.file.path, {"a": 1})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("a", True),
        ("'x' + a", True),
        ("a | tojson", False),
        ("a if a is string else a | tojson", False),
        ("(a if a is string else a.items() | list)", False),
        ("raise_exception('no calls')", False),
        ("", False),
    ],
)
def test_arguments_that_have_to_be_text(arguments: str, text: bool, context: Context) -> None:
    """As an object they would fail, or be Python's; where both will do, as for Gemma 4, an object is what is meant."""
    template = "{% set a = messages[1].tool_calls[0].function.arguments %}{{ " + (arguments or "''") + " }}"
    assert Chat(template, context.vocab, context.file.path).takes_text_arguments is text
