"""How the heads of smollm2 are made and measured."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import llama_cpp
import pytest
import smollm2

from autodeco_gguf import ModelFile
from autodeco_gguf.cli import cli
from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.evaluation.results import Results
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks.tasks import read_task


def parsed(verb: str, *arguments: str) -> dict[str, Any]:
    """What a verb makes of a command line."""
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return command.make_context(verb, list(arguments)).params


def test_it_asks_for_what_the_verbs_take() -> None:
    asked = parsed("rollouts", "base.gguf", *f"{smollm2.ASKED} {smollm2.DRAWN}".split(), "-o", "out")
    assert (asked["tasks"], asked["limit"]) == (("questions@train", "instructions@train"), 310)
    for reward, groups in smollm2.REWARDS.items():
        how = ["--reward", reward, *smollm2.BY_REWARD.split(), *groups.split(), "-o", "out"]
        assert parsed("train", "base.gguf", *how)["reward"] == reward
    for measured in smollm2.MEASURED.values():
        how = ["--task", measured.source, *measured.how.split(), "--methods", smollm2.CONSTANTS, "-o", "out"]
        assert parsed("eval", "base.gguf", *how)["seeds"] >= 4


def test_nothing_is_trained_on_that_is_measured() -> None:
    trained = {p.text for name in smollm2.ASKED.split() if "@" in name for p in read_task(name).problems}
    assert len(trained) > 4000
    for name in ("questions", "instructions"):
        assert not trained & {p.text for p in read_task(smollm2.MEASURED[name].source).problems}


def test_benchmarks_are_read_from_a_directory() -> None:
    assert smollm2.MEASURED["gsm8k"].spec(None) == "gsm8k:openai/gsm8k:main"
    assert smollm2.MEASURED["gsm8k"].spec(Path("data")) == "gsm8k:data/gsm8k_test.jsonl"
    assert smollm2.MEASURED["questions"].spec(Path("data")) == "questions"


def test_it_converts_to_16_bits(tmp_path: Path) -> None:
    quantized = tmp_path / "q8_0.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    assert not llama_cpp.llama_model_quantize(str(DEMO_MODEL).encode(), str(quantized).encode(), ctypes.byref(params))
    smollm2.convert(quantized, tmp_path / "f16.gguf")
    kinds = [{t.type for t in ModelFile.open(p).outer.tensors} for p in (quantized, tmp_path / "f16.gguf")]
    assert "q8_0" in kinds[0]
    assert kinds[1] <= {"f16", "f32", "i8"}
    assert not list(tmp_path.glob("*.part"))


@pytest.fixture
def found(published: dict[str, Any]) -> dict[str, Results]:
    """Results as of two tasks, the heads of the demo as those that are shipped."""
    results = from_json(Results, published["results"])
    (heads,) = (row for row in results.methods if row.name == "autodeco")
    others = [row for row in results.methods if row is not heads]
    methods = [replace(heads, name=smollm2.OURS), *others, replace(heads, name="autodeco (correct)")]
    ahead = tuple(replace(c, ahead=smollm2.OURS) for c in results.comparisons)
    ahead += tuple(replace(c, metric="distinct@16") for c in ahead if c.metric == "distinct")
    ahead += tuple(replace(c, ahead="autodeco (correct)") for c in results.comparisons)
    results = replace(results, methods=tuple(methods), comparisons=ahead)
    return {"questions": results, "ifeval": results}


def test_the_pages_show_what_is_kept() -> None:
    kept = smollm2.published()
    assert "questions" in kept
    for page, parts in smollm2.tables(kept).items():
        text = (smollm2.ROOT / page).read_text(encoding="utf-8")
        for mark, content in parts.items():
            assert f"<!-- {mark} -->\n{content}\n<!-- /{mark} -->" in text


def test_its_tables(found: dict[str, Results]) -> None:
    tables = smollm2.tables(found)
    assert list(tables["docs/smollm2.md"]) == ["questions", "ifeval", "of 16", "of 4"]
    page = tables["docs/smollm2.md"]["ifeval"]
    assert "autodeco (distinct) ahead by" in page
    assert "autodeco (correct) ahead by" not in page
    assert "On pass@1 AutoDeco (distinct) is" in page
    assert "(correct)" not in page.partition("**")[2]
    rows = {row.name: row.overall for row in found["ifeval"].methods}
    lines = tables["README.md"]["smollm2 table"].splitlines()
    assert lines[0] == "| | questions | ifeval | different of 16 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        *("| AutoDeco", "| greedy", "| T = 1", "| llama.cpp's defaults"),
    ]
    ours = rows[smollm2.OURS]
    assert f"{100 * ours.pass_1:.1f} ± {100 * (ours.se_problems or 0):.1f}" in lines[2]
    assert lines[2].endswith(f" {ours.distinct_k[16]:.2f} |")
    of_16 = tables["docs/smollm2.md"]["of 16"].splitlines()
    assert len(of_16) == 2 + len(found["questions"].methods)
    assert of_16[2] == f"| {smollm2.OURS} | {100 * ours.pass_1:.1f} | {ours.distinct_k[16]:.2f} |  |"
    greedy = next(c for c in found["questions"].comparisons if (c.method, c.metric) == ("greedy", "distinct@16"))
    (line,) = (line for line in of_16 if line.startswith("| greedy"))
    assert line.endswith(f"{greedy.difference:+.2f} [{greedy.ci[0]:+.2f}, {greedy.ci[1]:+.2f}], p = {greedy.p:.4f} |")
    of_4 = tables["docs/smollm2.md"]["of 4"].splitlines()
    assert of_4[0] == "| pass@4, % | questions | ifeval |"
    assert of_4[2] == f"| {smollm2.OURS} | {100 * ours.pass_k[4]:.1f} | {100 * ours.pass_k[4]:.1f} |"
    assert len(of_4) == len(of_16)
