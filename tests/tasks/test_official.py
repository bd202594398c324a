"""The official comparison: verdicts that the official program gave, recorded."""

from __future__ import annotations

import pytest

from autodeco_gguf.tasks.official import last_answer, official

VERDICTS = [
    (r"\boxed{5}", "5", True),
    (r"\boxed{5} or \boxed{6}", "6", True),
    (r"It is $\boxed 5$.", "5", True),
    (r"\boxed 5 and later \boxed{6}", "6", False),  # the space decides
    (r"\fbox{5}", "5", False),  # it finds the box and fails on it
    ("5", "5", False),
    (r"\boxed{5", "5", False),
    (r"\boxed{7} no: \boxed{", "7", False),
    (r"\boxed{}", "5", False),
    (r"\boxed{\dfrac12}", r"\frac{1}{2}", True),
    (r"\boxed{\tfrac{1}{2}}", r"\frac12", True),
    (r"\boxed{1/2}", r"\frac{1}{2}", True),
    (r"\boxed{0.5}", r"\frac12", True),
    (r"\boxed{0.50}", "0.5", False),
    (r"\boxed{.5}", "0.5", True),
    (r"\boxed{x=5}", "5", True),
    (r"\boxed{abc=5}", "5", False),
    (r"\boxed{\sqrt3}", r"\sqrt{3}", True),
    (r"\boxed{5\text{ cm}}", "5", True),
    (r"\boxed{5\text{cm}}", "5", False),
    (r"\boxed{3\text{ h }20\text{ min}}", "3", False),
    (r"\boxed{50\%}", "50", True),
    (r"\boxed{50%}", "50", False),
    (r"\boxed{90^\circ}", "90", True),
    (r"\boxed{\left(1, 2\right)}", "(1,2)", True),
    (r"\boxed{1,000}", "1000", False),
    (r"\boxed{\frac}", r"\frac", True),  # cannot be normalised: the strings count
    (r"\boxed{2x}", "x2", False),
]


@pytest.mark.parametrize(("text", "answer", "right"), VERDICTS)
def test_verdicts(text: str, answer: str, right: bool) -> None:
    assert official(text, answer) is right


def test_last_answer() -> None:
    assert last_answer(r"\boxed{a{b}c} d") == "a{b}c"
    assert last_answer(r"\boxed5 {6}") is None
    assert last_answer("none") is None
