"""GGUF headers and the bytes behind them, read and written without trusting either."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from autodeco_gguf.errors import AutoDecoError

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while tensor data is copied."""

_COPY_BYTES = 4 << 20


def copy_range(source: Path, offset: int, nbytes: int, out: BinaryIO, step: Callable[[int], None]) -> None:
    """Append bytes of a file to an open one, in bounded memory; step gets the size of every piece.

    Raises:
        AutoDecoError: the source ends early.
    """
    buffer = memoryview(bytearray(min(nbytes, _COPY_BYTES)))
    try:
        f = source.open("rb", buffering=0)
    except OSError as e:
        raise AutoDecoError(f"{source}: cannot be read: {e.strerror}") from e
    with f:
        f.seek(offset)
        while nbytes:
            n = f.readinto(buffer[: min(nbytes, len(buffer))])
            if not n:
                raise AutoDecoError(f"{source}: ended while it was copied")
            out.write(buffer[:n])
            step(n)
            nbytes -= n


def check_output(path: Path, *, inputs: Iterable[Path], force: bool) -> None:
    """Refuse an output that is an input under any name, that exists without force, or that cannot be made.

    Raises:
        AutoDecoError: refused.
    """
    if path.exists():
        for source in inputs:
            if source.exists() and path.samefile(source):
                raise AutoDecoError(f"{path}: is the input {source}; choose another output")
        if path.is_dir():
            raise AutoDecoError(f"{path}: is a directory; give a file name")
        if not path.is_file():
            raise AutoDecoError(f"{path}: is no regular file; give another name")
        if not force:
            raise AutoDecoError(f"{path}: exists; use --force to replace it")
    if not path.absolute().parent.is_dir():
        raise AutoDecoError(f"{path}: no such directory as {path.absolute().parent}")


def write_atomically(path: Path, write: Callable[[BinaryIO], None], verify: Callable[[Path], None]) -> None:
    """Write a file so that, whatever happens, path holds the old content or all of the new.

    A temporary file in the same directory is written, synced, checked with ``verify`` and renamed; on any
    error, an interrupt included, it is removed.

    Raises:
        AutoDecoError: the directory cannot be written or is full; what ``write`` and ``verify`` raise.
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
    except AutoDecoError as e:
        raise AutoDecoError(str(e).replace(str(temporary), str(path))) from e
    except OSError as e:
        raise AutoDecoError(f"{path}: cannot be written: {e.strerror or e}") from e


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a small file atomically.

    Raises:
        AutoDecoError: it cannot be written.
    """

    def write(f: BinaryIO) -> None:
        f.write(content)

    write_atomically(path, write, lambda _: None)
