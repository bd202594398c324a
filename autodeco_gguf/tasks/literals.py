"""The Python literal that a response gives, and the checker that compares it; nothing is executed."""

from __future__ import annotations

import ast
import re
import threading
import warnings

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.boxes import last_box
from autodeco_gguf.tasks.programs.cases import last_block

_BLOCK = re.compile(r"```(?:[\w+-]*\n)?(.*?)```", re.DOTALL)
_TEXT = re.compile(r"\\(?:text|math)[a-z]*\s*\{((?:[^{}\\]|\\.)*)\}")
_ESCAPED = re.compile(r"\\(?:left|right)(?=\s*(?:\\?[{}]|[()[\]]))|\\([{}_])")


def literal(text: str, answer: str) -> bool:
    """Whether a response gives a Python literal equal to the answer, such as ``[1, "a"]``; nothing is executed.

    It is the last box or the last code block of the response, of both the later one that is a literal; or else its
    last line. InvalidInput where the answer is not a literal.

    Examples:
        >>> literal("It returns\\n```python\\n{'b': 2, 'a': 1.0}\\n```", "{'a': 1, 'b': 2}")
        True
    """
    expected, found = value(answer), given_value(text)
    return found is not None and bool(found[0] == expected)


def value(answer: str) -> object:
    """The expected value; InvalidInput where the answer is not a literal."""
    found = _evaluate(answer)
    if found is None:
        raise InvalidInput(f"answer {answer!r}: not a Python literal", key="answer", found=answer)
    return found[0]


def given_value(text: str) -> tuple[object] | None:
    """The value that a response gives; None where it gives none."""
    begin, end = last_box(text)
    box = _ESCAPED.sub(r"\1", _TEXT.sub(r"\1", text[begin:end])) if begin >= 0 else ""
    place, block = last_block(text) or next(
        ((m.start(), m[1]) for m in reversed(list(_BLOCK.finditer(text)))), (-1, "")
    )
    marked = [content for _, content in sorted(((begin, box), (place, block)), reverse=True) if content]
    return next(filter(None, map(_evaluate, marked or (text.strip().splitlines() or [""])[-1:])), None)


_FILTERS = threading.Lock()
"""The filters of warnings are those of all threads."""


def _evaluate(text: str) -> tuple[object] | None:
    try:
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's of "3or 4" or "\d", which the terminal would get
            return (ast.literal_eval(text.strip("` \n")),)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
