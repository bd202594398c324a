"""The curves of a training as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autodeco_gguf.training import plot
from autodeco_gguf.training.plot import plot_log, plot_rounds

LOSSES = {"temperature": 1.5, "top_p": 0.5, "ranking": 0.0, "mean_temperature": 0.9, "mean_top_p": 0.8, "positions": 7}


@pytest.mark.parametrize("validated", [False, True])
def test_a_line_for_each_loss_that_is_one(validated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"step": i + 1, "train": LOSSES} for i in range(3)]
    records[2] |= {"validation": LOSSES} if validated else {}
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    labels: list[str] = []
    original = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: labels.append(k["label"]) or original(self, *a, **k))
    plot_log(tmp_path / "log.jsonl", tmp_path / "x.png")
    names = ["temperature", "top-p", "temperature", "top-p"]  # the losses, then the means; no ranking loss
    dots = [[f"{name}, validation"] if validated else [] for name in names]
    assert labels == [label for name, more in zip(names, dots, strict=True) for label in (name, *more)]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("steps", [1, 2, 5, 400])
def test_steps_are_whole_numbers(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": i + 1, "train": LOSSES}) + "\n" for i in range(steps)))
    drawn: list[Figure] = []
    monkeypatch.setattr(plot, "write_png", lambda figure, path: drawn.append(figure))
    plot_log(log, tmp_path / "x.png")
    for axes in drawn[0].axes:
        assert all(tick == int(tick) for tick in axes.get_xticks()), axes.get_xticks()


def test_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures = {"reward": 0.5, "temperature": 0.9, "top_p": 0.8}
    log = tmp_path / "log.jsonl"
    records = [{"round": 0, "validation": measures}, {"round": 1, "train": measures}]
    log.write_text("".join(json.dumps(r) + "\n" for r in records))
    drawn: list[Figure] = []
    monkeypatch.setattr(plot, "write_png", lambda figure, path: drawn.append(figure))
    plot_rounds(log, tmp_path / "x.png")
    lines = [
        (line.get_label(), line.get_xdata().tolist(), line.get_ydata().tolist())  # type: ignore[union-attr]
        for axes in drawn[0].axes
        for line in axes.lines
    ]
    assert lines == [
        ("reward", [1], [0.5]),
        ("reward, validation", [0], [0.5]),
        ("temperature", [1], [0.9]),
        ("temperature, validation", [0], [0.9]),
        ("top-p", [1], [0.8]),
        ("top-p, validation", [0], [0.8]),
    ]
