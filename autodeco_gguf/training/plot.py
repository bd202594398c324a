"""The curves of a training as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from autodeco_gguf.files.jsonl import read_lines
from autodeco_gguf.view.figures import new_figure, write_png


def plot_log(log: Path, output: Path) -> None:
    """Draw the losses and mean T and P of a ``log.jsonl`` over its steps, as a PNG."""
    losses, means = ("temperature", "top_p", "ranking"), ("mean_temperature", "mean_top_p")
    _plot(log, output, "step", {"loss, nats": losses, "mean prediction": means}, zeros=False)


def plot_rounds(log: Path, output: Path) -> None:
    """Draw the reward and mean T and P of the ``log.jsonl`` of a training on reward over its rounds, as a PNG."""
    _plot(log, output, "round", {"reward": ("reward",), "mean prediction": ("temperature", "top_p")}, zeros=True)


def _plot(log: Path, output: Path, x: str, panels: Mapping[str, Sequence[str]], *, zeros: bool) -> None:
    """A panel for each label, with these values of the log over ``x``; those that are always 0 only with ``zeros``."""
    records = [json.loads(line) for _, line in read_lines(log)]
    figure = new_figure(9, 4)
    for axes, (label, keys) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for color, key in zip(("tab:red", "tab:blue", "tab:green"), keys, strict=False):
            if zeros or any(r["train"][key] for r in records):
                _curve(axes, records, x, key, color)
        axes.set_xlabel(x)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    write_png(figure, output)


def _curve(axes: Axes, records: list[dict[str, Any]], x: str, key: str, color: str) -> None:
    """Training as a line, validation as dots."""
    name = key.replace("mean_", "").replace("top_p", "top-p")
    trained, checked = ([(r[x], r[part][key]) for r in records if part in r] for part in ("train", "validation"))
    axes.plot(*zip(*trained, strict=True), color=color, alpha=0.6, linewidth=1, label=name)
    if checked:
        axes.plot(*zip(*checked, strict=True), "o", color=color, markersize=4, label=f"{name}, validation")
