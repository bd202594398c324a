"""Files with a JSON value a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import Output, bad_file, write_together
from autodeco_gguf.files.reading import MAX_JSON, MAX_VALUES, open_regular, parse_json

_TYPES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}


def read_lines(
    path: Path, at_most: int = MAX_JSON, too_long: list[BadFile] | None = None
) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered from 1.

    ``too_long`` gets an error for each line of more bytes than ``at_most``, 16 MiB, which is passed over.

    Raises:
        BadFile: the file cannot be read, is no regular file, or has such a line, without ``too_long``.
    """
    with open_regular(path) as f, bad_file(path, "cannot be read"):
        number = 0
        while line := f.readline(at_most + 1):
            number += 1
            if len(line) > at_most:
                error = BadFile(f"{path}:{number}: longer than {at_most} bytes", file=path, expected=at_most)
                if too_long is None:
                    raise error
                too_long.append(error)
                while line and not line.endswith(b"\n"):
                    line = f.readline(at_most)
            elif line.strip():
                yield number, line


def parse_line(line: bytes, most_values: int = MAX_VALUES) -> object:
    """The JSON value of a line; InvalidInput where it is not UTF-8, not JSON, or of more values than that."""
    if (zero := line.find(b"\0")) >= 0:  # of UTF-16, whose lines end elsewhere
        raise InvalidInput(f"not UTF-8 at byte {zero}, which is zero")
    return parse_json(line.rstrip(), most_values)  # or the column would be that of another line


def dump_line(value: object) -> bytes:
    """The line of a JSON value: UTF-8, whatever its strings hold, newline included.

    Examples:
        >>> dump_line({"text": "é"}).decode()
        '{"text": "é"}\\n'
    """
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def write_lines(path: Path, values: Iterable[object], *, new: bool = False) -> None:
    """Write a file atomically, a line for each value; BadFile where it cannot be written, or is there, with ``new``."""
    write_together([Output(path, lambda f: f.writelines(map(dump_line, values)))], new=new)


def type_name(value: object) -> str:
    """What a JSON value is, for a reader: "a string"."""
    return _TYPES.get(type(value), "an object")
