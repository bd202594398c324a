"""Multiple choice: the letter that a response chooses."""

from __future__ import annotations

import re

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.boxes import last_box

# at most so much before the letter: unlimited, a response that repeats itself would take quadratic time
_OPENING = r"(?:[\s*_:${\[\"'`]|\\[(\[]|\\(?:text|math)[a-z]*\s*\{|\b(?i:option|choice)\b){0,20}"
_CLOSING = r"[\s*_:$}\]\"'`\\).]*"
_STATED = re.compile(
    rf"\b(?i:answer|option|choice)[\s*_]*(?i:is\b|:){_OPENING}"
    # a capital before a sign is a variable, and who names two letters has not chosen
    r"(?:\(([A-Za-z])\)|([A-Z])(?![A-Za-z0-9]|_[^_]|['\u2019-][A-Za-z]|\s*[=+<>^]))"
    r"(?!\)?\s*(?:(?:/|&|\b(?:or|and)\b)\s*\(?[A-Z]\b|,\s*\(?[A-Z]\b(?! [a-z])))"
)
_IN_BOX = re.compile(rf"{_OPENING}(?:\(([A-Za-z])\)|([A-Za-z])(?:[).:]|{_CLOSING}$))")
_ALONE = re.compile(rf"{_OPENING}\(?([A-Za-z]){_CLOSING}")


def choice(text: str, answer: str) -> bool:
    r"""Whether a response chooses the expected letter, A to Z.

    It chooses where it is nothing but the letter, boxes it, or says "answer is (C)" or "**Answer:** C"; the last of
    these counts. A letter in running text does not. InvalidInput where the expected answer is not one letter.

    Examples:
        >>> choice(r"So it is \boxed{(C)\ 5\text{ cm}}.", "C")
        True
        >>> choice("A is wrong. The answer is **B**.", "B")
        True
    """
    return chosen(text) == letter(answer)


def letter(answer: str) -> str:
    """The expected letter; InvalidInput where the answer is not one."""
    found = answer.strip()
    if not re.fullmatch("[A-Z]", found):
        message = f"answer {answer[:100]!r}: expected one letter, A to Z"
        raise InvalidInput(message, key="answer", found=answer, expected="one letter, A to Z")
    return found


def chosen(text: str) -> str | None:
    """The letter that a response chooses; None where it chooses none."""
    begin, end = last_box(text)
    found = _IN_BOX.match(text[begin:end]) if begin >= 0 else None
    for stated in _STATED.finditer(text):
        if found is None or stated.start() > begin:
            found = stated
    found = found or _ALONE.fullmatch(text.strip())
    return found[found.lastindex or 0].upper() if found else None
