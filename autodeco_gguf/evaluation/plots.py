"""The results of an evaluation as pictures."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodeco_gguf.errors import not_installed
from autodeco_gguf.evaluation.methods import AUTODECO
from autodeco_gguf.evaluation.report import count
from autodeco_gguf.evaluation.results import Results, Row
from autodeco_gguf.evaluation.samples import PARAMETERS
from autodeco_gguf.view.figures import write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TASKS, MOST_CURVES = 6, 8
"""Panels of accuracy.png, and methods in pass_at_k.png: as many as there are colors."""

_OURS, _GREY = "#0072B2", "#777777"
_COLORS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Of Okabe and Ito, Color Universal Design: color-blind readers can tell them apart."""
_MARKERS = "sD^vPX*<>h"
_NAMES = {"temperature": "T", "top_p": "P"}


def plot(results: Results, directory: Path) -> list[Path]:
    """Draw accuracy.png, pass_at_k.png and, where something was predicted, parameters.png.

    Raises:
        AutoDecoError: matplotlib is missing; BadFile: a file cannot be written.
    """
    check()
    kinds = {"accuracy.png": _accuracy, "pass_at_k.png": _curves, "parameters.png": _parameters}
    figures = {directory / name: draw(results) for name, draw in kinds.items()}
    drawn = {path: figure for path, figure in figures.items() if figure is not None}
    for path, figure in drawn.items():
        write_png(figure, path)
    return list(drawn)


def check() -> None:
    """Raise AutoDecoError where matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as e:
        raise not_installed("matplotlib is not installed", "matplotlib", "eval") from e


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _ordered(results: Results) -> list[Row]:
    """AutoDeco first, what is not about T and P last."""
    return sorted(results.methods, key=lambda row: (row.config != AUTODECO, row.kind == "peer"))


def _styles(results: Results) -> dict[str, dict[str, Any]]:
    """Color and marker of each method, by name; AutoDeco has its own."""
    looks = zip(itertools.cycle(_COLORS), itertools.cycle(_MARKERS), strict=False)
    ours = {"color": _OURS, "marker": "o"}
    return {
        row.name: ours if row.config == AUTODECO else dict(zip(("color", "marker"), next(looks), strict=True))
        for row in _ordered(results)
    }


# ---- pass@1 against the temperature ----


def _accuracy(results: Results) -> Figure:
    """The paper's figure 3: constant temperatures against the predicted ones."""
    tasks = list(results.tasks)[:MOST_TASKS]
    columns = min(3, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    figure = _figure(3.6 * columns + 2.6, 3.2 * lines + 0.4)
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for axes, task in zip(panels, tasks, strict=False):
        _accuracy_panel(axes, results, task)
        axes.set_title(f"{task}, {count(results.tasks[task], 'problem')}", fontsize="medium")
        axes.set_xlabel("temperature")
        axes.set_ylabel("pass@1 ± standard error, %")
        axes.grid(alpha=0.3)
        handles.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize="small")
    return figure


def _accuracy_panel(axes: Any, results: Results, task: str) -> None:
    """All standard errors are over problems: those of a search have one seed only."""
    styles = _styles(results)
    line = [row for row in results.grid if row.top_p == 1 and task in row.tasks]
    line = [row for row in line if row.tasks[task].problems == results.tasks[task]]
    if len(line) > 1:
        x, points = [row.temperature for row in line], [row.tasks[task] for row in line]
        y, errors = [100 * point.pass_1 for point in points], [100 * (point.se or 0) for point in points]
        axes.plot(x, y, color=_GREY, marker=".", linewidth=1, label="constant T, P = 1")
        low, high = ([v + sign * e for v, e in zip(y, errors, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=_GREY, alpha=0.2, linewidth=0)
    for row in _ordered(results):
        stats, pair = row.tasks[task], row.config.pair
        value, error = 100 * stats.pass_1, 100 * (stats.se_problems or 0)
        if row.config == AUTODECO:
            axes.axhline(value, color=_OURS, linewidth=1.5, label="AutoDeco")
            axes.axhspan(value - error, value + error, color=_OURS, alpha=0.2, linewidth=0)
        elif pair is not None:
            style = {**styles[row.name], "markersize": 6, "linestyle": "none", "zorder": 3}
            axes.errorbar(pair[0], value, error, label=row.label, **style)


# ---- several samples ----


def _curves(results: Results) -> Figure:
    """pass@k and different right answers, over all tasks."""
    figure = _figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    methods = _ordered(results)[:MOST_CURVES]
    styles = _styles(results)
    for axes in (left, right):
        for row in methods:
            curve, scale = (row.overall.pass_k, 100) if axes is left else (row.overall.distinct_k, 1)
            wide = {"linewidth": 2.2, "zorder": 3} if row.config == AUTODECO else {"linewidth": 1.2}
            values = [scale * value for value in curve.values()]
            axes.plot(list(curve), values, label=row.label, markersize=4, **wide, **styles[row.name])
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        if max(axes.get_xlim()) < 2.5:
            axes.set_xticks([1, 2])
        axes.set_xlabel("samples k")
        axes.grid(alpha=0.3)
    left.set_ylabel("pass@k, %")
    right.set_ylabel("different right answers among k")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure


# ---- what is predicted ----


def _parameters(results: Results) -> Figure | None:
    """Box plots of the predicted T and P of each task."""
    ours = next((row for row in results.methods if row.config == AUTODECO), None)
    names = [name for name in _NAMES if ours is not None and name in ours.overall.boxes]
    if ours is None or not names:
        return None
    tasks = [task for task, stats in ours.tasks.items() if all(name in stats.boxes for name in names)]
    figure = _figure(max(3.2, 0.9 * len(tasks) + 1.6) * len(names), 3.8)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        keys = ("whislo", "q1", "med", "q3", "whishi")
        boxes = [dict(zip(keys, ours.tasks[task].boxes[name], strict=True), label=task, fliers=[]) for task in tasks]
        line = {"color": _OURS}
        median = {"color": _COLORS[0], "linewidth": 2}
        axes.bxp(boxes, widths=0.5, boxprops=line, whiskerprops=line, capprops=line, medianprops=median)
        axes.set_ylabel(f"predicted {name.replace('_', '-')}, {_NAMES[name]}")
        axes.set_ylim(-0.02 * PARAMETERS[name], 1.02 * PARAMETERS[name])
        axes.tick_params(axis="x", rotation=30 if len(tasks) > 3 else 0)
        axes.grid(axis="y", alpha=0.3)
    figure.supxlabel("boxes: quartiles, whiskers: least and greatest of all tokens", fontsize="small")
    return figure
