"""IFBench's instructions as they are read; what each of them wants is in the modules beside this one."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks import ifeval
from autodeco_gguf.tasks.ifbench import registry
from autodeco_gguf.tasks.ifbench.registry import IFBENCH, check, parse
from autodeco_gguf.tasks.instruction_checks import encode
from tests.tasks.ifbench import test_counts, test_custom, test_forms, test_words

ROWS = [*test_counts.ROWS, *test_words.ROWS, *test_forms.ROWS, *test_custom.ROWS]


@pytest.fixture(autouse=True)
def syllapy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("syllapy")
    module.__dict__["count"] = len
    monkeypatch.setitem(sys.modules, "syllapy", module)


def test_all_are_there() -> None:
    assert {row[0] for row in ROWS} == set(registry.INSTRUCTIONS)
    assert len(registry.INSTRUCTIONS) == 58
    assert not set(registry.INSTRUCTIONS) & set(ifeval.INSTRUCTIONS)


def test_every_argument_has_a_kind() -> None:
    used = {key for _, arguments, _, _ in ROWS for key in arguments}
    assert {key.rpartition(" ")[2] for key in registry.ARGUMENTS} == used


def test_ifevals_instructions_are_known_too() -> None:
    answer = encode(["punctuation:no_comma", "count:numbers"], [{}, {"N": 1.0}])
    assert [check(text, answer) for text in ("1", "a", "1, a")] == [True, False, False]


def test_whole_numbers_as_floats_and_nulls() -> None:
    answer = encode(["count:numbers"], [{"N": 2.0, "percentage": None, "keyword": None}])
    assert parse(answer) == [["count:numbers", {"N": 2}]]


BAD = [
    ("count:no_such", {}, "^instruction 'count:no_such': unknown, expected one of count:word_count_range, "),
    ("sentence:keyword", {"keyword": "x"}, "has the arguments keyword, expected word, N$"),
    (
        "ratio:stop_words",
        {"percentage": None},
        "^instruction ratio:stop_words: has the arguments none, expected percentage",
    ),
    ("ratio:stop_words", {"percentage": 101}, "percentage is 101, expected a number from 0 to 100$"),
    ("ratio:stop_words", {"percentage": True}, "percentage is true, expected a number from 0 to 100$"),
    ("ratio:stop_words", {"percentage": "5"}, 'percentage is "5", expected a number from 0 to 100$'),
    ("ratio:stop_words", {"percentage": float("nan")}, "percentage is NaN, expected a number from 0 to 100$"),
    ("count:numbers", {"N": 2.5}, "N is 2.5, expected a whole number >= 0$"),
    ("count:words_japanese", {"N": 0}, "^instruction count:words_japanese: N is 0, expected a whole number >= 1$"),
    ("sentence:keyword", {"word": "a", "N": 0}, "^instruction sentence:keyword: N is 0, expected a whole number >= 1$"),
    ("format:list", {"sep": " "}, 'sep is " ", expected a string that is not blank$'),
    ("format:newline", {"N": 1}, "^instruction format:newline: has the arguments N, expected none$"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD)
def test_bad_arguments(name: str, arguments: dict[str, Any], message: str) -> None:
    for _ in range(2):  # never drawn
        with pytest.raises(InvalidInput, match=message):
            check("some text", encode([name], [arguments]))


def test_loose() -> None:
    answer = encode(["format:newline", "count:numbers"], [{}, {"N": 0}])
    text = "Here are 2 words:\n**one**\ntwo"
    assert [IFBENCH.check(text, answer), IFBENCH.check_loose(text, answer)] == [False, True]


def test_long_responses_take_no_long_time() -> None:
    """What a model that repeats itself writes; anything quadratic here would take minutes."""
    pieces = ("(", '"', "'", "\n", "a", ".", "?!", " * ", "Question 1\n", "1,", "a. ", "<i>", "it ", "\U0001f600 ")
    for piece in pieces:
        for name, arguments in {name: arguments for name, arguments, _, _ in ROWS}.items():
            check(piece * 10_000, json.dumps([[name, arguments]]))
    header = "ProductID,Category,Brand,Price,Stock\n"
    check(header + ('"' + "&" * 120_000 + ",b,c,d,e\n") * 14, encode(["custom:csv_special_character"], [{}]))
