"""Draws a story of the demo model with T and P under every token: python demo/picture.py docs/trace.svg"""

from __future__ import annotations

import io
import re
from pathlib import Path

import click
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from autodeco_gguf import Llama
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks.stories import EXAMPLE
from autodeco_gguf.view.rows import rows


def draw(output: Path, model: Path = DEMO_MODEL, seed: int = 3) -> None:
    """Write an SVG of one story."""
    llama = Llama(model, n_ctx=512, verbose=False)
    llama.create_chat_completion([{"role": "user", "content": EXAMPLE}], seed=seed)
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"> {EXAMPLE}\n", "bold"))
    for line in rows(llama.trace, console.width):
        console.print(line)
    # without the fonts that rich would have the reader's browser fetch
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    console.save_svg(str(output), title="autodeco-gguf run --trace", code_format=template)


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--seed", type=int, default=3, show_default=True)
def main(output: Path, seed: int) -> None:
    """Draw one."""
    draw(output, seed=seed)


if __name__ == "__main__":
    main()
