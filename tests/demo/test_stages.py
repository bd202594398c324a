"""Stages that keep their results."""

from __future__ import annotations

from pathlib import Path

import pytest
from stages import Stages, verb

from autodeco_gguf.model.shipped import DEMO_MODEL


def test_a_stage_is_done_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "work" / "result"
    for _ in range(2):
        stages = Stages(tmp_path / "work")
        stages.run("count", result, lambda: result.write_text(result.read_text() + "x" if result.exists() else "x"))
    assert result.read_text() == "x"
    assert list(stages.seconds) == ["count"]
    assert capsys.readouterr().out.splitlines()[-1] == "count: done before"


def test_a_verb_runs_whatever_stands_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "autodeco_gguf").mkdir()
    (tmp_path / "autodeco_gguf" / "__init__.py").write_text('raise ImportError("not this one")\n')
    monkeypatch.chdir(tmp_path)
    verb("inspect", DEMO_MODEL)
    assert "merged" in capfd.readouterr().out
