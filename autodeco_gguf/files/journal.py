"""Files that keep what a long run has finished, a JSON line each, so that the next run goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import bad_file
from autodeco_gguf.files.jsonl import dump_line, parse_line
from autodeco_gguf.files.lock import lock
from autodeco_gguf.files.reading import MAX_JSON, open_regular
from autodeco_gguf.files.system import open_bytes, read_at, sync_directory

Header = Mapping[str, Any]
"""All that the lines depend on. The first key names what they are, its value is the version of the format."""

_BLOCK = 1 << 20


class Line(NamedTuple):
    """A line of a journal: its number in the file, from 1, its place for :meth:`Journal.read`, and its value."""

    number: int
    place: int
    value: Any


class Journal:
    """An append-only file of JSON lines, the first of them a header. Use it as a context manager.

    A file that is there already is continued: its header has to mean the same, and a last line that was being written
    when a run was killed is cut off. While it is open, no other process can open it.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "squares.jsonl"
        >>> for n in (3, 5):  # the second run goes on from where the first one ended
        ...     with Journal(path, {"squares": 1}) as journal:
        ...         done = {line.value[0] for line in journal.lines()}
        ...         places = [journal.append([i, i * i]) for i in range(n) if i not in done]
        ...     print(done, len(places))
        set() 3
        {0, 1, 2} 2
    """

    def __init__(
        self,
        path: Path,
        header: Header | None,
        *,
        advice: str = "delete it to begin anew",
        digests: Mapping[str, str] | None = None,
        force: bool = False,
        longest: int = MAX_JSON,
    ) -> None:
        """Prepare to open ``path``.

        Args:
            path: the file; made where it is not there.
            header: compared with that of an existing file; None: lines alone, what they depend on stands elsewhere.
            advice: how to go on, the end of every message about a file that cannot be continued.
            digests: header keys whose values tell a reader nothing -> what to say where they differ
                (``{"model": "another model"}``); a nested one is found by the last part of its name.
            force: begin anew where the header differs.
            longest: bytes of a line that is read.
        """
        self.path, self._longest = path, longest
        self._header: dict[str, Any] = json.loads(dump_line(header or {}))  # as it will be read: lists for tuples
        self._advice, self._digests, self._force = advice, digests or {}, force
        self._fd, self._first, self._end = -1, 0, 0
        self._torn = False  # whether a part of a line may stand behind the end

    def __enter__(self) -> Journal:
        """Open or make the file.

        Raises:
            BadFile: begun with other settings, and which; not such a file; it cannot be opened.
            Busy: in use by another process.
            InvalidInput: a header that could not be read again, of more than 1 MiB.
        """
        n = len(dump_line(self._header))
        if n > _BLOCK:
            raise InvalidInput(f"{self.path}: settings of {n} bytes, expected at most {_BLOCK}", file=self.path)
        with bad_file(self.path, "cannot be written"):
            if self.path.is_fifo():
                raise BadFile.of(self.path, "is a pipe; give a file")
            self._fd = open_bytes(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND)
        try:
            lock(self._fd, self.path)
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        self._fd = -1

    def _open(self) -> None:
        if not self._header:
            self._cut(0)
            return
        kind, version = next(iter(self._header.items()))
        line, header = _first_line(self._fd), dump_line(self._header)
        found: object = None
        if line.endswith(b"\n"):
            with suppress(InvalidInput):
                found = parse_line(line)
        reason = f"not the beginning of {kind}"
        if isinstance(found, dict) and found.get(kind) == version:
            differs = difference(found, self._header, self._digests, "this run has")
            if differs is None:
                self._cut(len(line))
                return
            reason = f"begun with {differs}"
        start = dump_line({kind: version})[:-2]  # of a file of this kind, whatever its settings
        torn = not line.endswith(b"\n") and header.startswith(line[: len(start)])
        if not (torn or self._force):
            raise self.refused(None, reason)
        os.ftruncate(self._fd, 0)
        self.append(self._header)
        with bad_file(self.path, "cannot be written"):  # other files depend on it, which a power cut may leave longer
            os.fsync(self._fd)
            sync_directory(self.path.absolute().parent)
        self._first = self._end

    def _cut(self, first: int) -> None:
        """Go on behind the last whole line; the first stands at byte ``first``."""
        self._first, self._end = first, _whole_lines(self._fd)
        os.ftruncate(self._fd, self._end)

    def refused(self, number: int | None, reason: str) -> BadFile:
        """The error for a file, or its line ``number``, that cannot be continued."""
        where = self.path if number is None else f"{self.path}:{number}"
        return BadFile(f"{where}: {reason}; {self._advice}", file=self.path)

    def lines(self) -> Iterator[Line]:
        """What is there, in the order in which it was appended, without the header; BadFile names a line of no JSON."""
        return _lines(self.path, self._fd, self._first, self._end, f"; {self._advice}", self._longest)

    def read(self, place: int) -> Any:
        """The value of one line."""
        return next(_lines(self.path, self._fd, place, self._end, longest=self._longest, size=4096)).value

    def append(self, value: object) -> int:
        """Add a line, which stays whatever happens to this process; gives its place, or BadFile if it cannot."""
        place, line = self._end, dump_line(value)
        end = place + len(line)
        with bad_file(self.path, "cannot be written"):
            if self._torn:
                os.ftruncate(self._fd, self._end)
            self._torn = True
            while line:
                line = line[os.write(self._fd, line) :]
        self._end = end  # an interrupt here has the next line take this one's place, not stand behind it
        self._torn = False
        return place


@contextmanager
def reading(path: Path, kind: str | None, version: int) -> Iterator[tuple[dict[str, Any], Iterator[Line]]]:
    """The header and the lines of a journal that is not to be changed; a last line that is torn is passed over.

    Without a ``kind`` the header is empty, and the first line one like the others.

    Raises:
        BadFile: no such journal, a damaged line (while it is iterated), or it cannot be read.
        Busy: in use by another process.
    """
    with open_regular(path) as file:
        fd = file.fileno()
        lock(fd, path, shared=True)
        line = b"" if kind is None else _first_line(fd)
        header: Any = {} if kind is None else _parse(path, 1, line) if line.endswith(b"\n") else None
        if not isinstance(header, dict) or (kind is not None and header.get(kind) != version):
            raise BadFile.of(path, f"not the beginning of {kind}", key=kind, expected=version)
        yield header, _lines(path, fd, len(line), _whole_lines(fd))


def has_header(path: Path) -> bool | None:
    """Whether a journal's first line is whole, and others can depend on it; None where there is no file."""
    if not path.exists():
        return None
    with open_regular(path) as file:
        return _first_line(file.fileno()).endswith(b"\n")


def difference(found: Header, wanted: Header, digests: Mapping[str, str], owner: str) -> str | None:
    """The first setting in which two headers differ: "ctx 512, this run has 4096", where ``owner`` is "this run has".

    ``digests`` as in :class:`Journal`; None as in :func:`first_difference`.
    """
    first = first_difference(found, wanted)
    if first is None:
        return None
    key, theirs, ours = first
    parent, _, name = key.rpartition(".")
    if name in digests:
        return digests[name] + (f" in {parent}" if parent else "")
    theirs, ours = ("none" if value is None else value for value in (theirs, ours))
    return f"{key} {theirs}, {owner} {ours}"


def first_difference(found: Header, wanted: Header) -> tuple[str, object, object] | None:
    """The first of ``wanted``'s settings that ``found`` has otherwise: its name, and what both have, None for nothing.

    Settings within settings have dotted names. None where they mean the same: a setting that is None, or holds none, is
    as good as one that is not there.

    Examples:
        >>> first_difference({"seed": 1, "heads": {"width": 4}}, {"seed": 1, "heads": {"width": 8}})
        ('heads.width', 4, 8)
    """
    flat_found, flat_wanted = _flat(found), _flat(wanted)
    pairs = ((".".join(k), flat_found.get(k), flat_wanted.get(k)) for k in {**flat_wanted, **flat_found})
    return next((pair for pair in pairs if pair[1] != pair[2]), None)


def _flat(values: Header, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Nested settings under the names that lead to them."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, (*above, key))
        else:
            flat[(*above, key)] = value
    return flat


# ---- bytes ----


def _parse(path: Path, number: int, line: bytes, advice: str = "") -> Any:
    try:
        return parse_line(line)
    except InvalidInput as e:
        raise BadFile(f"{path}:{number}: damaged: {e}{advice}", file=path) from e


def _first_line(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as f:
        f.seek(0)
        return f.readline(_BLOCK)


def _lines(
    path: Path, fd: int, place: int, end: int, advice: str = "", longest: int = MAX_JSON, size: int | None = None
) -> Iterator[Line]:
    """The lines from byte ``place`` on, where line 2 begins, or line 1 at byte 0, up to byte ``end``.

    ``size`` bytes are read first, then more and more.
    """
    number, at = 1 + (place > 0), place
    parts, n = list[bytes](), 0  # of the line that goes on, and their bytes
    size = size or _BLOCK
    while at < end and (block := read_at(fd, min(size, end - at), at)):
        at, size = at + len(block), min(2 * size, _BLOCK)
        lines, (first, *others) = list[bytes](), block.split(b"\n")
        parts.append(first)
        n += len(first)
        if others:
            *lines, rest = b"".join(parts), *others
            parts, n = [rest], len(rest)
        if n > longest:
            raise BadFile(f"{path}:{number + len(lines)}: longer than {longest} bytes{advice}", file=path)
        for line in lines:
            yield Line(number, place, _parse(path, number, line, advice))
            number, place = number + 1, place + len(line) + 1


def _whole_lines(fd: int) -> int:
    """Bytes of a file up to the end of its last line; what follows was being written when a run was killed."""
    end = os.fstat(fd).st_size
    while end:
        start = max(0, end - _BLOCK)
        found = read_at(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
