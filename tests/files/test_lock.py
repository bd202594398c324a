"""Locks between runs."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from pathlib import Path

import pytest

from autodeco_gguf.errors import Busy
from autodeco_gguf.files.lock import lock, locked


def test_a_lock_is_held_until_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    with path.open() as first, path.open() as second:
        assert lock(first.fileno(), path)
        for shared in (False, True):
            with pytest.raises(Busy, match=r"x: in use by another run; wait for its end, or choose") as error:
                lock(second.fileno(), path, shared=shared)
        assert error.value.file == str(path)
        first.close()
        assert lock(second.fileno(), path)


def test_readers_share(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    with path.open() as first, path.open() as second:
        assert lock(first.fileno(), path, shared=True)
        assert lock(second.fileno(), path, shared=True)


def test_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    with (tmp_path / "x").open("w") as f:
        monkeypatch.setattr(fcntl, "flock", flock)
        assert not lock(f.fileno(), tmp_path / "x")
        monkeypatch.setitem(sys.modules, "fcntl", None)
        assert not lock(f.fileno(), tmp_path / "x")


def test_a_locked_directory(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Busy, match="in use by another run"), locked(tmp_path):
        pass
    with locked(tmp_path):
        assert os.listdir(tmp_path) == []


def test_a_directory_that_is_waited_for(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with locked(tmp_path, wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
