"""The picture of a trace."""

from __future__ import annotations

import pytest
from rich.style import Style
from rich.text import Text

from autodeco_gguf.model.trace import TraceToken
from autodeco_gguf.view.rows import rows


def token(text: bytes, temperature: float = 1.0, top_p: float = 0.5) -> TraceToken:
    return TraceToken(0, text, temperature, top_p, 0.0, 1, 1.0)


def plain(trace: list[TraceToken], width: int) -> list[str]:
    return [line.plain for line in rows(trace, width)]


def test_t_and_p_stand_under_their_token() -> None:
    assert plain([token(b"47", 0.05, 0.3), token(b" buttons", 1.254, 1.0)], 80) == [
        "   47    buttons ",
        "T  0.05 1.25     ",
        "P  0.30 1.00     ",
    ]


def test_lines_keep_to_the_width() -> None:
    lines = plain([token(b" word")] * 11, 30)
    assert all(len(line) <= 30 for line in lines)
    assert lines[3] == lines[7] == ""
    assert "".join(lines).count("word") == 11
    assert plain([token(b"x" * 50)], 20)[0].strip() == "x" * 50  # wider than the line: whole all the same


@pytest.mark.parametrize(
    ("text", "shown"),
    [(b"\n", "\\n"), (b"\t.", "\\t."), (b"\xc3", "\ufffd"), ("é".encode(), "é"), (b"\x1b[31m", "\ufffd[31m")],
)
def test_what_cannot_be_shown_is_spelled(text: bytes, shown: str) -> None:
    assert plain([token(text)], 40)[0][3:].rstrip() == shown


def test_wide_characters_keep_the_columns() -> None:
    from rich.cells import cell_len

    lines = plain([token("日本語".encode()), token(b"a")], 40)
    assert cell_len(lines[0]) == cell_len(lines[1]) == cell_len(lines[2])


def test_colour_tells_the_temperature() -> None:
    def colour(temperature: float) -> tuple[int, ...]:
        (line, *_) = rows([token(b"x", temperature)], 40)
        style = next(s.style for s in line.spans if isinstance(s.style, Style) and s.style.bgcolor)
        assert style.bgcolor is not None
        assert style.bgcolor.triplet is not None
        return tuple(style.bgcolor.triplet)

    cold, warm, hot = colour(0.0), colour(1.0), colour(2.0)
    assert cold.index(max(cold)) == 2
    assert warm.index(max(warm)) == 1
    assert hot.index(max(hot)) == 0
    assert colour(5.0) == hot


def test_only_labels_and_top_p_are_dimmed() -> None:
    lines = list(rows([token(b"word", 0.5, 0.25), token(b" x")], 40))

    def styles(line: Text, place: int) -> str:
        return " ".join(
            str(style) for style in [line.style, *(s.style for s in line.spans if s.start <= place < s.end)]
        )

    words, temperature, top_p = lines
    assert [("dim" in styles(line, 0)) for line in lines] == [True] * 3
    assert "dim" not in styles(words, 4)
    assert ("dim" in styles(temperature, 4), "bold" in styles(temperature, 4)) == (False, True)
    assert "dim" in styles(top_p, 4)
    for line in lines:
        assert styles(line, 7).strip() == ""  # the space between two tokens is like none of them


def test_an_empty_trace_gives_nothing() -> None:
    assert plain([], 40) == []
