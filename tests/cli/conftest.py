"""What the tests of several commands need."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Case

import autodeco_gguf as ad


@pytest.fixture(scope="session")
def adapter(qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "adapter.gguf"
    ad.export(qwen2.base, qwen2.heads, path, adapter=True)
    return path
