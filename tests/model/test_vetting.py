"""What llama.cpp would crash on, or take all memory for, is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from broken import Kind, Tensor, metadata_of, rewrite, shards, tensors_of, write_gguf
from conftest import Case, load, load_case

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.vetting import check_loadable

METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "no blocks": ({"qwen2.block_count": (0, Kind.UINT32)}, "0 blocks"),
    "a context without end": ({"qwen2.context_length": (2**32 - 1, Kind.UINT32)}, "context_length 4294967295"),
    "a head of a million": (
        {"qwen2.attention.value_length": (2**20, Kind.UINT32)},
        "value_length 1048576, larger than",
    ),
    "a window without end": ({"qwen2.attention.sliding_window": (2**31, Kind.UINT32)}, "sliding_window 2147483648"),
    "negative epsilon": (
        {"qwen2.attention.layer_norm_rms_epsilon": (-1.0, Kind.FLOAT32)},
        "layer_norm_rms_epsilon -1",
    ),
    "unordered epsilon": (
        {"qwen2.attention.layer_norm_rms_epsilon": (float("nan"), Kind.FLOAT32)},
        "layer_norm_rms_epsilon nan",
    ),
    "bytes without tokens": ({"tokenizer.ggml.model": ("rwkv", Kind.STRING)}, "no token for a byte"),
    "a vocabulary of another kind": ({"tokenizer.ggml.model": ("llama", Kind.STRING)}, "cannot tokenize every text"),
    "no vocabulary": (
        {"tokenizer.ggml.model": ("none", Kind.STRING), "qwen2.vocab_size": (384, Kind.UINT32)},
        "no vocabulary",
    ),
    "thousands of experts": ({"qwen2.expert_count": (60000, Kind.UINT32)}, "GGML_ASSERT"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata(name: str, qwen2: Case, tmp_path: Path) -> None:
    metadata, reason = METADATA[name]
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata=metadata)
    for open_it in (lambda: Context(path, n_ctx=32), lambda: load(path, heads_enabled=())):
        with pytest.raises(BadFile, match=rf"^{re.escape(str(path))}: .*{reason}") as caught:
            open_it()
        assert "\n" not in str(caught.value)


def test_experts_that_are_not_counted(tmp_path: Path) -> None:
    base = load_case("qwen3_moe").base
    path = rewrite(base, tmp_path / "x.gguf", metadata={"qwen3moe.expert_count": None})
    with pytest.raises(BadFile, match=re.escape(str(path))):
        Context(path, n_ctx=32)


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.attn_output.weight"])
def test_weights_that_are_integers(name: str, qwen2: Case, tmp_path: Path) -> None:
    def integers(tensors: list[Tensor]) -> list[Tensor]:
        kind = gguf.GGMLQuantizationType.I32
        return [(n, d.astype(np.int32), kind) if n == name else (n, d, k) for n, d, k in tensors]

    path = rewrite(qwen2.base, tmp_path / "x.gguf", edit=integers)
    with pytest.raises(BadFile, match=f"llama.cpp would crash on it: tensor {re.escape(name)} is i32"):
        check_loadable(GgufFile(path))


def halves(tensors: list[Tensor]) -> list[Tensor]:
    """Biases as f16."""
    kind = gguf.GGMLQuantizationType.F16
    return [(n, d.astype(np.float16), kind) if n.endswith(".bias") else (n, d, k) for n, d, k in tensors]


def test_a_bias_that_is_no_float32(qwen2: Case, tmp_path: Path) -> None:
    path = rewrite(qwen2.base, tmp_path / "x.gguf", edit=halves)
    with pytest.raises(BadFile, match=r"tensor blk\.0\.attn_\w\.bias is f16"):
        check_loadable(GgufFile(path))


def test_tensors_that_are_not_aligned_for_ggml_are_read_all_the_same(qwen2: Case, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", metadata_of(qwen2.base), tensors_of(qwen2.base), alignment=8)
    with Engine(path, heads=qwen2_adapter(qwen2, tmp_path), n_parallel=1, n_ctx=32) as engine:
        assert len(engine.prompt("a b")) > 0


def qwen2_adapter(qwen2: Case, tmp_path: Path) -> Path:
    import autodeco_gguf as ad

    return ad.export(qwen2.base, qwen2.heads, tmp_path / "heads.gguf", adapter=True).path


def test_a_first_shard_may_have_no_tensors(qwen2: Case, tmp_path: Path) -> None:
    """As gguf-split --no-tensor-first-split writes it."""
    length = {f"qwen2.attention.{key}_length": (16, Kind.UINT32) for key in ("key", "value")}
    path = shards(rewrite(qwen2.base, tmp_path / "x.gguf", metadata=length), tmp_path, [0, 9])
    heads = qwen2_adapter(qwen2, tmp_path)
    with Engine(path, heads=heads, n_parallel=1, n_ctx=32) as engine:
        assert len(engine.prompt("a b")) > 0
    load(path, heads=heads).close()


def test_every_shard_is_looked_at(qwen2: Case, tmp_path: Path) -> None:
    path = shards(qwen2.base, tmp_path, [0, 9])
    third = path.with_name("base-00003-of-00003.gguf")
    rewrite(third, third, edit=halves)
    with pytest.raises(BadFile, match=rf"^{re.escape(str(third))}: .*: tensor blk.*\.bias is f16$") as caught:
        check_loadable(GgufFile(path))
    assert caught.value.file == str(third)


def test_what_is_whole_is_loaded(case: Case) -> None:
    check_loadable(GgufFile(case.base))
