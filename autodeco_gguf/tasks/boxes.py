r"""Where a response has its ``\boxed{...}``."""

from __future__ import annotations

import re

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def last_boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{...}`` whose braces are balanced; None where there is none.

    A brace behind a backslash is text, and a box that is not closed, as in an answer cut short, is none.
    """
    begin, end = last_box(text)
    return None if begin < 0 else text[begin:end]


def last_box(text: str) -> tuple[int, int]:
    """Where the contents of that box begin and end; -1 where there is none."""
    begins: list[int] = []  # of the contents of the open braces; -1 for those that box nothing
    last = (-1, -1)
    for brace in _BRACES.finditer(text):
        if brace[0] == "{":
            begins.append(-1)
        elif brace[0] == "}":
            begin = begins.pop() if begins else -1
            if begin > last[0]:
                last = begin, brace.start()
        elif brace[0].endswith("{") and brace[0].startswith(r"\boxed"):
            begins.append(brace.end())
    return last
