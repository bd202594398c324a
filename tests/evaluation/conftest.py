"""Fixtures: graders that are made up, and an evaluation that nothing disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_engine import FakeGrader, run

from autodeco_gguf.answers import items


@pytest.fixture(autouse=True)
def _grader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "Grader", FakeGrader)
    monkeypatch.setattr(FakeGrader, "FAILS", frozenset())
    monkeypatch.setattr(FakeGrader, "graded", 0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(items, "Grader", FakeGrader)
        run(directory)
    return directory
