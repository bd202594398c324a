"""What several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

GGUF = click.Path(path_type=Path)
"""A file argument. Whether it exists is left to the code that opens it, whose error says more."""


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes on stderr, shown only on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def human_size(nbytes: int) -> str:
    """Bytes in decimal units: 1234567 -> "1.2 MB"."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def heads_text(names: object) -> str:
    """Head names for a reader: "temperature, top-p"."""
    return ", ".join(sorted(str(n).replace("_", "-") for n in names)) or "none"  # type: ignore[attr-defined]
