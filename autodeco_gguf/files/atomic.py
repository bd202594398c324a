"""Files written so that a failure leaves the old one, and what is checked before any work for them begins."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from autodeco_gguf.errors import AutoDecoError, BadFile

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while tensor data is copied."""

_COPY_BYTES = 4 << 20


@contextmanager
def bad_file(path: Path, what: str) -> Iterator[None]:
    """Inside it an ``OSError`` becomes the BadFile of a path: "PATH: cannot be read: Permission denied"."""
    try:
        yield
    except OSError as e:
        raise BadFile.of(path, f"{what}: {e.strerror or e}") from e


def copy_range(source: Path, offset: int, nbytes: int, out: BinaryIO, step: Callable[[int], None]) -> None:
    """Append bytes of a file to an open one, in bounded memory; step gets the size of every piece.

    Raises BadFile where the source cannot be read, or ends early.
    """
    buffer = memoryview(bytearray(min(nbytes, _COPY_BYTES)))
    with bad_file(source, "cannot be read"):
        f = source.open("rb", buffering=0)
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
    """Raise BadFile for an output that is an input under any name, that exists without force, or cannot be made."""
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
    """Raise BadFile for an output directory that is a file, or that cannot be made."""
    if path.exists() and not path.is_dir():
        raise BadFile.of(path, "is a file; give a directory")
    _check_parent(path)


def check_new(paths: Iterable[Path], *, force: bool) -> None:
    """Raise BadFile where files that exist would be replaced without force."""
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


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], verify: Callable[[Path], object] = lambda _: None
) -> None:
    """Write a file so that, whatever happens, path holds the old content or all of the new.

    A temporary file in the same directory is written, synced, checked with ``verify`` and renamed; on any
    error, an interrupt included, it is removed.

    Raises:
        BadFile: the directory cannot be written or is full.
        AutoDecoError: what ``write`` and ``verify`` raise.
    """
    path = path.absolute()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with bad_file(path, "cannot be written"):
        try:
            with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666), "wb") as f:
                write(f)
                if path.exists():
                    os.fchmod(f.fileno(), path.stat().st_mode & 0o7777)
                f.flush()
                os.fsync(f.fileno())
            verify(temporary)
            os.replace(temporary, path)
        except AutoDecoError as e:  # of what was written, under the name it was to have
            e.args = (str(e).replace(str(temporary), str(path)),)
            e.file = str(path) if e.file == str(temporary) else e.file
            raise
        finally:
            temporary.unlink(missing_ok=True)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a small file atomically; BadFile where it cannot be written."""
    write_atomically(path, lambda f: f.write(content))
