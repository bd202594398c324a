"""Matplotlib figures as files, and the one of traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autodeco_gguf.errors import AutoDecoError, not_installed, printable
from autodeco_gguf.files.atomic import write_atomically
from autodeco_gguf.view.traces import ReadTrace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 8
"""Traces in one figure."""

_TITLE = 120
"""Characters of a title."""

_HIGHEST = 1e100
"""What matplotlib still draws."""

Lines = Mapping[str, Mapping[str, Sequence[float] | npt.NDArray[np.floating[Any]]]]
"""Values along an answer by what they are, "temperature" or "top_p", and by command: "plain", "low", "high"."""

_LABELS = {"temperature": "predicted temperature, T", "top_p": "predicted top-p, P"}
_COMMANDS = {
    "plain": ("#777777", "no command"),
    "low": ("#0072B2", "asked for little diversity"),
    "high": ("#D55E00", "asked for much"),
}
_COLORS = {"temperature": "#D55E00", "top_p": "#0072B2"}


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure atomically."""
    write_atomically(path, lambda f: figure.savefig(f, format="png", dpi=120))


def trace_figure(traces: Sequence[ReadTrace]) -> Figure:
    """T and P over the tokens of each trace, as figure 4 of the AutoDeco paper has them; at most eight of them.

    Raises:
        AutoDecoError: matplotlib is missing.
    """
    shown = traces[:MOST_PANELS]
    figure = new_figure(9, 2.2 * len(shown) + 0.5)
    for axes, trace in zip(figure.subplots(len(shown), 1, squeeze=False).flat, shown, strict=True):
        _panel(axes, trace)
    return figure


def check_matplotlib(otherwise: str = "") -> None:
    """Raise AutoDecoError where matplotlib is missing; ``otherwise`` is what to do without, "; or ..."."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as e:
        raise not_installed("matplotlib is not installed", "matplotlib", "eval", otherwise) from e
    except Exception as e:  # its own settings, MPLBACKEND for one
        reason = " ".join(str(e).split())[:300]
        raise AutoDecoError(f"matplotlib cannot be used: {reason}{otherwise}", key="eval") from e


def new_figure(width: float, height: float) -> Figure:
    """An empty one, in inches; AutoDecoError where matplotlib is missing."""
    check_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def as_written(text: str) -> str:
    """A text that a figure shows as it is: matplotlib takes what stands between two ``$`` for a formula.

    What is no text, as in the name of a file, becomes a "?".

    Examples:
        >>> as_written("$1 or $2"), as_written("p\\udcff.jsonl")
        ('\\\\$1 or \\\\$2', 'p?.jsonl')
    """
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")


def _panel(axes: Any, trace: ReadTrace) -> None:
    right = axes.twinx()
    for side, name, label in ((axes, "temperature", "T, temperature"), (right, "top_p", "P, top-p")):
        known = [(i, min(token[name], _HIGHEST)) for i, token in enumerate(trace.tokens, 1) if name in token]
        style = {"color": _COLORS[name], "linestyle": "-" if side is axes else "--", "linewidth": 1.3}
        side.plot([i for i, _ in known], [value for _, value in known], **style)
        side.set_ylabel(label, color=_COLORS[name])
        side.set_ylim(0, max([2.0 if side is axes else 1.0, *(value for _, value in known)]) * 1.02)
    title = trace.title if len(trace.title) <= _TITLE else trace.title[:_TITLE] + " …"
    axes.set_title(as_written(printable(title)), fontsize="small", loc="left")
    axes.set_xlabel("token")
    axes.grid(alpha=0.3)


def commands_figure(one: Lines, mean: Lines, answers: int) -> Figure:
    """T and P along one answer under commands, as figure 4 of the paper has them, and beside it along many in the mean.

    Raises:
        AutoDecoError: matplotlib is missing.
    """
    figure = new_figure(12, 2.8 * len(one) + 0.4)
    panels = figure.subplots(len(one), 2, squeeze=False, width_ratios=(3, 2), sharey="row")
    for (left, right), name in zip(panels, one, strict=True):
        for kind, (color, label) in _COMMANDS.items():
            style: dict[str, Any] = {"color": color, "label": label, "linewidth": 1.3}
            left.plot(range(1, len(one[name][kind]) + 1), one[name][kind], **style)
            places = len(mean[name][kind])
            right.plot([100 * (i + 0.5) / places for i in range(places)], mean[name][kind], **style)
        left.set_ylabel(_LABELS[name])
        left.set_xlabel("token")
        right.set_xlabel("place in the answer, %")
        for axes in (left, right):
            axes.grid(alpha=0.3)
    panels[0][0].set_title("one answer, the same under each command", fontsize="medium")
    panels[0][1].set_title(f"{answers:,} answers in the mean", fontsize="medium")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize="small")
    return figure
