"""The file of what was typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.history import InMemoryHistory

from autodeco_gguf.cli import _history
from autodeco_gguf.cli._history import open_history
from autodeco_gguf.errors import BadFile

Capture = pytest.CaptureFixture[str]


def test_lines_come_back_the_newest_first(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "history"
    for line in ("one", "two\nlines", "caf\udce9"):
        open_history(path).append_string(line)
    assert list(open_history(path).load_history_strings()) == ["caf\ufffd", "two\nlines", "one"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_where_nothing_can_be_kept_the_chat_goes_on(tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "file").write_text("")
    for path, why in ((tmp_path / "file" / "history", "Not a directory|File exists"), (tmp_path, "is no regular file")):
        history = open_history(path)
        history.append_string("one")
        assert isinstance(history, InMemoryHistory)
        err = capfd.readouterr().err
        assert any(part in err for part in why.split("|")), err
        assert err.count("\n") == 1
    assert isinstance(open_history(None), InMemoryHistory)


def test_the_older_half_goes_when_it_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_history, "_MAX_BYTES", 4000)
    path = tmp_path / "history"
    for i in range(200):
        open_history(path).append_string(f"message {i}")
    kept = list(open_history(path).load_history_strings())
    assert kept == [f"message {i}" for i in range(199, 199 - len(kept), -1)]
    assert 20 < len(kept) < 110
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_half_of_a_message_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the newer half of the file begins amid a message of several lines."""
    path = tmp_path / "history"
    content = "".join(f"\n# 2026-11-29 12:00:00\n+first {i}\n+second {i}\n" for i in range(10, 50))
    path.write_text(content)
    path.chmod(0o644)
    newer = len(content) - content.index("+second 30")
    monkeypatch.setattr(_history, "_MAX_BYTES", 2 * newer)
    assert list(open_history(path).load_history_strings()) == [f"first {i}\nsecond {i}" for i in range(49, 30, -1)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_goes_away_is_no_reason_to_end(tmp_path: Path, capfd: Capture) -> None:
    history = open_history(tmp_path / "x" / "history")
    (tmp_path / "x" / "history").unlink()
    (tmp_path / "x").rmdir()
    history.append_string("one")
    assert "the message is not kept" in capfd.readouterr().err
    assert list(history.load_history_strings()) == []
    (tmp_path / "x" / "history").mkdir(parents=True)  # no file any more
    assert list(history.load_history_strings()) == []


def test_a_file_that_others_could_read_is_the_owner_s_from_now_on(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text("")
    path.chmod(0o644)
    history = open_history(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o666)
    history.append_string("one")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_history_that_cannot_be_shortened_is_no_reason_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    path = tmp_path / "history"
    path.write_text("\n# 2026-11-29 12:00:00\n+hello\n")

    def full(path: Path, content: bytes) -> None:
        raise BadFile.of(path, "cannot be written: No space left on device")

    monkeypatch.setattr(_history, "_MAX_BYTES", 4)
    monkeypatch.setattr(_history, "write_bytes", full)
    assert isinstance(open_history(path), InMemoryHistory)
    why = "cannot be written: No space left on device; nothing is kept"
    assert capfd.readouterr().err == f"history: {path}: {why}\n"
