"""Files written so that a failure leaves the old one, and what is checked before any work for them begins."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from autodeco_gguf.errors import AutoDecoError, BadFile

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while tensor data is copied."""

_COPY_BYTES = 4 << 20


def copy_range(source: Path, offset: int, nbytes: int, out: BinaryIO, step: Callable[[int], None]) -> None:
    """Append bytes of a file to an open one, in bounded memory; step gets the size of every piece.

    Raises:
        BadFile: the source cannot be read, or ends early.
    """
    buffer = memoryview(bytearray(min(nbytes, _COPY_BYTES)))
    try:
        f = source.open("rb", buffering=0)
    except OSError as e:
        raise BadFile.of(source, f"cannot be read: {e.strerror}") from e
    with f:
        f.seek(offset)
        while nbytes:
            n = f.readinto(buffer[: min(nbytes, len(buffer))])
            if not n:
                raise BadFile.of(source, "ended while it was copied")
            out.write(buffer[:n])
            step(n)
            nbytes -= n


def check_output(path: Path, *, inputs: Iterable[Path] = (), force: bool = False) -> None:
    """Refuse an output file that is an input under any name, that exists without force, or that cannot be made.

    Raises:
        BadFile: refused.
    """
    same = same_file([path], inputs)
    if same is not None:
        raise BadFile.of(path, f"is the input {same[1]}; choose another output")
    if path.is_dir():
        raise BadFile.of(path, "is a directory; give a file name")
    if path.exists() and not path.is_file():
        raise BadFile.of(path, "is no regular file; give another name")
    check_new([path], force=force)
    _check_parent(path)


def check_directory(path: Path) -> None:
    """Refuse an output directory that is a file, or that cannot be made.

    Raises:
        BadFile: refused.
    """
    if path.exists() and not path.is_dir():
        raise BadFile.of(path, "is a file; give a directory")
    _check_parent(path)


def check_new(paths: Iterable[Path], *, force: bool) -> None:
    """Refuse to replace files that exist, without force.

    Raises:
        BadFile: one exists.
    """
    for path in paths:
        if path.exists() and not force:
            raise BadFile.of(path, "exists; use --force to replace it")


def same_file(paths: Iterable[Path], others: Iterable[Path]) -> tuple[Path, Path] | None:
    """The first of some paths that is one of the others under any name, and which; None where none is."""
    there = [other for other in others if other.exists()]
    return next(((p, other) for p in paths if p.exists() for other in there if p.samefile(other)), None)


def _check_parent(path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise BadFile.of(path, f"no such directory as {parent}")


def write_atomically(path: Path, write: Callable[[BinaryIO], None], verify: Callable[[Path], None]) -> None:
    """Write a file so that, whatever happens, path holds the old content or all of the new.

    A temporary file in the same directory is written, synced, checked with ``verify`` and renamed; on any
    error, an interrupt included, it is removed.

    Raises:
        BadFile: the directory cannot be written or is full.
        AutoDecoError: what ``write`` and ``verify`` raise.
    """
    path = path.absolute()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666), "wb") as f:
                write(f)
                if path.exists():
                    os.fchmod(f.fileno(), path.stat().st_mode & 0o7777)
                f.flush()
                os.fsync(f.fileno())
            verify(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except AutoDecoError as e:  # of what was written, under the name it was to have
        e.args = (str(e).replace(str(temporary), str(path)),)
        e.file = str(path) if e.file == str(temporary) else e.file
        raise
    except OSError as e:
        raise BadFile.of(path, f"cannot be written: {e.strerror or e}") from e


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a small file atomically.

    Raises:
        BadFile: it cannot be written.
    """

    def write(f: BinaryIO) -> None:
        f.write(content)

    write_atomically(path, write, lambda _: None)
