"""``autodeco-gguf view``."""

from __future__ import annotations

from pathlib import Path

import click

from autodeco_gguf.cli._common import GGUF, Verb, human_size
from autodeco_gguf.errors import BadFile, printable

MOST_BYTES = 20_000_000
"""Of a page; a browser takes some seconds for it."""


@click.command("view", cls=Verb)
@click.argument("files", metavar="TRACE.jsonl...", type=GGUF, nargs=-1, required=True)
@click.option(
    "-o", "--output", type=GGUF, help="Page to write, or with .png a plot.  [default: that of the first file, here]"
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
def view_command(files: tuple[Path, ...], output: Path | None, force: bool) -> None:
    """Show traces on a page of its own, or as a plot of T and P.

    TRACE.jsonl is what run --json prints, what serve --log-answers writes, what the server answers to a request with
    "autodeco" (as it is, or its stream), or the samples.jsonl, traces.jsonl or pairs.jsonl of an evaluation; - is
    standard input.

    Example: autodeco-gguf view trace.jsonl -o trace.html
    """
    from autodeco_gguf.files.atomic import check_output, write_bytes
    from autodeco_gguf.view.figures import MOST_PANELS, trace_figure, write_png
    from autodeco_gguf.view.page import trace_page, within
    from autodeco_gguf.view.traces import STDIN, read_traces

    names = ["standard input" if file == STDIN else file.name for file in files]
    if output is None:
        output = Path(f"{'trace' if files[0] == STDIN else files[0].stem or 'trace'}.html")
    if output.suffix.lower() not in (".html", ".htm", ".png"):
        raise click.UsageError(f"{output}: ends in {output.suffix or 'nothing'}, expected .html or .png")
    check_output(output, inputs=files, force=force)

    def warn(text: str) -> None:
        click.echo(f"warning: {printable(text)}", err=True)

    traces = [trace for file in files for trace in read_traces(file, warn)]
    if output.suffix.lower() == ".png":
        with_tokens = [trace for trace in traces if trace.tokens]
        if not with_tokens:
            raise BadFile.of(files[0], "no values of single tokens in it, which a plot needs; eval --traces keeps them")
        write_png(trace_figure(with_tokens), output)
        shown = min(len(with_tokens), MOST_PANELS)
    else:
        most = list(within(traces, MOST_BYTES)) or traces[:1]
        left_out = len(traces) - len(most)
        write_bytes(output, trace_page(", ".join(names), most, left_out))
        shown = len(most)
    of = "" if shown == len(traces) else f" of {len(traces):,}"
    click.echo(
        f"{printable(str(output))}: {shown:,}{of} trace{'s' * (len(traces) != 1)}, {human_size(output.stat().st_size)}",
        err=True,
    )
