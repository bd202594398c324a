"""What the user gives a command to read: an argument, a file, standard input; whatever its bytes are, it is text."""

from __future__ import annotations

import codecs
import io
import select
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import click

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import bad_file

_MAX_BYTES = 1 << 24
"""Of a prompt, a grammar, a schema: more than any context holds."""

_PATIENCE_S = 2.0
"""After so long without a byte, it is said that standard input is waited for."""


def is_chat(prompt: str | None, file: Path | None) -> bool:
    """Whether messages are to be typed: nothing is given, and a terminal is there.

    Raises:
        click.UsageError: nothing is given, and there is no standard input.
    """
    if prompt is not None or file is not None:
        return False
    if sys.stdin is None:
        raise click.UsageError("no standard input: give -p PROMPT")
    return sys.stdin.isatty()


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The file and standard input, unless empty or a terminal, and the prompt: those that are there, a line apart.

    Raises:
        BadFile: the file cannot be read.
        InvalidInput: one of them is too long.
    """
    alone = prompt is None and file is None
    parts = [
        None if file is None else _without_newline(read_text(file)) or None,
        _without_newline(_read_stdin(alone)) or None,
        None if prompt is None else clean(prompt, "the prompt"),
    ]
    return "\n".join(part for part in parts if part is not None)


def read_text(path: Path) -> str:
    """A text file of up to 16 MiB.

    Raises:
        BadFile: it cannot be read, or is longer.
    """
    with bad_file(path, "cannot be read"), path.open("rb") as f:
        try:
            return _decoded(_read(f), str(path))
        except InvalidInput as e:
            raise BadFile.of(path, e) from e


def clean(text: str, what: str) -> str:
    """Text from the command line or a terminal, whose bytes that are not UTF-8 Python has kept as surrogates."""
    return _decoded(text.encode("utf-8", "surrogateescape"), what)


def _read_stdin(alone: bool) -> str:
    try:
        if sys.stdin is None or sys.stdin.isatty():
            return ""
        number = sys.stdin.fileno()
    except (io.UnsupportedOperation, ValueError):  # no file, or a closed one
        if not alone:
            return ""
    else:
        with suppress(OSError):  # Windows can tell of sockets alone
            if not select.select([number], [], [], _PATIENCE_S)[0]:
                which = "with the prompt" if alone else "which goes before the prompt (none: </dev/null)"
                click.echo(f"waiting for the end of standard input, {which}", err=True)
    try:
        return _decoded(_read(sys.stdin.buffer), "standard input")
    except InvalidInput as e:
        raise e.within("standard input") from e


def _read(f: BinaryIO) -> bytes:
    data = f.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise InvalidInput(f"longer than {_MAX_BYTES >> 20} MiB, expected a text", key="prompt")
    return data.removeprefix(codecs.BOM_UTF8)  # of Windows' editors


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        click.echo(f"{what}: not UTF-8 at byte {e.start}; what is not is replaced by U+FFFD", err=True)
        return data.decode("utf-8", "replace")


def _without_newline(text: str) -> str:
    """As a shell's $(...) takes it."""
    return text.removesuffix("\n").removesuffix("\r")
