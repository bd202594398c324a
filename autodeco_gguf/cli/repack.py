"""``autodeco-gguf repack``."""

from __future__ import annotations

from pathlib import Path

import click

from autodeco_gguf.cli._common import GGUF, Verb, human_size, progress_bar
from autodeco_gguf.errors import printable


@click.command("repack", cls=Verb)
@click.argument("file", type=GGUF)
def repack_command(file: Path) -> None:
    """Rebuild the base view of a merged FILE that another tool has rewritten.

    Re-quantizing a merged file, or editing its metadata, leaves the base model's header inside it out of date, and
    run refuses it. This writes the file anew, in place, with a header that fits; it needs room for a second copy.

    Example: autodeco-gguf repack qwen-autodeco-q4_k_m.gguf
    """
    from autodeco_gguf.heads.export import repack

    with progress_bar("repack", in_bytes=True) as bar:
        result = repack(file, progress=bar.update)
    click.echo(
        f"{printable(str(file))}: {'the base view is fresh' if result is None else human_size(result.nbytes)}", err=True
    )
