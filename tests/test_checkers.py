"""Answer checkers: tables of response, answer, verdict."""

from __future__ import annotations

import time

import pytest

from autodeco_gguf import AutoDecoError
from autodeco_gguf.checkers import CHECKERS, get_checker, last_boxed

BOXED = [
    # integers
    (r"\boxed{85}", "85", True),
    (r"The answer is $\boxed{85}$.", "85", True),
    (r"\boxed{85}", "86", False),
    (r"\boxed{027}", "27", True),
    (r"\boxed{+5}", "5", True),
    (r"\boxed{-5}", "5", False),
    (r"\boxed{ 5 }", "5", True),
    (r"\boxed{5.}", "5", True),
    (r"\boxed{5}", "5.", True),
    (r"\boxed{$5$}", "5", True),
    (r"\boxed{\$5}", "5", True),
    (r"\boxed{5}", "$5$.", True),
    (r"\boxed{1,234}", "1234", True),
    (r"\boxed{1234}", "1,234,000", False),
    (r"\boxed{1,234,000}", "1234000", True),
    (r"\boxed{12,34}", "1234", False),
    # decimals and fractions
    (r"\boxed{0.50}", ".5", True),
    (r"\boxed{1,234.5}", "1234.50", True),
    (r"\boxed{1/2}", "0.5", True),
    (r"\boxed{ -1 / 2 }", "-0.5", True),
    (r"\boxed{\frac{1}{2}}", "0.5", True),
    (r"\boxed{-\dfrac{2}{4}}", r"-\tfrac{1}{2}", True),
    (r"\boxed{\frac{1}{3}}", "0.333", False),
    (r"\boxed{\frac{-6}{3}}", "-2", True),
    (r"\boxed{1/0}", "1/0", True),
    (r"\boxed{1/0}", "2/0", False),
    (r"\boxed{0/5}", "0", True),
    # text
    (r"\boxed{x^2  + 1}", "x^2 + 1", True),
    (r"\boxed{x^2+1}", "x^2 + 1", False),
    (r"\boxed{\text{East}}", r"\text{East}", True),
    (r"\boxed{B}", "B", True),
    (r"\boxed{b}", "B", False),
    (r"\boxed{5}", "five", False),
    (r"\boxed{1/2/3}", "1/2/3", True),
    (r"\boxed{+}", "+", True),
    (r"\boxed{+}", "-", False),
    ("\\boxed{\u0665}", "5", False),  # Arabic
    # which box
    ("85", "85", False),
    ("", "85", False),
    (r"\boxed{1} no, \boxed{2}", "2", True),
    (r"\boxed{1} no, \boxed{2}", "1", False),
    (r"\boxed{1} and \boxed{2", "1", True),
    (r"\boxed{1", "1", False),
    (r"\boxed 1", "1", False),
    (r"\boxed {1}", "1", True),
    (r"{ \boxed{1}", "1", True),
    (r"} \boxed{1} {", "1", True),
    (r"\boxed{\boxed{1}}", "1", True),
    (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right.", True),
    (r"\boxed{" + "1" * 10_000 + "}", "1" * 10_000, True),
    (r"\boxed{" + "1" * 10_000 + "}", "1", False),
]


@pytest.mark.parametrize(("text", "answer", "right"), BOXED, ids=[f"{b[0][:30]} {b[1][:20]}" for b in BOXED])
def test_boxed(text: str, answer: str, right: bool) -> None:
    assert get_checker("boxed")(text, answer) is right


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


def test_a_model_that_repeats_itself_takes_no_time() -> None:
    start = time.perf_counter()
    assert last_boxed(r"\boxed{1} " + r"\boxed{" * 50_000) == "1"
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("text", "answer", "right"), [(" Paris\n", "Paris", True), ("Paris.", "Paris", False), ("paris", "Paris", False)]
)
def test_exact(text: str, answer: str, right: bool) -> None:
    assert get_checker("exact")(text, answer) is right


def test_story() -> None:
    from autodeco_gguf.stories import NAMES, SLOTS

    first = {name: slot.words[0] for name, slot in SLOTS.items()}
    story = (
        "{n} lives near the {place}. One {mood} morning {n} finds 47 {look} {thing} in a {container}. Then a {kind} "
        "{helper} brings 38 more. {n} counts: 47 + 38 = \\boxed{{85}}. What a {day} day!"
    ).format(n=NAMES[0], **first)
    assert get_checker("story")(story, f"{NAMES[0]} 47 38") is True
    assert get_checker("story")(story, f"{NAMES[0]} 47 39") is False


def test_unknown_checker() -> None:
    assert CHECKERS == ("boxed", "exact", "story")
    with pytest.raises(AutoDecoError, match=r"^checker 'regex', expected one of boxed, exact, story$"):
        get_checker("regex")
