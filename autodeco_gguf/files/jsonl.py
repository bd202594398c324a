"""Files with a JSON value a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.files.atomic import bad_file, write_atomically

_TYPES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1; BadFile where the file cannot be read."""
    with bad_file(path, "cannot be read"), path.open("rb") as f:
        yield from ((number, line) for number, line in enumerate(f, 1) if line.strip())


def parse_line(line: bytes) -> object:
    """The JSON value of a line; InvalidInput where it is not UTF-8, or not JSON."""
    try:
        return json.loads(line.rstrip())  # or the column would be that of another line
    except UnicodeDecodeError as e:
        raise InvalidInput(f"not UTF-8 at byte {e.start}") from e
    except json.JSONDecodeError as e:
        raise InvalidInput(f"not JSON: {e.msg.removesuffix(' at')} at column {e.colno}") from e
    except RecursionError as e:
        raise InvalidInput("not JSON: nested too deeply") from e
    except ValueError as e:
        raise InvalidInput("not JSON that can be read: a number is too long") from e


def dump_line(value: object) -> bytes:
    """The line of a JSON value: UTF-8, whatever its strings hold, newline included.

    Examples:
        >>> dump_line({"text": "é"}).decode()
        '{"text": "é"}\\n'
    """
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def write_lines(path: Path, values: Iterable[object]) -> None:
    """Write a file atomically, a line for each value; BadFile where it cannot be written."""
    write_atomically(path, lambda f: f.writelines(map(dump_line, values)))


def type_name(value: object) -> str:
    """What a JSON value is, for a reader: "a string"."""
    return _TYPES.get(type(value), "an object")
