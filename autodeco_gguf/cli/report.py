"""``autodeco-gguf report``."""

from __future__ import annotations

from pathlib import Path

import click

from autodeco_gguf.cli._common import GGUF, Verb, human_size, option


@click.command("report", cls=Verb)
@click.argument("directory", metavar="DIR", type=GGUF)
@option("-o", "--output", type=GGUF, default="report.html", help="Page to write.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
def report_command(directory: Path, output: Path, force: bool) -> None:
    """Show the evaluation in DIR on one page: tables, plots, and every sample, right and wrong.

    The words of a sample are coloured where eval was given --traces. Of an evaluation that is too large for a page of
    20 MB, the first samples of each method and problem are on it, and it says so.

    Example: autodeco-gguf report results -o report.html
    """
    from autodeco_gguf.evaluation.report_page import report_page
    from autodeco_gguf.files.atomic import check_output, write_bytes

    check_output(output, inputs=directory.glob("*.json*"), force=force)
    if output.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"{output}: ends in {output.suffix or 'nothing'}, expected .html")
    content, shown, samples = report_page(directory)
    write_bytes(output, content)
    of = "" if shown == samples else f" of {samples:,}"
    click.echo(f"{output}: {shown:,}{of} samples, {human_size(len(content))}", err=True)
