"""What is read of a file and of standard input."""

from __future__ import annotations

import io
import select
import sys
from pathlib import Path

import click
import pytest
from broken import start

from autodeco_gguf.cli import _prompt
from autodeco_gguf.cli._prompt import clean, is_chat, read_prompt, read_text
from autodeco_gguf.errors import BadFile, InvalidInput

Capture = pytest.CaptureFixture[str]


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"a\nb\n", "a\nb"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b"", ""), ("é".encode(), "é"), (b"\xff", "\ufffd")],
)
def test_standard_input_alone(data: bytes, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, data)
    assert read_prompt(None, None) == expected


@pytest.mark.parametrize(
    ("file", "data", "expected"),
    [
        ("file\n", b"stdin\n", "file\nstdin\nprompt"),
        ("file\n", b"", "file\nprompt"),
        ("", b"stdin\n", "stdin\nprompt"),
        ("\n", b"", "prompt"),
    ],
)
def test_what_is_given_is_put_together(
    file: str, data: bytes, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text(file)
    (tmp_path / "stdin").write_bytes(data)
    with (tmp_path / "stdin").open() as f:
        monkeypatch.setattr(sys, "stdin", f)
        assert read_prompt("prompt", tmp_path / "f") == expected


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert read_prompt("prompt", None) == "prompt"
    assert not is_chat("prompt", None)
    with pytest.raises(click.UsageError, match=r"^no standard input: give -p PROMPT$"):
        is_chat(None, None)


@pytest.mark.parametrize("prompt", [("-p", "x"), ()])
def test_who_waits_for_standard_input_says_so(prompt: tuple[str, ...], merged: Path) -> None:
    import subprocess

    process = start("run", "-t", 1, merged, "--raw", *prompt, "-n", 1, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    assert b"waiting for the end of standard input" in process.stderr.readline()
    out, _ = process.communicate(input=b"more", timeout=30)
    assert (process.returncode, out.endswith(b"\n")) == (0, True)


@pytest.mark.parametrize(("prompt", "expected"), [(None, "stdin"), ("prompt", "stdin\nprompt")])
def test_where_nothing_tells_whether_there_is_something_yet(
    prompt: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, of a pipe or a file."""

    def refuse(*_: object) -> None:
        raise OSError(10038, "An operation was attempted on something that is not a socket")

    monkeypatch.setattr(select, "select", refuse)
    (tmp_path / "stdin").write_text("stdin\n")
    with (tmp_path / "stdin").open() as f:
        monkeypatch.setattr(sys, "stdin", f)
        assert read_prompt(prompt, None) == expected


def test_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_prompt, "_MAX_BYTES", 10)
    (tmp_path / "f").write_bytes(b"12345678901")
    stdin(monkeypatch, b"12345678901")
    with pytest.raises(BadFile, match=r"f: longer than 0 MiB, expected a text$"):
        read_text(tmp_path / "f")
    with pytest.raises(InvalidInput, match=r"^standard input: longer than"):
        read_prompt(None, None)


def test_a_note_only_where_something_is_replaced(capfd: Capture) -> None:
    assert clean("caf\udcc3\udca9 \ufffd", "x") == "café \ufffd"  # as an ASCII locale has it
    assert capfd.readouterr().err == ""
    assert clean("caf\udce9", "the message") == "caf\ufffd"
    assert capfd.readouterr().err == "the message: not UTF-8 at byte 3; what is not is replaced by U+FFFD\n"


def test_a_byte_order_mark_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9")
    assert read_text(tmp_path / "f") == "café"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfHello")))
    assert read_prompt(None, None) == "Hello"
