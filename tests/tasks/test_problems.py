"""Problems: what records are some, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.tasks.problems import located, parse_problem, place

RECORDS: list[tuple[dict[str, object], tuple[str, str]]] = [
    ({"problem": "a", "gt": r"\frac{1}{2}", "id": 7}, ("a", r"\frac{1}{2}")),
    ({"prompt": "b", "answer": 5}, ("b", "5")),
    ({"question": "c", "answer": 0.5}, ("c", "0.5")),
    ({"problem": "d", "gt": 1e20}, ("d", "100000000000000000000")),
    ({"problem": "d", "gt": 10**400}, ("d", "1" + "0" * 400)),
    ({"prompt": "e", "answer": -3.0}, ("e", "-3")),
    ({"prompt": "e", "answer": 73.0}, ("e", "73")),
    ({"prompt": "e", "answer": 0.05}, ("e", "0.05")),
    ({"prompt": "e", "answer": "73.0"}, ("e", "73.0")),
    ({"prompt": "f", "answer": 5, "options": [], "choices": None, "tools": []}, ("f", "5")),
]


@pytest.mark.parametrize(("record", "expected"), RECORDS)
def test_records(record: dict[str, object], expected: tuple[str, str]) -> None:
    assert parse_problem(record) == expected


FORMS = '{"problem", "gt"}, {"prompt", "answer"} or {"question", "answer"}'
EITHER = "a string or a number"
BAD_RECORDS: list[tuple[dict[str, object], str, str | None, object]] = [
    ({"a": 1}, f"has the keys ['a'], expected {FORMS}", None, FORMS),
    ({"problem": "a", "answer": "b"}, f"gt is missing, expected {FORMS}", "gt", FORMS),
    ({"problem": 5, "gt": 5}, "problem is a number, expected a string", "problem", "a string"),
    ({"problem": " ", "gt": 5}, "problem is empty", "problem", None),
    (
        {"prompt": "a", "answer": None},
        "answer is null, expected a string or a number",
        "answer",
        "a string or a number",
    ),
    ({"prompt": "a", "answer": "b", "tools": [{}]}, "has tools, but a problem is asked without", "tools", None),
    (
        {"question": "a", "answer": "B", "options": ["x", "y"]},
        "has options, but a problem is asked without; use mmlu-pro:FILE, with options and a letter as answer",
        "options",
        None,
    ),
    (
        {"prompt": "a", "answer": "B", "choices": {"text": ["x", "y"]}},
        "has choices, but a problem is asked without; use mmlu-pro:FILE, with options and a letter as answer",
        "choices",
        None,
    ),
    ({"prompt": "a", "answer": 1e999}, "answer is inf, expected a finite number", "answer", "a finite number"),
]


@pytest.mark.parametrize(("record", "message", "key", "expected"), BAD_RECORDS)
def test_a_record_that_is_no_problem(
    record: dict[str, object], message: str, key: str | None, expected: object
) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_problem(record)
    assert (str(error.value), error.value.key, error.value.expected) == (message, key, expected)
    assert error.value.file is None


def test_places() -> None:
    assert (place("a.csv", 3, by_line=False), place(Path("a.jsonl"), 3)) == ("a.csv: record 3", "a.jsonl:3")
    with pytest.raises(BadFile, match=r"^a\.csv: record 3: k 0, expected 1$"), located("a.csv", 3, by_line=False):
        raise InvalidInput.of("k", 0, 1)
