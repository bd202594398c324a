"""What stands in for calls that a system lacks; signals that wait for what cannot bear them."""

from __future__ import annotations

import errno
import os
import signal
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from broken import spawn

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


def test_a_directory_that_may_be_written_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", refuse)  # root may read any
    system.sync_directory(tmp_path)


def test_the_signal_of_a_terminal_that_goes() -> None:
    assert signal.SIGHUP == system.HANGUP


# ---- signals that wait ----


def test_a_signal_comes_when_it_has_waited() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    reached = []

    def interrupted() -> None:
        with system.signals_wait():
            signal.raise_signal(signal.SIGINT)
            reached.append(1)

    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert (reached, signal.getsignal(signal.SIGINT)) == ([1], signal.default_int_handler)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with system.signals_wait():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_fails_meanwhile_is_said_where_no_signal_comes() -> None:
    with pytest.raises(ImportError, match="no torch"), system.signals_wait():
        raise ImportError("no torch")


def test_in_another_thread_nothing_waits() -> None:
    found = []

    def run() -> None:
        with system.signals_wait():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


TORCH = """
import os, signal
try:
    signal.raise_signal(signal.SIGTERM)
except SystemExit:  # torch's C++ says terminate() here
    os._exit(99)
"""

IMPORTERS = {
    "train": "from autodeco_gguf.cli.train import train_command; train_command(['x', '--data', 'd', '-o', 'o'])",
    "tune": "from autodeco_gguf.tuning.heads import train_heads; train_heads(*[None] * 8)",
    "a .bin": "from autodeco_gguf.heads.checkpoint import _read_bin; next(_read_bin('x.bin'))",
}


@pytest.mark.parametrize("importer", IMPORTERS.values(), ids=IMPORTERS)
def test_a_signal_waits_while_torch_is_imported(importer: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(TORCH)
    code = f"import signal, sys; sys.path.insert(0, {str(tmp_path)!r}); "
    code += f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); {importer}"
    assert spawn(python=("-c", code)).status == 5
