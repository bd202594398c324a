r"""Where a response has its ``\boxed{...}``, and what of that is compared."""

from __future__ import annotations

import re
from fractions import Fraction
from unicodedata import normalize, numeric

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


# ---- what is compared ----

MAX_LENGTH = 1000
"""Characters of an answer; what is longer is compared as text, since parsing takes more than linear time."""

_SPELLINGS = {
    **dict.fromkeys((r"\$", r"\pounds", r"\euro", *"$£€¥₹"), ""),
    "\u2212": "-",
    "\u00b1": r"\pm ",
    "\u2248": r"\approx ",
    "\u00b0": r"^\circ",
    "\u00b7": r"\cdot ",
    "\u22c5": r"\cdot ",
    "\u221e": r"\infty ",
    r"\degree": r"^\circ",
    r"\varnothing": r"\emptyset",
    " percent": r"\%",
}
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_RAISED = re.compile("[\u207a\u207b]?[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")
_ROOT = re.compile(r"\u221a\s*(?:\(([^()]*)\)|\{([^{}]*)\}|([0-9.]*[0-9]|[A-Za-z]))")
_STYLE = re.compile(
    r"\\(?:(?:tiny|small|normalsize|[lL]arge|LARGE|[hH]uge|(?:display|text)style|bf|boldsymbol|bm|pmb)(?![A-Za-z])"
    r"|(?:text)?color\s*\{[^{}]*\})\s*"
)
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\\[,;: ]|~|\{,\}| )(?=[0-9]{3}(?![0-9]))")
_EXPONENT = re.compile(r"([+-]?[0-9.]+)[eE]([+-]?[0-9]{1,3})")
_WRAPPED = re.compile(r"(?:\\(?:text|math)(?:bf|rm|it|tt|sf|normal)?\s*)?\{([^{}]*)\}|\*\*([^*]+)\*\*")

# math-verify's own removal of units takes variables for units (2c, 3t^2 + 2t) and cuts "3 \text{ h } 20 \text{ min}"
_POWER = r"(?:\^\{?-?[0-9]\}?)?"
_TEXT = r"\\(?:text|textrm|mathrm|mbox)\s*\{"
_UNIT = re.compile(
    rf"(?P<value>(?:(?!{_TEXT}).)*?[^\s\\])(?:(?:\\?[ ,;:~!]|/)*{_TEXT}(?!\s*[ei]\s*\}})[^{{}}]*\}}{_POWER})+"
    rf"|(?P<number>.*[0-9}}])(?:(?: [a-z]{{3,}})+| ?(?:[cmk]m|kg|ft)){_POWER}"
)

_SCALES = {"dozen": 12, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALED = re.compile(
    rf"([+-]?[0-9][0-9,]{{0,30}}(?:\.[0-9]{{1,30}})?)(?:\\?[ ,;:~!])*(?:{_TEXT})? ?({'|'.join(_SCALES)})s?"
    rf"(?:(?:\\?[ ,;:~!]|\}}|{_TEXT})+(?:[a-z]{{2,}}s|people))? ?\}}?"
)
_REPEATING = re.compile(r"([+-]?)([0-9]{0,30})\.([0-9]{0,30})\\(?:overline|bar)\s*\{([0-9]{1,30})\}")
_RELATION = re.compile(r"(?:(?:=|\\approx(?![A-Za-z]))\s*)+")
_MIXED = re.compile(r"([+-]?)([0-9]{1,30})(?:\\[ ,]| ) ?([0-9]{1,30})/([0-9]{1,30})(?=\\?%|\Z)")

NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|(?=\.?[0-9])[0-9]*)(?:\.[0-9]+)?")
_SYMBOL = rf"(?:[cdkmn\u03bc\u00b5]?(?:m|g|s|L|l|N|J|W|V|A|Hz|Pa|mol)|K|h|hrs?|in|ft|yd|mi|lbs?|oz|USD|EUR|GBP){_POWER}"
MEASURED = re.compile(
    rf"({NUMBER.pattern})(?:(?: |~|\\[ ,;:!])+{_SYMBOL}(?:(?:/| ?\\cdot ){_SYMBOL})*|(?: |~|\\[ ,;:!])*\^\\circ ?[CFK])"
)
"""A number and a unit behind a space: without one, 5m is a product."""


def clean(answer: str) -> str:
    """An answer without its unit, spaces at its ends and what LaTeX wraps it in, as checker boxed compares it."""
    answer = _ROOT.sub(r"\\sqrt{\1\2\3}", _STYLE.sub("", answer))
    answer = _VULGAR.sub(lambda m: _fraction(Fraction(numeric(m[0])).limit_denominator(10)), answer)
    for spelling, ours in _SPELLINGS.items():
        answer = answer.replace(spelling, ours)
    text = " ".join(answer.split()).rstrip(". ")
    if len(text) > MAX_LENGTH:
        return text
    if wrapped := _WRAPPED.fullmatch(text):
        text = (wrapped[1] or wrapped[2] or "").strip().rstrip(". ")
    if relation := _RELATION.match(text):
        text = text[relation.end() :] or text
    if number := _EXPONENT.fullmatch(text):
        return rf"{number[1]} \times 10^{{{number[2]}}}"
    text = _THOUSANDS.sub("", text)
    if scaled := _SCALED.fullmatch(text):
        return _fraction(Fraction(scaled[1].replace(",", "")) * _SCALES[scaled[2]])
    if repeating := _REPEATING.fullmatch(text):
        sign, whole, fixed, period = repeating.groups()
        digits = Fraction(int(period), 10 ** len(period) - 1) + int(whole + fixed or 0)
        return sign + _fraction(digits / 10 ** len(fixed))
    unit = _UNIT.fullmatch(text)
    text = (unit["value"] or unit["number"]) if unit else text
    text = _RAISED.sub(_power, text)
    if (mixed := _MIXED.match(text)) and int(mixed[4]) != 0:
        value = int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4]))
        text = mixed[1] + _fraction(value) + text[mixed.end() :]
    return text


def _power(raised: re.Match[str]) -> str:
    exponent = normalize("NFKC", raised[0]).replace("\u2212", "-")
    return f"^{exponent}" if len(exponent) == 1 else f"^{{{exponent}}}"


def _fraction(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
