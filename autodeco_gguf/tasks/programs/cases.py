"""The tests of a programming problem as LiveCodeBench publishes them, a response's program, and what its output is
compared with.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, DecimalException

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.files.jsonl import type_name
from autodeco_gguf.files.reading import parse_json
from autodeco_gguf.tasks.problems import unfit

MAX_TESTS = 512 << 20
"""Bytes of a problem's private tests, unpacked."""

_STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")
_MARKS = ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP")
"""What a pickle of a string is made of."""

_MOST_MARKS = 16
"""More than Python writes: a few bytes can unpack to millions."""


@dataclass(frozen=True)
class Case:
    """A test: what the program reads, or the arguments of its function, a line of JSON each; and what it gives."""

    input: str
    output: str


@dataclass(frozen=True)
class Suite:
    """All tests of a problem, and the name of the function; None where the program reads standard input."""

    function: str | None
    cases: tuple[Case, ...]


def write_answer(function: str | None, public: object, private: object) -> str:
    """The expected answer of a problem: the tests as they are published, so that private ones stay as small.

    Args:
        function: as in :class:`Suite`.
        public: a list of ``{"input", "output"}``.
        private: such a list, as JSON; or a pickle of that text, deflated, in base64; None for none.
    """
    answer = {"function": function, "tests": public}
    if private:
        answer["private"] = private
    return json.dumps(answer, ensure_ascii=False)


def read_answer(answer: str) -> Suite:
    """The tests that :func:`write_answer` wrote, the public ones first; InvalidInput where there are none, or others.

    Examples:
        >>> read_answer('{"function": null, "tests": [{"input": "1 2", "output": "3"}]}').cases
        (Case(input='1 2', output='3'),)
    """
    value = parse_json(answer.encode("utf-8", "surrogatepass"))
    if not isinstance(value, Mapping):
        raise unfit("answer", type_name(value), 'an object with "function" and "tests"')
    function = value.get("function")
    if not (function is None or (isinstance(function, str) and function.isidentifier())):
        raise unfit("function", repr(function), "the name of a function, or null")
    cases = [*_cases("tests", value.get("tests")), *_cases("private", _private(value.get("private")))]
    if not cases:
        raise InvalidInput("tests is empty, and there are no private ones", key="tests")
    if function is not None:
        for case in cases:
            for line in (*case.input.split("\n"), case.output):
                parse_json(line.encode("utf-8", "surrogatepass"))
    return Suite(function, tuple(cases))


def _cases(key: str, value: object) -> list[Case]:
    if not isinstance(value, list):
        raise unfit(key, type_name(value), "a list")
    cases = []
    for entry in value:
        parts = [entry.get(name) for name in ("input", "output")] if isinstance(entry, Mapping) else [None]
        if not all(isinstance(part, str) for part in parts):
            raise unfit(key, "a list of other things", 'a list of {"input", "output"}, both strings')
        cases.append(Case(*map(str, parts)))
    return cases


def _private(value: object) -> object:
    """The list that stands in ``private_test_cases``."""
    if value is None or isinstance(value, list):
        return value or []
    if not isinstance(value, str):
        raise unfit("private", type_name(value), "a string")
    if value.lstrip()[:1] != "[":
        value = _unpacked(value)
    return parse_json(value.encode("utf-8", "surrogatepass"))


def _unpacked(value: str) -> str:
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(value, validate=True), MAX_TESTS + 1)
    except (ValueError, binascii.Error, zlib.error) as e:
        message = f"private: neither JSON nor a deflated pickle in base64: {e}"
        raise InvalidInput(message, key="private") from e
    if len(content) > MAX_TESTS:
        message = f"private: unpacks to more than {MAX_TESTS} bytes"
        raise InvalidInput(message, key="private", expected=MAX_TESTS)
    return unpickled_string(content)


def unpickled_string(content: bytes) -> str:
    """The string of which this is the pickle; InvalidInput for a pickle of anything else, of which nothing is built.

    Examples:
        >>> import pickle
        >>> unpickled_string(pickle.dumps("a"))
        'a'
    """
    found: list[str] = []
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if number == _MOST_MARKS:
                message = f"private: a pickle of more than {_MOST_MARKS} operations, expected that of a string"
                raise InvalidInput(message, key="private", expected=_MOST_MARKS)
            if operation.name in _STRINGS and not found:
                found.append(str(argument))
            elif operation.name not in _MARKS:
                message = f"private: a pickle with {operation.name}, expected that of one string"
                raise InvalidInput(message, key="private", found=operation.name)
    except (ValueError, UnicodeError) as e:
        if isinstance(e, InvalidInput):
            raise
        raise InvalidInput(f"private: no pickle: {e}", key="private") from e
    if not found:
        raise InvalidInput("private: a pickle of nothing, expected that of a string", key="private")
    return found[0]


# ---- responses ----

_OPENING = re.compile(
    r"(?P<quotes>(?:[ \t]*>){0,100})(?P<indent>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)"
    r"(?P<text>(?!`{3}|~{3})[^\s>](?:(?!`{3}|~{3}).)*)?(?P<marks>`{3,}|~{3,})(?P<info>(?!~)[^`\n]*)"
)
_FENCE = re.compile(r"[ \t]*(?P<marks>`{3,}|~{3,})(?P<behind>.*)")
_LANGUAGE = re.compile(r"[\w+#-]+|[ \t]+(?:py|python|[a-z]+[+#\d]+)", re.ASCII)
"""What follows a fence that opens a block: any word, or behind a space one that is no word of a sentence."""


def program(text: str) -> str | None:
    """What stands in the last code block of a response; None where none is closed.

    Examples:
        >>> program("First\\n```python\\nprint(1)\\n```\\nor rather\\n```python\\nprint(2)\\n```\\nThat is it.")
        'print(2)'
    """
    block = last_block(text)
    return None if block is None else block[1]


def last_block(text: str) -> tuple[int, str] | None:
    """Where the last closed code block of a response begins, and what stands in it.

    Text may stand before its opening fence and behind its closing one, and all of it in a list or a quotation.
    """
    last, opening, begin, place, offset = None, None, 0, 0, 0
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        found = _opens(line)
        if opening is not None:
            fence = _FENCE.fullmatch(_unquoted(line, opening).rstrip())
            if fence is None or not fence["marks"].startswith(opening["marks"]):
                found = None
            elif _closes(fence["behind"]):
                last, opening, found = (place, _content(lines[begin:number], opening)), None, None
        if found is not None:  # a block that was never closed is none
            opening, begin, place = found, number + 1, offset + found.start("marks")
        offset += len(line)
    return last


def _opens(line: str) -> re.Match[str] | None:
    found = _OPENING.fullmatch(line.rstrip())
    if found is None or not found["text"] or _LANGUAGE.fullmatch(found["info"]):
        return found
    return found if not found["info"] and found["text"].rstrip(" \t*_").endswith(":") else None


def _closes(behind: str) -> bool:
    """Whether a fence ends a block, by what follows: nothing, or text that is no language."""
    return not behind or ("```" not in behind and not _LANGUAGE.fullmatch(behind))


def _content(lines: Sequence[str], opening: re.Match[str]) -> str:
    """The lines of a block without the fence's indentation, where the first has it."""
    lines = [_unquoted(line, opening) for line in lines]
    first = next((line for line in lines if line.strip()), "")
    indent = re.compile(rf"[ \t]{{0,{min(len(opening['indent']), len(first) - len(first.lstrip()))}}}")
    return "".join(indent.sub("", line, count=1) for line in lines).rstrip("\r\n")


def _unquoted(line: str, opening: re.Match[str]) -> str:
    marks = re.match(rf"(?:[ \t]*> ?){{0,{opening['quotes'].count('>')}}}", line)
    return line[marks.end() :] if marks else line


def not_here(text: str, answer: str) -> bool:
    """The checker ``code``, which is only a name: a program is run by a :class:`autodeco_gguf.tasks.grading.Grader`.

    Raises:
        InvalidInput: always.
    """
    raise InvalidInput("checker code: runs programs, which only a Grader with leave to does", key="checker")


def same_output(found: str, expected: str) -> bool:
    """Whether two outputs are the same as LiveCodeBench has it: as many lines, and each the same but for white space
    around it, or of the same decimal numbers.

    Examples:
        >>> same_output("1.0 2\\n x \\n", "1 2.00\\nx")
        True
        >>> same_output("1  x", "1 x")
        False
    """
    lines = [[line.strip() for line in text.strip().split("\n")] for text in (found, expected)]
    return len(lines[0]) == len(lines[1]) and all(a == b or _same_numbers(a, b) for a, b in zip(*lines, strict=True))


def _same_numbers(a: str, b: str) -> bool:
    try:
        return [*map(Decimal, a.split())] == [*map(Decimal, b.split())]
    except (DecimalException, ValueError):
        return False


def same_value(found: str, expected: str) -> bool:
    """Whether two texts are equal values in JSON, as Python compares them.

    Examples:
        >>> same_value("[1, 2.0]", "[1.0, 2]"), same_value("", "null")
        (True, False)
    """
    try:
        return bool(json.loads(found) == json.loads(expected))
    except (ValueError, RecursionError):
        return False
