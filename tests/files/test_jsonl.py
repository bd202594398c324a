"""A JSON value a line, written and read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.jsonl import dump_line, parse_line, read_lines, type_name, write_lines

LINES: list[tuple[object, bytes]] = [
    ({"b": 1, "a": [None, True]}, b'{"b": 1, "a": [null, true]}\n'),
    ("caf\u00e9\n", b'"caf\xc3\xa9\\n"\n'),
    ("\ud800", b'"\xed\xa0\x80"\n'),  # half of a pair, as a model may write it
    (0.1, b"0.1\n"),
]


@pytest.mark.parametrize(("value", "line"), LINES)
def test_a_line_and_its_value(value: object, line: bytes) -> None:
    assert dump_line(value) == line
    assert parse_line(line) == value


def test_a_file_of_lines(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", (value for value, _ in LINES))
    assert (tmp_path / "x.jsonl").read_bytes() == b"".join(line for _, line in LINES)
    (tmp_path / "y.jsonl").write_bytes(b"1\n\n \n2")
    assert list(read_lines(tmp_path / "y.jsonl")) == [(1, b"1\n"), (4, b"2")]


def test_lines_that_end_early_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"old")

    def values() -> Iterator[int]:
        yield 1
        raise KeyError

    with pytest.raises(KeyError):
        write_lines(path, values())
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.jsonl", b"old")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'"caf\xe9"', "^not UTF-8 at byte 4$"),
        ('{"a": 1}\n'.encode("utf-16"), "^not UTF-8 at byte 3, which is zero$"),
        (b'{"a": \n', "^not JSON: Expecting value at column 6$"),
        (b"[" * 100_000, "^not JSON: nested too deeply$"),
        (b"1" * 5000, "^not JSON that can be read: a number is too long$"),
    ],
    ids=["UTF-8", "UTF-16", "cut", "deep", "digits"],
)
def test_no_json(line: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_line(line)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"nowhere: cannot be read: No such file or directory$") as error:
        list(read_lines(tmp_path / "nowhere"))
    assert error.value.file == str(tmp_path / "nowhere")
    with pytest.raises(BadFile, match=r"nowhere/x: cannot be written: No such file or directory$"):
        write_lines(tmp_path / "nowhere" / "x", [])


@pytest.mark.parametrize(
    ("value", "name"),
    [(None, "null"), (True, "a boolean"), (1, "a number"), (1.5, "a number"), ("", "a string"), ([], "a list"),
     ({}, "an object")],
)  # fmt: skip
def test_names_of_types(value: object, name: str) -> None:
    assert type_name(value) == name
