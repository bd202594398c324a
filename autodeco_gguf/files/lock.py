"""Locks that tell whether another process uses a file or a directory; they end with the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autodeco_gguf.errors import Busy


def lock(fd: int, path: Path, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False where there are no locks: on Windows, on some file systems.

    Raises:
        Busy: another process has it, or another open file of this one, and it is not to be waited for.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as e:
        reason = "in use by another run; wait for its end, or choose another output"
        raise Busy(f"{path}: {reason}", file=path) from e
    except OSError:
        return False
    return True


@contextmanager
def locked(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Inside it no other process is inside with the same directory; Busy where one is, unless it is to be waited for.

    Raises OSError for a directory that cannot be opened.
    """
    if os.name == "nt":  # where directories are not opened
        yield
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        lock(fd, directory, wait=wait)
        yield
    finally:
        os.close(fd)
