"""Whether a response gives the expected answer."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from autodeco_gguf.errors import InvalidInput, not_installed
from autodeco_gguf.tasks import choices, ifeval, literals, members, numbers, official, stories
from autodeco_gguf.tasks.boxes import MAX_LENGTH, MEASURED, NUMBER, clean, last_boxed
from autodeco_gguf.tasks.ifbench import registry as ifbench
from autodeco_gguf.tasks.programs import cases as programs

Checker = Callable[[str, str], bool]
"""(text of the response, expected answer) -> whether the response is right."""


def get_checker(name: str) -> Checker:
    """A checker by its name, or a function of the user's own as ``module:function``.

    The module may be installed or stand in the working directory, which stays on ``sys.path`` from then on.

    Raises:
        InvalidInput: no such checker, the message lists them; a module that cannot be imported, or has no such
            function.
        AutoDecoError: for ``boxed``, math-verify is not installed.
    """
    if ":" in name:
        return own_function(name)
    if name not in CHECKERS:
        message = f"checker {name!r}, expected one of {', '.join(CHECKERS)}, or module:function of your own"
        raise InvalidInput(message, key="checker", found=name, expected=tuple(CHECKERS))
    if name == "boxed":
        _math_verify()  # now rather than after an hour of sampling
    return CHECKERS[name]


def own_function(name: str, kind: str = "checker") -> Callable[..., Any]:
    """A function of the user's own, named ``module:function``, in its role as a ``kind``; raises InvalidInput."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        imported = importlib.import_module(module)
    except Exception as e:  # it is the user's code: anything may come out of it
        message = f"{kind} {name!r}: {module!r} cannot be imported: {type(e).__name__}: {e}"
        raise InvalidInput(message, key=kind, found=name) from e
    found: Callable[..., Any] | None = getattr(imported, function, None)
    if not callable(found):
        what = "missing" if found is None else f"of type {type(found).__name__}"
        message = f"{kind} {name!r}: {function!r} of {module!r} is {what}, expected a function"
        raise InvalidInput(message, key=kind, found=name)
    return found


# ---- expected answers ----

_UNMARKED = ("code", "ifbench", "ifeval", "member", "story")  # checkers whose answers no benchmark marks
_MARKED_NUMBER = re.compile(r"([+-]?)\$?([0-9][0-9,]*(?:\.[0-9]+)?)\.?")


def read_answer(checker: str, answer: str) -> str:
    """An answer as published to what a built-in checker compares with.

    Of a worked solution that ends in ``#### 18``, as GSM8K has them, that is what the mark stands before, a number
    without commas and dollar sign. A pattern or a literal is no solution where it is a single line. A checker of the
    user's own gets every answer as it stands.

    Raises:
        InvalidInput: the checker cannot read it.

    Examples:
        >>> read_answer("boxed", "She makes 9 * 2 = $<<9*2=18>>18.\\n#### 18")
        '18'
    """
    reader = _READERS.get(checker)
    if reader is None:
        return answer
    marked = "" if checker in _UNMARKED else _marked(answer)
    if marked and (checker not in ("literal", "regex") or "\n" in answer.strip()):
        number = _MARKED_NUMBER.fullmatch(marked)
        answer = number[1] + number[2].replace(",", "") if number else marked
    reader(answer)
    return answer


def _marked(answer: str) -> str:
    """What the last ``####`` stands before, if that is in its line and the end; empty for none."""
    _, mark, behind = answer.rpartition("####")
    behind = behind.rstrip().lstrip(" \t")
    return behind if mark and "\n" not in behind and "#" not in behind else ""


# ---- boxed ----

_EITHER_SIGN = re.compile(r"\\pm(?![A-Za-z])")
_BRACES = re.compile(r"(?:\\left\s*)?\\\{((?:(?!\\[{}]).)*?)(?:\\right\s*)?\\\}")
_ORDERED = re.compile(r"(?:\\left\s*)?[(\[][^][(),]*,[^][()]*[)\]]")
"""A point or an interval, which math-verify takes for the set of its numbers."""

_BRACKET = re.compile(r"[][(){},]")

_IN_BASE = re.compile(r"[0-9]+_\{?([0-9]+)\}?")
_WORD = re.compile(r"[A-Z]{2,}|[A-Za-z]{4,}")
"""Not a product of variables: as such, DACB would be equal to ABCD."""

_PLAIN_WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}")
_MAX_WORDS = 8
"""Of an expected answer that is not in LaTeX: what has more is a solution, which no box repeats."""


def boxed(text: str, answer: str) -> bool:
    r"""Whether the last ``\boxed{...}`` of a response is mathematically equal to the answer, by math-verify.

    Case, white space, dollar signs, units and a full stop do not count, and 50% is 50 and 0.5. Numbers written out
    are compared exactly, others to five digits at least. Nothing limits the time that a hostile expression takes, such
    as a tower of powers; :class:`autodeco_gguf.tasks.grading.Grader` does. Of a solution that boxes its result, that is
    the answer. InvalidInput where the answer is no number, formula or few words; AutoDecoError where math-verify is not
    installed.

    Examples:
        >>> boxed(r"So the sum is $\boxed{\frac{1}{2}}$.", "0.5")
        True
        >>> boxed(r"\boxed{1} or rather \boxed{2}", "1")
        False
    """
    expected, content = _expected(answer), last_boxed(text)
    if content is None:
        return False
    found = clean(content)
    found, expected = _measure(found, expected), _measure(expected, found)
    if found.endswith("%") != expected.endswith("%") and _same(found.rstrip("%\\ "), expected.rstrip("%\\ ")):
        return True
    return _same(found, expected)


def _measure(text: str, other: str) -> str:
    """The number of one with a unit, where the other is a number."""
    measured = MEASURED.fullmatch(text) if NUMBER.fullmatch(other) else None
    return measured[1] if measured else text


def _expected(answer: str) -> str:
    box = last_boxed(answer)
    given = (answer if box is None else box).strip()
    text = clean(given)
    words = _PLAIN_WORD.findall(text)
    prose = len(words) > _MAX_WORDS or "answer" in map(str.lower, words)
    too_long = len(text) > MAX_LENGTH and not NUMBER.fullmatch(text)
    if not text or prose or _is_solution(given) or too_long or last_boxed(rf"\boxed{{{text}}}") != text:
        form = f"nothing but a number, a formula or at most {_MAX_WORDS} words, as checker boxed compares it"
        shown = textwrap.shorten(answer, 100, placeholder=" ...") if len(answer) > 100 else answer
        raise InvalidInput(f"answer {shown!r}: expected {form}", key="answer", found=answer, expected=form)
    return text


def _is_solution(given: str) -> bool:
    """A mark that is not at the end, a calculator's note, or several lines, but for those of a matrix."""
    noted = ">>" in given.partition("<<")[2]
    return "####" in given or noted or given.rfind("\n") > given.rfind("\\end{")


_AND = re.compile(r",?\\text\{,?and,?\}|;")
_ASSIGNED = re.compile(r"[A-Za-z]=[^=,]+(?:,[A-Za-z]=[^=,]+)+")
_POINT = re.compile(rf"(?:\(([A-Za-z](?:,[A-Za-z])+)\)=)?({_ORDERED.pattern})")


def _same_point(text: str, other: str) -> bool | None:
    """Whether ``x=3,y=4`` is the point (3,4), or (x,y)=(3,4); without names in this order of the variables, or in that
    of the alphabet. None for other texts.
    """
    text, point = _AND.sub(",", text), _POINT.fullmatch(other)
    named = dict(side.split("=") for side in text.split(",")) if _ASSIGNED.fullmatch(text) else {}
    orders = [point[1].split(",")] if point and point[1] else [list(named), sorted(named)]
    if not point or not named or len(named) < text.count("=") or sorted(orders[0]) != sorted(named):
        return None
    coordinates = point[2].replace("[", "(").replace("]", ")")
    return any(_same(f"({','.join(named[name] for name in order)})", coordinates) for order in orders)


def _same(found: str, expected: str) -> bool:
    texts = found.replace(" ", ""), expected.replace(" ", "")
    if texts[0] == texts[1] or not all(texts) or max(map(len, texts)) > MAX_LENGTH:
        return texts[0] == texts[1] != ""
    if all(map(NUMBER.fullmatch, texts)):
        return Fraction(texts[0].replace(",", "")) == Fraction(texts[1].replace(",", ""))
    based = [_IN_BASE.fullmatch(text) for text in texts]
    if based[0] and based[1] and based[0][1] != based[1][1]:  # math-verify takes 101_2 for 101_3
        return False
    if any(_BRACES.fullmatch(text) and _ORDERED.fullmatch(other) for text, other in (texts, texts[::-1])):
        return False
    for one, other in (texts, texts[::-1]):
        if (same := _same_point(one, other)) is not None:
            return same
    if all(map(str.isalpha, texts)) and any(map(_WORD.fullmatch, texts)):
        return texts[0].lower() == texts[1].lower()
    return _equivalent(found, expected)


@lru_cache(maxsize=4096)
def _equivalent(found: str, expected: str) -> bool:
    library = _math_verify()
    # only LaTeX: its search for plain expressions would take any number out of what it cannot parse
    target = library.parser.LatexExtractionConfig(
        normalization_config=library.parser.NormalizationConfig(malformed_operators=True, nits=True)
    )
    # no time limits of its own: those are signals, which only the main thread can have
    gold, said = (
        library.parse(f"${_both_signs(text)}$", extraction_config=[target], parsing_timeout=None)
        for text in (expected, found)
    )
    return library.verify(gold, said, allow_set_relation_comp=True, timeout_seconds=None) and _close(gold[0], said[0])


def _both_signs(text: str) -> str:
    r"""``2, \frac{1 \pm 3}{2}`` as ``2, \frac{1 + 3}{2}, \frac{1 - 3}{2}``: math-verify knows the sign only outside."""
    if not _EITHER_SIGN.search(text):
        return text
    braced = _BRACES.fullmatch(text)
    text = braced[1] if braced else text
    ends, depth = [-1], 0
    for sign in _BRACKET.finditer(text):
        depth += (sign[0] in "[({") - (sign[0] in "])}")
        if sign[0] == "," and depth == 0:
            ends.append(sign.start())
    parts = [text[begin + 1 : end] for begin, end in zip(ends, [*ends[1:], len(text)], strict=True)]
    return ",".join(
        f"{_EITHER_SIGN.sub('+', part)},{_EITHER_SIGN.sub('-', part)}"
        if len(_EITHER_SIGN.findall(part)) == 1 and r"\mp" not in part and "," not in part
        else part
        for part in parts
    )


def _close(a: Any, b: Any) -> bool:
    """Whether two SymPy numbers agree to five digits: math-verify's six decimals make all small numbers equal.

    Other kinds of expression do.
    """
    if not getattr(a, "is_number", False) or not getattr(b, "is_number", False) or a == b:
        return True
    a, b = a.doit().evalf(), b.doit().evalf()
    # what is exactly zero may come out as 1e-124
    return bool(abs(a - b) <= 1e-5 * max(abs(a), abs(b)) + 1e-50)


def _math_verify() -> Any:
    try:
        library = importlib.import_module("math_verify")
    except ImportError as e:
        raise not_installed(f"checker 'boxed' needs math-verify: {e}", "math-verify", "eval") from e
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that there are no time limits
    return library


# ---- the others ----


def exact(text: str, answer: str) -> bool:
    """Whether a response is the answer, except for white space around either."""
    return text.strip() == answer.strip()


def regex(text: str, answer: str) -> bool:
    """Whether the answer, a regular expression, is found in a response; InvalidInput where it does not compile."""
    return _pattern(answer).search(text) is not None


def _pattern(answer: str) -> re.Pattern[str]:
    try:
        return re.compile(answer)
    except (re.error, OverflowError, RecursionError) as e:
        raise InvalidInput(f"answer {answer!r}: not a regular expression: {e}", key="answer", found=answer) from e


RULES = {"boxed": 3, "choice": 3, "ifeval": 2, "literal": 2, "member": 3, "number": 3}
"""How often a checker has come to judge otherwise, and once: what was graded by other rules does not go with it."""

OTHER_RULES = "other rules of the checker, by which an earlier or later version graded"
"""What is said where these differ."""

CHECKERS: dict[str, Checker] = {
    "boxed": boxed,
    "choice": choices.choice,
    "code": programs.not_here,
    "exact": exact,
    "ifbench": ifbench.check,
    "ifeval": ifeval.check,
    "literal": literals.literal,
    "member": members.check,
    "number": numbers.number,
    "official": official.official,
    "regex": regex,
    "story": stories.check,
}
"""What :func:`get_checker` knows by name, besides ``module:function``."""

_READERS: dict[str, Callable[[str], object]] = {
    "boxed": _expected,
    "choice": choices.letter,
    "code": programs.read_answer,
    "exact": str,
    "ifbench": ifbench.parse,
    "ifeval": ifeval.parse,
    "literal": literals.value,
    "member": members.parse,
    "number": numbers.expected_number,
    "official": str,
    "regex": _pattern,
    "story": stories.parse,
}
"""How each of them reads an expected answer; InvalidInput where it cannot."""

FINDERS: dict[str, Callable[[str], object | None]] = {
    "boxed": last_boxed,
    "choice": choices.chosen,
    "code": programs.program,
    "literal": literals.given_value,
    "number": numbers.given_number,
    "official": official.last_answer,
}
"""What they compare of a response, where they look for a form; None where it is missing."""


def has_form(checker: str, text: str) -> bool | None:
    r"""Whether a response has the form that a checker looks for, right or wrong: a closed box for ``boxed``, a chosen
    letter for ``choice``, a number, a literal, a closed code block for ``code``.

    None for a checker that looks for no form, or is the user's own.

    Examples:
        >>> has_form("boxed", "So it is 4."), has_form("boxed", r"\boxed{5}"), has_form("exact", "4")
        (False, True, None)
    """
    finder = FINDERS.get(checker)
    return None if finder is None else finder(text) is not None
