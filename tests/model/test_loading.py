"""Loading: what llama.cpp would crash on is refused before, and its own reasons are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from broken import Kind, rewrite
from conftest import Case

import autodeco_gguf as ad
from autodeco_gguf.errors import BadFile
from autodeco_gguf.model.context import Context

REFUSED = {
    "blocks": ({"qwen2.block_count": (513, Kind.UINT32)}, "llama.cpp would crash on it: 513 blocks"),
    "another shape": (
        {"qwen2.attention.head_count": None},
        "cannot be loaded: .* 'blk.0.attn_k.weight' has wrong shape",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, qwen2: Case, tmp_path: Path) -> None:
    metadata, message = REFUSED[name]
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata=metadata)
    for load in (lambda: Context(path, n_ctx=32), lambda: ad.Llama(path, heads_enabled=(), verbose=False)):
        with pytest.raises(BadFile, match=f"^{re.escape(str(path))}: {message}") as caught:
            load()
        assert caught.value.file == str(path)


def test_a_merged_file_is_loaded_from_where_the_base_stands(merged: Path, qwen2: Case) -> None:
    contexts = [Context(path, n_ctx=32) for path in (merged, qwen2.base)]
    assert contexts[0].metadata == contexts[1].metadata
    assert contexts[0].hidden_size == contexts[1].hidden_size == 64
