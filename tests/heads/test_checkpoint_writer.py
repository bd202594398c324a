"""Checkpoints that are written are those that are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from broken import rewrite
from conftest import Case

from autodeco_gguf import read_checkpoint
from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.checkpoint_writer import transformers_config, write_checkpoint


def test_what_is_written_is_read(case: Case, tmp_path: Path) -> None:
    read = read_checkpoint(case.heads)
    write_checkpoint(
        tmp_path,
        read.weights,
        enabled=list(read.weights.mlps),
        base_model_type=read.base_model_type,
        base_config={"rope_theta": 5e5},
    )
    found = read_checkpoint(tmp_path)
    assert (found.base_model_type, found.vocab_size) == (read.base_model_type, read.vocab_size)
    assert replace(found.weights, temperature=None, top_p=None) == replace(read.weights, temperature=None, top_p=None)
    assert found.weights.tensors.keys() == read.weights.tensors.keys()
    for name, array in found.weights.tensors.items():
        np.testing.assert_array_equal(array, read.weights.tensors[name])
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["rope_theta"]) == ("autodeco", 5e5)


def test_both_files_or_none(qwen2: Case, tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    weights = read_checkpoint(qwen2.heads).weights
    with pytest.raises(BadFile, match=r"config\.json: is no regular file"):
        write_checkpoint(tmp_path, weights, enabled=[], base_model_type="qwen2", base_config={})
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_head_that_was_not_trained_is_off(qwen2: Case, tmp_path: Path) -> None:
    weights = read_checkpoint(qwen2.heads).weights
    write_checkpoint(tmp_path, weights, enabled=["top_p"], base_model_type="qwen2", base_config={})
    assert set(read_checkpoint(tmp_path).weights.mlps) == {"top_p"}


def test_a_directory_that_is_not_there(qwen2: Case, tmp_path: Path) -> None:
    weights = read_checkpoint(qwen2.heads).weights
    with pytest.raises(BadFile, match=r"nowhere/model\.safetensors: cannot be written: No such file") as error:
        write_checkpoint(tmp_path / "nowhere", weights, enabled=[], base_model_type="", base_config={})
    assert error.value.file == str(tmp_path / "nowhere" / "model.safetensors")


def test_what_a_gguf_says_of_its_model(qwen2: Case, tmp_path: Path) -> None:
    model_type, config = transformers_config(GgufFile(qwen2.base))
    assert model_type == "qwen2"
    known = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rms_norm_eps")
    assert [config[key] for key in known] == [2, 4, 2, 1e-6]
    bare = rewrite(qwen2.base, tmp_path / "b.gguf", metadata={"qwen2.block_count": None})
    assert "num_hidden_layers" not in transformers_config(GgufFile(bare))[1]
