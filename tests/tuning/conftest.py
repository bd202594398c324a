"""Fixtures: an engine that is made up."""

from __future__ import annotations

import pytest
from tuning_helpers import prepare


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing is loaded, measured or trained any more."""
    prepare(monkeypatch)
    return monkeypatch
