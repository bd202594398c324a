"""Problems with known answers: what is sampled, and what a checker compares the samples with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.files.jsonl import type_name

_KEYS = (("problem", "gt"), ("prompt", "answer"), ("question", "answer"))
_EXPECTED = '{"problem", "gt"}, {"prompt", "answer"} or {"question", "answer"}'
_DEEPMATH = ("question", "final_answer")
_OPTIONS = ("options", "choices")


@dataclass(frozen=True)
class Problem:
    """What to ask, the answer that a checker is to find, and where it stands.

    ``line`` is that of the file, from 1; where a record is not a line (``by_line`` false), the number of the record.
    """

    text: str
    answer: str
    line: int
    file: str = "problems"
    by_line: bool = True

    @property
    def where(self) -> str:
        """``file:line``, or ``file: record N``."""
        return place(self.file, self.line, by_line=self.by_line)

    def located(self) -> AbstractContextManager[None]:
        """What is refused within is this problem, as :func:`located` has it."""
        return located(self.file, self.line, by_line=self.by_line)


def place(file: str | Path, number: int, *, by_line: bool = True) -> str:
    """Where a record stands, for a reader: ``file:line``, or ``file: record N``."""
    return f"{file}:{number}" if by_line else f"{file}: record {number}"


@contextmanager
def located(file: str | Path, number: int, *, by_line: bool = True) -> Iterator[None]:
    """What is refused within is a record: the error says where it stands.

    Raises:
        BadFile: for any AutoDecoError, with its attributes and the file.
    """
    try:
        yield
    except AutoDecoError as e:
        where = place(file, number, by_line=by_line)
        raise BadFile(f"{where}: {e}", file=file, key=e.key, expected=e.expected, found=e.found) from e


def parse_problem(record: Mapping[str, object]) -> tuple[str, str]:
    """Text and answer of a record with ``problem`` and ``gt``, as in the official evaluation data, ``prompt`` and
    ``answer``, ``question`` and ``answer``, or ``question`` and ``final_answer``, as in DeepMath-103K; an answer may be
    a number. InvalidInput, without its place, for another.
    """
    text, answer = next((keys for keys in _KEYS if keys[0] in record), ("", ""))
    if answer not in record and all(key in record for key in _DEEPMATH):
        text, answer = _DEEPMATH
    if not text:
        keys = sorted(record)
        raise InvalidInput(f"has the keys {keys}, expected {_EXPECTED}", expected=_EXPECTED, found=keys)
    if answer not in record:
        raise InvalidInput(f"{answer} is missing, expected {_EXPECTED}", key=answer, expected=_EXPECTED)
    for options in _OPTIONS:
        if record.get(options):
            message = (
                f"has {options}, but a problem is asked without; use mmlu-pro:FILE, with options and a letter as answer"
            )
            raise InvalidInput(message, key=options, found=record[options])
    if record.get("tools"):
        raise InvalidInput("has tools, but a problem is asked without", key="tools", found=record["tools"])
    return as_text(text, record[text]), as_answer(answer, record[answer])


def unfit(key: str, found: object, expected: object) -> InvalidInput:
    """The error for what stands under ``key``: "answer is null, expected a string"."""
    return InvalidInput(f"{key} is {found}, expected {expected}", key=key, found=found, expected=expected)


def as_text(key: str, value: object, expected: str = "a string") -> str:
    """``value`` if it is a string that is not blank, else InvalidInput naming ``key``."""
    if not isinstance(value, str):
        raise unfit(key, type_name(value), expected)
    if not value.strip():
        raise InvalidInput(f"{key} is empty", key=key, found=value)
    return value


def as_answer(key: str, value: object) -> str:
    """A string that is not blank, or a finite number in decimals (73.0 as 73), else InvalidInput naming ``key``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise unfit(key, value, "a finite number")
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    return as_text(key, value, "a string or a number")
