"""Fixtures: graders that are made up, and an evaluation that nothing disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_engine import FakeGrader, fake_stream, run

from autodeco_gguf.answers import items
from autodeco_gguf.evaluation import forced


@pytest.fixture(autouse=True)
def _grader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "Grader", FakeGrader)
    monkeypatch.setattr(FakeGrader, "FAILS", frozenset())
    monkeypatch.setattr(FakeGrader, "graded", 0)


@pytest.fixture
def made_up_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model that is made up says of given answers."""
    monkeypatch.setattr(forced, "stream", fake_stream)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(items, "Grader", FakeGrader)
        run(directory)
    return directory
