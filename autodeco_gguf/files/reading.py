"""Small files as bytes and as JSON, each with a bound on its size; nothing that could wait for ever is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import bad_file

MAX_JSON = 16 << 20
"""Bytes of a JSON file, and of a line of JSON."""

MAX_VALUES = 1 << 20
"""Values in either, counted by their marks outside of strings: with the text, which may become eight times as large,
less than 300 MB.
"""


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes; BadFile where it cannot be read, or is a pipe, a device or a directory."""
    with bad_file(path, "cannot be read"):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise BadFile.of(path, "is no regular file")
        return path.open("rb")


def read_bytes(path: Path, at_most: int) -> bytes:
    """The content of a file; BadFile where it cannot be read, is no regular file, or is larger than that."""
    with open_regular(path) as f, bad_file(path, "cannot be read"):
        content = f.read(at_most + 1)
    if len(content) > at_most:
        reason = f"larger than {at_most} bytes, the most that is read of such a file"
        raise BadFile.of(path, reason, expected=at_most)
    return content


def parse_json(content: bytes, most_values: int = MAX_VALUES) -> Any:
    """The JSON value of some bytes; InvalidInput where they are not UTF-8, not JSON, or JSON that nobody can read.

    That is, nested too deeply, with a number of thousands of digits, or of more than ``most_values``, a million.

    Examples:
        >>> parse_json(b'{"a": [1, 2]}')
        {'a': [1, 2]}
    """
    if len(content) > most_values and _marks(content, most_values) > most_values:
        raise InvalidInput(f"not JSON that can be read: more than {most_values} values")
    try:
        return json.loads(content)
    except UnicodeDecodeError as e:
        raise InvalidInput(f"not UTF-8 at byte {e.start}") from e
    except json.JSONDecodeError as e:
        line = f"line {e.lineno}, " if e.lineno > 1 else ""
        raise InvalidInput(f"not JSON: {e.msg.removesuffix(' at')} at {line}column {e.colno}") from e
    except RecursionError as e:
        raise InvalidInput("not JSON: nested too deeply") from e
    except ValueError as e:
        raise InvalidInput("not JSON that can be read: a number is too long") from e


def _marks(content: bytes, at_most: int) -> int:
    """How many marks stand between values, as far as these can be too many."""
    marks = (b",", b":", b"[", b"{")
    found = sum(map(content.count, marks))
    if found <= at_most or b"\0" in content:  # UTF-16, of which half a letter can be a quotation mark
        return found
    bare = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"')
    return strings if strings > 2 * at_most else sum(map(b"".join(bare.split(b'"')[::2]).count, marks))


def read_json(path: Path) -> Any:
    """The value of a JSON file; BadFile where it cannot be read, is larger than 16 MiB, or is not JSON."""
    try:
        return parse_json(read_bytes(path, MAX_JSON))
    except InvalidInput as e:
        raise BadFile.of(path, e) from e
