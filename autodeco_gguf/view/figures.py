"""Matplotlib figures as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autodeco_gguf.files.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure atomically."""
    write_atomically(path, lambda f: figure.savefig(f, format="png", dpi=120))
