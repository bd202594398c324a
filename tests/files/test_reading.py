"""Small files: what is not opened, how much is read, and what is said of text that is no JSON."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.files.journal import Journal, reading
from autodeco_gguf.files.jsonl import read_lines
from autodeco_gguf.files.reading import MAX_JSON, MAX_VALUES, open_regular, parse_json, read_bytes, read_json

READERS = {
    "bytes": lambda path: read_bytes(path, 10),
    "json": read_json,
    "open": open_regular,
    "lines": lambda path: list(read_lines(path)),
    "header": GgufFile,
    "journal": lambda path: Journal(path, {"x": 1}).__enter__(),
    "journal to read": lambda path: reading(path, "x", 1).__enter__(),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(BadFile, match=rf"^{path}: is (no regular file|a pipe)"):
        READERS[name](path)


@pytest.mark.parametrize("name", READERS)
def test_a_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=rf"^{tmp_path}: "):
        READERS[name](tmp_path)


def test_at_most(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    assert read_bytes(path, 10) == b"0123456789"
    with pytest.raises(BadFile, match="larger than 9 bytes"):
        read_bytes(path, 9)
    with path.open("wb") as f:
        f.truncate(MAX_JSON + 1)
    with pytest.raises(BadFile, match=f"{path}:1: longer than {MAX_JSON} bytes"):
        list(read_lines(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"9" * 5000, "a number is too long"),
        (b"\xff", "not UTF-8"),
        (b'{"a"\n:', "not JSON: .* line 2, column 2"),
        (b"", "not JSON"),
    ],
)
def test_what_is_no_json(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InvalidInput, match=reason):
        parse_json(content)
    with pytest.raises(BadFile, match=rf"^{tmp_path}/x: .*{reason}"):
        read_json(tmp_path / "x")


@pytest.mark.parametrize("item", [b"[]", b"{}", b'{"":[]}', b"1", b'""'])
def test_json_of_many_values_is_not_made_into_objects(item: bytes) -> None:
    content = b"[" + b",".join([item] * (MAX_VALUES + 1)) + b"]"
    assert len(content) < MAX_JSON
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=f"more than {MAX_VALUES} values"):
            parse_json(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_half_a_letter_of_utf_16_is_no_quotation_mark() -> None:
    """That is its byte 0x22, behind which values would not be counted."""
    for letter in "a\u2200":
        content = f'["{letter}"{", 0" * 20}]'.encode("utf-16")
        assert len(parse_json(content, 21)) == 21
        with pytest.raises(InvalidInput, match="more than 20 values"):
            parse_json(content, 20)


def test_errors_are_one_line_that_steers_nothing() -> None:
    error = AutoDecoError("a\x1b[2J\nb\x9bc\u202ed" + "x" * 10_000)
    assert str(error).startswith("a\\x1b[2J\\nb\\x9bc\\u202edxxx")
    assert len(str(error)) < 5000
