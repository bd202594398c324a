"""The paper's figures: what is drawn, from numbers that are made up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import figures
import numpy as np
import pytest
from click.testing import CliRunner

from autodeco_gguf.evaluation.settings import EvalSettings

pytest.importorskip("matplotlib")


def row(t: float, p: float, pass_1: float, problems: int = 4) -> Any:
    return SimpleNamespace(temperature=t, top_p=p, pass_1=pass_1, se=0.01, problems=problems)


GRID = [row(1, 1, 0.3), row(0.2, 1, 0.6), row(0.4, 1, 0.6), row(0.4, 0.5, 0.7), row(0.4, 0.9, 0.8), row(0.1, 1, 0.9, 2)]
OURS = SimpleNamespace(name="autodeco", overall=SimpleNamespace(pass_1=0.75, se_problems=0.02))
RESULTS: Any = SimpleNamespace(grid=GRID, tasks={"a": 3, "b": 1}, methods=[OURS])


def test_the_lines_of_the_sweep() -> None:
    """Of equal temperatures the highest; what has not all problems is left out."""
    assert figures.best_temperature(RESULTS) == 0.4
    left, right = figures.sweep_figure(RESULTS).axes
    points = [axes.containers[0].lines[0].get_xydata().round(9).tolist() for axes in (left, right)]
    assert points == [[[0.2, 60], [0.4, 60], [1, 30]], [[0.5, 70], [0.9, 80], [1, 60]]]
    assert [axes.lines[-1].get_ydata()[0] for axes in (left, right)] == [75, 75]
    assert right.get_xlabel() == "P, with T = 0.4"


def test_the_soft_mask_goes_to_the_hard_one() -> None:
    """But for the token that crosses P, which the hard cut keeps."""
    probs = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    found = figures.masks(probs, 0.6, (1, 1e6))
    assert found["hard cut"].tolist() == [1, 1, 0, 0, 0]
    assert found["alpha = 1e+06"].round(9).tolist() == [1, 0, 0, 0, 0]
    assert found["alpha = 1"] == pytest.approx(np.exp(-np.maximum(probs.cumsum() - 0.6, 0)))


def test_mask_is_one_command(tmp_path: Path) -> None:
    result = CliRunner().invoke(figures.main, ["mask", "-o", str(tmp_path / "mask.png")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "mask.png").read_bytes().startswith(b"\x89PNG")


def test_a_box_of_the_seeds() -> None:
    def sample(key: str, seed: int, correct: bool | None, number: int = 0) -> Any:
        return SimpleNamespace(config=SimpleNamespace(key=key), seed=seed, correct=correct, sample=number)

    samples = [sample("a", 1, True), sample("a", 0, False), sample("a", 0, True), sample("b", 0, None)]
    samples += [sample("a", 2, True), sample("a", 1, False, 2)]  # of a run with more seeds, and a larger k
    assert figures.by_seed(samples, EvalSettings(k=2, seeds=2)) == {"a": [0.5, 1.0]}
    axes = figures.ablation_figure({"default": [0.5, 0.6], "autodeco": [0.8, 0.9, 1.0]}).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["T = 1, P = 1", "both"]
    points = [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "."]
    assert points == [[50, 60], [80, 90, 100]]


@pytest.mark.parametrize("verb", ["sweep", "ablation"])
def test_options_go_to_eval(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Stopped(Exception):
        pass

    def main(args: list[str], **_: Any) -> None:
        calls.append(args)
        raise Stopped

    monkeypatch.setattr("autodeco_gguf.cli.cli.main", main)
    out = str(tmp_path)
    result = CliRunner().invoke(figures.main, [verb, "-o", out, "m.gguf", "--task", "t.jsonl", "-k", "2"])
    assert isinstance(result.exception, Stopped)
    assert calls[0][:6] == ["eval", "m.gguf", "--task", "t.jsonl", "-k", "2"]
    assert calls[0][7].startswith("autodeco,static:0.1,1,") if verb == "sweep" else "autodeco:top_p" in calls[0][7]


@pytest.mark.parametrize("minutes", ["0.000001", "0.01"])
@pytest.mark.parametrize("verb", ["sweep", "ablation"])
def test_what_is_not_finished_is_said_in_one_line(verb: str, minutes: str, tmp_path: Path) -> None:
    command = [figures.__file__, verb, "-o", str(tmp_path / "out"), "-k", "1", "--seeds", "400", "--budget", minutes]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    last = f"error: {tmp_path / 'out'}: not every method is complete; the same command goes on from there"
    assert done.stderr.splitlines()[-1] == last
    assert "Traceback" not in done.stderr
