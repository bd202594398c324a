"""Problems: the lines of a file, and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.tasks.problems import located, parse_problem, place, read_problems


def test_read_problems(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"problem": "a", "gt": "\\\\frac{1}{2}", "id": 7}\n\n{"prompt": "b", "answer": 5}\n'
        '{"problem": "c", "gt": 0.5}\n{"problem": "d", "gt": 1e20}\n{"problem": "d", "gt": 1'
        + "0" * 400
        + '}\n{"prompt": "e", "answer": -3.0}'
    )
    problems = read_problems(path)
    assert [(p.text, p.answer, p.line) for p in problems] == [
        ("a", r"\frac{1}{2}", 1), ("b", "5", 3), ("c", "0.5", 4), ("d", "100000000000000000000", 5),
        ("d", "1" + "0" * 400, 6), ("e", "-3.0", 7),
    ]  # fmt: skip
    assert problems[1].where == f"{path}:3"
    assert read_problems(path, 2) == problems[:2]


FORMS = '{"problem", "gt"}, {"prompt", "answer"} or {"question", "answer"}'
EITHER = "a string or a number"
BAD_RECORDS: list[tuple[object, str, str | None, object]] = [
    ([1], f"is a list, expected {FORMS}", None, FORMS),
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
    ({"prompt": "a", "answer": 1e999}, "answer is inf, expected a finite number", "answer", "a finite number"),
]


@pytest.mark.parametrize(("record", "message", "key", "expected"), BAD_RECORDS)
def test_a_record_that_is_no_problem(record: object, message: str, key: str | None, expected: object) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_problem(record)
    assert (str(error.value), error.value.key, error.value.expected) == (message, key, expected)
    assert error.value.file is None


def test_in_a_file_it_is_the_file_that_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "a", "gt": 1}\n\n{"problem": 5, "gt": 5}\n')
    with pytest.raises(BadFile) as error:
        read_problems(path)
    assert str(error.value) == f"{path}:3: problem is a number, expected a string"
    assert (error.value.file, error.value.key, error.value.found) == (str(path), "problem", "a number")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BadFile, match=r"empty\.jsonl: no problem in it, expected lines of ") as error:
        read_problems(tmp_path / "empty.jsonl")
    assert error.value.file == str(tmp_path / "empty.jsonl")


def test_places() -> None:
    assert (place("a.csv", 3, by_line=False), place(Path("a.jsonl"), 3)) == ("a.csv: record 3", "a.jsonl:3")
    with pytest.raises(BadFile, match=r"^a\.csv: record 3: k 0, expected 1$"), located("a.csv", 3, by_line=False):
        raise InvalidInput.of("k", 0, 1)


def test_answers_are_those_that_the_checker_reads(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "?", "answer": "3 + 4 = 7\\n#### 7"}\n{"prompt": "?", "answer": "Six more."}\n')
    assert [p.answer for p in read_problems(path)] == ["7", "Six more."]
    assert [p.answer for p in read_problems(path, checker="own:check")] == ["3 + 4 = 7\n#### 7", "Six more."]
    with pytest.raises(BadFile, match=r"p\.jsonl:1: answer '7': expected one letter, A to Z$"):
        read_problems(path, checker="choice")
