"""Files that keep what a long run has finished, a JSON line each, so that the next run goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from autodeco_gguf.errors import AutoDecoError, BadFile, Busy
from autodeco_gguf.files.jsonl import dump_line, parse_line

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

    A file that is there already is continued: its header has to be the same, and a last line that was being written
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
        header: Header,
        *,
        advice: str = "delete it to begin anew",
        digests: Mapping[str, str] | None = None,
        force: bool = False,
    ) -> None:
        """Prepare to open ``path``.

        Args:
            path: the file; made where it is not there.
            header: compared with that of an existing file.
            advice: how to go on, the end of every message about a file that cannot be continued.
            digests: header keys whose values tell a reader nothing -> what to say where they differ
                (``{"model": "another model"}``); a nested one is found by the last part of its name.
            force: begin anew where the header differs.
        """
        self.path = path
        self._header: dict[str, Any] = json.loads(dump_line(header))  # as it will be read: lists for tuples
        self._advice, self._digests, self._force = advice, digests or {}, force
        self._fd, self._first, self._end = -1, 0, 0

    def __enter__(self) -> Journal:
        """Open or make the file.

        Raises:
            BadFile: begun with other settings, and which; not such a file; it cannot be opened.
            Busy: in use by another process.
        """
        try:
            self._fd = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o666)
        except OSError as e:
            raise BadFile.of(self.path, f"cannot be written: {e.strerror or e}") from e
        try:
            _lock(self._fd, self.path, shared=False)
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        self._fd = -1

    def _open(self) -> None:
        header = dump_line(self._header)
        line = _first_line(self._fd)
        if line.endswith(b"\n") and self._same(line):
            self._first, self._end = len(line), _whole_lines(self._fd)
            os.ftruncate(self._fd, self._end)
            return
        torn = not line.endswith(b"\n") and header.startswith(line[: len(self._mark)])
        if not (torn or self._force):
            raise self.refused(None, f"not the beginning of {self._kind}")
        os.ftruncate(self._fd, 0)
        self.append(self._header)
        self._first = self._end

    @property
    def _kind(self) -> str:
        return next(iter(self._header))

    @property
    def _mark(self) -> bytes:
        """How a file of this kind begins, whatever its settings."""
        return dump_line({self._kind: self._header[self._kind]})[:-2]

    def _same(self, line: bytes) -> bool:
        """Whether the first line is our header; False where other settings are to be replaced."""
        try:
            found = parse_line(line)
        except AutoDecoError:
            found = None
        if found == self._header or self._force:
            return bool(found == self._header)
        if not isinstance(found, dict) or found.get(self._kind) != self._header[self._kind]:
            raise self.refused(None, f"not the beginning of {self._kind}")
        raise self.refused(None, f"begun with {difference(found, self._header, self._digests, 'this run has')}")

    def refused(self, number: int | None, reason: str) -> BadFile:
        """The error for a file, or its line ``number``, that cannot be continued."""
        where = self.path if number is None else f"{self.path}:{number}"
        return BadFile(f"{where}: {reason}; {self._advice}", file=self.path)

    def lines(self) -> Iterator[Line]:
        """What is there, in the order in which it was appended, without the header.

        Raises:
            BadFile: a line that is no JSON, named as file:line.
        """
        for number, place, line in _numbered(self._fd, self._first, self._end):
            try:
                yield Line(number, place, parse_line(line))
            except AutoDecoError as e:
                raise self.refused(number, f"damaged: {e}") from e

    def read(self, place: int) -> Any:
        """The value of one line."""
        _, _, line = next(_numbered(self._fd, place, self._end))
        return parse_line(line)

    def append(self, value: object) -> int:
        """Add a line, which stays whatever happens to this process; gives its place.

        Raises:
            BadFile: it cannot be written.
        """
        place, line = self._end, dump_line(value)
        try:
            _write(self._fd, line)
        except OSError as e:
            raise BadFile.of(self.path, f"cannot be written: {e.strerror or e}") from e
        self._end += len(line)
        return place


@contextmanager
def reading(path: Path, kind: str, version: int) -> Iterator[tuple[dict[str, Any], Iterator[Line]]]:
    """The header and the lines of a journal that is not to be changed; a last line that is torn is passed over.

    Raises:
        BadFile: no such journal, a damaged line (while it is iterated), or it cannot be read.
        Busy: in use by another process.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as e:
        raise BadFile.of(path, f"cannot be read: {e.strerror or e}") from e
    try:
        _lock(fd, path, shared=True)
        line = _first_line(fd)
        header = _parse(path, 1, line) if line.endswith(b"\n") else None
        if not isinstance(header, dict) or header.get(kind) != version:
            raise BadFile.of(path, f"not the beginning of {kind}", key=kind, expected=version)
        numbered = _numbered(fd, len(line), _whole_lines(fd))
        yield header, (Line(number, place, _parse(path, number, data)) for number, place, data in numbered)
    finally:
        os.close(fd)


def difference(found: Header, wanted: Header, digests: Mapping[str, str], owner: str) -> str:
    """The first setting in which two headers differ: "ctx 512, this run has 4096", where ``owner`` is "this run has".

    ``digests`` as in :class:`Journal`.
    """
    key, theirs, ours = first_difference(found, wanted)
    parent, _, name = key.rpartition(".")
    if name in digests:
        return digests[name] + (f" in {parent}" if parent else "")
    return f"{key} {_shown(theirs)}, {owner} {_shown(ours)}"


def first_difference(found: Header, wanted: Header) -> tuple[str, Any, Any]:
    """The first of ``wanted``'s settings that ``found`` has otherwise: its name, and what both have, None for nothing.

    Settings within settings have dotted names.

    Examples:
        >>> first_difference({"seed": 1, "heads": {"width": 4}}, {"seed": 1, "heads": {"width": 8}})
        ('heads.width', 4, 8)
    """
    flat_found, flat_wanted = _flat(found), _flat(wanted)
    key = next(k for k in {**flat_wanted, **flat_found} if flat_found.get(k) != flat_wanted.get(k))
    return key, flat_found.get(key), flat_wanted.get(key)


def _flat(values: Header, prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


# ---- bytes ----


def _parse(path: Path, number: int, line: bytes) -> Any:
    try:
        return parse_line(line)
    except AutoDecoError as e:
        raise BadFile(f"{path}:{number}: damaged: {e}", file=path) from e


def _first_line(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as f:
        f.seek(0)
        return f.readline(_BLOCK)


def _numbered(fd: int, place: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """Number, place and bytes of the lines from byte ``place`` on, where line 2 begins, up to byte ``end``."""
    number, rest, at = 2, b"", place
    while at < end and (block := os.pread(fd, min(_BLOCK, end - at), at)):
        at += len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield number, place, line
            number, place = number + 1, place + len(line) + 1


def _whole_lines(fd: int) -> int:
    """Bytes of a file up to the end of its last line; what follows was being written when a run was killed."""
    end = os.fstat(fd).st_size
    while end:
        start = max(0, end - _BLOCK)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _lock(fd: int, path: Path, *, shared: bool) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two runs are not told apart there
        return
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as e:
        reason = "in use by another run; wait for its end, or choose another output"
        raise Busy(f"{path}: {reason}", file=path) from e
    except OSError:  # a file system without locks
        return
