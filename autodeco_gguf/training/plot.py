"""The curves of a training as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from autodeco_gguf.files.jsonl import read_lines
from autodeco_gguf.view.figures import write_png


def plot_log(log: Path, output: Path) -> None:
    """Draw the losses and mean T and P of a ``log.jsonl`` over its steps, as a PNG."""
    records = [json.loads(line) for _, line in read_lines(log)]
    figure = Figure(figsize=(9, 4), layout="constrained")
    losses, means = figure.subplots(1, 2)
    for axes, keys, label in (
        (losses, ("temperature", "top_p", "ranking"), "loss, nats"),
        (means, ("mean_temperature", "mean_top_p"), "mean prediction"),
    ):
        for color, key in zip(("tab:red", "tab:blue", "tab:green"), keys, strict=False):
            _curve(axes, records, key, color)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    write_png(figure, output)


def plot_rounds(log: Path, output: Path) -> None:
    """Draw the reward and mean T and P of the ``log.jsonl`` of a training on reward over its rounds, as a PNG."""
    records = [json.loads(line) for _, line in read_lines(log)]
    figure = Figure(figsize=(9, 4), layout="constrained")
    rewards, means = figure.subplots(1, 2)
    for axes, keys, label in (
        (rewards, ("reward",), "reward"),
        (means, ("temperature", "top_p"), "mean prediction"),
    ):
        for color, key in zip(("tab:red", "tab:blue"), keys, strict=False):
            name = key.replace("top_p", "top-p")
            for part, style in (("train", {"alpha": 0.6, "linewidth": 1}), ("validation", {"marker": "o"})):
                points = [(r["round"], r[part][key]) for r in records if part in r]
                if points:
                    suffix = ", validation" if part == "validation" else ""
                    axes.plot(*zip(*points, strict=True), color=color, label=name + suffix, **style)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    write_png(figure, output)


def _curve(axes: Axes, records: list[dict[str, Any]], key: str, color: str) -> None:
    """Training as a line, validation as dots; a loss that is always 0 is left out."""
    values = [r["train"][key] for r in records]
    if not any(values):
        return
    name = key.replace("mean_", "").replace("top_p", "top-p")
    axes.plot([r["step"] for r in records], values, color=color, alpha=0.6, linewidth=1, label=name)
    checked = [(r["step"], r["validation"][key]) for r in records if "validation" in r]
    if checked:
        axes.plot(*zip(*checked, strict=True), "o", color=color, markersize=4, label=f"{name}, validation")
