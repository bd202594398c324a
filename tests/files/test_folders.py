"""A user's folders, by the XDG Base Directory specification."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodeco_gguf.files.folders import user_folder


@pytest.mark.parametrize(("kind", "default"), [("cache", ".cache"), ("config", ".config"), ("state", ".local/state")])
def test_what_the_environment_says_or_below_home(
    kind: str, default: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for ignored in ("", "relative/path"):
        monkeypatch.setenv(f"XDG_{kind.upper()}_HOME", ignored)
        assert user_folder(kind) == tmp_path / default / "autodeco-gguf"  # type: ignore[arg-type]
    monkeypatch.setenv(f"XDG_{kind.upper()}_HOME", str(tmp_path / "own"))
    assert user_folder(kind) == tmp_path / "own" / "autodeco-gguf"  # type: ignore[arg-type]
