"""The stages of making the demo model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks import stories

pytest.importorskip("torch")
pytest.importorskip("transformers")
import make


def test_a_stage_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make, "WORK", tmp_path)
    result = tmp_path / "result"
    for _ in range(2):
        make.stage("count", result, lambda: result.write_text(result.read_text() + "x" if result.exists() else "x"))
    assert result.read_text() == "x"
    assert list(json.loads((tmp_path / "seconds.json").read_text())) == ["count"]
    assert capsys.readouterr().out.splitlines()[-1] == "count: done before"


def test_problems_are_of_pairs_that_pre_training_saw(tmp_path: Path) -> None:
    make.write_problems(tmp_path / "p.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == make.PROBLEMS
    pairs = [tuple(map(int, line["answer"].split()[1:])) for line in lines]
    assert not set(pairs) & set(stories.pairs(True))


def test_a_verb_runs_whatever_stands_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "autodeco_gguf").mkdir()
    (tmp_path / "autodeco_gguf" / "__init__.py").write_text('raise ImportError("not this one")\n')
    monkeypatch.chdir(tmp_path)
    make.verb("inspect", DEMO_MODEL)
    assert "merged" in capfd.readouterr().out
