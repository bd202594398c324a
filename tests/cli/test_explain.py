"""autodeco-gguf explain: what it prints, and a line for every bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from broken import assert_refused, invoke
from conftest import Case

from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.training.rollouts import RolloutSettings

Capture = pytest.CaptureFixture[str]

ANSWERS = [
    {"prompt": f"Tell a story about {name} with 47 and 38.", "completion": f"Near the harbour lives {name}."}
    for name in ("Mia", "Tom", "Ben")
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in ANSWERS))
    return path


def test_answers_given(data: Path, tmp_path: Path, capfd: Capture) -> None:
    out = tmp_path / "why"
    outcome = invoke(capfd, "explain", DEMO_MODEL, "--data", data, "-o", out, "-c", 96, "-t", 1, "--no-plots")
    assert outcome.status == 0
    assert outcome.out.startswith("3 right answers to 3 problems, ")
    assert "\n  gain of the heads  " in outcome.out
    assert outcome.out.endswith("3 answers are too few for a verdict: at least 200 of 10 are needed.\n")
    assert outcome.err == f"{out}: explain.html, explain.json\n"
    again = invoke(capfd, "explain", DEMO_MODEL, "--data", data, "-o", out, "-c", 96, "-t", 1, "--no-plots")
    assert_refused(again, "explain.json", "--force")
    cut = invoke(capfd, "explain", DEMO_MODEL, "--data", data, "-o", out, "-c", 16, "-t", 1, "--no-plots", "--force")
    assert "answers cut to the context, by" in cut.err
    own = data.rename(out / "explain.json")
    again = invoke(capfd, "explain", DEMO_MODEL, "--data", own, "-o", out, "-t", 1, "--force")
    assert_refused(again, f"{own}: is the input {own}; choose another output")


def test_without_a_model_the_demo_draws_answers(tmp_path: Path, capfd: Capture) -> None:
    out = tmp_path / "why"
    outcome = invoke(capfd, "explain", "--limit", 6, "-k", 2, "-o", out, "-c", 96, "-t", 1)
    assert outcome.status == 0, outcome.err
    assert outcome.err.startswith("model: the demo that comes with the package\n")
    assert outcome.err.endswith(f"{out}: explain.html, explain.json, explain.png\n")
    assert (out / "answers.jsonl").exists()


OF_A_MODEL = ("--heads", "--data", "--task")
OF_DRAWING = [
    *(["-k", "2"], ["--seed", "1"], ["--max-tokens", "9"], ["--limit", "3"], ["--checker", "exact"]),
    *(["--time-limit", "3"], ["--allow-code"], ["--allow-code-unisolated"]),
]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "Missing option '-o'"),
        *((["-o", "x", option, "a"], "--heads, --data and --task need the MODEL") for option in OF_A_MODEL),
        (["m.gguf", "-o", "x"], "MODEL needs right answers: --data, or --task"),
        (["m.gguf", "-o", "x", "--data", "a.jsonl", "--task", "demo"], "--data and --task: give one of them"),
        (["m.gguf", "-o", "x", "--data", "a.jsonl", "-k", "0"], "'-k': 0 is not in the range x>=1"),
        *((["m.gguf", "-o", "x", "--data", "a.jsonl", *option], f"{option[0]} needs --task") for option in OF_DRAWING),
    ],
)
def test_usage(args: list[str], words: str, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = invoke(capfd, "explain", *args)
    assert outcome.status == 2
    assert words in outcome.err
    assert not Path("x").exists()


def test_what_is_drawn(tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def draw(engine: object, tasks: object, directory: Path, settings: RolloutSettings, **how: Any) -> None:
        calls.append((settings, how["force"]))
        raise KeyboardInterrupt

    monkeypatch.setattr("autodeco_gguf.explain.explain.draw_answers", draw)
    given = ("explain", "-o", tmp_path / "why", "-t", 1, "--no-plots")
    assert invoke(capfd, *given).status == 130
    assert invoke(capfd, *given, "-k", 2, "--seed", 3, "-n", 9, "--force").status == 130
    assert calls == [(RolloutSettings(k=4), False), (RolloutSettings(k=2, seed=3, max_tokens=9), True)]


def test_a_model_without_heads(qwen2: Case, data: Path, tmp_path: Path, capfd: Capture) -> None:
    out = tmp_path / "why"
    outcome = invoke(capfd, "explain", qwen2.base, "--task", data, "--checker", "exact", "-o", out)
    assert_refused(outcome, "base.gguf: has no heads to explain; give some with --heads")
    assert not out.exists()


def test_without_matplotlib(data: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = invoke(capfd, "explain", DEMO_MODEL, "--data", data, "-o", tmp_path / "why")
    assert_refused(done, "matplotlib is not installed; pip install matplotlib, or ", "; or use --no-plots")
