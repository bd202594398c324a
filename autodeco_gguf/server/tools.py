"""Calls of tools: how a template is told of them, and where an answer has them."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autodeco_gguf.model.grammar import NO_ARGUMENTS, SchemaGrammar
from autodeco_gguf.model.thoughts import apart
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.formats import rewritten, schema_grammar
from autodeco_gguf.server.schemas import ChatBody, Message, Tool

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
"""How Hermes' and Qwen's models write a call: JSON with "name" and "arguments" between these."""

_THINK, _THOUGHT = "<think>", "</think>"
"""Between these is a thought, of which nothing is a call, where an answer begins with it."""

_DRAWN = re.compile(
    r'\s*\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?P<arguments>\{.*\})\s*\}\s*', re.DOTALL
)
"""What a call is that has to be: the object that the schema below asks for."""


@dataclass(frozen=True)
class Call:
    """A call of a function, with its arguments as JSON."""

    id: str
    name: str
    arguments: str


class Calls(tuple[Call, ...]):
    """Calls in their order."""

    __slots__ = ()

    def __add__(self, other: object) -> Calls:
        return Calls((*self, *other))  # type: ignore[misc]


def _call(text: str) -> Call | None:
    """The call that a text is, a name and an object; None where it is none, or cannot be written as JSON again."""
    try:
        value = json.loads(text, strict=False)  # models write a line of code as a line
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):  # once more as text
            arguments = json.loads(arguments, strict=False)
        if not isinstance(arguments, dict):
            return None
        written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        f"{value['name']}{written}".encode()  # half of a surrogate pair cannot
    except (ValueError, RecursionError):
        return None
    return Call(_new_id(), value["name"], written)


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _drawn_call(text: str) -> Call | None:
    """A call as its grammar has it, the arguments as they were drawn: Python may have no such number, as 1e999."""
    found = _DRAWN.fullmatch(text)
    return found and Call(_new_id(), json.loads(found["name"]), found["arguments"])


def _ends_within_text(part: str) -> bool:
    """Whether a part of JSON ends in the midst of a text."""
    try:
        json.loads(part, strict=False)
    except json.JSONDecodeError as e:
        return e.msg.startswith("Unterminated string")
    except (ValueError, RecursionError):
        pass
    return False


class _Outermost:
    """Finds where the outermost object of JSON closes that comes bit by bit."""

    def __init__(self) -> None:
        self._depth, self._within_text, self._escaped = 0, False, False

    def closes(self, text: str) -> bool:
        """Whether it does within the next bit."""
        closed = False
        for c in text:
            if self._within_text:
                self._within_text = c != '"' or self._escaped
                self._escaped = c == "\\" and not self._escaped
            elif c == '"':
                self._within_text = True
            elif c in "{}":
                self._depth += 1 if c == "{" else -1
                closed = closed or self._depth == 0
        return closed


class CallFinder:
    """Takes the calls out of a text that comes bit by bit.

    Text that may become a call is held back. What turns out to be none is text as it stands, and so are thoughts.

    Examples:
        >>> finder = CallFinder()
        >>> [finder.add(text)[0] for text in ("Well <to", "ast", " <tool_call>{")]
        ['Well ', '<toast', ' ']
        >>> text, (call,) = finder.add('"name": "f", "arguments": {"a": 1}}</tool_call>')
        >>> text, call.name, call.arguments
        ('', 'f', '{"a": 1}')
    """

    def __init__(self, whole: bool = False, thinks: bool = False) -> None:
        """``whole``: the answer as a whole is a call, or several, as its grammar has it; ``thinks``: it begins within
        a thought."""
        self._held, self._whole = "", _Outermost() if whole else None
        self._end = _THOUGHT if thinks else None  # what is looked for before calls
        self._begins = not thinks  # nothing but white space has come
        self._looked = 0  # so much of what is held has no end of a call

    def add(self, text: str) -> tuple[str, Calls]:
        """The text and the calls that are certain now."""
        self._held += text
        shown, calls = "", Calls()
        if self._whole is not None:
            call = _call(self._held) or _drawn_call(self._held) if self._whole.closes(text) else None
            if call is not None:
                self._held, calls = "", Calls([call])
            return "", calls
        while True:
            if self._begins:
                begin = self._held.lstrip()
                if not begin or (len(begin) < len(_THINK) and _THINK.startswith(begin)):
                    return shown, calls
                self._begins, self._end = False, _THOUGHT if begin.startswith(_THINK) else None
            mark = self._end or _OPEN
            at = self._held.find(mark)
            if at < 0:
                keep = next(n for n in range(len(mark) - 1, -1, -1) if self._held.endswith(mark[:n]))
                return shown + self._cut(len(self._held) - keep), calls
            if self._end is not None:
                shown += self._cut(at + len(mark))
                self._end = None
                continue
            shown += self._cut(at)
            end = self._held.find(_CLOSE, self._looked)
            while end >= 0 and _ends_within_text(self._held[len(_OPEN) : end]):
                end = self._held.find(_CLOSE, end + 1)
            if end < 0:
                self._looked = max(0, len(self._held) - len(_CLOSE) + 1)
                return shown, calls
            call = _call(self._held[len(_OPEN) : end])
            if call is None:  # a text that does not end may have taken the next call in
                shown += self._cut(self._held.find(_CLOSE) + len(_CLOSE))
            else:
                self._cut(end + len(_CLOSE))
                calls += Calls([call])

    def _cut(self, n: int) -> str:
        cut, self._held = self._held[:n], self._held[n:]
        self._looked = 0 if n else self._looked
        return cut

    def rest(self) -> str:
        """What is held back, once there is no more."""
        return self._cut(len(self._held))


class ToolUse:
    """How one chat may use tools: what its template gets, how its answers are read, and what they must follow."""

    def __init__(self, body: ChatBody, template: str, reads: set[str]) -> None:
        """Read the request; ``reads``: what the template reads.

        Raises:
            ApiError: the template knows no tools, or the choice is none of them.
        """
        self.tools: list[dict[str, Any]] | None = None
        self.grammar: SchemaGrammar | None = None
        self._parses = False
        choice = body.tool_choice
        chosen = self._chosen(body.tools or [], choice)
        if not body.tools or choice == "none":
            return
        if "tools" not in reads:
            raise ApiError(400, "the model's chat template knows no tools", param="tools")
        self.tools = [tool.model_dump(exclude_none=True) for tool in body.tools]
        if chosen:
            self.grammar = schema_grammar(_schema(chosen), "tools")
        self._parses = bool(chosen) or _OPEN in template

    def _chosen(self, tools: list[Tool], choice: Any) -> list[Tool]:
        """Those of which one must be called."""
        if choice in (None, "none", "auto"):
            return []
        if choice == "required" and tools:
            return tools
        function = choice.get("function") if isinstance(choice, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        found = [tool for tool in tools if tool.function.name == name]
        if not found:
            one = "none, auto, required or a function of tools"
            expected = "tools beside required" if choice == "required" else one
            raise ApiError(400, f"tool_choice: expected {expected}", param="tool_choice")
        return found[:1]

    def finder(self, prompt: str) -> CallFinder | None:
        """What finds calls in an answer to a prompt, or to what it ends with; None where there can be none."""
        thinks = prompt.rstrip().endswith(_THINK)  # as many templates begin an answer
        return CallFinder(whole=self.grammar is not None, thinks=thinks) if self._parses else None


def _schema(tools: list[Tool]) -> dict[str, Any]:
    """JSON that calls one of these."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.function.name},
                    "arguments": _moved(_arguments(tool), f"#/anyOf/{i}/properties/arguments"),
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for i, tool in enumerate(tools)
        ]
    }


def _arguments(tool: Tool) -> dict[str, Any]:
    return NO_ARGUMENTS if tool.function.parameters is None else tool.function.parameters or {"type": "object"}


def _moved(schema: Any, to: str) -> Any:
    """A schema whose references to itself hold where it stands at ``to`` within another."""

    def change(inner: dict[str, Any]) -> dict[str, Any]:
        ref = inner.get("$ref")
        if isinstance(ref, str) and (ref == "#" or ref.startswith("#/")):
            return {**inner, "$ref": to + ref[1:]}
        return inner

    return rewritten(schema, change)


def template_messages(messages: list[Message], template: str) -> list[Mapping[str, Any]]:
    """Messages as a chat template has them: content as one text, arguments of calls as objects, thoughts by themselves.

    Raises:
        ApiError: a turn that the template would leave out.
    """
    found = []
    for i, message in enumerate(messages):
        role = "system" if message.role == "developer" else "tool" if message.role == "function" else message.role
        turn: dict[str, Any] = {"role": role, "content": message.text}
        calls = message.tool_calls or []
        if (calls and "tool_calls" not in template) or (role == "tool" and not re.search(r"\btool\b", template)):
            what = "tool_calls" if calls else "messages of role tool"
            raise ApiError(400, f"the model's chat template knows no {what}", param=f"messages[{i}]")
        if calls:
            turn["tool_calls"] = [_template_call(call.model_dump(exclude_none=True)) for call in calls]
        names = ("name", "tool_call_id", "reasoning_content")
        extras = {name: getattr(message, name) for name in names}
        turn |= {name: value for name, value in extras.items() if value is not None}
        found.append(apart(turn, template))
    return found


def _template_call(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"].get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return call  # as the model wrote it
    return {**call, "type": "function", "function": {**call["function"], "arguments": arguments}}
