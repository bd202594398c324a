"""Fixtures: graders that are made up."""

from __future__ import annotations

import pytest
from fake_engine import FakeGrader

from autodeco_gguf.answers import items


@pytest.fixture(autouse=True)
def _grader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "Grader", FakeGrader)
    monkeypatch.setattr(FakeGrader, "FAILS", frozenset())
    monkeypatch.setattr(FakeGrader, "graded", 0)
