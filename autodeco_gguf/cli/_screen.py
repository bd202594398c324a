"""The text of an answer as a terminal is to have it: nothing that steers it, and colours by what was predicted."""

from __future__ import annotations

import bisect
import math
import os
import re
from typing import TYPE_CHECKING, NamedTuple, TextIO

from autodeco_gguf.errors import printable

if TYPE_CHECKING:
    from autodeco_gguf.model.trace import TraceToken

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a terminal does not show, but obeys; overrides of the direction of writing among them."""


class Scale(NamedTuple):
    """What a colour stands for: the values from which on the next one is used."""

    field: str
    unit: str
    edges: tuple[float, ...]


SCALES = {
    "temperature": Scale("temperature", "temperature", (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)),
    "top_p": Scale("top_p", "top-p", (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)),
    "prob": Scale("prob", "probability", (0.05, 0.1, 0.25, 0.5, 0.75, 0.95)),
    "entropy": Scale("entropy", "entropy in nats", (0.1, 0.5, 1.0, 2.0, 3.0, 4.0)),
}
"""What ``--color`` takes."""

COLORS = (27, 31, 28, 100, 166, 160, 163)
"""From low to high, of the 256 of xterm: those with a contrast of 3.8 or more against black and white alike."""

_RESET = "\x1b[0m"


def can_color(stream: TextIO | None) -> bool:
    """Whether colours are wanted there: on a terminal, unless NO_COLOR or TERM=dumb says otherwise."""
    if stream is None or not stream.isatty() or os.environ.get("NO_COLOR"):
        return False
    return os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def harmless(text: str) -> str:
    """A text that anybody may have written, with what would steer the terminal as an escape."""
    return _STEERING.sub(lambda control: printable(control[0]), text)


class Screen:
    """An answer's text on its way to a terminal.

    Every piece ends with the colours as they were, so that whatever comes in between finds them so.
    """

    def __init__(self, scale: Scale | None = None) -> None:
        """Colour by that; None: leave the colours alone."""
        self._scale = scale
        self._return = False  # a carriage return, of which it is not known yet whether a line ends with it

    def show(self, text: str, token: TraceToken) -> str:
        """What to write for the text that has come with a token."""
        text = ("\r" if self._return else "") + text
        self._return = text.endswith("\r")
        text = text.removesuffix("\r").replace("\r\n", "\n")
        return self._colored(harmless(text), token)

    def end(self) -> str:
        """What has been held back."""
        held, self._return = "\\r" if self._return else "", False
        return held

    def _colored(self, text: str, token: TraceToken) -> str:
        if self._scale is None:
            return text
        value = getattr(token, self._scale.field)
        if math.isnan(value):
            return text
        color = f"\x1b[38;5;{COLORS[bisect.bisect_right(self._scale.edges, value)]}m"
        return re.sub(r"[^\s](?:[^\n\t]*[^\s])?", lambda shown: f"{color}{shown[0]}{_RESET}", text)


def legend(scale: Scale) -> str:
    """A line with each colour, and the values it stands for."""
    names = [f"below {scale.edges[0]:g}", *(f"{edge:g}" for edge in scale.edges)]
    shown = [f"\x1b[38;5;{color}m{name}{_RESET}" for color, name in zip(COLORS, names, strict=True)]
    return f"{scale.unit}: {'  '.join(shown)} and above"
