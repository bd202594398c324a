"""``autodeco-gguf export``; convert/export.py runs the same command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from autodeco_gguf.cli._common import GGUF, Verb, heads_text, human_size, offline_option, option, progress_bar
from autodeco_gguf.cli._types import Source
from autodeco_gguf.errors import printable
from autodeco_gguf.heads.format import ACTIVATIONS, HEAD_TYPES


@click.command("export", cls=Verb)
@option("--base", type=GGUF, required=True, help="The base model's GGUF, or the first of its shards.")
@option(
    "--heads",
    type=Source(),
    required=True,
    help="The trained heads: a checkpoint directory, or a Hugging Face repo id (extra hub).",
)
@option("-o", "--output", type=GGUF, help="The file to write.  [default: BASE-autodeco.gguf, here]")
@option("--adapter", is_flag=True, help="Write the heads alone, a few MB, to go with the untouched base.")
@option("--head-type", type=click.Choice(HEAD_TYPES), default="f32", help="Type of the heads' matrices.")
@option(
    "--activation", type=click.Choice(ACTIVATIONS), help="Between layers.  [default: relu, gelu for over two layers]"
)
@option("--force", is_flag=True, help="Replace the output if it exists, through a link its file.")
@offline_option
def export_command(base: Path, heads: str, output: Path | None, **options: Any) -> None:
    """Put trained AutoDeco heads into a GGUF.

    The merged file is the base model, byte for byte, with the heads as extra tensors: run it with autodeco-gguf run.

    Example: autodeco-gguf export --base qwen2.5-7b-q4_k_m.gguf --heads ./AutoDeco-Qwen2.5-7B -o qwen-autodeco.gguf
    """
    from autodeco_gguf.heads.export import export

    with progress_bar("export", in_bytes=True) as bar:
        result = export(base, heads, output, **options, progress=bar.update)
    click.echo(
        f"{printable(str(result.path))}: {human_size(result.nbytes)}, heads: {heads_text(result.heads)}", err=True
    )
