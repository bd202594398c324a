"""Checkpoints that are written are those that are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from broken import Kind, rewrite
from conftest import Case

import autodeco_gguf as ad
from autodeco_gguf import read_checkpoint
from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads import checkpoint_writer
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


TESTS = Path(__file__).parent.parent
CHECKPOINTS = [*sorted((TESTS / "fixtures").glob("*/heads")), *sorted((TESTS / "more_fixtures").glob("*/heads"))]


def official(directory: Path) -> tuple[dict[str, Any], dict[str, tuple[str, list[int], bytes]]]:
    """config.json, and the tensors as their bytes, read by hand."""
    raw = (directory / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__")
    parts = {k: raw[8 + size + v["data_offsets"][0] : 8 + size + v["data_offsets"][1]] for k, v in header.items()}
    config = json.loads((directory / "config.json").read_text())
    return config, {k: (v["dtype"], v["shape"], parts[k]) for k, v in header.items()}


@pytest.mark.parametrize("adapter", [False, True], ids=["merged", "adapter"])
@pytest.mark.parametrize("heads", CHECKPOINTS, ids=lambda path: path.parent.name)
def test_what_went_in_comes_out(heads: Path, adapter: bool, tmp_path: Path) -> None:
    """BF16 and F32, deep GELU, the plain top-p head, one head alone: the same bits and types."""
    made = ad.export(heads.parent / "base.gguf", heads, tmp_path / "m.gguf", adapter=adapter).path
    out = tmp_path / "out"
    (result,) = ad.extract(made, checkpoint=out)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors"]
    assert result.nbytes == sum(p.stat().st_size for p in out.iterdir())
    (before, tensors), (config, found) = official(heads), official(out)
    enabled = {"temp_head": before["enable_temperature_head"], "top_p_head": before["enable_top_p_head"]}
    assert found == {k: v for k, v in tensors.items() if enabled[k.split(".")[0]]}
    keys = "architectures model_type base_model_name_or_path enable_temperature_head enable_top_p_head hidden_size "
    keys += "use_enhanced_features temperature_hidden_size top_p_hidden_size vocab_size base_model_type dtype"
    same = [k for k in keys.split() if k != "use_enhanced_features" or enabled["top_p_head"]]
    assert {k: config[k] for k in same} == {k: before[k] for k in same}
    assert ad.export(heads.parent / "base.gguf", out, tmp_path / "again.gguf", adapter=adapter).path.read_bytes() == (
        made.read_bytes()
    )


def test_a_checkpoint_never_stays_half_written(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def full(content: bytes, file: BinaryIO) -> None:
        file.write(content[:10])
        if len(content) > 5000:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer, "_write", full)
        with pytest.raises(BadFile, match="No space left"):
            ad.extract(merged, base=tmp_path / "b.gguf", checkpoint=out)
    assert list(tmp_path.iterdir()) == []
    ad.extract(merged, checkpoint=out)
    before = official(out)
    with pytest.raises(BadFile, match=r"is not empty \(config.json\); use --force"):
        ad.extract(merged, checkpoint=out)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer, "_write", full)
        with pytest.raises(BadFile, match="No space left"):
            ad.extract(merged, checkpoint=out, force=True)
    assert official(out) == before
    (out / "._other.safetensors").touch()  # as macOS makes them
    ad.extract(merged, checkpoint=out, force=True)
    assert official(out) == before
    for other in ("other.safetensors", "model.safetensors.index.json"):
        (out / other).touch()
        with pytest.raises(BadFile, match=rf"{other}: other weights"):
            ad.extract(merged, checkpoint=out, force=True)
        (out / other).unlink()
    with pytest.raises(BadFile, match="is a file; give a directory"):
        ad.extract(merged, checkpoint=merged)
    with pytest.raises(BadFile, match="no such directory"):
        ad.extract(merged, checkpoint=tmp_path / "no" / "where")


def test_what_the_official_format_has_no_words_for(qwen2: Case, tmp_path: Path) -> None:
    made = ad.export(qwen2.base, qwen2.heads, tmp_path / "m.gguf", activation="gelu").path
    with pytest.raises(BadFile, match="temperature head of 2 layers with gelu; in a checkpoint it would be relu"):
        ad.extract(made, checkpoint=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_scale(qwen2: Case, tmp_path: Path) -> None:
    made = ad.export(qwen2.base, qwen2.heads, tmp_path / "m.gguf", adapter=True).path
    other = rewrite(made, tmp_path / "a.gguf", metadata={"autodeco.temp_head.scale": (1.5, Kind.FLOAT32)})
    with pytest.raises(BadFile, match=r"a\.gguf: .*temperature scale 1\.5; in a checkpoint it would be 2"):
        ad.extract(other, checkpoint=tmp_path / "out")
    assert not (tmp_path / "out").exists()
