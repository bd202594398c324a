from __future__ import annotations

import pytest

from autodeco_gguf.tasks.english import STOP_WORDS, sentences, tokens, words

SENTENCES = {
    "": [],
    " \n": [],
    "no end": ["no end"],
    " One. Two! Three?\n\nfour ": ["One.", "Two!", "Three?", "four"],
    "Really?! Yes.": ["Really?!", "Yes."],
    "Mr. Smith and Dr. J. Doe met.": ["Mr. Smith and Dr. J. Doe met."],
    "It costs 3.50 at example.com today.": ["It costs 3.50 at example.com today."],
    'He said "Go." She (too.) went.': ['He said "Go."', "She (too.)", "went."],
    "\u201cGo.\u201d She went.": ["\u201cGo.\u201d", "She went."],
    "**Bold.** Then more.": ["**Bold.", "** Then more."],
    "1. Item\n2. Item": ["1.", "Item\n2.", "Item"],
    "From 3. to 5. of May": ["From 3. to 5. of May"],
    "Well... maybe. Well... The end.": ["Well... maybe.", "Well...", "The end."],
    "At 5 p.m. we left. At 6 p.m. They came.": ["At 5 p.m. we left.", "At 6 p.m.", "They came."],
    "lower case. also counts.": ["lower case.", "also counts."],
    "Plan A. The rest. Plan C. The rest.": ["Plan A.", "The rest.", "Plan C. The rest."],
    "See note.[2] It is.": ["See note.", "[2] It is."],
}


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences(text: str) -> None:
    assert sentences(text) == SENTENCES[text]


TOKENS = {
    "": "",
    "A vibrant town.": "A|vibrant|town|.",
    "Don't, I can't; it's theirs'.": "Do|n't|,|I|ca|n't|;|it|'s|theirs|'|.",
    'He said "Go (now)!" Fine.': "He|said|''|Go|(|now|)|!|''|Fine|.",
    "I cannot: 1,000.5 at 5:30, well-known a/b": "I|can|not|:|1,000.5|at|5:30|,|well-known|a/b",
    "Wait... no -- yes\u2014or 'so' **it**": "Wait|...|no|--|yes|\u2014|or|'|so|'|*|*|it|*|*",
    "```a``` etc. ok": "```|a|```|etc|.|ok",
    "5% of $3 & #1 @me": "5|%|of|$|3|&|#|1|@|me",
    "the U.S. is big": "the|U.S.|is|big",
}


@pytest.mark.parametrize("text", TOKENS)
def test_tokens(text: str) -> None:
    assert "|".join(tokens(text)) == TOKENS[text]


def test_words() -> None:
    assert words("can't - well-known\n(5.0%) \u00e9t\u00e9") == ["cant", "wellknown", "50", "\u00e9t\u00e9"]


def test_stop_words() -> None:
    """As many as NLTK has without an apostrophe."""
    assert {"i", "the", "wouldn", "t", "own"} <= STOP_WORDS
    assert not {"one", "would", "mine", "also"} & STOP_WORDS
    assert len(STOP_WORDS) == 153


def test_long_texts_take_no_long_time() -> None:
    for piece in ("a", ".", "a.", "a. ", ".)", "'", "\"' ", "!", "?a", " ", "-", "[", "1,", "n't", "a'"):
        sentences(piece * 30_000)
        tokens(piece * 30_000)
