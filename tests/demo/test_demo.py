"""The model that comes with the package does what demo/README.md says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autodeco_gguf as ad
from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.cli import cli as command_line
from autodeco_gguf.cli import run_command
from autodeco_gguf.evaluation.as_json import to_json
from autodeco_gguf.evaluation.control import evaluate_control
from autodeco_gguf.evaluation.methods import TEMPERATURES, TOP_PS, parse_methods
from autodeco_gguf.evaluation.runner import evaluate
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks import stories
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task, read_task


@pytest.fixture(scope="module")
def engine() -> Iterator[ad.Engine]:
    engine = ad.Engine(DEMO_MODEL, n_parallel=16, n_ctx=160, machine=Machine(n_threads=1))
    yield engine
    engine.close()


def method(results: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(m for m in results["methods"] if m["name"] == name)["overall"]
    return found


def others(n: int) -> Task:
    """Problems that are in no published figure."""
    problems = stories.problems(n, seed="some others", held_out=True)
    return Task("others", tuple(Problem(p.prompt, p.answer, i) for i, p in enumerate(problems)), "story")


def test_it_is_small_and_carries_both_heads() -> None:
    model = ad.ModelFile.open(DEMO_MODEL)
    assert model.kind == "merged"
    assert set(model.read_heads().mlps) == {"temperature", "top_p"}
    assert DEMO_MODEL.stat().st_size <= 8_000_000
    assert {t.type for t in model.outer.tensors} <= {"f16", "f32", "i8"}


def test_published_figures_are_met(engine: ad.Engine, published: dict[str, Any], tmp_path: Path) -> None:
    names = ["autodeco", "greedy", "default"]
    methods = parse_methods(names, engine.heads, {})
    with GradedTasks([others(16)]) as tasks:
        evaluated = evaluate(engine, tasks, tmp_path, methods, EvalSettings(k=16, seeds=1), also=())
    results = to_json(evaluated)
    for name in names:
        found, said = method(results, name), method(published["results"], name)
        noise = np.hypot(found["se_problems"], said["se_problems"])
        assert abs(found["pass@1"] - said["pass@1"]) <= 4 * noise + 0.01, (name, found)
        assert abs(found["distinct"] - said["distinct@k"]["16"]) <= 4 * found["distinct_se"] + 0.05, (name, found)


def test_the_demo_task_is_the_published_one(published: dict[str, Any]) -> None:
    assert published["results"]["tasks"] == {"demo": len(read_task("demo").problems)} == {"demo": 100}


def test_the_heads_are_sure_of_sums_and_free_with_words(engine: ad.Engine) -> None:
    sure, free = [], []
    requests = [
        ad.Request(engine.prompt(p.prompt), seed=i)
        for i, p in enumerate(stories.problems(8, seed="trace", held_out=True))
    ]
    words = {w.encode() for slot in stories.SLOTS.values() for w in slot.words}
    for result in engine.generate(requests):
        pieces = [engine.context.token_bytes(t) for t in result.tokens]
        in_box = False
        for piece, t in zip(pieces, result.temperature, strict=False):
            in_box = (in_box or piece == b"{") and not piece.startswith(b"}")
            if in_box and piece.isdigit():
                sure.append(t)
            elif piece.strip() in words:
                free.append(t)
    assert len(sure) >= 16
    assert len(free) >= 40
    assert np.mean(sure) < 0.5 < 0.9 < np.mean(free)


def test_commands_move_temperature(engine: ad.Engine, tmp_path: Path) -> None:
    """Wordings that nobody has trained with too, and the heads with none at all."""
    result = to_json(evaluate_control(engine, [others(40)], tmp_path, Commands.grammar(), EvalSettings()))
    for kind in ("low", "low, held out", "high", "high, held out"):
        assert result["consistency"][kind]["temperature"] >= 0.85, kind
        assert result["consistency"][kind]["top_p"] >= 0.7, kind


def test_autodeco_beats_every_static_pair(published: dict[str, Any]) -> None:
    results = published["results"]
    ours = method(results, "autodeco")
    assert ours["pass@1"] >= 0.999
    assert ours["distinct@k"]["16"] >= 15.95
    for name in ("default", "oracle", "distinct", "mean-shift", "greedy", "shuffle"):
        static = method(results, name)
        assert ours["distinct"] > static["distinct"] + 2 * np.hypot(ours["distinct_se"], static["distinct_se"]), name
    default = method(results, "default")
    assert ours["pass@1"] > default["pass@1"] + 2 * np.hypot(ours["se_problems"], default["se_problems"])
    grid = [row for row in results["grid"] if row["temperature"] in TEMPERATURES and row["top_p"] in TOP_PS]
    assert len(grid) == len(TEMPERATURES) * len(TOP_PS)
    for row in grid:
        assert row["pass@1"] < ours["pass@1"] or row["distinct"] < ours["distinct@k"][str(row["k"])], row["config"]


def test_run_without_a_model_tells_a_story(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "-p", "Tell a story about Mia with 47 and 38.", "--seed", "1", "--temperature", "0", "--trace"]
    with pytest.raises(SystemExit) as exit_info:
        run_command(command_line, arguments)
    out, err = capfd.readouterr()
    assert exit_info.value.code == 0, err
    assert "47 + 38 = \\boxed{85}" in out
    assert re.search(r"^T  (\d\.\d\d +)+$", out, re.M)
    assert "demo" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--heads", "x.gguf", "-p", "a"], "--heads needs the MODEL they go with"),
        (["run", "--trace", "--json", "-p", "a"], "--json has the trace already"),
    ],
)
def test_run_usage(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_command(command_line, arguments)
    assert exit_info.value.code == 2
    assert message in capfd.readouterr().err
