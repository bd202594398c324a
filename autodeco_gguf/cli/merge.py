"""``autodeco-gguf merge``."""

from __future__ import annotations

from pathlib import Path

import click

from autodeco_gguf.cli._common import GGUF


@click.command("merge", short_help="Put the shards of an evaluation together.")
@click.argument("directories", metavar="DIR...", type=GGUF, nargs=-1, required=True)
@click.option("-o", "--output", type=GGUF, required=True, help="New directory for all samples.")
@click.option("--no-plots", is_flag=True, help="Write no plots, which need matplotlib.")
def merge_command(directories: tuple[Path, ...], output: Path, no_plots: bool) -> None:
    """Put the samples of DIR..., written by eval with --shard, into one directory.

    Methods of which all samples are there are in its results. For the others, and for those that have to be searched
    for, run eval again with -o OUTPUT and without --shard: it goes on from there.

    Example: autodeco-gguf merge part1 part2 -o aime24
    """
    from autodeco_gguf.evaluation.merge import merge
    from autodeco_gguf.evaluation.report import table

    merged = merge(directories, output, plots=not no_plots)
    if merged.results is not None:
        click.echo(f"{table(merged.results)}\n\n{merged.results['verdict']}")
    rest = f"{', '.join(merged.incomplete)} and others" if merged.incomplete else "methods that are not in its results"
    click.echo(f"{output}: {merged.samples} samples; eval without --shard and with -o {output} adds {rest}", err=True)
