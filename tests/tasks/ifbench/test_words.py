from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from instruction_helpers import Row, assert_either_outcome, cases_of

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.tasks.ifbench import words
from autodeco_gguf.tasks.ifbench.registry import check
from autodeco_gguf.tasks.instruction_checks import encode

ROWS: list[Row] = [
    (
        "words:alphabet",
        {},
        ["Young zebras ask bees.", 'm, "n" (o)', "Q", "a B\nc"],
        ["a c", "a b b", "1 a", "a 1", "\u00e9 f", "..."],
    ),
    (
        "words:vowel",
        {},
        ["A bird sits on my arm.\n", "Shh!", "only ONE type"],
        ["Beautiful", "our arms fell\nand so did bits", "a\nb"],
    ),
    ("words:consonants", {}, ["Thick frogs", "myth STRONG"], ["Thick fo", "fog - dark", "a-b", "the I"]),
    (
        "words:palindrome",
        {},
        ["level " * 10, "Civic, radar; kayak (madam) refer rotor stats tenet LEVEL solos."],
        ["level " * 9, "noon " * 10, "levels " * 10],
    ),
    ("words:prime_lengths", {}, ["It was there, friends; no!", "a-b"], ["a", "It is fine", "It's a dog", "x" * 101]),
    (
        "words:start_verb",
        {},
        ["Go home.", "Remember me!", "Running is fun", "Limited by time, we went", "is it?", "Don't."],
        ["The cat runs", "Answer: 5", "During the day", "1. Go", "Evening came", "Red", "\U0001f600 Go", "**Use** it"],
    ),
    (
        "words:repeats",
        {"small_n": 2},
        ["the dog the cat", "The the dog's dog", "- - - a"],
        ["the The THE!", "a a a"],
    ),
    (
        "words:odd_even_syllables",
        {},
        ["The water is flowing", "water!", "Beautiful water"],
        ["The cat", "water flowing", "The water flowing"],
    ),
    (
        "words:last_first",
        {},
        ["We saw it. It saw us! Us it was.", "Just one", '"So run." Run he did.'],
        ["We saw it. They ran.", "Go on. On we go. So on.", "Go. - - -"],
    ),
    (
        "words:paragraph_last_first",
        {},
        ["Time flies, time!\n\n\u2014", "Home is home.\nGo as I go\n* Go - go", "word"],
        ["Home is here.", "Home is home.\nGo on", "Go, on go"],
    ),
    ("words:no_consecutive", {}, ["All big cats", "a", "\u00e9t\u00e9 et"], ["Big bad", "a - an", "One\n\n'Old'"]),
    (
        "words:keywords_specific_position",
        {"keyword": " Vast ", "n": 2, "m": 3},
        ["Look. The sea, vast.", "Look! It is VAST.", "Look. (I am) vast", "Look. Don't vast"],
        ["Look. The vast sea", "The sea vast", "Look. Sea vast", "Look. It is vaster", "Look. A. vast"],
    ),
    (
        "words:words_position",
        {"keyword": "vibrant "},
        ["A vibrant town is a vibrant one.", "A Vibrant town, a vibrant one", "A vibrant vibrant b", "A vibrant town."],
        [
            "vibrant",
            "The town is vibrant.",
            "A vibrant one is vibrant.",
            "A vibrant, vibrant one?!",
            "It vibrant. It vibrant",
        ],
    ),
]


@pytest.fixture(autouse=True)
def syllapy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that counts groups of vowels."""
    module = ModuleType("syllapy")
    module.__dict__["count"] = lambda word: {"flowing": 2, "the": 1, "beautiful": 3, "water": 2}.get(word, 1)
    monkeypatch.setitem(sys.modules, "syllapy", module)


def test_every_instruction_has_a_row_for_either_outcome() -> None:
    assert_either_outcome(ROWS, words.INSTRUCTIONS)


@pytest.mark.parametrize(("name", "arguments", "text", "followed"), cases_of(ROWS))
def test_instruction(name: str, arguments: dict[str, Any], text: str, followed: bool) -> None:
    assert check(text, encode([name], [arguments])) is followed
    assert check(" \n", encode([name], [arguments])) is False


def test_without_syllapy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "syllapy", None)
    with pytest.raises(AutoDecoError, match=r"^syllapy is not installed; pip install syllapy, or in a clone: "):
        check("", encode(["words:odd_even_syllables"], [{}]))
    assert check("a", encode(["words:repeats"], [{"small_n": 1}]))
