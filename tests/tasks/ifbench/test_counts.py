from __future__ import annotations

from typing import Any

import pytest
from instruction_helpers import Row, assert_either_outcome, cases_of

from autodeco_gguf.tasks.ifbench import counts
from autodeco_gguf.tasks.ifbench.registry import check
from autodeco_gguf.tasks.instruction_checks import encode

REFERENCE = "abcdefgh"  # six groups of three characters
KEYWORDS = {f"keyword{i}": word for i, word in enumerate(("ant", " bee ", "Cow", "dog", "emu"), 1)}
FIVE = "ant BEE bee cow cow cow " + "dog, " * 5 + "emu " * 7
LONG, OTHER = ("".join(map(chr, range(first, first + 100))) for first in (0x100, 0x200))


def like(percent: int) -> str:
    """A text of a hundred groups of three characters, of which so many are in LONG."""
    return LONG[: percent + 2] + OTHER[: 100 - percent]


ROWS: list[Row] = [
    (
        "count:word_count_range",
        {"min_words": 3, "max_words": 4},
        ["a b c", "a-b, c! d", "- a b c -"],
        ["a b", "a b c d e", "a - b"],
    ),
    (
        "count:unique_word_count",
        {"N": 3},
        ["a b c", "A, b. c! a", "a b -"],
        ["a A a. b", "- * a", "a b"],
    ),
    (
        "count:conjunctions",
        {"small_n": 3},
        ["this and that, but, or so", "And so, yet", "and And and,"],
        ["and and and", "this and that or more", "andy forbade solo"],
    ),
    (
        "count:person_names",
        {"N": 2},
        ["Emma met Liam.", "Zoe's Leo"],
        ["Emma, Emma", "emma liam", "Emmas and Leonie", "Anna met Peter"],
    ),
    ("count:numbers", {"N": 2}, ["1 and 2", "1,000.50 or 7", "a1 b2"], ["1", "1 2 3", "one two", "1-2"]),
    ("count:numbers", {"N": 0}, ["none"], ["1"]),
    (
        "count:punctuation",
        {},
        ["What?! A, b; c: d. No? Yes!", "What!? a,b;c:d.e?f!", "\u203d . , ; : ? !"],
        ["A, b; c: d. No? Yes!", "What?! A, b; c: d. No?", "What?! A, b; c: d.", "\u203d . , ; : ?"],
    ),
    (
        "count:words_japanese",
        {"N": 2},
        ["The \u732b sat \u306d here", "a (\u30cd\u30b3)", "a 12 b -", "alone"],
        ["The cat", "a \u732b b c", "\u732b a"],
    ),
    (
        "count:pronouns",
        {"N": 3},
        ["I saw him with her.", "she/her/hers", "It's mine, all of it", "Who gave you this?"],
        ["I saw the cat", "Italy's hermit", "We're here", "there then than"],
    ),
    (
        "count:keywords_multiple",
        KEYWORDS,
        [FIVE, FIVE.replace("ant", "Antler")],
        [FIVE + "emu", FIVE.replace("ant ", ""), FIVE + " elephant", "ant bee cow dog emu"],
    ),
    (
        "ratio:stop_words",
        {"percentage": 50},
        ["The cat", "cats, dogs", "I don't like cats dogs birds"],
        ["The cat is", "It is", "- - -", "the"],
    ),
    ("ratio:stop_words", {"percentage": 33.5}, ["The big cat"], ["The cat"]),
    (
        "ratio:sentence_type",
        {},
        ["A is. B is. C?", "C? A is! B is. D is.", "No marks", 'A is. B is. C? "D."'],
        ["A is. C?", "C?", "A is.", "A is. B is. C? D?"],
    ),
    (
        "ratio:sentence_balance",
        {},
        ["It is. Is it? It is!", "Oh! Why? Now. none", "none", "Oh! Ah! Why? How? Now. Go."],
        ["It is. Is it?", "Go. Why? Oh! Ah!", "Go.", "Go. Why? (Oh!)"],
    ),
    (
        "ratio:overlap",
        {"percentage": 50, "reference_text": REFERENCE},
        ["abcXYZ"[:4], "abcdefXYZ!", "abcd" + "bcd" * 3],
        ["abcdefgh", "abc", "XYZ", "ab", "ABCD"],
    ),
    ("ratio:overlap", {"percentage": 50, "reference_text": LONG}, [like(48), like(52)], [like(47), like(53)]),
    (
        "ratio:sentence_words",
        {},
        ["A cat. A dog. A cow.", "A cat! A cat! A cat!", "\nA cat.\n\nA dog?  A cow.\n"],
        ["A cat. A dog.", "A cat. A dog. A duck.", "A cat. A dog. A cow. A sow."],
    ),
    (
        "sentence:alliteration_increment",
        {},
        [
            "One day. Big bad wolf. Big bad bear came. Big bear sees sun so low",
            "Alone",
            '"Big" *bad*',
            "A cat. A ant.",
        ],
        ["Big bad wolf. One day.", "One day. Two mice.", "Big bear. Sad sun."],
    ),
    (
        "sentence:keyword",
        {"word": "Vast", "N": 2},
        ["Look. The vast sea. So.", "Look! VAST, is it?", 'Look. "Vast!"'],
        ["The vast sea. Look.", "Look. The vastness.", "Vast", "Look. See. Vast"],
    ),
    (
        "sentence:increment",
        {"small_n": 2},
        ["Go. We go there. We - go there on foot!", "Alone here", "I am. He is here, too."],
        ["Go. We go.", "We go there. Go.", "Go. We go there. We go there."],
    ),
]


def test_every_instruction_has_a_row_for_either_outcome() -> None:
    assert_either_outcome(ROWS, counts.INSTRUCTIONS)


@pytest.mark.parametrize(("name", "arguments", "text", "followed"), cases_of(ROWS))
def test_instruction(name: str, arguments: dict[str, Any], text: str, followed: bool) -> None:
    assert check(text, encode([name], [arguments])) is followed
    assert check(" \n", encode([name], [arguments])) is False


def test_the_names_are_those_of_the_prompts() -> None:
    answer = encode(["count:person_names"], [{"N": 50}])
    assert check(" ".join(counts._NAMES), answer)
    assert len(set(counts._NAMES)) == 50
