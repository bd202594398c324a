"""What several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from autodeco_gguf.format import DEFAULT_CONTEXT

F = TypeVar("F", bound=Callable[..., Any])

GGUF = click.Path(path_type=Path)
"""A file argument. Whether it exists is left to the code that opens it, whose error says more."""


_ANSWERS = (
    click.option(
        "-n", "--max-tokens", type=click.IntRange(min=1), help="Longest answer in tokens.  [default: the context]"
    ),
    click.option(
        "-c",
        "--ctx",
        type=click.IntRange(1, 2**24),
        help=f"Context of an answer in tokens, prompt included.  [default: the model's own, at most {DEFAULT_CONTEXT}]",
    ),
    click.option("--parallel", type=click.IntRange(min=1), default=16, show_default=True, help="Answers at a time."),
)
_MACHINE = (
    click.option(
        "-t", "--threads", type=click.IntRange(1, 512), help="CPU threads.  [default: one a core, half above 4]"
    ),
    click.option(
        "--gpu-layers", type=click.IntRange(min=-1), default=-1, show_default=True, help="On the GPU; -1: all."
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show llama.cpp's own log."),
)


def answer_options(command: F) -> F:
    """The options of a command that samples many answers: how long, and how many at a time."""
    return reduce(lambda f, option: option(f), reversed(_ANSWERS), command)


def machine_options(command: F) -> F:
    """The options of a command that runs a model: on what, and with how much noise."""
    return reduce(lambda f, option: option(f), reversed(_MACHINE), command)


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
