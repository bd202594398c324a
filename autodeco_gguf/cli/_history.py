"""What was typed in earlier chats, in a file of the user's own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from autodeco_gguf.errors import BadFile, as_utf8
from autodeco_gguf.files.atomic import write_bytes
from autodeco_gguf.files.system import open_bytes, set_mode

_MAX_BYTES = 4 << 20
"""Beyond it the older half goes."""


def open_history(path: Path | None) -> History:
    """The lines of a file, to which new ones are added; where that cannot be, a note, and those of this chat alone.

    Args:
        path: read and written by its owner alone from now on; None: keep nothing.
    """
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(path)
        _shorten(path)
    except BadFile as e:
        why = str(e)
    except (OSError, RuntimeError) as e:
        why = f"{path}: {getattr(e, 'strerror', None) or e}"
    else:
        return _Private(path)
    click.echo(f"history: {why}; nothing is kept", err=True)
    return InMemoryHistory()


class _Private(FileHistory):
    """prompt_toolkit's file, for its owner alone; what cannot be written is not kept, and no reason to end a chat."""

    def store_string(self, string: str) -> None:
        """Add a message, whatever its characters."""
        path = Path(os.fspath(self.filename))  # type: ignore[arg-type]
        try:
            _make_private(path)
            super().store_string(as_utf8(string))
        except OSError as e:
            click.echo(f"history: {path}: {e.strerror or e}; the message is not kept", err=True)

    def load_history_strings(self) -> Iterable[str]:
        """The messages, the newest first."""
        try:
            return list(super().load_history_strings())
        except OSError:  # it has gone since
            return []


def _make_private(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise OSError(0, "is no regular file")
    fd = open_bytes(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        if os.fstat(fd).st_mode & 0o077:
            set_mode(fd, 0o600)
    finally:
        os.close(fd)


def _shorten(path: Path) -> None:
    """Leave the newer half of a file that has grown too large, from the beginning of an entry on."""
    size = path.stat().st_size
    if size <= _MAX_BYTES:
        return
    with path.open("rb") as f:
        f.seek(-(_MAX_BYTES // 2), os.SEEK_END)
        tail = f.read()
    write_bytes(path, tail[tail.find(b"\n# ") + 1 :])
