"""Training data as people have it, brought to the three kinds of records that are encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.files.jsonl import parse_line, type_name

Record = Mapping[str, object]

KINDS = '{"prompt", "completion"}, {"messages"}, {"conversations"}, {"instruction", "output"} or {"text"}'
"""What :func:`normalize` reads, for messages."""

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
"""Who speaks, as ShareGPT and its successors have it, and as chat templates do."""


def normalize(record: Record) -> dict[str, Any]:
    """A record with ``prompt`` and ``completion``, both strings, or ``messages``, perhaps with ``tools``, or ``text``.

    Read are also: prompt and completion as lists of messages (TRL), of which only the completion is learnt, and where a
    ``label`` beside them is false, nothing; ``conversations`` with ``from`` and ``value`` (ShareGPT, LLaMA-Factory) or
    ``role`` and ``content``, perhaps with ``tools``; ``system`` beside all of those; ``instruction``,
    ``input`` and ``output`` (Alpaca), perhaps with ``system`` and ``history``; content in parts of text. Null columns
    are dropped.

    Raises:
        InvalidInput: what cannot be brought to one of them; the message says what to make of it. What a record of the
            three kinds lacks is left to those who read it.
    """
    record = {key: value for key, value in record.items() if value is not None}
    if record.get("chat_template_kwargs"):
        raise InvalidInput("has chat_template_kwargs; give them for all lines, as --chat-template-kwargs")
    if "messages" in record:
        return _conversation(record, "messages")
    if "conversations" in record:
        return _conversation(record, "conversations")
    if "instruction" in record and "completion" not in record:
        return _instruction(record)
    if "chosen" in record or "rejected" in record:
        raise InvalidInput("has a chosen and a rejected answer; give prompt and completion, which is the chosen one")
    if "completion" in record and record.get("label") is False:
        record = {"weight": 0, **record}
    prompt, completion = record.get("prompt"), record.get("completion")
    if isinstance(prompt, list) != isinstance(completion, list) and None not in (prompt, completion):
        raise InvalidInput(
            f"prompt is {type_name(prompt)} and completion {type_name(completion)}; give two strings, or two lists of "
            "messages"
        )
    if isinstance(prompt, list) and isinstance(completion, list):
        before, after = _with_system(record, "prompt"), _turns(completion, "completion")
        before = [{**turn, "weight": 0} if isinstance(turn, dict) else turn for turn in before]
        return {**_rest(record, "prompt", "completion"), "messages": [*before, *after]}
    return _rest(record)


def _conversation(record: Record, key: str) -> dict[str, Any]:
    return {**_rest(record, key), "messages": _with_system(record, key)}


def _with_system(record: Record, key: str) -> list[Any]:
    """The turns under a key, with the ``system`` beside them."""
    turns = _turns(record[key], key)
    system = record.get("system")
    if isinstance(system, list):
        system = "".join(map(_text, system))
    if isinstance(system, str) and system:
        first = turns[0] if turns and isinstance(turns[0], dict) else {}
        if first.get("role") not in ("system", "developer"):
            turns.insert(0, {"role": "system", "content": system})
        elif first.get("content") != system:
            raise InvalidInput(
                f"has a system beside {key} whose first turn is another; give one", key="system", found=system
            )
    return turns


def _instruction(record: Record) -> dict[str, Any]:
    """Alpaca's columns, or Dolly's; ``history`` holds earlier pairs of words and answers."""
    answer = record.get("output", record.get("response"))
    given = record.get("input", record.get("context", ""))
    history = record.get("history", [])
    for key, value in (("instruction", record["instruction"]), ("input", given), ("output", answer)):
        if not isinstance(value, str):
            found = "missing" if value is None else type_name(value)
            raise InvalidInput(f"{key} is {found}, expected a string; {KINDS}", key=key, found=value)
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise InvalidInput("history: expected a list of [what the user said, the answer]", key="history", found=history)
    said = "\n".join(filter(None, (record["instruction"], given)))  # type: ignore[arg-type]
    system = record.get("system")
    messages = [{"role": "system", "content": system}] if system else []
    for user, assistant in [*history, [said, answer]]:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {**_rest(record, "instruction", "input", "output"), "messages": messages}


def _rest(record: Record, *keys: str) -> dict[str, Any]:
    """The other columns, tools as a list."""
    rest = {key: value for key, value in record.items() if key not in keys}
    tools = _json(rest.get("tools"), "tools that are")
    if isinstance(tools, list):
        rest["tools"] = [
            {"type": "function", "function": tool} if isinstance(tool, dict) and "name" in tool else tool
            for tool in tools
        ]
    elif not tools:
        rest.pop("tools", None)
    return rest


def _turns(turns: object, key: str) -> list[Any]:
    if not isinstance(turns, list):
        raise InvalidInput(f"{key}: expected a list of objects with role and content", key=key, found=turns)
    result = []
    for i, turn in enumerate(turns, 1):
        try:
            if not isinstance(turn, dict):
                raise InvalidInput(f"is {type_name(turn)}, expected an object with role and content")
            result.append(_turn(turn))
        except InvalidInput as e:
            raise InvalidInput(f"{key}: turn {i} {e}", key=key, found=turn) from e
    return result


def _turn(turn: Record) -> dict[str, Any]:
    message: dict[str, Any] = {key: value for key, value in turn.items() if value is not None}
    if "from" in message:
        speaker, value = message.pop("from"), message.pop("value", None)
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise InvalidInput(f"is from {speaker!r}, expected one of {', '.join(ROLES)}")
        message = {"role": ROLES[speaker], "content": value, **message}
        if speaker == "function_call":
            message |= {"content": "", "tool_calls": _calls(value)}
    elif message.get("role") in ("human", "gpt", "model", "bot"):
        message["role"] = ROLES[message["role"]]
    if isinstance(message.get("content"), list):
        message["content"] = "".join(map(_text, message["content"]))
    return message


def _calls(value: object) -> list[dict[str, Any]]:
    """The calls that a ShareGPT turn has as JSON: one, or a list of them."""
    calls = _json(value, "a call that is")
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise InvalidInput('is a call without {"name", "arguments"}')
    return [{"type": "function", "function": call} for call in calls]


def _text(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type_name(part)
    if kind == "text":
        raise InvalidInput("has a part of the type 'text' in its content without \"text\", a string")
    raise InvalidInput(f"has a part of the type {kind!r} in its content; give text alone")


def _json(value: object, what: str) -> object:
    if not isinstance(value, str) or not value.strip():
        return "" if isinstance(value, str) else value
    try:
        return parse_line(value.encode("utf-8", "surrogatepass"))
    except InvalidInput as e:
        raise InvalidInput(f"has {what} {e}") from e
