"""The command extract: what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken import assert_refused, invoke


def test_extract_says_what_it_did(merged: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base, heads = tmp_path / "b.gguf", tmp_path / "a.gguf"
    outcome = invoke(capfd, "extract", merged, "--base", base, "--adapter", heads)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", f"{base}: 503.4 kB\n{heads}: 141.4 kB\n")
    assert_refused(invoke(capfd, "extract", heads, "--base", tmp_path / "x"), heads, "is an adapter")
