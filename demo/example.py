"""Writes what the README's commands begin with, taken from the demo model: python demo/example.py example

small.gguf, a model without heads; checkpoint, heads for it in the official format; problems.jsonl, what to
train on.
"""

from __future__ import annotations

from pathlib import Path

import click

from autodeco_gguf import ModelFile, extract
from autodeco_gguf.files.jsonl import write_lines
from autodeco_gguf.heads.checkpoint_writer import transformers_config, write_checkpoint
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks import stories


def write(directory: Path, n_problems: int = 60) -> None:
    """Fill a directory, which is made; the files are replaced.

    Raises:
        BadFile: one cannot be written.
    """
    checkpoint = directory / "checkpoint"
    checkpoint.mkdir(parents=True, exist_ok=True)
    extract(DEMO_MODEL, base=directory / "small.gguf", force=True)
    model = ModelFile.open(DEMO_MODEL)
    heads = model.read_heads()
    base_model_type, base_config = transformers_config(model.base())
    write_checkpoint(
        checkpoint, heads, enabled=tuple(heads.mlps), base_model_type=base_model_type, base_config=base_config
    )
    problems = stories.problems(n_problems, seed="example", held_out=False)
    write_lines(directory / "problems.jsonl", ({"prompt": p.prompt, "answer": p.a + p.b} for p in problems))


@click.command(help=__doc__)
@click.argument("directory", type=click.Path(path_type=Path))
def main(directory: Path) -> None:
    """Write it."""
    write(directory)
    click.echo(f"{directory}: small.gguf, checkpoint, problems.jsonl")


if __name__ == "__main__":
    main()
