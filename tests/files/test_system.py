"""What stands in for calls that a system lacks."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest

from autodeco_gguf.files import system


@pytest.mark.parametrize("lacking", [False, True])
def test_bytes_at_a_place(lacking: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking:
        monkeypatch.delattr(os, "pread")
    path = tmp_path / "x"
    path.write_bytes(b"0123\r\n789")
    fd = system.open_bytes(path, os.O_RDONLY)
    assert [system.read_at(fd, 3, at) for at in (4, 0, 8, 9)] == [b"\r\n7", b"012", b"9", b""]
    os.close(fd)


def test_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    fd = system.open_bytes(path, os.O_CREAT | os.O_RDWR, 0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    system.set_mode(fd, 0o640)
    assert path.stat().st_mode & 0o777 == 0o640
    monkeypatch.delattr(os, "fchmod")
    system.set_mode(fd, 0o600)
    assert path.stat().st_mode & 0o777 == 0o640
    os.close(fd)


def test_a_directory_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    system.sync_directory(tmp_path)
    assert synced == [str(tmp_path)]


@pytest.mark.parametrize(("code", "passes"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_that_syncs_no_directory(
    code: int, passes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with nullcontext() if passes else pytest.raises(OSError, match="Input/output error"):
        system.sync_directory(tmp_path)


def test_the_signal_of_a_terminal_that_goes() -> None:
    assert signal.SIGHUP == system.HANGUP
