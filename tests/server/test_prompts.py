"""Prompts of requests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from family_helpers import FAMILIES
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


def test_the_beginning_is_the_template_s_to_write() -> None:
    with Engine(FAMILIES / "mistral.gguf", n_parallel=1, n_ctx=64, heads_enabled=()) as engine:
        for begins in ("", "{{ bos_token }}"):
            template = f"{begins}{{{{ messages[0].content }}}}"
            engine.chat = Chat(template, engine.context.vocab, engine.context.file.path)
            assert Prompts(engine).chat(HI).count(1) == bool(begins)  # its <s>


def test_an_effort_gives_way_to_what_the_template_is_told_outright(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = Prompts(engine)
    monkeypatch.setitem(vars(prompts), "reads", {"reasoning_effort"})
    assert prompts.with_effort({"reasoning_effort": "low"}, "high") == {"reasoning_effort": "low"}
    assert prompts.with_effort({"a": 1}, "high") == {"a": 1, "reasoning_effort": "high"}


def test_templates_are_rendered_one_by_one(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = [0], [0]

    def slowly(*_: object) -> str:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.02)
        under_way[0] -= 1
        return "hi"

    monkeypatch.setattr("autodeco_gguf.server.prompts._rendered", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Prompts(engine).chat, [HI] * 8))
    assert most == [1]


NINE = """{% for m in messages %}{% if m.role == 'tool' %}
{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}{{ raise_exception('nine!') }}{% endif -%}
{{ m.tool_call_id }}={{ m.content }};{% else %}{{ m.content }}{% for c in m.tool_calls or [] %}
{% if c.id is not defined or c.id | length != 9 %}{{ raise_exception('nine!') }}{% endif -%}
{{ c.id }}:{{ c.function.arguments | tojson }};{% endfor %}{% endif %}{% endfor %}"""
JOINED = "{% for c in messages[1].tool_calls %}{{ 'x' + c.function.arguments }}{% endfor %}"
WRITTEN = "{% for c in messages[1].tool_calls %}x{{ c.function.arguments }}{% endfor %}"
EITHER = "{% for c in messages[1].tool_calls %}x{% if c.function.arguments is string %}{{ c.function.arguments }}"
EITHER += "{% else %}{{ c.function.arguments | tojson }}{% endif %}{% endfor %}"
AS_JSON = "{% for c in messages[1].tool_calls %}x{{ c.function.arguments | tojson }}{% endfor %}"


@pytest.mark.parametrize("ids", [("call_0123456789abcdef", "call_b"), ("a", None), (None, None)])
def test_calls_for_a_template_that_wants_ids_of_its_own_kind(ids: tuple[str | None, ...], engine: Engine) -> None:
    """As Mistral's do: of nine characters, where OpenAI's are longer and Ollama has none."""
    engine.chat = Chat(NINE, engine.context.vocab, engine.context.file.path)

    def of(key: str, value: str | None) -> dict[str, str]:
        return {} if value is None else {key: value}

    calls = [{**of("id", one), "function": {"name": "f", "arguments": {"n": n}}} for n, one in enumerate(ids)]
    answers = [{"role": "tool", "content": str(n), **of("tool_call_id", one)} for n, one in enumerate(ids)]
    talk = [
        *HI,
        {"role": "assistant", "content": "", "tool_calls": calls},
        *(answers if None in ids else answers[::-1]),
    ]
    talk += [{"role": "assistant", "content": "", "tool_calls": calls[:1]}, answers[0]]
    text = engine.context.text(Prompts(engine).chat(talk))
    told = ["000000000=0;", "000000001=1;"]
    told = told if None in ids else told[::-1]
    assert text == 'hi 000000000:{"n": 0};000000001:{"n": 1};' + "".join(told) + '000000002:{"n": 0};000000002=0;'


def test_results_without_ids_are_of_the_calls_that_they_name(engine: Engine) -> None:
    """As Ollama's clients give them, in any order."""
    engine.chat = Chat(NINE, engine.context.vocab, engine.context.file.path)
    calls = [{"function": {"name": name, "arguments": {}}} for name in "fgf"]
    results = [{"role": "tool", "content": f"{name}{n}", "name": name} for n, name in enumerate("gff")]
    talk = [*HI, {"role": "assistant", "content": "", "tool_calls": calls}, *results]
    text = engine.context.text(Prompts(engine).chat(talk))
    assert text.endswith("000000001=g0;000000000=f1;000000002=f2;")


@pytest.mark.parametrize("template", [JOINED, WRITTEN, EITHER, AS_JSON])
def test_arguments_are_json_however_a_template_writes_them(template: str, engine: Engine) -> None:
    engine.chat = Chat(template, engine.context.vocab, engine.context.file.path)
    call = {"id": "c", "function": {"name": "f", "arguments": {"city": "Z\u00fcrich"}}}
    talk = [*HI, {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert engine.context.text(Prompts(engine).chat(talk)) == 'x{"city": "Z\u00fcrich"}'
    engine.chat = Chat("{{ raise_exception('never') }}", engine.context.vocab, engine.context.file.path)
    with pytest.raises(InvalidInput, match="refuses: never"):
        Prompts(engine).chat(talk)


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
