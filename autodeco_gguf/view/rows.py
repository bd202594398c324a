"""A trace for a reader: the text, and under every token its temperature and top-p."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from autodeco_gguf.model.trace import TraceToken

_VISIBLE = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def rows(trace: Iterable[TraceToken], width: int) -> Iterator[Text]:
    """Lines of at most ``width`` cells, in groups of three (tokens, T, P) with an empty line between groups.

    A token that is wider stands alone, and its line is longer.

    Tokens are coloured by temperature, from blue at 0 over green at 1 to red at 2.
    """
    group: list[list[Text]] = []
    used = 0
    for token in trace:
        column = _column(token)
        if group and used + column[0].cell_len + 3 > width:
            yield from _lines(group)
            yield Text()
            group, used = [], 0
        group.append(column)
        used += column[0].cell_len
    if group:
        yield from _lines(group)


def _column(token: TraceToken) -> list[Text]:
    text = "".join(c if c.isprintable() else _VISIBLE.get(c, "\ufffd") for c in token.text.decode("utf-8", "replace"))
    cells = [text, f"{token.temperature:.2f}", f"{token.top_p:.2f}"]
    size = max(map(cell_len, cells)) + 1
    styles = [Style(color="#000000", bgcolor=_color(token.temperature)), Style(bold=True), Style(dim=True)]
    return [
        Text.assemble((cell, style), " " * (size - cell_len(cell))) for cell, style in zip(cells, styles, strict=True)
    ]


def _lines(group: list[list[Text]]) -> Iterator[Text]:
    for label, columns in zip(("", "T", "P"), zip(*group, strict=True), strict=True):
        yield Text.assemble((f"{label:2} ", "dim"), *columns)


def _color(temperature: float) -> str:
    hue = (2.0 - min(max(temperature, 0.0), 2.0)) / 3.0
    red, green, blue = (round(255 * x) for x in colorsys.hls_to_rgb(hue, 0.75, 0.8))
    return f"#{red:02x}{green:02x}{blue:02x}"
