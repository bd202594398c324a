"""Text with a colour behind each piece, as HTML that a notebook shows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_COLD, _MIDDLE, _WARM = (138, 190, 255), (240, 240, 240), (255, 170, 110)
"""At 0, 0.5 and 1: black is read on each of them."""

_STYLE = "white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;line-height:1.7;color:#000;background:#fff"


def marked(pieces: Iterable[tuple[str, float, str]], caption: str) -> str:
    """Pieces (text, shade from 0 to 1, what is shown where one points at it), and a line below them.

    Examples:
        >>> marked([("<b>", 1.0, "T 2")], "1 token").split("<span ")[1].split("</span>")[0]
        'title="T 2" style="background:#ffaa6e">&lt;b&gt;'
    """
    spans = (
        f'<span title="{escape(about)}" style="background:{_color(shade)}{_apart(text)}">{_text(text)}</span>'
        for text, shade, about in pieces
    )
    return f'<div style="{_STYLE}">{"".join(spans)}</div><div><small>{escape(caption)}</small></div>'


def _apart(text: str) -> str:
    """What keeps a mark that turns the direction of writing from the text behind it."""
    return ";unicode-bidi:isolate" if re.search("[\u202a-\u202e\u2066-\u2069]", text) else ""


def _text(text: str) -> str:
    return escape(text) or "\N{MIDDLE DOT}"


def _color(shade: float) -> str:
    shade = min(max(shade, 0.0), 1.0)
    begin, end, share = (_COLD, _MIDDLE, 2 * shade) if shade < 0.5 else (_MIDDLE, _WARM, 2 * shade - 1)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(begin, end, strict=True))
