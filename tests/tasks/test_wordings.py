"""Sentences to train control with, and those held out of that."""

from __future__ import annotations

import re

import pytest

from autodeco_gguf.tasks.wordings import Direction, wordings

DIRECTIONS: tuple[Direction, ...] = ("low", "high")

OF_THE_PAPER = {
    "low": ("Ensure that the diversity of your output is low.", "Generate with low randomness."),
    "high": ("Ensure that the diversity of your output is high.", "Generate with high randomness."),
}


def words(sentences: tuple[str, ...]) -> set[str]:
    return {word for sentence in sentences for word in re.findall(r"\w+", sentence)}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_is_held_out_is_new_but_for_its_words(direction: Direction) -> None:
    seen, unseen = wordings(direction, held_out=False), wordings(direction, held_out=True)
    assert len(set(seen)) == len(seen) > 300
    assert len(set(unseen)) == len(unseen) > 150
    assert not set(seen) & set(unseen)
    assert words(unseen) <= words(seen)
    assert {*OF_THE_PAPER[direction]} <= set(unseen)


def test_the_directions_share_no_sentence() -> None:
    low, high = ({*wordings(d, held_out=True), *wordings(d, held_out=False)} for d in DIRECTIONS)
    assert not low & high
    assert "Be as certain as possible." in wordings("low", held_out=True)
    assert "Let your imagination run wild." in wordings("high", held_out=True)
