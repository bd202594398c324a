"""Whether a response gives the expected answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from autodeco_gguf.errors import AutoDecoError

Checker = Callable[[str, str], bool]
"""(text of the response, expected answer) -> whether the response is right."""

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_PLAIN = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.[0-9]+)?")
_FRACTION = re.compile(r"([+-]?)\s*\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")

_MAX_NUMBER = 200
"""Characters of a number; what is longer is compared as text, since Python refuses to read thousands of digits."""


def boxed(text: str, answer: str) -> bool:
    r"""Whether the last ``\boxed{...}`` of a response is the answer, as a number if both are numbers.

    Numbers are integers, decimals, ``a/b`` and ``\frac{a}{b}``, with or without thousands separators; other answers
    are compared as text, except for white space. Dollar signs around it and a full stop do not count.

    Examples:
        >>> boxed(r"So the sum is $\boxed{\frac{1}{2}}$.", "0.5")
        True
        >>> boxed(r"\boxed{1} or rather \boxed{2}", "1")
        False
    """
    content = last_boxed(text)
    if content is None:
        return False
    found, expected = _clean(content), _clean(answer)
    numbers = _number(found), _number(expected)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return found == expected


def exact(text: str, answer: str) -> bool:
    """Whether a response is the answer, except for white space around either."""
    return text.strip() == answer.strip()


def story(text: str, answer: str) -> bool:
    """Whether a response is one of the demo's stories with its facts right: :func:`autodeco_gguf.stories.check`."""
    from autodeco_gguf.stories import check

    return check(text, answer)


_CHECKERS: dict[str, Checker] = {"boxed": boxed, "exact": exact, "story": story}
CHECKERS = tuple(_CHECKERS)
"""The names that :func:`get_checker` knows."""


def get_checker(name: str) -> Checker:
    """A checker by its name.

    Raises:
        AutoDecoError: no such checker; the message lists them.
    """
    if name not in _CHECKERS:
        raise AutoDecoError(f"checker {name!r}, expected one of {', '.join(CHECKERS)}")
    return _CHECKERS[name]


def last_boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{...}`` whose braces are balanced; None where there is none.

    A brace behind a backslash is text.
    """
    begins: list[int] = []  # of the contents of the open braces; -1 for those that box nothing
    last, content = -1, None
    for brace in _BRACES.finditer(text):
        if brace[0] == "{":
            begins.append(-1)
        elif brace[0] == "}":
            begin = begins.pop() if begins else -1
            if begin > last:
                last, content = begin, text[begin : brace.start()]
        elif brace[0].endswith("{") and brace[0].startswith(r"\boxed"):
            begins.append(brace.end())
    return content


def _clean(answer: str) -> str:
    text = " ".join(answer.replace(r"\$", "$").split())
    return text.lstrip("$ ").rstrip("$. ")


def _number(text: str) -> Fraction | None:
    if len(text) > _MAX_NUMBER:
        return None
    sign, above, below = "", text, "1"
    if match := _FRACTION.fullmatch(text):
        sign, above, below = match.groups()
    elif text.count("/") == 1:
        above, below = text.split("/")
    numbers = _plain(above), _plain(below)
    if numbers[0] is None or not numbers[1]:
        return None
    return numbers[0] / numbers[1] * (-1 if sign == "-" else 1)


def _plain(text: str) -> Fraction | None:
    """An integer or a decimal."""
    text = text.strip()
    if not _PLAIN.fullmatch(text) or not text.strip("+-"):
        return None
    return Fraction(text.replace(",", ""))
