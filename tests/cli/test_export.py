"""The command export, and convert/export.py, which is the same: what it says, and its one line for bad input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from broken import assert_refused, checkpoint, invoke, spawn
from conftest import Case, load_case

import autodeco_gguf as ad

ROOT = Path(__file__).parents[2]
NAN = np.full((256, 64), np.nan, np.float32)


def test_convert_script_is_the_export_command(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    args = ("--base", qwen2.base, "--heads", qwen2.heads, "-o", "out.gguf")
    outcome = spawn(*args, python=(str(ROOT / "convert" / "export.py"),), cwd=tmp_path)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "out.gguf: 654.3 kB, heads: temperature, top-p\n")
    assert (tmp_path / "out.gguf").read_bytes() == merged.read_bytes()


BARE = """
import sys
others = "gguf huggingface_hub requests tqdm yaml torch transformers matplotlib scipy sympy math_verify langdetect"
sys.modules.update(dict.fromkeys(others.split()))
from autodeco_gguf.cli import main
main()
"""


def test_core_dependencies_are_enough(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    args = ("export", "--base", qwen2.base, "--heads", qwen2.heads, "-o", tmp_path / "out.gguf")
    outcome = spawn(*args, python=("-c", BARE))
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "out.gguf").read_bytes() == merged.read_bytes()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


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
        ["h/config.json: not JSON"],
    ),
}


def cut(path: Path) -> Path:
    return write(path, path.read_bytes()[:-1])


@pytest.mark.parametrize("name", BAD_EXPORTS)
def test_export_refuses(name: str, qwen2: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
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


def test_repository_without_the_hubs_package(
    qwen2: Case, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused = invoke(capfd, "export", "--base", qwen2.base, "--heads", "someone/heads")
    how = 'pip install huggingface_hub, or in a clone: pip install ".[hub]"'
    assert_refused(refused, f"error: someone/heads: no such directory, and a download takes huggingface_hub; {how}\n")
