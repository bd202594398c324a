"""What tells one right answer from another."""

from __future__ import annotations

from autodeco_gguf.tasks.checkers import CHECKERS
from autodeco_gguf.tasks.keys import KEYS, answer_key


def test_members_are_told_apart_and_texts_are_not() -> None:
    texts = ("Apple", "One fruit is the apple.", "APPLES!", "A pear", "Pears, or apples")
    assert [answer_key("member", text, "fruit") for text in texts] == ["apple", "apple", "apple", "pear", "pear"]


def test_without_an_answer_or_a_way_to_find_it_the_text_counts() -> None:
    assert answer_key("member", "A chair", "fruit") == "A chair"
    assert answer_key("exact", " 5", "5") == " 5"
    assert answer_key("my_module:grade", "x", "y") == "x"


def test_keys_are_of_checkers() -> None:
    assert set(KEYS) <= set(CHECKERS)
