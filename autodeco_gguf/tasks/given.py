"""What a response answers, apart from the rest of its text: what votes, and what differs."""

from __future__ import annotations

import contextlib
import re
from fractions import Fraction

from autodeco_gguf.tasks.boxes import MAX_LENGTH, NUMBER, clean
from autodeco_gguf.tasks.checkers import FINDERS
from autodeco_gguf.tasks.members import first_member
from autodeco_gguf.tasks.numbers import Number
from autodeco_gguf.tasks.official import normalised

ONE_RIGHT = ("boxed", "choice", "number", "official")
"""Checkers that take an answer out of a response, and take it for right where it is equal to the expected one."""

_VARIABLE = re.compile(r"\s*[A-Za-z]\s*(?:\(\s*[A-Za-z]\s*\)\s*)?")
"""What stands before an equality sign and is not compared."""

_ARGUMENT = r"\s*(\d|\\[A-Za-z]+|\s[A-Za-z])"
_SPELLINGS = (
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|(?<!\\)\\[,;:! ]"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(rf"\\(frac|sqrt){_ARGUMENT}"), r"\\\1{\2}"),
    (re.compile(rf"(\\frac\s*\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}}){_ARGUMENT}"), r"\1{\2}"),
)
"""Of LaTeX, to one of them: 2\\sqrt3 as 2\\sqrt{3}."""

_POWER = re.compile(r"([+-]?[0-9]{1,50}(?:\.[0-9]{1,50})?)\\(?:times|cdot)10\^\{?([+-]?[0-9]{1,3})\}?")
_FRACTION = re.compile(r"([+-]?)(?=[0-9]|\\)(?:\\frac\{)?([+-]?[0-9]{1,50})(?:\}\{|/)([+-]?[0-9]{1,50})\}?")


def without_thoughts(checker: str, text: str) -> str:
    """What a checker is given of a response: what stands behind the thoughts of a model that thinks first.

    All of it for ``official``, which counts as the paper's script does, and for a checker of the user's own.
    """
    _, thinks, answer = text.rpartition("</think>")
    return answer.lstrip() if thinks and checker != "official" and ":" not in checker else text


def gives(checker: str) -> bool:
    """Whether a checker takes an answer out of a response."""
    return checker in (*ONE_RIGHT, "member")


def given(checker: str, text: str, answer: str, correct: bool | None) -> str | None:
    """The answer that a checker takes out of a response, the same for equal ones.

    Args:
        checker: its name.
        text: the response.
        answer: the expected answer; where there is one right answer, that is what a right response gives, however it
            is written.
        correct: the grade.

    Returns:
        The member of a list, for ``member``, of a wrong response its text. "" for a response without the form that the
        checker looks for; None for a checker that looks at the whole text.

    Examples:
        >>> given("boxed", r"It is \\boxed{0.5}.", r"\\frac{1}{2}", True), given("boxed", r"\\boxed{ 3 }", "4", False)
        ('\\\\frac{1}{2}', '3')
        >>> given("boxed", "It is 4.", "4", False), given("exact", "4", "4", True)
        ('', None)
    """
    text = without_thoughts(checker, text)
    if checker == "member":
        return first_member(text, answer) or text
    if checker not in ONE_RIGHT:
        return None
    if correct:
        return answer
    found = FINDERS[checker](text)
    if checker == "boxed" and found is not None:
        found = _compared(str(found))
    if checker == "official" and found is not None:
        with contextlib.suppress(IndexError, ValueError):  # as they are compared, then: as they stand
            found = normalised(str(found)) or found  # a unit alone is an answer too
    if isinstance(found, Number):
        return f"{found.value}{'%' * found.percent}"
    return "" if found is None else " ".join(str(found).split())


def _compared(content: str) -> str:
    """What of a box is compared, so that wrong answers vote together as right ones do, in one spelling."""
    text = clean(content)
    if len(text) > MAX_LENGTH:
        return text.replace(" ", "")
    sides = text.split("=")
    text = sides[1].strip() if len(sides) == 2 and _VARIABLE.fullmatch(sides[0]) else text
    for pattern, ours in _SPELLINGS:
        text = pattern.sub(ours, text)
    text = text.replace(" ", "")
    plain = text.removesuffix("%").removesuffix("\\")
    if NUMBER.fullmatch(plain):
        return str(Fraction(plain.replace(",", "")))
    if parts := _POWER.fullmatch(plain):
        return str(Fraction(parts[1]) * Fraction(10) ** int(parts[2]))
    if (parts := _FRACTION.fullmatch(plain)) and int(parts[3]) != 0:
        value = Fraction(int(parts[2]), int(parts[3]))
        return str(-value if parts[1] == "-" else value)
    return text
