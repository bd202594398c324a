"""Stages of what demo/ makes: each keeps its result, and is skipped where that is there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click


class Stages:
    """The stages in a directory, with ``seconds.json``, how long each took."""

    def __init__(self, work: Path) -> None:
        """Make the directory where it is not there."""
        work.mkdir(parents=True, exist_ok=True)
        self._times = work / "seconds.json"

    @property
    def seconds(self) -> dict[str, float]:
        """By stage."""
        found: dict[str, float] = json.loads(self._times.read_text()) if self._times.exists() else {}
        return found

    def run(self, name: str, result: Path, make: Callable[[], None]) -> None:
        """Run a stage unless its result is there, and note how long it took."""
        if result.exists():
            click.echo(f"{name}: done before")
            return
        click.echo(f"{name} ...")
        begin = time.monotonic()
        make()
        seconds = {**self.seconds, name: round(time.monotonic() - begin, 1)}
        self._times.write_text(json.dumps(seconds, indent=1) + "\n")
        click.echo(f"{name}: {seconds[name]:.0f} s")


def verb(*arguments: str | Path) -> None:
    """Run a verb of autodeco-gguf, by the command beside this Python: ``-m`` would take the sources in a checkout."""
    click.echo("  autodeco-gguf " + " ".join(map(str, arguments)))
    subprocess.run([Path(sys.executable).with_name("autodeco-gguf"), *map(str, arguments)], check=True)
