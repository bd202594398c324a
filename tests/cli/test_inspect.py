"""The command inspect: what it prints of every kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from broken import Kind, invoke, rewrite
from conftest import Case

import autodeco_gguf as ad

Capture = pytest.CaptureFixture[str]

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


def test_inspect_text(qwen2: Case, merged: Path, tmp_path: Path, capfd: Capture) -> None:
    assert invoke(capfd, "inspect", merged).out == MERGED_TEXT.format(path=merged)
    adapter = ad.export(qwen2.base, qwen2.heads, tmp_path / "adapter.gguf", adapter=True).path
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


def test_what_stands_in_a_file_steers_no_terminal(merged: Path, tmp_path: Path, capfd: Capture) -> None:
    odd = "\x1b[2J\x1b]0;owned\x07\u202e\x9b"
    metadata = dict.fromkeys(("general.architecture", "autodeco.base_model"), (odd, Kind.STRING))
    path = rewrite(merged, tmp_path / "x.gguf", metadata=metadata)
    outcome = invoke(capfd, "inspect", path)
    assert outcome.status == 0
    assert all(line.isprintable() for line in outcome.out.splitlines())
    assert "\\x1b[2J" in outcome.out
    assert json.loads(invoke(capfd, "inspect", path, "--json").out)["base_model"] == odd
