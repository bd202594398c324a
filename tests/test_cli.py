"""The commands export, extract, inspect and repack: what they print, and what they refuse."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from broken import (
    Kind,
    assert_refused,
    checkpoint,
    invoke,
    rewrite,
    spawn,
)
from conftest import Case, load_case

import autodeco_gguf as ad

ROOT = Path(__file__).parent.parent


Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def adapter(qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "adapter.gguf"
    ad.export(qwen2.base, qwen2.heads, path, adapter=True)
    return path


def test_convert_script_is_the_export_command(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    args = ("--base", qwen2.base, "--heads", qwen2.heads, "-o", "out.gguf")
    outcome = spawn(*args, python=(str(ROOT / "convert" / "export.py"),), cwd=tmp_path)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "out.gguf: 654.3 kB, heads: temperature, top-p\n")
    assert (tmp_path / "out.gguf").read_bytes() == merged.read_bytes()


# ---- inspect, extract, repack, verify ----

MERGED_TEXT = """\
{path}: merged, qwen2, 654.3 kB
heads        temperature, top-p
base         tiny-qwen2: hidden size 64, vocabulary 384
base view    fresh
base data    27 tensors, 493.8 kB
temperature  relu, scale 2
  autodeco.temp_head.0.weight      f32    [256, 64]
  autodeco.temp_head.0.bias        f32    [256]
  autodeco.temp_head.1.weight      f32    [1, 256]
  autodeco.temp_head.1.bias        f32    [1]
top_p        relu, features temperature, max_prob, entropy, prob_variance, top5_prob
  autodeco.top_p_head.0.weight     f32    [256, 69]
  autodeco.top_p_head.0.bias       f32    [256]
  autodeco.top_p_head.1.weight     f32    [1, 256]
  autodeco.top_p_head.1.bias       f32    [1]
"""


def test_inspect_text(qwen2: Case, merged: Path, adapter: Path, tmp_path: Path, capfd: Capture) -> None:
    assert invoke(capfd, "inspect", merged).out == MERGED_TEXT.format(path=merged)
    text = invoke(capfd, "inspect", adapter).out
    assert text.startswith(f"{adapter}: adapter, qwen2, 141.4 kB\nheads        temperature, top-p\n")
    assert "base view" not in text
    assert invoke(capfd, "inspect", qwen2.base).out == f"{qwen2.base}: plain, qwen2, 503.4 kB\nheads        none\n"
    stale = rewrite(merged, tmp_path / "stale.gguf", metadata={"general.name": ("Other", Kind.STRING)})
    assert "\nbase view    stale: metadata key general.name differs\n" in invoke(capfd, "inspect", stale).out


def test_inspect_json(merged: Path, capfd: Capture) -> None:
    facts = json.loads(invoke(capfd, "inspect", merged, "--json").out)
    heads = facts.pop("heads")
    assert facts == {
        "file": str(merged), "kind": "merged", "size": 654304, "architecture": "qwen2", "version": 1,
        "base_model": "tiny-qwen2", "hidden_size": 64, "vocab_size": 384,
        "base_view": "fresh", "base_size": 493824, "base_tensors": 27,
    }  # fmt: skip
    assert [(h["name"], h["activation"], h.get("scale"), len(h.get("features", []))) for h in heads] == [
        ("temperature", "relu", 2.0, 0),
        ("top_p", "relu", None, 5),
    ]
    assert heads[1]["tensors"][0] == {
        "name": "autodeco.top_p_head.0.weight", "shape": [256, 69], "type": "f32", "size": 70656,
    }  # fmt: skip


def test_extract_and_repack_say_what_they_did(qwen2: Case, merged: Path, tmp_path: Path, capfd: Capture) -> None:
    base, heads = tmp_path / "b.gguf", tmp_path / "a.gguf"
    outcome = invoke(capfd, "extract", merged, "--base", base, "--adapter", heads)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", f"{base}: 503.4 kB\n{heads}: 141.4 kB\n")
    outcome = invoke(capfd, "repack", merged)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", f"{merged}: the base view is fresh\n")
    assert_refused(invoke(capfd, "extract", heads, "--base", tmp_path / "x"), heads, "is an adapter")
    assert_refused(invoke(capfd, "repack", base), base, "no AutoDeco heads in it")


# ---- bad input ----


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


NAN = np.full((256, 64), np.nan, np.float32)


def paths_of(name: str) -> tuple[Path, Path]:
    return load_case(name).base, load_case(name).heads


BAD_EXPORTS: dict[str, tuple[Callable[[Case, Path], tuple[Path, Path]], list[str]]] = {
    "base no GGUF": (lambda c, d: (write(d / "x.gguf", b"hello"), c.heads), ["x.gguf: not a GGUF"]),
    "base cut": (
        lambda c, d: (write(d / "x.gguf", c.base.read_bytes()[:-1]), c.heads),
        ["x.gguf: truncated: tensor output_norm.weight"],
    ),
    "base an adapter": (
        lambda c, d: (ad.export(*paths_of("qwen2"), d / "a.gguf", adapter=True).path, c.heads),
        ["a.gguf: an adapter holds heads only"],
    ),
    "no heads": (lambda c, d: (c.base, d / "nowhere"), ["nowhere: no such directory"]),
    "cut heads": (
        lambda c, d: (c.base, cut(checkpoint(c.heads, d / "h") / "model.safetensors").parent),
        ["h/model.safetensors: not a safetensors file"],
    ),
    "other architecture": (
        lambda c, d: (load_case("qwen3_moe").base, c.heads),
        ["heads for architecture qwen2", "is qwen3moe"],
    ),
    "NaN": (
        lambda c, d: (c.base, checkpoint(c.heads, d / "h", tensors={"temp_head.mlp.0.weight": NAN})),
        ["h: temp_head: weight of layer 0 holds NaN or infinity"],
    ),
    "two lines of JSON": (
        lambda c, d: (c.base, write(checkpoint(c.heads, d / "h") / "config.json", b"{\n\n,").parent),
        ["h/config.json: cannot be read"],
    ),
}


def cut(path: Path) -> Path:
    return write(path, path.read_bytes()[:-1])


@pytest.mark.parametrize("name", BAD_EXPORTS)
def test_export_refuses(name: str, qwen2: Case, tmp_path: Path, capfd: Capture) -> None:
    make, parts = BAD_EXPORTS[name]
    base, heads = make(qwen2, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(invoke(capfd, "export", "--base", base, "--heads", heads, "-o", tmp_path / "out.gguf"), *parts)
    assert sorted(tmp_path.rglob("*")) == before


def test_repository_without_a_network(qwen2: Case, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    args = ("export", "--base", qwen2.base, "--heads", "someone/heads", "-o", tmp_path / "out.gguf")
    assert_refused(spawn(*args, env=environment), "error: someone/heads: ", "not to be had from the Hugging Face hub")
    assert not (tmp_path / "out.gguf").exists()
