r"""The comparison of answers that the official evaluation makes: the last box and the expected answer as strings, each
in one spelling.

The behaviour is that of ``utils/boxed_extract.py`` in Zacks917/AutoDeco at commit 6e347ba, which has it from
lm-evaluation-harness (hendrycks_math), oddities included: they decide about published figures.
"""

from __future__ import annotations

import re

_BOX, _SPACED = r"\boxed", "\\boxed "

_REMOVED = ("\n", r"\!")
_LATER_REMOVED = (r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$")
_UNIT = r"\text{ "


def official(text: str, answer: str) -> bool:
    r"""Whether the last box of a response and the expected answer are the same string, once both are normalised.

    Where ``\boxed`` with a space behind it stands anywhere, the answer is what follows the last of these, up to a
    dollar sign. A response whose last box is not closed is wrong, and so is one that has only an ``\fbox``: the
    official program looks for it, and fails on what it has found.

    Examples:
        >>> official(r"It is $\boxed{\dfrac12}$.", r"\frac{1}{2}"), official(r"It is $\boxed 7$.", "7")
        (True, True)
        >>> official(r"\boxed{0.50}", "0.5"), official(r"\boxed{x=2}", "2")
        (False, True)
    """
    found = last_answer(text)
    if found is None:
        return False
    try:
        return normalised(found) == normalised(answer)
    except (IndexError, ValueError):  # of what cannot be normalised, the strings themselves count
        return found == answer


def last_answer(text: str) -> str | None:
    """What the official program takes for the answer of a response; None where it finds none."""
    if _SPACED in text:
        return text.rpartition(_SPACED)[2].partition("$")[0]
    begin = text.rfind(_BOX)
    if begin < 0:
        return None
    depth = 0
    for brace in re.finditer("[{}]", text[begin:]):
        depth += 1 if brace[0] == "{" else -1
        if brace[0] == "}" and depth == 0:
            content = text[begin : begin + brace.start()]
            return content.removeprefix(r"\boxed{") if content.startswith(r"\boxed{") else None
    return None


def normalised(text: str) -> str:
    """One spelling of an answer; IndexError or ValueError where it cannot be read."""
    for part in _REMOVED:
        text = text.replace(part, "")
    text = text.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    for part in _LATER_REMOVED:
        text = text.replace(part, "")
    if _UNIT in text:
        text, _ = text.split(_UNIT)  # ValueError where there are two
    text = text.replace(r"\%", "").replace(r"\%", "")  # twice there too: what the first leaves can be another one
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = f"0{text}" if text[0] == "." else text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _fractions(_roots(text).replace(" ", ""))
    return _quotient(r"\frac{1}{2}" if text == "0.5" else text)


def _roots(text: str) -> str:
    r"""``\sqrt3`` as ``\sqrt{3}``; IndexError where nothing follows."""
    first, *others = text.split(r"\sqrt")
    return first + "".join(rf"\sqrt{part}" if part[0] == "{" else rf"\sqrt{{{part[0]}}}{part[1:]}" for part in others)


def _fractions(text: str) -> str:
    r"""``\frac12`` and ``\frac1{2}`` as ``\frac{1}{2}``; the text as it stands where a fraction has one sign only."""
    first, *others = text.split(r"\frac")
    found = [first]
    for part in others:
        if part[0] == "{":
            found.append(rf"\frac{part}")
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            found.append(rf"\frac{{{part[0]}}}{part[1:]}")
        else:
            found.append(rf"\frac{{{part[0]}}}{{{part[1]}}}{part[2:]}")
    return "".join(found)


def _quotient(text: str) -> str:
    r"""``1/2`` as ``\frac{1}{2}``, of integers as Python writes them."""
    sides = text.split("/")
    if len(sides) != 2:
        return text
    try:
        a, b = map(int, sides)
    except ValueError:
        return text
    return rf"\frac{{{a}}}{{{b}}}" if text == f"{a}/{b}" else text
