"""Training data as people have it: what a record becomes, and what is said of one that cannot be read."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.training.records import KINDS, normalize


def turn(role: str, content: str, **more: object) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


U, A = turn("user", "Why?"), turn("assistant", "So.")
UA = {"messages": [U, A]}
PARTS = [{"type": "text", "text": "W"}, {"type": "text", "text": "hy?", "index": None}]
CALL = {"type": "function", "function": {"name": "rain", "arguments": {"city": "Ulm"}}}
TOOL = {"name": "rain", "parameters": {"type": "object"}}
HUMAN, GPT = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}

READ: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # as they are
    "strings": ({"prompt": "a", "completion": "b", "id": 1}, {"prompt": "a", "completion": "b", "id": 1}),
    "text": ({"text": "a"}, {"text": "a"}),
    "messages": (UA, UA),
    # null columns
    "null columns": ({**UA, "prompt": None, "completion": None, "text": None, "tools": None, "weight": None}, UA),
    "null keys of turns": ({"messages": [{**U, "name": None, "tool_calls": None}, {**A, "weight": None}]}, UA),
    # TRL
    "TRL": ({"prompt": [U], "completion": [A]}, {"messages": [{**U, "weight": 0}, A]}),
    "TRL, unpaired preferences": (
        {"prompt": "a", "completion": "b", "label": False},
        {"prompt": "a", "completion": "b", "label": False, "weight": 0},
    ),
    "TRL, unpaired preferences of messages": (
        {"prompt": [U], "completion": [A], "label": False},
        {"messages": [{**U, "weight": 0}, A], "label": False, "weight": 0},
    ),
    "TRL, an answer that is preferred": (
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": "a", "completion": "b", "label": True},
    ),
    "TRL, answers in the prompt are not learnt": (
        {"prompt": [U, A, U], "completion": [A], "tools": [{"type": "function", "function": TOOL}]},
        {
            "messages": [{**U, "weight": 0}, {**A, "weight": 0}, {**U, "weight": 0}, A],
            "tools": [{"type": "function", "function": TOOL}],
        },
    ),
    # conversations
    "ShareGPT": ({"id": "1", "conversations": [HUMAN, GPT]}, {"id": "1", **UA}),
    "ShareGPT with system": (
        {"conversations": [{"from": "system", "value": "Be."}, HUMAN, GPT]},
        {"messages": [turn("system", "Be."), U, A]},
    ),
    "system in a column": (
        {"system": "Be.", "conversations": [HUMAN, GPT]},
        {"system": "Be.", "messages": [turn("system", "Be."), U, A]},
    ),
    "system beside messages": (
        {"system": "Be.", "messages": [U, A]},
        {"system": "Be.", "messages": [turn("system", "Be."), U, A]},
    ),
    "system beside TRL's lists": (
        {"system": "Be.", "prompt": [U], "completion": [A]},
        {"system": "Be.", "messages": [turn("system", "Be.", weight=0), {**U, "weight": 0}, A]},
    ),
    "system in parts": (
        {"system": [{"type": "text", "text": "Be."}], "messages": [U, A]},
        {"system": [{"type": "text", "text": "Be."}], "messages": [turn("system", "Be."), U, A]},
    ),
    "system twice": (
        {"system": "Be.", "conversations": [{"from": "system", "value": "Be."}, HUMAN, GPT]},
        {"system": "Be.", "messages": [turn("system", "Be."), U, A]},
    ),
    "system beside a developer's": (
        {"system": "Be.", "messages": [turn("developer", "Be."), U, A]},
        {"system": "Be.", "messages": [turn("developer", "Be."), U, A]},
    ),
    "an empty system": ({"system": "", "conversations": [HUMAN, GPT], "tools": ""}, {"system": "", **UA}),
    "no tools, as text": ({**UA, "tools": "null"}, UA),
    "no tools beside strings": ({"text": "a", "tools": "[]"}, {"text": "a", "tools": []}),
    "role and content": ({"conversations": [U, A]}, UA),
    "role human": ({"conversations": [turn("human", "Why?"), turn("gpt", "So.")]}, UA),
    "role model": ({"messages": [U, turn("model", "So.")]}, UA),
    "role bot": ({"conversations": [turn("human", "Why?"), turn("bot", "So.")]}, UA),
    "weights": ({"conversations": [HUMAN, {**GPT, "weight": 0}]}, {"messages": [U, {**A, "weight": 0}]}),
    "calls": (
        {
            "conversations": [
                HUMAN,
                {"from": "function_call", "value": '{"name": "rain", "arguments": {"city": "Ulm"}}'},
                {"from": "observation", "value": "dry"},
                GPT,
            ],
            "tools": '[{"name": "rain", "parameters": {"type": "object"}}]',
        },
        {
            "messages": [U, turn("assistant", "", tool_calls=[CALL]), turn("tool", "dry"), A],
            "tools": [{"type": "function", "function": TOOL}],
        },
    ),
    "two calls": (
        {"conversations": [HUMAN, {"from": "function_call", "value": '[{"name": "a"}, {"name": "b"}]'}]},
        {
            "messages": [
                U,
                turn("assistant", "", tool_calls=[{"type": "function", "function": {"name": n}} for n in "ab"]),
            ]
        },
    ),
    # Alpaca
    "Alpaca": ({"instruction": "Why?", "input": "", "output": "So.", "text": "Below .."}, {**UA, "text": "Below .."}),
    "Alpaca without input": ({"instruction": "Why?", "output": "So."}, UA),
    "Alpaca with input": (
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"messages": [turn("user", "Add.\n1, 2"), turn("assistant", "3")]},
    ),
    "Alpaca with history": (
        {"instruction": "Why?", "input": None, "output": "So.", "system": "Be.", "history": [["a", "b"]]},
        {"system": "Be.", "history": [["a", "b"]],
         "messages": [turn("system", "Be."), turn("user", "a"), turn("assistant", "b"), U, A]},
    ),
    "Dolly": ({"instruction": "Why?", "context": "", "response": "So."}, {"context": "", "response": "So.", **UA}),
    # parts
    "parts": ({"messages": [turn("user", PARTS), turn("assistant", ["So", "."])]}, UA),  # type: ignore[arg-type]
    "parts of TRL": ({"prompt": [{**U, "content": PARTS}], "completion": [A]}, {"messages": [{**U, "weight": 0}, A]}),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_a_record_becomes(name: str) -> None:
    record, expected = READ[name]
    before = copy.deepcopy(record)
    result = normalize(record)
    assert result == expected
    assert record == before, "it is not changed"
    assert normalize(result) == result


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "TRL, one string": (
        {"prompt": [U], "completion": "So."},
        "prompt is a list and completion a string; give two strings, or two lists of messages",
    ),
    "preferences": (
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        "has a chosen and a rejected answer; give prompt and completion, which is the chosen one",
    ),
    "two systems": (
        {"system": "Be.", "messages": [turn("system", "Be not."), U, A]},
        "has a system beside messages whose first turn is another; give one",
    ),
    "settings of one line": (
        {**UA, "chat_template_kwargs": {"enable_thinking": False}},
        "has chat_template_kwargs; give them for all lines, as --chat-template-kwargs",
    ),
    "no list": ({"conversations": "a"}, "conversations: expected a list of objects with role and content"),
    "a speaker": (
        {"conversations": [{"from": "Tom", "value": "a"}]},
        "conversations: turn 1 is from 'Tom', expected one of human, user, gpt, assistant, model, bot, system, "
        "function_call, observation, function_response, tool",
    ),
    "a speaker that is no name": (
        {"conversations": [{"from": {"a": 1}, "value": "a"}]},
        "conversations: turn 1 is from {'a': 1}, expected one of human, user, gpt, assistant, model, bot, system, "
        "function_call, observation, function_response, tool",
    ),
    "a call that is no JSON": (
        {"conversations": [HUMAN, {"from": "function_call", "value": "rain(Ulm)"}]},
        "conversations: turn 2 has a call that is not JSON: Expecting value at column 1",
    ),
    "a call without a name": (
        {"conversations": [HUMAN, {"from": "function_call", "value": '{"city": "Ulm"}'}]},
        'conversations: turn 2 is a call without {"name", "arguments"}',
    ),
    "tools that are no JSON": (
        {"conversations": [HUMAN, GPT], "tools": "rain"},
        "has tools that are not JSON: Expecting value at column 1",
    ),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, A]},
        "messages: turn 1 has a part of the type 'image_url' in its content; give text alone",
    ),
    "a text part without text": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}, A]},
        "messages: turn 1 has a part of the type 'text' in its content without \"text\", a string",
    ),
    "a prompt of texts": (
        {"prompt": ["a"], "completion": ["b"]},
        "prompt: turn 1 is a string, expected an object with role and content",
    ),
    "Alpaca without output": ({"instruction": "Why?"}, f"output is missing, expected a string; {KINDS}"),
    "Alpaca, a list": ({"instruction": ["a"], "output": "b"}, f"instruction is a list, expected a string; {KINDS}"),
    "history": (
        {"instruction": "a", "output": "b", "history": [["c"]]},
        "history: expected a list of [what the user said, the answer]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read(name: str) -> None:
    record, message = REFUSED[name]
    with pytest.raises(InvalidInput) as refused:
        normalize(record)
    assert str(refused.value) == message
