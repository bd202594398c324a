"""Conversations with tools and weights: what is learnt of them, and what is said of those that will not do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import Case
from training_helpers import chat_base

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.training.data import Counts, Encoder

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm <ü>"}'}}
USER, CALLING = {"role": "user", "content": "Rain?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT, ANSWER = {"role": "tool", "tool_call_id": "call_1", "content": "dry"}, {"role": "assistant", "content": "No."}
RECORD = {"messages": [USER, CALLING, RESULT, ANSWER], "tools": TOOLS, "parallel_tool_calls": False}

HEAD = "{% if tools %}[{{ tools | tojson }}]{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
OBJECTS = "{% for c in m.tool_calls %}({{ c.function.name }} {{ c.function.arguments | tojson }}){% endfor %}"
TEXTS = "{% for c in m.tool_calls %}({{ c.function.name }} {{ c.function.arguments }}){% endfor %}"
TAIL = "<|im_end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
NO_TOOLS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}" + TAIL


@pytest.fixture(scope="module")
def encoder(qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Encoder]]:
    contexts: dict[str, Context] = {}

    def make(template: str, commands: Commands | None = None) -> Encoder:
        if template not in contexts:
            path = chat_base(qwen2.base, tmp_path_factory.mktemp("turns") / "x.gguf", template)
            contexts[template] = Context(path, n_ctx=1024, machine=Machine(n_threads=1))
        return Encoder(contexts[template], 1024, commands)

    yield make
    for context in contexts.values():
        context.close()


def learnt(encoder: Encoder, record: object) -> tuple[str, list[str]]:
    """All of the text, and the parts that are predicted."""
    ((tokens,), _) = encoder.encode(record, 0, Counts())
    edges = np.flatnonzero(np.diff(np.concatenate([[0], tokens < 0, [0]])))
    context = encoder._context

    def text(part: Any) -> str:
        return b"".join(context.token_bytes(int(t if t >= 0 else ~t)) for t in part).decode()

    return text(tokens), [text(tokens[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def changed(turn: int, **values: object) -> dict[str, Any]:
    """The record with other values in a turn; None takes the key away."""
    record = copy.deepcopy(RECORD)
    record["messages"][turn].update(values)
    record["messages"][turn] = {k: v for k, v in record["messages"][turn].items() if v is not None}
    return record


@pytest.mark.parametrize("template", [HEAD + OBJECTS + TAIL, HEAD + TEXTS + TAIL], ids=["objects", "texts"])
@pytest.mark.parametrize("arguments", ['{"city": "Ulm <ü>"}', {"city": "Ulm <ü>"}], ids=["text", "object"])
def test_tool_calls_are_learnt_as_the_template_writes_them(
    template: str, arguments: object, encoder: Callable[..., Encoder]
) -> None:
    call = {**CALL, "function": {"name": "weather", "arguments": arguments}}
    for content in (None, ""):
        record = {**RECORD, "messages": [USER, {**CALLING, "content": content, "tool_calls": [call]}, RESULT, ANSWER]}
        text, said = learnt(encoder(template), record)
        assert said == ['(weather {"city": "Ulm <ü>"})<|im_end|>', "No.<|im_end|>"]
        assert text.startswith('[[{"type": "function", "function": {"name": "weather"')
        assert "<tool>dry" in text


def test_what_has_the_weight_0_is_read_and_not_learnt(encoder: Callable[..., Encoder]) -> None:
    make = encoder(HEAD + OBJECTS + TAIL)
    whole, _ = learnt(make, RECORD)
    text, said = learnt(make, changed(1, weight=0))
    assert (text, said) == (whole, ["No.<|im_end|>"])
    text, said = learnt(make, changed(3, weight=0.0))
    assert said == ['(weather {"city": "Ulm <ü>"})<|im_end|>']
    assert whole.startswith(text)
    assert learnt(make, changed(3, weight=1)) == learnt(make, RECORD)
    assert learnt(make, changed(3, content="", weight=0))[1] == ['(weather {"city": "Ulm <ü>"})<|im_end|>']


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, {**ANSWER, "weight": 0}]},
        {"messages": [USER, ANSWER], "weight": 0},
        {"prompt": "a", "completion": "b", "weight": 0},
        {"text": "a b c", "weight": 0},
    ],
)
def test_a_record_with_nothing_to_learn_is_counted(record: object, encoder: Callable[..., Encoder]) -> None:
    counts = Counts()
    assert encoder(HEAD + OBJECTS + TAIL).encode(record, 0, counts)[0] == []
    assert (counts.examples, counts.empty) == (0, 1)


def test_where_an_answer_was_cut(encoder: Callable[..., Encoder]) -> None:
    """Behind the last of what it says, which its thoughts may have too; not where nothing is learnt of it."""
    shows = encoder("{% for m in messages %}<{{ m.role }}>{{ m.reasoning_content }}{{ m.content }}" + TAIL)
    thought = {"role": "assistant", "reasoning_content": "No. Or so.", "content": "No."}
    assert learnt(shows, {"messages": [USER, thought], "finish_reason": "length"})[1] == ["No. Or so.No."]
    unlearnt = {**changed(3, weight=0), "finish_reason": "length"}
    assert learnt(encoder(HEAD + OBJECTS + TAIL), unlearnt)[1] == ['(weather {"city": "Ulm <ü>"})<|im_end|>']


def test_variants_for_commands_keep_tools_and_weights(encoder: Callable[..., Encoder]) -> None:
    make = encoder(HEAD + OBJECTS + TAIL, Commands(low=("Be exact.",), high=("Be wild.",)))
    record = changed(3, weight=0)
    counts = Counts()
    sequences, _ = make.encode(record, 0, counts)
    assert len(sequences) == 3
    assert len({int((s < 0).sum()) for s in sequences}) == 1
    assert counts.predicted == sum(int((s < 0).sum()) for s in sequences)
    assert record == changed(3, weight=0)


def call_with(**function: object) -> dict[str, Any]:
    return changed(1, tool_calls=[{**CALL, "function": function}])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an empty answer": (
        changed(3, content=" "),
        "messages: turn 4 is an empty answer; give it content, tool_calls or ",
    ),
    "no call after all": (changed(1, tool_calls=[], content=""), "messages: turn 2 is an empty answer; "),
    "null": (changed(3, content=None), "messages: turn 4 lacks a role or content that is a string"),
    "a weight": (changed(3, weight=0.5), "messages: turn 4 has the weight 0.5, expected 0 or 1"),
    "a negative weight": (changed(1, weight=-1), "messages: turn 2 has the weight -1, expected 0 or 1"),
    "true": (changed(3, weight=True), "messages: turn 4 has the weight true, expected 0 or 1"),
    "a text": (changed(3, weight="0"), 'messages: turn 4 has the weight "0", expected 0 or 1'),
    "an object": (changed(0, weight={}), "messages: turn 1 has the weight {}, expected 0 or 1"),
    "of the record": ({**RECORD, "weight": 2}, "has the weight 2, expected 0 or 1"),
    "of a completion": ({"prompt": "a", "completion": "b", "weight": 2}, "has the weight 2, expected 0 or 1"),
    "a user calls": (
        changed(0, tool_calls=[CALL]),
        "messages: turn 1 has tool_calls and the role user, expected assis",
    ),
    "calls in words": (changed(1, tool_calls="weather()"), "messages: turn 2 has tool_calls that are a string, expec"),
    "a call in words": (changed(1, tool_calls=["a"]), "messages: turn 2 has a tool call without {"),
    "no function": (changed(1, tool_calls=[{"name": "a"}]), "messages: turn 2 has a tool call without {"),
    "no name": (call_with(arguments="{}"), "messages: turn 2 has a tool call without {"),
    "no JSON": (call_with(name="a", arguments="{"), "messages: turn 2 has a tool call whose arguments are not JSON: "),
    "a list": (
        call_with(name="a", arguments="[]"),
        "messages: turn 2 has a tool call whose arguments are a list, expec",
    ),
    "the old form": (
        changed(1, function_call={"name": "a"}),
        "messages: turn 2 has function_call, expected tool_calls",
    ),
    "the old tools": ({**RECORD, "functions": [{"name": "a"}]}, "has functions, expected tools"),
    "tools in words": ({**RECORD, "tools": "weather"}, "has tools that are not JSON"),
    "a tool in words": ({**RECORD, "tools": ["weather"]}, "tools: expected a list of objects"),
    "tools of a prompt": (
        {"prompt": "a", "completion": "b", "tools": TOOLS},
        "has tools, which only a chat template can show; give messages",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, encoder: Callable[..., Encoder]) -> None:
    record, message = REFUSED[name]
    with pytest.raises(InvalidInput) as error:
        encoder(HEAD + OBJECTS + TAIL).encode(record, 0, Counts())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_template_that_does_not_show_them(encoder: Callable[..., Encoder]) -> None:
    make = encoder(NO_TOOLS)
    with pytest.raises(InvalidInput, match=r"^has tools, which the model's chat template does not show$"):
        make.encode(RECORD, 0, Counts())
    message = r"^messages: turn 2 has tool calls, which the model's chat template does not show$"
    with pytest.raises(InvalidInput, match=message):
        make.encode({**RECORD, "tools": None}, 0, Counts())
    assert learnt(make, {**changed(1, weight=0), "tools": []})[1] == ["No.<|im_end|>"]


NOT_BESIDE = "{% for m in messages %}<{{ m.role }}>{% if not m.tool_calls %}{{ m.content }}{% endif %}" + OBJECTS + TAIL
NO_REASONING = "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}" + TAIL
ONLY_USERS = "{% for m in messages if m.role != 'developer' %}<{{ m.role }}>{{ m.content }}" + TAIL
DROPPED = {
    "beside tool calls": (NOT_BESIDE, 2, [USER, {**CALLING, "content": "Let me see."}]),
    "of reasoning": (NO_REASONING, 2, [USER, {"role": "assistant", "content": "<think>Hm.</think>No."}]),
    "of a developer": (ONLY_USERS, 1, [{"role": "developer", "content": "Be brief."}, USER, ANSWER]),
}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_a_template_that_drops_what_was_thought(key: str, encoder: Callable[..., Encoder]) -> None:
    shows = "{% for m in messages %}<{{ m.role }}>{{ m.KEY }}{{ m.content }}".replace("KEY", key) + TAIL
    thought = {"role": "assistant", key: "Hm.", "content": "No."}
    assert learnt(encoder(shows), {"messages": [USER, thought]})[1] == ["Hm.No.<|im_end|>"]
    message = rf"^messages: turn 2 has {key} that the model's chat template does not show as it stands; give "
    with pytest.raises(InvalidInput, match=message):
        encoder(NO_REASONING).encode({"messages": [USER, thought]}, 0, Counts())


@pytest.mark.parametrize("name", DROPPED)
def test_a_template_that_drops_content(name: str, encoder: Callable[..., Encoder]) -> None:
    template, turn, messages = DROPPED[name]
    message = rf"^messages: turn {turn} has content that the model's chat template does not show as it stands; give "
    with pytest.raises(InvalidInput, match=message):
        encoder(template).encode({"messages": messages}, 0, Counts())
