"""The engine that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_helpers import make

from autodeco_gguf.engine.engine import Engine


@pytest.fixture(scope="module")
def engine(merged: Path) -> Iterator[Engine]:
    engine = make(merged, n_parallel=8)
    yield engine
    engine.close()
