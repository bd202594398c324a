"""Matplotlib figures as files, and the one of traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodeco_gguf.errors import not_installed
from autodeco_gguf.files.atomic import write_atomically
from autodeco_gguf.view.traces import ReadTrace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 8
"""Traces in one figure."""

_COLORS = {"temperature": "#D55E00", "top_p": "#0072B2"}


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure atomically."""
    write_atomically(path, lambda f: figure.savefig(f, format="png", dpi=120))


def trace_figure(traces: Sequence[ReadTrace]) -> Figure:
    """T and P over the tokens of each trace, as figure 4 of the AutoDeco paper has them; at most eight of them.

    Raises:
        AutoDecoError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise not_installed("matplotlib is not installed", "matplotlib", "eval") from e
    shown = traces[:MOST_PANELS]
    figure = Figure(figsize=(9, 2.2 * len(shown) + 0.5), layout="constrained")
    for axes, trace in zip(figure.subplots(len(shown), 1, squeeze=False).flat, shown, strict=True):
        _panel(axes, trace)
    return figure


def _panel(axes: Any, trace: ReadTrace) -> None:
    right = axes.twinx()
    for side, name, label in ((axes, "temperature", "T, temperature"), (right, "top_p", "P, top-p")):
        known = [(i, token[name]) for i, token in enumerate(trace.tokens, 1) if name in token]
        style = {"color": _COLORS[name], "linestyle": "-" if side is axes else "--", "linewidth": 1.3}
        side.plot([i for i, _ in known], [value for _, value in known], **style)
        side.set_ylabel(label, color=_COLORS[name])
        side.set_ylim(0, max([2.0 if side is axes else 1.0, *(value for _, value in known)]) * 1.02)
    axes.set_title(trace.title.replace("$", r"\$"), fontsize="small", loc="left")
    axes.set_xlabel("token")
    axes.grid(alpha=0.3)
