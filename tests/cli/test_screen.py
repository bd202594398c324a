"""An answer's text on a terminal: what steers is shown, colours end where they begin."""

from __future__ import annotations

import math
import re

import pytest

from autodeco_gguf.cli._screen import COLORS, SCALES, Screen, can_color, legend
from autodeco_gguf.model.trace import TraceToken


def token(**values: float) -> TraceToken:
    fields = {"temperature": 1.0, "top_p": 1.0, "entropy": math.nan, "prob": 0.5} | values
    return TraceToken(0, b"", fields["temperature"], fields["top_p"], fields["entropy"], 1, fields["prob"])


def contrast(color: int, background: float) -> float:
    """As WCAG 2 has it, against a background of that luminance."""
    levels = [(0, 95, 135, 175, 215, 255)[(color - 16) // 6**i % 6] / 255 for i in (2, 1, 0)]
    red, green, blue = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in levels)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    light, dark = max(luminance, background), min(luminance, background)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("color", COLORS)
def test_colors_are_readable_on_light_and_dark(color: int) -> None:
    assert contrast(color, 0.0) > 3.7
    assert contrast(color, 1.0) > 3.7


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["a\x1b[31mb\x07c\td\n"], "a\\x1b[31mb\\x07c\td\n"),
        (["\x9b2J\x7f\x00"], "\\x9b2J\\x7f\\x00"),
        (["a\r\nb"], "a\nb"),
        (["a\r", "\nb"], "a\nb"),
        (["safe\r", "evil"], "safe\\revil"),
        (["a\r"], "a\\r"),
        (["\u202eevil", " \u2066x"], "\\u202eevil \\u2066x"),
        (["👨‍👩‍👧 e\u0301 请"], "👨‍👩‍👧 e\u0301 请"),
    ],
)
def test_what_would_steer_is_shown(pieces: list[str], shown: str) -> None:
    plain, colored = Screen(), Screen(SCALES["prob"])
    assert "".join(plain.show(piece, token()) for piece in pieces) + plain.end() == shown
    text = "".join(colored.show(piece, token()) for piece in pieces) + colored.end()
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == shown
    for line in text.split("\n"):  # no line break within colours: a terminal would fill the line
        assert line.count("\x1b[38;5;") == line.count("\x1b[0m")


@pytest.mark.parametrize("field", SCALES)
def test_a_color_for_each_value(field: str) -> None:
    scale = SCALES[field]
    values = [-1.0, *scale.edges]
    shown = [Screen(scale).show("x", token(**{field: value})) for value in values]
    assert shown == [f"\x1b[38;5;{color}mx\x1b[0m" for color in COLORS]
    assert [re.sub(r"\x1b\[[0-9;]*m", "", s) for s in shown] == ["x"] * len(COLORS)
    assert legend(scale).count("\x1b[38;5;") == legend(scale).count("\x1b[0m") == len(COLORS)
    assert Screen(SCALES["entropy"]).show("x", token()) == "x"  # not known


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        ({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False), ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
    ],
)  # fmt: skip
def test_where_colors_are_wanted(
    environment: dict[str, str], is_terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream:
        def isatty(self) -> bool:
            return is_terminal

    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    assert can_color(Stream()) == expected  # type: ignore[arg-type]
    assert not can_color(None)
