"""Problems with known answers: what is sampled, and what a checker compares the samples with."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.files.jsonl import parse_line, read_lines, type_name

_KEYS = (("problem", "gt"), ("prompt", "answer"))
_EXPECTED = '{"problem", "gt"} or {"prompt", "answer"}'


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


def place(file: str | Path, number: int, *, by_line: bool = True) -> str:
    """Where a record stands, for a reader: ``file:line``, or ``file: record N``."""
    return f"{file}:{number}" if by_line else f"{file}: record {number}"


def read_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """The problems of a JSONL file: ``problem`` and ``gt``, as in the official evaluation data, or ``prompt`` and
    ``answer``; an answer may be a number.

    Args:
        path: the file; blank lines are passed over.
        limit: read the first so many.

    Raises:
        AutoDecoError: a malformed line, named as file:line; no problem in it; the file cannot be read.
    """
    lines = itertools.islice(read_lines(path), limit)
    problems = [_read_problem(path, number, line) for number, line in lines]
    if not problems:
        raise AutoDecoError(f"{path}: no problem in it, expected lines of {_EXPECTED}")
    return problems


def _read_problem(path: Path, number: int, line: bytes) -> Problem:
    try:
        text, answer = parse_problem(parse_line(line))
    except AutoDecoError as e:
        raise AutoDecoError(f"{place(path, number)}: {e}") from e
    return Problem(text, answer, number, str(path))


def parse_problem(record: object) -> tuple[str, str]:
    """Text and answer of a record as ``read_problems`` takes it.

    Raises:
        AutoDecoError: another kind of record, without its place.
    """
    if not isinstance(record, dict):
        raise AutoDecoError(f"is {type_name(record)}, expected {_EXPECTED}")
    pair = next((keys for keys in _KEYS if keys[0] in record), None)
    if pair is None:
        raise AutoDecoError(f"has the keys {sorted(record)}, expected {_EXPECTED}")
    text, answer = pair
    if answer not in record:
        raise AutoDecoError(f"{answer} is missing, expected {_EXPECTED}")
    return as_text(text, record[text]), as_answer(answer, record[answer])


def as_text(key: str, value: object) -> str:
    """``value`` if it is a string that is not blank, else AutoDecoError naming ``key``."""
    if not isinstance(value, str):
        raise AutoDecoError(f"{key} is {type_name(value)}, expected a string")
    if not value.strip():
        raise AutoDecoError(f"{key} is empty")
    return value


def as_answer(key: str, value: object) -> str:
    """A string that is not blank, or a finite number in plain decimals, else AutoDecoError naming ``key``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise AutoDecoError(f"{key} is {value}, expected a finite number")
        return format(Decimal(repr(value)), "f")
    if not isinstance(value, str):
        raise AutoDecoError(f"{key} is {type_name(value)}, expected a string or a number")
    return as_text(key, value)
