"""The results of an evaluation as pictures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodeco_gguf.evaluation.methods import AUTODECO
from autodeco_gguf.evaluation.report import count
from autodeco_gguf.evaluation.results import Results, Row
from autodeco_gguf.evaluation.samples import PARAMETERS
from autodeco_gguf.heads.weights import LETTERS
from autodeco_gguf.view.figures import as_written, check_matplotlib, new_figure, write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = ("accuracy.png", "pass_at_1.png", "pass_at_k.png", "parameters.png")
"""Names of the files."""

MOST_TASKS, MOST_CURVES = 6, 8
"""Panels of accuracy.png, and methods in pass_at_k.png: more can hardly be told apart, and the figure says so."""

_OURS, _GREY = "#0072B2", "#777777"
_COLORS = {
    "autodeco": _OURS,
    "autodeco:temperature": "#56B4E9",
    "autodeco:top_p": "#44AA99",
    "greedy": "#D55E00",
    "default": "#009E73",
    "oracle": "#CC79A7",
    "distinct": "#E69F00",
    "mean-shift": "#8C564B",
    "shuffle": "#661100",
    "gated": "#88CCEE",
    "entropy": "#CC6677",
    "llama.cpp": "#332288",
    "dynatemp": "#999933",
    "min-p": "#882255",
    "top-n-sigma": "#DDCC77",
    "mirostat2": "#117733",
    "model": "#AA4499",
}
"""Of each method by its name, whatever it is compared with. The palettes of Okabe and Ito and of Paul Tol, in which
color-blind readers can tell as many as possible apart."""
_MORE_COLORS = ("#6699CC", "#AA4466", "#F0E442", "#4B4B4B", "#EE7733", "#004488")
_MARKERS = "sD^vPX*<>h"
SE_95 = 1.96
"""Standard errors that a 95 % interval reaches to either side."""


def plot(results: Results, directory: Path) -> list[Path]:
    """Draw accuracy.png, pass_at_1.png, pass_at_k.png and, where something was predicted, parameters.png.

    One that is not drawn is removed, as :func:`remove_plots` does.

    Raises:
        AutoDecoError: matplotlib is missing; BadFile: a file cannot be written.
    """
    check_matplotlib()
    figures = zip(PLOTS, (draw(results) for draw in (_accuracy, _bars, _curves, _parameters)), strict=True)
    drawn = {directory / name: figure for name, figure in figures if figure is not None}
    for path, figure in drawn.items():
        write_png(figure, path)
    remove_plots(directory, keep=drawn)
    return list(drawn)


def remove_plots(directory: Path, *, keep: Collection[Path] = ()) -> None:
    """Remove plots, which would be of results that are no more there."""
    for path in (directory / name for name in PLOTS):
        if path not in keep:
            path.unlink(missing_ok=True)


def _ordered(results: Results) -> list[Row]:
    """AutoDeco first, what is not about T and P last."""
    return sorted(results.methods, key=lambda row: (row.config != AUTODECO, row.kind == "peer"))


def _say_left_out(figure: Figure, shown: int, of: int, what: str) -> None:
    """Below a figure that has only the first of them."""
    if shown < of:
        figure.supxlabel(f"the first {shown} of {of} {what}; report.md has all", fontsize="small")


def _styles(results: Results) -> dict[str, dict[str, Any]]:
    """Color and marker of each method, by name: the same in every plot."""
    more, markers = itertools.cycle(_MORE_COLORS), itertools.cycle(_MARKERS)
    return {
        row.name: {
            "color": _COLORS.get(row.name) or next(more),
            "marker": "o" if row.config == AUTODECO else next(markers),
        }
        for row in _ordered(results)
    }


# ---- pass@1 against the temperature ----


def _accuracy(results: Results) -> Figure:
    """The paper's figure 3: constant temperatures against the predicted ones."""
    tasks = list(results.tasks)[:MOST_TASKS]
    columns = min(3, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    figure = new_figure(3.6 * columns + 2.6, 3.2 * lines + 0.4)
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for axes, task in zip(panels, tasks, strict=False):
        _accuracy_panel(axes, results, task)
        axes.set_title(f"{as_written(task)}, {count(results.tasks[task], 'problem')}", fontsize="medium")
        axes.set_xlabel("temperature")
        axes.set_ylabel("pass@1 ± standard error, %")
        axes.grid(alpha=0.3)
        handles.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize="small")
    _say_left_out(figure, len(tasks), len(results.tasks), "tasks")
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


# ---- pass@1 of every method ----


def _bars(results: Results) -> Figure:
    """A bar for each method, over all tasks."""
    rows = _ordered(results)
    figure = new_figure(7.5, 0.32 * len(rows) + 1.3)
    axes, styles = figure.subplots(), _styles(results)
    for place, row in enumerate(rows):
        value, color = 100 * row.overall.pass_1, styles[row.name]["color"]
        axes.barh(place, value, color=color, height=0.7, alpha=0.8)
        if row.overall.se_problems is not None:
            reach = 100 * SE_95 * row.overall.se_problems
            ends = [[value - max(0.0, value - reach)], [min(100.0, value + reach) - value]]
            axes.errorbar(value, place, xerr=ends, color="black", capsize=3, linewidth=1.5)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 101)
    axes.set_xlabel("pass@1, %, with 95 % interval over problems")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


# ---- several samples ----


def _curves(results: Results) -> Figure:
    """pass@k and different right answers, over all tasks."""
    figure = new_figure(11, 4.2)
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
        last = max(k for row in methods for k in row.overall.pass_k)
        axes.set_xticks([1 << i for i in range(last.bit_length())])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("samples k")
        axes.grid(alpha=0.3)
    left.set_ylabel("pass@k, %")
    right.set_ylabel("different right answers among k")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    _say_left_out(figure, len(methods), len(results.methods), "methods")
    return figure


# ---- what is predicted ----


def _parameters(results: Results) -> Figure | None:
    """Box plots of the predicted T and P of each task."""
    ours = next((row for row in results.methods if row.config == AUTODECO), None)
    names = [name for name in LETTERS if ours is not None and name in ours.overall.boxes]
    if ours is None or not names:
        return None
    tasks = [task for task, stats in ours.tasks.items() if all(name in stats.boxes for name in names)]
    figure = new_figure(max(3.2, 0.9 * len(tasks) + 1.6) * len(names), 3.8)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        keys = ("whislo", "q1", "med", "q3", "whishi")
        boxes = [
            dict(zip(keys, ours.tasks[task].boxes[name], strict=True), label=as_written(task), fliers=[])
            for task in tasks
        ]
        line = {"color": _OURS}
        median = {**line, "linewidth": 3}
        axes.bxp(boxes, widths=0.5, boxprops=line, whiskerprops=line, capprops=line, medianprops=median)
        axes.set_ylabel(f"predicted {name.replace('_', '-')}, {LETTERS[name]}")
        axes.set_ylim(-0.02 * PARAMETERS[name], 1.02 * PARAMETERS[name])
        axes.tick_params(axis="x", rotation=30 if len(tasks) > 3 else 0)
        axes.grid(axis="y", alpha=0.3)
    figure.supxlabel("boxes: quartiles, whiskers: least and greatest of all tokens", fontsize="small")
    return figure
