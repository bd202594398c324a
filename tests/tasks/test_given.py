"""What a response answers, apart from the rest of its text."""

from __future__ import annotations

import pytest

from autodeco_gguf.tasks.given import given, gives, without_thoughts


@pytest.mark.parametrize(
    ("checker", "text", "answer", "correct", "expected"),
    [
        ("boxed", r"It is \boxed{ 7 }.", "8", False, "7"),
        ("boxed", r"\boxed{x  + 1} and \boxed{x +  2}", "3", False, "x+2"),
        *(
            ("boxed", rf"\boxed{{{x}}}", "3", False, "1/2")
            for x in (r"\frac{1}{2}", "0.5", "1/2", r"\dfrac{1}{2}", ".5")
        ),
        *(
            ("boxed", rf"\boxed{{{x}}}", "3", False, "-1/2")
            for x in (r"-\frac12", "-1/2", "-0.5", r"\frac{-1}{2}", r"\dfrac{1}{-2}", r"-\frac{-1}{-2}", r"\frac{-1}2")
        ),
        *(("boxed", rf"\boxed{{{x}}}", "7", False, "5") for x in ("5", "$5$", r"5\text{ cm}", "5.", "5.0")),
        *(
            ("boxed", rf"\boxed{{{x}}}", "3", False, r"\frac{\pi}{2}")
            for x in (
                r"\frac{\pi}{2}",
                r"\dfrac{\pi}{2}",
                r"\frac{\pi}2",
                r"\frac \pi 2",
                r"x = \tfrac\pi{2}",
                r"$\frac{ \pi }{2}$.",
            )
        ),
        *(("boxed", rf"\boxed{{{x}}}", "3", False, "5") for x in ("x=5", "f(x) = 5.0", r"x = 5\text{ cm}")),
        *(("boxed", rf"\boxed{{{x}}}", "3", False, r"2\sqrt{3}") for x in (r"2\sqrt3", r"2\sqrt{3}", r"2\,\sqrt 3")),
        *(
            ("boxed", rf"\boxed{{{x}}}", "3", False, "(1,2)")
            for x in ("(1, 2)", r"\left(1,2\right)", r"\left( 1,\ 2 \right)")
        ),
        *(
            ("boxed", rf"\boxed{{{x}}}", "3", False, r"\frac{\sqrt{x}}{2}")
            for x in (r"\frac{\sqrt{x}}2", r"\dfrac{\sqrt x}{2}", r"\frac{\sqrt{x}}{2}")
        ),
        # which are others
        ("boxed", r"\boxed{x=1, y=2}", "3", False, "x=1,y=2"),
        *(("boxed", rf"\boxed{{{x}}}", "3", False, "2,3") for x in ("2,3", "2, 3", "x=2,3")),
        *(("boxed", rf"\boxed{{{x}}}", "3", False, x) for x in ("3k", "3:00", "1.234.567")),
        *(("boxed", rf"\boxed{{{x}}}", "3", False, r"1\\2") for x in (r"1\\2", r"1 \\ 2")),
        *(("boxed", rf"\boxed{{{x}}}", "3", False, "50") for x in ("50", r"50\%", "50%", r"\frac{100}{2}")),
        ("boxed", r"\boxed{\sqrt 5}", "3", False, r"\sqrt{5}"),
        ("boxed", r"\boxed{\sin 5}", "3", False, r"\sin5"),
        ("boxed", r"\boxed{1.5 \times 10^3}", "3", False, "1500"),
        *(("boxed", rf"\boxed{{{x}}}", "3", False, "1/0") for x in ("1/0", "1 / 0")),
        ("boxed", r"\boxed{1.5 \times 10^{-3}}", "3", False, "3/2000"),
        *(("boxed", rf"\boxed{{{x}}}", "3", False, "x^2=5") for x in ("x^2=5", "x\u00b2 = 5")),
        *(("boxed", rf"\boxed{{{x}}}", "3", False, "5") for x in ("\u00a35", r"{\large 5}", "5 \u20ac")),
        *(("boxed", rf"\boxed{{{x}}}", "3", False, r"2\sqrt{3}") for x in ("2\u221a3", r"2\sqrt3")),
        ("boxed", r"\boxed{\leftarrow}", "3", False, r"\leftarrow"),
        ("boxed", r"\boxed{\frac{12}{5x}}", "3", False, r"\frac{12}{5x}"),
        ("boxed", r"\boxed{\sqrt[3]{5}}", "3", False, r"\sqrt[3]{5}"),
        *(("boxed", rf"\boxed{{{x} }}", "3", False, x) for x in ("1" * 5000, "." + "3" * 5000, "1" * 5000 + "/3")),
        ("boxed", "It is 7.", "8", False, ""),
        ("boxed", r"\boxed{0.50}", "1/2", True, "1/2"),  # the right one, however it is written
        ("boxed", r"\boxed{0.50}", "1/2", None, "1/2"),
        ("choice", "The answer is (b).", "C", False, "B"),
        ("choice", "B is wrong.", "C", False, ""),
        ("number", "It takes 1,200 hours.", "7", False, "1200"),
        ("number", "#### 12%", "7", False, "12%"),
        ("number", "Nobody knows.", "7", False, ""),
        *(
            ("official", rf"\boxed{{{x}}}", "3", False, r"\frac{1}{2}")
            for x in (r"\dfrac12", "1/2", "0.5", r"x = \tfrac{1}{2}", r"\left.5\text{ cm}")
        ),
        ("official", r"\boxed{0.50}", "3", False, "0.50"),
        ("official", r"\boxed{\text{ cm}}", "3", False, r"\text{ cm}"),  # of which nothing is compared
        ("official", r"\boxed{\frac}", "3", False, r"\frac"),  # cannot be normalised
        ("official", "It is 7.", "3", False, ""),
        ("member", "I like the mango.", "fruit", True, "mango"),
        ("member", "I like cars.", "fruit", False, "I like cars."),
        ("exact", "yes", "yes", True, None),
        ("story", "It was.", "1 2", False, None),
        ("literal", "[1]", "[1]", True, None),
        ("mine:check", r"\boxed{1}", "1", True, None),
    ],
)
def test_given(checker: str, text: str, answer: str, correct: bool | None, expected: str | None) -> None:
    assert given(checker, text, answer, correct) == expected
    assert gives(checker) is (expected is not None)


@pytest.mark.parametrize(
    ("checker", "given_to"),
    [("number", "It is 5."), ("ifeval", "It is 5."), ("official", None), ("mine:check", None)],
)
def test_thoughts_are_no_answer(checker: str, given_to: str | None) -> None:
    text = "Is it 4? </think>No.</think> It is 5."
    assert without_thoughts(checker, text) == (given_to or text)
    assert without_thoughts(checker, "It is 5.") == "It is 5."


def test_what_is_given_behind_thoughts() -> None:
    assert given("number", "<think>4 or 3</think>It is 5.", "6", False) == "5"
