"""Multiple choice: the letter that a response chooses."""

from __future__ import annotations

import re

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.boxes import last_box

_SURELY = (
    r"\b(?i:option|choice|letter|therefore|thus|hence|(?:most )?likely|probably|clearly|definitely|indeed|actually)\b"
)
# at most so much before the letter, and a comma between two words in one way alone: else a response that repeats itself
# would take quadratic time, or more
_OPENING = (
    r"(?:[\s*_:${\[\"'`\u2018\u201c\u00ab]|\\[(\[]|\\(?:text|math)[a-z]*\s*\{|\\(?:bf|rm|it|sf|tt)\b|</?[a-z]{1,6}>|"
    rf"(?:,[ \t]{{0,4}})?{_SURELY}(?:,(?![ \t]{{0,4}}{_SURELY}))?){{0,20}}"
)
_CLOSING = r"[\s*_:$}\]\"'`\u2019\u201d\u00bb\\).]*"
_HEADING = r"^[#*_ \t]{0,20}(?i:(?:the )?(?:final |correct )?answer)[*_ \t]{0,20}\n"
_JOINS = (
    "above|according|after|all|although|among|and|any|as|assuming|at|based on|because|before|below|between|both|but|"
    "by|despite|due to|each|either|for|from|given (?:that|the)|hence|here|however|if|in|instead|is|its?|like the|"
    "neither|no|none|not|of|on|once (?:the|we|you)|only (?:because|if|when)|or|our|per|provided|rather than|"
    "regardless|since|so|than|that|the|then|there|therefore|these|they|this|those|though|thus|to|under|unless|until|"
    "using|via|we|what|when|where|whereas|which|while(?! (?:ago|later))|whose|with|within|without|you|your"
)
"""What may follow a letter, but hardly the words A and I."""

_STATED = re.compile(
    r"(?:\b(?i:(?<!each )(?<!every )(?<!each answer )(?<!every answer )(?:answer|option|choice))[\s*_]*"
    r"(?i:(?:here|(?:to|for) (?:the|this|your) (?:question|problem))[\s*_]{0,20})?"
    r"(?i:(?:is|(?:must|should|would|will) be)\b|[:\uff1a]|(?<=\s)[-\u2013\u2014]\s)"
    rf"|(?i:<answer>)|{_HEADING}){_OPENING}"
    # a capital before a sign is a variable, a bare A or I may be a word, and who names two letters has not chosen
    r"(?:\(([A-Za-z])\)|([A-Z])(?![A-Za-z0-9\u2080-\u2089]|_[^_]|#(?!#)|\.[A-Z]\.|['\u2019-][A-Za-z]"
    r"|\s*(?:[=+>^]|<(?![/|]|\w+>)))"
    rf"(?!(?<=[AI])(?<!(?i:option|choice|letter) .)[ \t]+(?!(?:{_JOINS})\b(?!-))[a-z'\u2019]))"
    r"(?!\)?\s*(?:(?:/|&|\b(?:or|and)\b)\s*\(?[A-Z]\b(?! (?:is|was)\b)"
    r"|,\s*\(?[A-Z]\b(?! (?!(?:or|and|are)\b)[a-z]|['\u2019])))",
    re.MULTILINE,
)
_IN_BOX = re.compile(rf"{_OPENING}(?:\(([A-Za-z])\)|([A-Za-z])(?!\.[A-Z]\.)(?:[).:]|{_CLOSING}$))")
_ALONE = re.compile(rf"{_OPENING}\(?([A-Za-z]){_CLOSING}")

_TEXT = re.compile(r"\\(?:text|math)[a-z]*\s*\{|\\(?:q?quad\b|[,;:! ])")
_LABEL = re.compile(
    rf"{_OPENING}([A-Z])(?:[\s}}*]*[:.),]|[\s}}*]+\(|[\s}}*]+[-\u2013\u2014]+(?=\s*(?:[^\W\d_]{{2}}|:)))"
    r"(?![\s:.,()}]*(?:[=^]|[A-Z]\b(?! [a-z])|[a-z]\W*$|(?:and|or)\b))"
)
"""Of a box with more than the letter, with colons for what parts text from formulas: "C: Paris", "C (Paris)"."""

_FIRST = re.compile(rf"{_OPENING}(?:([A-Z])[*_]*[.):][*_]*|\(([A-Z])\))\s+(?!(?:and|are|can|cannot|is|or|was)\b)\S")
_LISTED = re.compile(
    r"^[\s*_#>-]{0,20}(?i:(?:option|choice|letter)[*_ ]{1,9})?\(?([A-Z])(?:[*_]{0,4}[.):]|[*_ ]{0,4}$)", re.MULTILINE
)

_SAYS_ONE = re.compile(r"[\s*_#>-]{0,20}(?:(?i:option|choice|letter)[*_ ]{1,9})?\(?[A-Z][)*_.: ]{0,6}\n")


def choice(text: str, answer: str) -> bool:
    r"""Whether a response chooses the expected letter, A to Z.

    It chooses where it boxes the letter, or says "answer is (C)" or "**Answer:** C"; the last of these counts. Without
    them it does where it, or its first line, is nothing but the letter or begins with it: "C. Paris". A letter in
    running text does not. InvalidInput where the expected answer is not one letter.

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
    found = _boxed(text[begin:end]) if begin >= 0 else None
    for stated in _STATED.finditer(text):
        if (found is None or stated.start() > begin) and not _begins_list(text, stated):
            found = stated
    found = found or _begun_with(text.strip())
    return found[found.lastindex or 0].upper() if found else None


def _begins_list(text: str, stated: re.Match[str]) -> bool:
    """Whether a letter in a new line labels the first of several choices: the line below it has the next letter."""
    line = stated[0].rfind("\n") + 1
    first = _LISTED.match(text, stated.start() + line) if line else None
    below = _LISTED.match(text, text.find("\n", first.end()) + 1 or len(text)) if first else None
    return first is not None and below is not None and ord(below[1]) == ord(first[1]) + 1


def _boxed(content: str) -> re.Match[str] | None:
    return _IN_BOX.match(content) or _LABEL.match(_TEXT.sub(": ", content))


def _begun_with(text: str) -> re.Match[str] | None:
    """The letter that is all of a text or of its first line, or a label there; None where other lines have others.

    A line that is nothing but "Option C" chooses, whatever the options below it are said to be.
    """
    listed = _LISTED.findall(text)
    if len(set(listed)) > 1 and not (_SAYS_ONE.match(text) and ord(listed[1]) != ord(listed[0]) + 1):
        return None
    line = text.partition("\n")[0].rstrip()
    return _ALONE.fullmatch(text) or _ALONE.fullmatch(line) or _FIRST.match(line)
