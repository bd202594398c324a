"""What benchmarks of instructions share; the errors are in test_ifeval.py, where there are instructions for all."""

from __future__ import annotations

import pytest

from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.tasks.instruction_checks import COUNT, POSITION, TEXT, Instructions, encode, loosened


def _ends(text: str, end: str) -> bool:
    return text.endswith(end)


def _missing() -> None:
    raise AutoDecoError("no package")


OWN = Instructions(
    {"a": _ends, "b": _ends, "c": lambda text: "x" in text, "d": lambda text: True},
    {"end": TEXT, "b end": COUNT},
    {"d": _missing},
)


def test_check() -> None:
    answer = encode(["a", "a", "c"], [{"end": "z"}, {"end": "yz"}, {"end": None}])
    assert [OWN.check(text, answer) for text in ("xyz", "xz", "yz", "", " \n")] == [True, False, False, False, False]
    assert OWN.followed(["yz"], answer) == [True, True, False]
    assert OWN.followed([], answer) == [False, False, False]


def test_loose() -> None:
    answer = encode(["a", "c"], [{"end": "z"}, {}])
    assert [OWN.check(text, answer) for text in ("x\nyz\n!", "x\nyz*")] == [False, False]
    assert [OWN.check_loose(text, answer) for text in ("x\nyz\n!", "x\nyz*", "yz\nb")] == [True, True, False]


def test_loosened() -> None:
    assert loosened("*a*\n b \n*c") == ["*a*\n b \n*c", "b \n*c", "*a*\n b", "b", "a\n b \nc", "b \nc", "a\n b", "b"]
    assert loosened("*a") == ["*a", "", "", "", "a", "", "", ""]


def test_an_argument_of_one_instruction() -> None:
    assert OWN.parse('[["a", {"end": "5"}]]') == [["a", {"end": "5"}]]
    with pytest.raises(InvalidInput, match=r'^instruction b: end is "5", expected a whole number >= 0$'):
        OWN.parse('[["b", {"end": "5"}]]')


def test_a_package_that_is_missing() -> None:
    with pytest.raises(AutoDecoError, match=r"^no package$"):
        OWN.check("", '[["d", {}]]')


def test_kinds() -> None:
    values = [0, 1, -1, 1.5, True, None, "", "a", " "]
    assert [COUNT.valid(value) for value in values] == [True, True, *[False] * 7]
    assert [POSITION.valid(value) for value in values] == [False, True, *[False] * 7]
    assert [TEXT.valid(value) for value in values] == [*[False] * 7, True, False]
