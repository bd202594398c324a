"""The number that a response gives, and the checker that compares it."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.boxes import last_box, last_boxed


@dataclass(frozen=True)
class Number:
    """A number as it is compared: exactly.

    Attributes:
        value: the digits themselves where there are more than ``_MAX_DIGITS``.
        percent: whether a percent sign follows.
    """

    value: Fraction | str
    percent: bool = False

    def equals(self, other: Number) -> bool:
        """Whether both are the same; 29% is 29 and 0.29."""
        if isinstance(self.value, str) or isinstance(other.value, str) or self.percent == other.percent:
            return self.value == other.value
        whole, share = (other.value, self.value) if self.percent else (self.value, other.value)
        return whole in (share, share / 100)


_MAX_DIGITS = 1000
"""Longer numbers are compared as they are written: arithmetic takes more than linear time."""

_MARK = re.compile(r"(?<!#)####(?!#)|\banswers?[*_ ]*(?:\bis\b|[:=]|\n)", re.IGNORECASE)
_BEHIND = re.compile(r"\D{0,80}[\d,. ]+.{0,200}", re.DOTALL)
"""Where the number of a mark is looked for."""

_MAX_MARKS = 100
"""The last so many are looked at, since a model may repeat itself."""

_WORDS = "about|approximately|exactly|just|only|equal to|therefore|thus"
_BEFORE = re.compile(rf"(?:[\W_]|\b(?:{_WORDS}|[a-z])\b)*", re.I)
"""What may stand between a mark and its number."""

_MINUS = re.compile(
    rf"((?:\A|[=\u2248])(?:[^\w\n=\u2248]|_|\b(?:{_WORDS})\b)*)"
    r"(?:-|\b(?:minus|negative)\b)[ \t}]+(?=[$€£]?\.?\d)",
    re.I,
)
"""A sign that is a word, or stands apart: "minus 7", "- 7"; in a new line it is that of a list."""

_HEADING = re.compile(r"[.):][*\s]*[^\W\d]")
"""What follows the number of a heading: "#### 2. Add them", "#### 2) Add them"."""

_SEVERAL = re.compile(r"[^\S\n]*(?:-|\b(?:to|or)\b)[^\S\n]*[$€£]?\d")
"""What follows the first of two numbers, so that neither is the answer: "5 or 6"."""

_FORMULA = "\u221a"
"""Stands for every command that makes another number of those beside it, and for pi."""

_BEHIND_IN_FORMULA = re.compile(
    rf"[{{}}$ \t]*{_FORMULA}|!\s*\$|\s*\^-?\d|[ \t]*-[ \t]*[a-z]\b(?!-| [a-z])|[ \t]*[a-z][ \t]*[+-][ \t]*\d"
)
"""What shows behind a number that it is part of a formula."""

_ANOTHER = re.compile(rf"[+*|{_FORMULA}]|(?<!\^)\d|(?<=\d)!|\b[a-z]\s*[-/]\s*\Z")
"""What makes a box more than one number and its unit."""

_NEXT_EQUATION = re.compile(r",(?!\d{3})|;|\band\b")
"""What stands between two equations in a box: "x = 5, y = 6"."""

_LATEX = {r"\$": "$", r"\%": "%", "{,}": ",", r"\times": "*", r"\cdot": "*", r"\div": "/", r"\approx": "\u2248"}
_SIGNS = {0x2212: "-", 0x2013: "-", 0xD7: "*", 0xF7: "/", 0x3C0: _FORMULA}
_DOT = re.compile(r"(?<=\d)[ \t]*[\u00b7\u2022\u2219\u22c5][ \t]*(?=\d)")
_RAISED = re.compile(r"(?<=\d)\u207b?[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")
_SPACES = re.compile(r"\\[,;:! ]|[~\u00a0\u2009\u202f]")
_PART = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_FRACTION = re.compile(rf"(\d?)\\[cdt]?frac(?:\s*\{{\s*([+-]?{_PART})\s*\}}\s*\{{\s*({_PART})\s*\}}|(\d)(\d))")
_SPACED = re.compile(r"(?<=\d) / (?=\d)")
_VULGAR = re.compile(r"(\d?)([\u00bc-\u00be\u2150-\u215e])")
_POWER = re.compile(r"\^\s*\{\s*(-?\d+)\s*\}")
_COMMAND = re.compile(
    r"(\\(?:[cdt]?frac|sqrt|pi|infty|l[gn]|log|exp|(?:arc)?(?:sin|cos|tan)|[dt]?binom|int|sum|prod|pm|mp|alpha|beta|theta"
    r"|phi)(?![A-Za-z]))|\\(?:[A-Za-z]+|[()\[\]])"
)
_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:[ '\u2019]\d{3})+)(?!\d)")

_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]}%.])[+-](?=[$€£¥₹]?[\d.]))?"
    r"[$€£¥₹]?(?P<inner>(?<=[$€£¥₹])-(?=[\d.]))?"
    r"(?<![A-Za-z\d^])(?<![A-Za-z\d][._-])(?<!_\{)"  # the 19 of COVID-19 is a part of a name
    r"(?:(?P<whole>\d+)[ ](?P<part>\d{1,9}/\d{1,9})(?![\d/])|(?P<token>(?:\d+|(?<!\.)\.\d+)(?:[.,:/^-]\d+)*))"
    r"(?:[eE](?P<e>[+-]?\d{1,3})(?!\w)|\s*[*x]\s*10\s*\^\s*(?P<ten>[+-]?\d{1,3})(?!\d))?"
    r"(?:(?P<k>[kKM])\b|[\s{]+(?P<scale>(?i:thousand|million|billion|trillion))\b)?"  # the brace is that of \text
    r"(?P<percent>[\s{]*(?:%|\bpercent\b))?",
)
_SCALES = {"k": 3, "K": 3, "M": 6, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_JOINS = "and|as|because|but|given|if|is|or|since|so|that|then|thus|when|where|which|while"
_UNIT = (
    rf"%?(?:[ \t{{}}]*/?(?!(?:x|(?i:{_JOINS}))\b)[^\W\d_]{{1,20}}\b"
    rf"(?:[ \t{{}}]+(?:a[ \t]+)?(?!(?i:{_JOINS})\b)[^\W\d_]{{2,20}}\b|/[^\W\d_]{{1,20}}\b){{0,3}})?[ \t{{}})]{{0,4}}"
)
"""A few words in one line; a letter only right behind the number and in "a day": elsewhere it is a variable."""

_OPERATIONS = (
    rf"{_UNIT}(?:(?:[+*/x^-]|\b(?:of(?: the)?|times|plus|minus|divided by|multiplied by)\b)"
    rf"[ \t($€£{{]{{0,4}}\d[\d.,]*{_UNIT}){{1,10}}"
)
_WRITTEN_OUT = rf"{_OPERATIONS}(?:[=\u2248]|\bequals\b)"
_EQUATION = rf"(?:[\d\s.+*/x(){{}}$€£%^{_FORMULA}-]|,(?!\s))*[=\u2248]|{_WRITTEN_OUT}"
_FIRST = re.compile(_EQUATION)
_THEN = r"(?:[,;][ \t]+|\b(?=and|so|then))(?:(?:and|so|then)\b[ \t]*){0,2}"
_LATER = re.compile(rf"{_EQUATION}|{_UNIT}{_THEN}[($€£]{{0,3}}\d[\d.,]*{_WRITTEN_OUT}")
"""What stands between a number and what it comes to: " + 4 =", and behind that " eggs, 7 * 2 =", " and 7 * 2 ="."""

_SUM = re.compile(_OPERATIONS)

_APART = re.compile(r"\s*\.\s|[^\S\n]*\n|\s*\(")
"""What comes then belongs to the number no more: a sentence, a line, something in brackets."""

_PLAIN = re.compile(r"\d+|\d*\.\d+")
_COMMAS = re.compile(r"[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}(?:\.\d+)?")
"""1,234,567.5 and, as India groups digits, 12,34,567."""

_DOTS = re.compile(r"[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})")
_DECIMAL_COMMA = re.compile(r"\d+,\d+")
_FULL_HOUR = re.compile(r"(\d{1,2}):00")


def number(text: str, answer: str) -> bool:
    """Whether the number that a response gives is the expected one.

    That is the number of its last mark: a closed box, or ``####``, "the answer is" or "answer:" with the number right
    behind it; without a mark, its last number. docs/evaluation.md has the rule in full. InvalidInput where the expected
    answer is not a number.

    Examples:
        >>> number("9 eggs at $2 each make 9 * 2 = **$18.00**.", "18")
        True
        >>> number("The answer is 7 (see step 3).", "3")
        False
    """
    expected, found = expected_number(answer), given_number(text)
    return found is not None and found.equals(expected)


def expected_number(answer: str) -> Number:
    """The number that an expected answer is, or has in its last box; InvalidInput for another."""
    box = last_boxed(answer)
    text = _plain(answer if box is None else box).strip(" $*").rstrip(" $.*")  # a point before it is a part of it
    match = _NUMBER.fullmatch(text)
    value = _value(match) if match else None
    if value is None:
        raise InvalidInput(f"answer {answer[:100]!r}: expected a number", key="answer", found=answer)
    return value


def given_number(text: str) -> Number | None:
    """The number that a response gives, None for none: nothing in its last box, or "the answer is 5 or 6", is none."""
    begin, end = last_box(text)
    for mark in reversed(deque(_MARK.finditer(text), _MAX_MARKS)):
        if mark.start() < begin:
            break
        window = _BEHIND.match(text, mark.end() - mark[0].endswith("\n"))
        behind = _MINUS.sub(r"\1-", _plain(window[0])) if window else ""
        match = _NUMBER.search(behind)
        if match is None or not _BEFORE.fullmatch(behind, 0, match.start()):
            continue
        is_list = match[0] == "1" and "\n" in mark[0] + behind[: match.start()]  # "Answer:", and on new lines how
        if not ((mark[0] == "####" or is_list) and _HEADING.match(behind, match.end())):
            return _stated(behind, match)
    if begin >= 0:
        return _boxed(_plain(text[begin:end]))
    return next(filter(None, map(_value, reversed(list(_NUMBER.finditer(_plain(text)))))), None)


def _boxed(content: str) -> Number | None:
    *equal, content = re.split("[=\u2248]", _MINUS.sub(r"\1-", content.strip()))
    match = _NUMBER.search(content)
    if match is None or any(map(_NEXT_EQUATION.search, equal[1:])) or _BEHIND_IN_FORMULA.match(content, match.end()):
        return None
    several = _ANOTHER.search(content, 0, match.start()) or _ANOTHER.search(content, match.end())
    return None if several else _value(match)


def _stated(text: str, match: re.Match[str]) -> Number | None:
    """The value of the number at a mark, or of what it is computed to be: "3 + 4 = 7", "3 eggs + 4 eggs = 7 eggs"."""
    begin, result = 0, _result(text, match, _FIRST)
    while result is not None:
        begin, match, result = match.end(), result, _result(text, result, _LATER)
    before = re.split("[=\u2248]|\\bequals\\b", text[begin : match.start()])[-1]
    in_formula = _FORMULA in before or _BEHIND_IN_FORMULA.match(text, match.end())
    return None if in_formula or _SEVERAL.match(text, match.end()) else _value(match)


def _result(text: str, match: re.Match[str], pattern: re.Pattern[str]) -> re.Match[str] | None:
    """The number behind the next sign of equality; None where the number before it is a result itself."""
    equation = None if _APART.match(text, match.end()) else pattern.match(text, match.end())
    found = equation and _NUMBER.search(text, equation.end())
    if not equation or not found or not _BEFORE.fullmatch(text, equation.end(), found.start()):
        return None
    split = equation[0].strip() in "=\u2248" and _SUM.match(text, found.end())  # 7 = 3 + 4
    return None if split and not _FIRST.match(text, found.end()) else found


def _plain(text: str) -> str:
    """Without what LaTeX and locales put around and between digits."""
    for spelling, ours in _LATEX.items():
        text = text.replace(spelling, ours)
    text = _DOT.sub("*", _SPACES.sub(" ", text).translate(_SIGNS))
    text = _RAISED.sub(lambda m: "^" + unicodedata.normalize("NFKC", m[0]).replace("\u2212", "-"), text)
    text = _FRACTION.sub(lambda m: f"{m[1]} {m[2] or m[4]}/{m[3] or m[5]}".lstrip().replace(",", ""), text)
    text = _SPACED.sub("/", text)
    text = _VULGAR.sub(lambda m: f"{m[1]} {unicodedata.normalize('NFKC', m[2])}".lstrip().replace("\u2044", "/"), text)
    text = _COMMAND.sub(lambda m: _FORMULA if m[1] else " ", _POWER.sub(r"^\1", text))
    return _THOUSANDS.sub(lambda m: re.sub(r"\D", "", m[1]), text)


def _value(match: re.Match[str]) -> Number | None:
    """None for what is no one number, such as a date, a time or a range."""
    digits = match["token"] or match["whole"]
    if _DOTS.fullmatch(digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif _COMMAS.fullmatch(digits):
        digits = digits.replace(",", "")
    elif _DECIMAL_COMMA.fullmatch(digits):
        digits = digits.replace(",", ".")
    elif hour := _FULL_HOUR.fullmatch(digits):
        digits = hour[1]
    negative = "-" in (match["sign"], match["inner"])
    percent = match["percent"] is not None
    numerator, slash, denominator = digits.partition("/")
    if not _PLAIN.fullmatch(numerator) or (slash and not _PLAIN.fullmatch(denominator)):
        return None
    if len(digits) > _MAX_DIGITS:
        return Number("-" * negative + digits.lstrip("0"), percent)
    try:
        value = Fraction(numerator) / Fraction(denominator or 1) + Fraction(match["part"] or 0)
    except ZeroDivisionError:
        return None
    exponent = int(match["e"] or match["ten"] or 0) + _SCALES.get(match["k"] or (match["scale"] or "").lower(), 0)
    return Number((-value if negative else value) * Fraction(10) ** exponent, percent)
