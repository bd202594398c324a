"""What Windows lacks of the modules ``os`` and ``signal``, and what is done there instead; signals that wait."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

HANGUP: Final[signal.Signals] = getattr(signal, "SIGHUP", signal.SIGTERM)
"""The terminal has gone; where there is no such signal, the one that ends a process."""

_BYTES: Final[int] = getattr(os, "O_BINARY", 0)


def open_bytes(path: Path, flags: int, mode: int = 0o666) -> int:
    """``os.open``, whose bytes are those of the file: on Windows newlines would be changed."""
    return os.open(path, flags | _BYTES, mode)


def set_mode(fd: int, mode: int) -> None:
    """Set the permissions of an open file, where it has some of this kind."""
    if hasattr(os, "fchmod"):
        os.fchmod(fd, mode)


def read_at(fd: int, n: int, at: int) -> bytes:
    """Up to n bytes of an open file from byte ``at`` on; where it is read and written next is not said."""
    if hasattr(os, "pread"):
        return os.pread(fd, n, at)
    os.lseek(fd, at, os.SEEK_SET)
    return os.read(fd, n)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory reach the disk, where directories can be opened and the file system does that."""
    if os.name == "nt":
        return
    try:
        fd = os.open(directory, os.O_RDONLY)
    except PermissionError:  # files may be made in it, and it not be read
        return
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # of vboxsf, and of some FUSE and SMB mounts
            raise
    finally:
        os.close(fd)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Have the signals that end a command come at the end of it; in the main thread alone, which gets them.

    For what cannot bear what a handler raises: torch, while it is imported, has C++ end the process.
    """
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, HANGUP)}
    if threading.current_thread() is not threading.main_thread():
        handlers.clear()

    def come() -> None:
        for number in came:
            signal.raise_signal(number)

    with ExitStack() as stack:
        stack.callback(come)
        for number, handler in handlers.items():  # SIGINT first, which comes back last: it may come at once
            if callable(handler):
                stack.callback(signal.signal, number, handler)
                signal.signal(number, lambda number, frame: came.append(number))
        yield
