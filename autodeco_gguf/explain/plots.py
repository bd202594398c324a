"""The findings as one figure."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from autodeco_gguf.explain.findings import Findings, TemperatureFindings, TopPFindings
from autodeco_gguf.explain.reading import Reading
from autodeco_gguf.view.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OURS, _BEST, _GREY, _BAD = "#0072B2", "#009E73", "#777777", "#D55E00"
_GROUPS = 10
"""Into so many groups of equal size the tokens are put by the heads' deviation."""

_EDGES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.9)
"""Of the best T, between which the heads' T is shown."""


def draw(found: Findings, at: Reading) -> Figure:
    """Panels in two columns, each with what it says as its title.

    Raises:
        AutoDecoError: matplotlib is missing.
    """
    panels: list[Any] = []
    if found.temperature is not None:
        t = found.temperature
        panels += [
            lambda axes: _parts(axes, t),
            lambda axes: _constants(axes, t),
            lambda axes: _alignment(axes, at),
            lambda axes: _against_best(axes, at, t),
            lambda axes: _localized(axes, at),
        ]
    if found.top_p is not None:
        p = found.top_p
        panels.append(lambda axes: _cuts(axes, p))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(4.6 * columns, 3.9 * rows)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(places, panels, strict=False):
        panel(axes)
        axes.title.set_fontsize("medium")
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    return figure


def _parts(axes: Any, t: TemperatureFindings) -> None:
    bars = {
        "alignment\n(first order)": (t.first_order, _BEST),
        "curvature": (-t.penalty, _BAD),
        "the rest": (t.remainder, _GREY),
        "gain of\nthe heads": (t.gain.value, _OURS),
        "best T at\nevery token": (t.oracle_gain, "#CCCCCC"),
    }
    values, colors = zip(*bars.values(), strict=True)
    axes.bar(list(bars), values, color=colors, width=0.65)
    if t.gain.se is not None:
        axes.errorbar(3, t.gain.value, yerr=2 * t.gain.se, color="black", capsize=4)
    tops = [max(value, 0) for value in values]
    tops[3] = max(tops[3], t.gain.value + 2 * (t.gain.se or 0))
    for place, (top, value) in enumerate(zip(tops, values, strict=True)):
        text = axes.annotate(f"{value:+.3f}", (place, top), (0, 3), textcoords="offset points", ha="center")
        text.set_fontsize("small")
    axes.margins(y=0.15)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.tick_params(axis="x", labelsize="small")
    axes.set_ylabel("nats a token")
    axes.set_title(f"What T gains over a constant, T = {t.constant:.2f}")


def _constants(axes: Any, t: TemperatureFindings) -> None:
    x, y = zip(*t.constants, strict=True)
    axes.plot(x, y, color=_GREY, marker=".", label="one T for all tokens")
    axes.axhline(t.heads, color=_OURS, label="the heads' T")
    axes.axhline(t.oracle, color=_BEST, linestyle="--", label="best T at every token")
    floor = min(t.heads, t.oracle, dict(t.constants)[1], max(y))
    reach = t.oracle - floor
    axes.set_ylim(floor - 0.6 * reach, t.oracle + 0.15 * reach)
    axes.set_xlabel("T")
    axes.set_ylabel("log-likelihood, nats a token")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    axes.set_title("How likely the right tokens are")


def _alignment(axes: Any, at: Reading) -> None:
    """Mean gradient of groups of tokens by the heads' deviation."""
    b = 1 / at.temperature
    groups = np.array_split(np.argsort(b, kind="stable"), min(_GROUPS, len(b)))
    x = [float(b[group].mean() - b.mean()) for group in groups]
    y = [float(at.gradient[group].mean()) for group in groups]
    error = [float(2 * at.gradient[group].std() / np.sqrt(len(group))) for group in groups]
    axes.errorbar(x, y, yerr=error, color=_OURS, marker="o", capsize=3, linewidth=1)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("the heads' 1/T minus its mean (right: sharper)")
    axes.set_ylabel("slope of log-likelihood by 1/T")
    axes.grid(alpha=0.3)
    axes.set_title("Sharper where that helps? It should rise")


def _against_best(axes: Any, at: Reading, t: TemperatureFindings) -> None:
    edges = [0.0, *_EDGES, np.inf]
    labels = [f"≤{_EDGES[0]}", *(f"{a:g} to\n{b:g}" for a, b in itertools.pairwise(_EDGES)), f"≥{_EDGES[-1]}"]
    group = np.digitize(at.best * (1 - 1e-9), edges) - 1
    shown = [i for i in range(len(labels)) if (group == i).any()]
    values = [at.temperature[group == i] for i in shown]
    boxes = axes.boxplot(values, positions=range(len(shown)), widths=0.6, whis=(5, 95), showfliers=False)
    for line in (*boxes["boxes"], *boxes["medians"], *boxes["whiskers"], *boxes["caps"]):
        line.set_color(_OURS)
    counts = [f"{labels[i]}\n{100 * len(v) / len(group):.0f} %" for i, v in zip(shown, values, strict=True)]
    axes.set_xticks(range(len(shown)), counts, fontsize="x-small")
    axes.axhline(t.constant, color=_GREY, linestyle="--", linewidth=1)
    axes.set_ylim(0, max(2.0, float(at.temperature.max())))
    axes.set_xlabel("best T at a token, and share of tokens")
    axes.set_ylabel("the heads' T there (5 to 95 %)")
    axes.grid(axis="y", alpha=0.3)
    axes.set_title("High where it should be? Boxes should rise")


def _localized(axes: Any, at: Reading) -> None:
    for values, label, color in (
        (np.abs(at.gradient), "leverage: slope by 1/T", _OURS),
        (at.best_value - at.mean_value, "headroom: gain of the best T", _BEST),
    ):
        cumulative = np.sort(np.maximum(values, 0))[::-1].cumsum()
        if cumulative[-1] > 0:
            x = 100 * np.arange(1, len(values) + 1) / len(values)
            axes.plot(x, 100 * cumulative / cumulative[-1], color=color, label=label)
    for level in (50, 90):
        axes.axhline(level, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.set_xlim(max(0.1, 100 / len(at.gradient)), 100)
    axes.set_ylim(0, 101)
    axes.set_xlabel("tokens that count most, % of all")
    axes.set_ylabel("% of the whole that they hold")
    axes.legend(fontsize="small", loc="lower right")
    axes.grid(alpha=0.3)
    axes.set_title("On how few tokens it depends")


def _cuts(axes: Any, p: TopPFindings) -> None:
    bars = {
        f"no P from {p.low:.2f} to {p.high:.2f}\nmakes a difference": (p.without_breakpoint, _GREY),
        "one token is left": (p.single, _GREY),
        f"fewer tokens than\nP = {p.constant:.2f} leaves": (p.smaller, _OURS),
        f"more tokens than\nP = {p.constant:.2f} leaves": (p.larger, _OURS),
        "right token lost\nby the heads": (p.lost, _BAD),
        f"right token lost\nby P = {p.constant:.2f}": (p.constant_lost, "#E9A37A"),
    }
    shares, colors = zip(*((100 * share, color) for share, color in bars.values()), strict=True)
    axes.barh(list(bars), shares, color=colors, height=0.65)
    for place, share in enumerate(shares):
        axes.annotate(f"{share:.1f}", (share, place), (3, 0), textcoords="offset points", va="center", fontsize="small")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize="small")
    axes.set_xlim(0, 112)
    axes.set_xlabel("% of tokens")
    axes.set_title("Where P makes a difference")
