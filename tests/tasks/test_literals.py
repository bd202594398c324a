"""Python literals in responses: tables of response, answer, verdict."""

from __future__ import annotations

import time
import warnings

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.checkers import get_checker
from autodeco_gguf.tasks.literals import literal

LITERALS = [
    ("[1, 2]", "[1,2]", True),
    ("[1, 2]", "[2, 1]", False),
    ("It returns\n'a'", '"a"', True),
    ("It returns\n`'a'`", "'a'", True),
    ("'a'\nor so", "'a'", False),
    ("```python\n{'b': 2, 'a': 1.0}\n```\nThat is it.", "{'a': 1, 'b': 2}", True),
    ("```\n1\n```\n```\n2\n```", "2", True),
    ("```\n1\n```\n```\n2\n```", "1", False),
    ("```[1,\n2]```", "[1, 2]", True),
    ("```python\r\n5\r\n```", "5", True),
    ("~~~\n5\n~~~\nThat is it.", "5", True),
    ("It is\n```python\n'a```b'\n```", "'a```b'", True),
    ("```\n1\n``` so \\boxed{2}\n1", "2", True),
    (r"\boxed{\{'a_1': [1]\}}", "{'a_1': [1]}", True),
    (r"\boxed{\{1: 'x\_y'\}}", "{1: 'x_y'}", True),
    (r"\boxed{\left[1, \left\{2: 3\right\}\right]}", "[1, {2: 3}]", True),
    # the later one of box and block
    ("So \\(\\boxed{2}\\) items stay, and it returns\n```python\n[1, 2]\n```", "[1, 2]", True),
    ("```python\n[1, 2]\n```\nof \\boxed{2} items", "2", True),
    ("```python\n[1, 2]\n```\nof \\boxed{2} items", "[1, 2]", False),
    ("\\boxed{2} items: ```[1, 2]```", "[1, 2]", True),
    ("\\boxed{[1, 2]}, as in\n```python\nprint(f(3))\n```", "[1, 2]", True),
    ("```python\n[1, 2]\n```\nof \\boxed{two} items", "[1, 2]", True),
    ("\\boxed{two}\n5", "5", False),
    ("- ```python\n  [1,\n   2]\n  ```\n  \\boxed{}", "[1, 2]", True),
    (r"\boxed{\text{True}}", "True", True),
    (r"\boxed{\texttt{\{'a\_b': 1\}}}", "{'a_b': 1}", True),
    (r"\boxed{[\text{'a'}, \mathrm{'b'}]}", "['a', 'b']", True),
    ("None", "None", True),
    ("", "None", False),
    ("nonsense", "None", False),
    ("1 + 1", "2", False),
    ("__import__('os').getpid()", "1", False),
    ("-" * 100_000 + "1", "1", False),
    ("[" * 1000 + "]" * 1000, "[]", False),
    ("1" * 5000, "1", False),
]


@pytest.mark.parametrize(("text", "answer", "right"), LITERALS, ids=[row[0][:30] for row in LITERALS])
def test_literal(text: str, answer: str, right: bool) -> None:
    assert literal(text, answer) is right


@pytest.mark.parametrize("text", ["[1for x in y]", "3or 4", r"'\d'"])
def test_a_warning_of_pythons_goes_nowhere(text: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        literal(text, "1")
    assert seen == []


@pytest.mark.parametrize("answer", ["", "five", "1 + 1", "[1", "f(1)"])
def test_literal_expects_a_literal(answer: str) -> None:
    with pytest.raises(InvalidInput, match=r"^answer '.*': not a Python literal$"):
        literal("1", answer)


@pytest.mark.parametrize(
    "piece", ["```", "```a", "` ", r"\boxed{1} ", r"\text{", r"\boxed{\text{\\", "```\n1\n```\n", "["]
)
def test_a_model_that_repeats_itself_takes_no_time(piece: str) -> None:
    start = time.process_time()
    literal(piece * (200_000 // len(piece)), "-9")
    assert time.process_time() - start < 3


def test_the_checker_by_name() -> None:
    assert get_checker("literal") is literal
