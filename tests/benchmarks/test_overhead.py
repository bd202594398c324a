"""Which models the benchmarks of speed take."""

from __future__ import annotations

from pathlib import Path

import overhead
import pytest
from conftest import load_case

import autodeco_gguf as ad
from autodeco_gguf.model.shipped import DEMO_MODEL


def test_a_plain_model_gets_random_heads(tmp_path: Path) -> None:
    base = load_case("qwen2").base
    found, adapter = overhead.find(str(base), tmp_path)
    assert found == base
    heads = ad.ModelFile.open(adapter).read_heads()
    assert (heads.hidden_size, heads.vocab_size) == (64, 384)
    written = adapter.stat().st_mtime_ns
    assert overhead.find(str(base), tmp_path)[1].stat().st_mtime_ns == written


def test_a_merged_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="give a plain GGUF; autodeco-gguf extract takes a merged one apart"):
        overhead.find(str(DEMO_MODEL), tmp_path)
