"""The model that comes with the package does what demo/README.md says."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autodeco_gguf as ad
from autodeco_gguf import stories
from autodeco_gguf.cli import cli as command_line
from autodeco_gguf.cli import run_command
from autodeco_gguf.cli.run import DEMO_MODEL

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "demo"))
import evaluate  # noqa: E402  demo/ is no package


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    engine = evaluate.make_engine(DEMO_MODEL, n_threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((ROOT / "demo" / "evaluation.json").read_text(encoding="utf-8"))
    return result


def method(published: dict[str, Any], name: str) -> dict[str, Any]:
    return next(m for m in published["methods"] if m["name"] == name)


def test_it_is_small_and_carries_both_heads() -> None:
    model = ad.ModelFile.open(DEMO_MODEL)
    assert model.kind == "merged"
    assert set(model.read_heads().mlps) == {"temperature", "top_p"}
    assert DEMO_MODEL.stat().st_size <= 8_000_000
    assert {t.type for t in model.outer.tensors} <= {"f16", "f32", "i8"}


@pytest.mark.parametrize(("temperature", "name"), [(None, "AutoDeco"), (0.0, "greedy"), (1.0, "default")])
def test_published_figures_are_met(
    engine: Any, published: dict[str, Any], temperature: float | None, name: str
) -> None:
    problems = stories.problems(24, seed="some others", held_out=True)
    found = evaluate.score(engine, problems, name, temperature, temperature and 1.0, seed=5)
    said = method(published, name)
    for key in ("pass_at_1", "distinct"):
        noise = np.hypot(found_se := getattr(found, f"{key}_se"), said[f"{key}_se"])
        assert abs(getattr(found, key) - said[key]) <= 4 * noise + 0.01, (key, found, found_se)


def test_the_heads_are_sure_of_sums_and_free_with_words(engine: Any) -> None:
    sure, free = [], []
    requests = [
        evaluate.Request(engine.prompt(p.prompt)[1], seed=i)
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


def test_commands_move_temperature_and_top_p(engine: Any) -> None:
    result = evaluate.control(engine, n=40, seed=3)
    for parameter, share in (("temperature", 0.9), ("top_p", 0.8)):
        assert result["low_lowers"][parameter] >= share
        assert result["high_raises"][parameter] >= share


def test_autodeco_beats_every_static_pair(published: dict[str, Any]) -> None:
    ours = method(published, "AutoDeco")
    for static in (*published["finalists"], published["oracle"], method(published, "default")):
        noise = 2 * np.hypot(ours["distinct_se"], static["distinct_se"])
        assert ours["distinct"] > static["distinct"] + noise, static["name"]
    default = method(published, "default")
    assert ours["pass_at_1"] > default["pass_at_1"] + 2 * np.hypot(ours["pass_at_1_se"], default["pass_at_1_se"])
    grid = {(s["temperature"], s["top_p"]) for s in published["grid"]}
    assert grid == {(t, p) for t in evaluate.TEMPERATURES for p in evaluate.TOP_PS}
    assert not [
        s for s in published["grid"] if s["pass_at_1"] >= ours["pass_at_1"] and s["distinct"] >= ours["distinct"]
    ]


@pytest.mark.parametrize("page", ["README.md", "demo/README.md"])
def test_tables_are_those_of_the_evaluation(page: str, published: dict[str, Any]) -> None:
    assert evaluate.table(published) in (ROOT / page).read_text(encoding="utf-8")


def test_oracle_is_chosen_as_in_the_paper() -> None:
    def row(t: float, p: float, value: float) -> evaluate.Score:
        return evaluate.Score("", t, p, 1, value, 0.0, 0.0, 0.0, t, p)

    grid = [row(0.5, 1.0, 0.7), row(0.5, 0.9, 0.75), row(0.6, 1.0, 0.72), row(0.6, 0.9, 0.71), row(0.7, 0.9, 0.99)]
    best = evaluate.oracle_pair(grid)  # 0.7 is not the best T at P = 1
    assert (best.temperature, best.top_p) == (0.6, 1.0)


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
