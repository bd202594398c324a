"""``autodeco-gguf extract``."""

from __future__ import annotations

from pathlib import Path

import click

from autodeco_gguf.cli._common import GGUF, Verb, human_size, progress_bar
from autodeco_gguf.errors import printable


@click.command("extract", cls=Verb)
@click.argument("merged", type=GGUF)
@click.option("--base", type=GGUF, help="Write the base model here, bit-identical to the file it was made of.")
@click.option("--adapter", type=GGUF, help="Write the heads here, as an adapter.")
@click.option(
    "--checkpoint",
    type=GGUF,
    metavar="DIR",
    help="Write the heads here in the official format, config.json and model.safetensors.",
)
@click.option("--force", is_flag=True, help="Replace outputs that exist.")
def extract_command(
    merged: Path, base: Path | None, adapter: Path | None, checkpoint: Path | None, force: bool
) -> None:
    """Take the base model or the heads out of a MERGED file. For the heads alone it may be an adapter, or smollm2.

    Example: autodeco-gguf extract qwen-autodeco.gguf --base qwen2.5-7b-q4_k_m.gguf
    """
    from autodeco_gguf.heads.export import extract

    with progress_bar("extract", in_bytes=True) as bar:
        results = extract(merged, base=base, adapter=adapter, checkpoint=checkpoint, force=force, progress=bar.update)
    for result in results:
        click.echo(f"{printable(str(result.path))}: {human_size(result.nbytes)}", err=True)
