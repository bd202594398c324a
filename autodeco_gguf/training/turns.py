"""Conversations as training data has them, in the form of OpenAI's fine-tuning, made ready for a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.files.jsonl import parse_line, type_name


@dataclass(frozen=True)
class Conversation:
    """What a chat template takes.

    Attributes:
        turns: each with a role and content, perhaps ``tool_calls``, whose arguments are objects, or text where the
            template writes them as they are.
        tools: as the record has them; None for none.
        learnt: for every turn, whether it is the assistant's and has not the weight 0.
    """

    turns: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    learnt: list[bool]


def read_conversation(record: Mapping[str, object], *, text_arguments: bool) -> Conversation:
    """The conversation of a record with ``messages``, and perhaps ``tools``.

    Args:
        record: https://platform.openai.com/docs/api-reference/fine-tuning/chat-input has its form.
        text_arguments: whether tool calls have their arguments as text, or as objects.

    Raises:
        InvalidInput: it is malformed; an answer that is to be learnt has neither content nor tool calls; the functions
            that tools are the successors of.
    """
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        raise InvalidInput("messages: expected a list of objects with role and content")
    turns, learnt = [], []
    for i, message in enumerate(messages, 1):
        try:
            turns.append(_turn(message, text_arguments))
            learnt.append(bool(read_weight(message)) and turns[-1]["role"] == "assistant")
        except InvalidInput as e:
            raise InvalidInput(f"messages: turn {i} {e}", key="messages") from e
        if learnt[-1] and not (turns[-1]["content"].strip() or turns[-1].get("tool_calls")):
            raise InvalidInput(f"messages: turn {i} is an empty answer; give it content, tool_calls or the weight 0")
    if not any(turn["role"] == "assistant" for turn in turns):
        raise InvalidInput("messages: no turn of the assistant, so nothing to predict")
    return Conversation(turns, _tools(record), learnt)


def read_weight(value: Mapping[str, object]) -> int:
    """The weight of a record or a turn: 1, or 0 for what is not to be learnt; InvalidInput for another."""
    weight = value.get("weight")
    if weight is None:
        return 1
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1):
        raise InvalidInput(f"has the weight {json.dumps(weight)}, expected 0 or 1", key="weight", found=weight)
    return int(weight)


def _turn(message: object, text_arguments: bool) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InvalidInput("lacks a role or content that is a string")
    turn = {key: value for key, value in message.items() if key != "weight"}
    if turn.get("function_call") is not None:
        raise InvalidInput("has function_call, expected tool_calls")
    calls = turn.pop("tool_calls", None) or []
    if not isinstance(calls, list):
        raise InvalidInput(f"has tool_calls that are {type_name(calls)}, expected a list")
    if calls and turn["role"] != "assistant":
        raise InvalidInput(f"has tool_calls and the role {turn['role']}, expected assistant")
    if calls:
        turn["tool_calls"] = [_call(call, text_arguments) for call in calls]
        turn["content"] = "" if turn.get("content") is None else turn["content"]  # many templates would write None
    if not isinstance(turn.get("content"), str):
        raise InvalidInput("lacks a role or content that is a string")
    return turn


def _call(call: object, text_arguments: bool) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidInput('has a tool call without {"function": {"name", "arguments"}}')
    arguments = function.get("arguments", {})
    try:
        value = parse_line(arguments.encode("utf-8", "surrogatepass")) if isinstance(arguments, str) else arguments
    except InvalidInput as e:
        raise InvalidInput(f"has a tool call whose arguments are {e}") from e
    if not isinstance(value, dict):
        raise InvalidInput(f"has a tool call whose arguments are {type_name(value)}, expected an object, or its JSON")
    if text_arguments:
        value = arguments if isinstance(arguments, str) else json.dumps(value, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": value}}


def _tools(record: Mapping[str, object]) -> list[dict[str, Any]] | None:
    if record.get("functions"):
        raise InvalidInput("has functions, expected tools", key="functions")
    tools = record.get("tools") or None
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise InvalidInput("tools: expected a list of objects", key="tools", found=tools)
    return tools
