"""``autodeco-gguf join``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from autodeco_gguf.cli._common import GGUF, WITHOUT_PLOTS, Verb


@click.command("join", cls=Verb)
@click.argument("directories", metavar="DIR...", type=GGUF, nargs=-1, required=True)
@click.option("-o", "--output", type=GGUF, required=True, help="New directory for all samples.")
@click.option("--no-plots", is_flag=True, help="Write no plots, which need matplotlib.")
@click.option("--wide", is_flag=True, help="Print every column, as report.md has them.")
def join_command(directories: tuple[Path, ...], output: Path, no_plots: bool, wide: bool) -> None:
    """Put the samples of DIR..., written by eval with --shard, into one directory.

    Methods of which all samples are there are in its results. For the others, and for those that have to be searched
    for, run eval again with -o OUTPUT and without --shard: it goes on from there.

    Example: autodeco-gguf join part1 part2 -o aime24
    """
    from autodeco_gguf.evaluation.report import summary
    from autodeco_gguf.evaluation.shards import join
    from autodeco_gguf.view.figures import check_matplotlib

    if not no_plots:
        check_matplotlib(WITHOUT_PLOTS)
    joined = join(directories, output, plots=not no_plots)
    if joined.results is not None:
        click.echo(summary(joined.results, wide=wide))
    rest = f"{', '.join(joined.incomplete)} and others" if joined.incomplete else "methods that are not in its results"
    how = f"eval without --shard and with {shlex.join(['-o', str(output)])}"
    click.echo(f"{output}: {joined.samples} samples; {how} adds {rest}", err=True)
