"""A trace in a notebook."""

from __future__ import annotations

import sys

import pytest

from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.model.trace import Rows, Trace
from autodeco_gguf.model.trace_html import marked

TEXTS = {0: b"<script>x</script>\n", 1: "é".encode()[:1], 2: "é".encode()[1:] + b"&", 3: b"\xf0"}
ROWS = [(0, 0.0, 1.0, 1.5, 9, 0.5), (1, 1.0, 0.5, float("nan"), 3, 0.25), (2, 2.0, 0.0, 0.0, 1, 1.0)]


def trace(*more: tuple[int, float, float, float, int, float]) -> Trace:
    return Trace(Rows([*ROWS, *more]), TEXTS.__getitem__)


def test_text_is_no_markup_and_each_token_has_its_colour_and_values() -> None:
    shown = trace().to_html()
    assert shown == trace()._repr_html_()
    assert "<script" not in shown
    spans = [part.split("</span>")[0] for part in shown.split("<span ")[1:]]
    assert spans == [
        'title="T 0.000, P 1.000, entropy 1.500 nats, nucleus 9, probability 0.500" style="background:#8abeff">'
        "&lt;script&gt;x&lt;/script&gt;\n",
        'title="T 1.000, P 0.500, nucleus 3, probability 0.250" style="background:#f0f0f0">\N{MIDDLE DOT}',
        'title="T 2.000, P 0.000, entropy 0.000 nats, nucleus 1, probability 1.000" style="background:#ffaa6e">é&amp;',
    ]
    assert "<small>Trace: 3 tokens, T 0.00 to 2.00" in shown


@pytest.mark.parametrize(("prob", "shown"), [(0.0005, "0.001"), (0.00049, "&lt;0.001"), (1e-30, "&lt;0.001")])
def test_what_was_drawn_was_not_impossible(prob: float, shown: str) -> None:
    assert f'probability {shown}"' in trace((0, 1.0, 1.0, 0.0, 9, prob)).to_html()


def test_top_p_may_colour_it() -> None:
    colours = [part[:7] for part in trace().to_html("top_p").split("background:")[2:]]
    assert colours == ["#ffaa6e", "#f0f0f0", "#8abeff"]
    with pytest.raises(InvalidInput, match='by \'entropy\', expected "temperature" or "top_p"'):
        trace().to_html("entropy")


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    assert ">\ufffd</span>" in trace((3, 1.0, 1.0, 0.0, 1, 1.0)).to_html()


@pytest.mark.parametrize("mark", ["\u202e", "\u2067"])
def test_a_mark_turns_no_text_but_its_own(mark: str) -> None:
    first, second = marked([(f"{mark}ab", 0.5, ""), ("مرحبا", 0.5, "")], "").split("<span ")[1:]
    assert ("unicode-bidi:isolate" in first, "unicode-bidi" in second) == (True, False)


def test_an_empty_trace_has_no_tokens() -> None:
    assert "<span" not in Trace().to_html()
    assert marked([], "nothing") == marked(iter(()), "nothing")


def test_a_table_for_pandas() -> None:
    pytest.importorskip("pandas")
    table = trace().to_pandas()
    assert list(table.columns)[:7] == ["id", "text", "temperature", "top_p", "entropy", "nucleus", "prob"]
    assert table["text"].tolist() == ["<script>x</script>\n", "", "é&"]
    assert table["temperature"].tolist() == [0.0, 1.0, 2.0]
    assert len(Trace().to_pandas()) == 0
    assert list(Trace().to_pandas().columns) == list(table.columns)


def test_without_pandas_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(AutoDecoError, match="to_pandas needs pandas; pip install pandas"):
        trace().to_pandas()
