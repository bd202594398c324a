"""Boxes in responses."""

from __future__ import annotations

import pytest

from autodeco_gguf.tasks.boxes import last_box, last_boxed


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{a{b}c} d}", "a{b}c"),
        (r"\boxed{a\}b}", r"a\}b"),
        ("\\boxed{two\nlines}", "two\nlines"),
        (r"\boxed{}", ""),
        (r"\\boxed{a}", None),  # a line break, then a word
        (r"\unboxed{a}", None),
        (r"\boxed{a\}", None),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_where_it_stands() -> None:
    text = r"\boxed{5} or \boxed {ab} or \boxed{"
    begin, end = last_box(text)
    assert (text[begin:end], text[begin - 1], text[end]) == ("ab", "{", "}")
    assert last_box(r"\boxed{5") == (-1, -1)
