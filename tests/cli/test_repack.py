"""The command repack: what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken import assert_refused, invoke

import autodeco_gguf as ad


def test_repack_says_what_it_did(merged: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = ad.extract(merged, base=tmp_path / "b.gguf")[0].path
    outcome = invoke(capfd, "repack", merged)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", f"{merged}: the base view is fresh\n")
    assert_refused(invoke(capfd, "repack", base), base, "no AutoDeco heads in it")


def test_a_file_is_called_as_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = invoke(capfd, "repack", "smollm2")
    assert outcome.err == "error: smollm2: cannot be opened: No such file or directory\n"


def test_a_link_to_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "loop.gguf"
    path.symlink_to(path.name)
    assert_refused(invoke(capfd, "repack", path), path, "cannot be opened")
    extract = invoke(capfd, "extract", path, "--base", path, "--adapter", tmp_path / "a.gguf")
    assert_refused(extract, path, "cannot be opened")
