"""Errors say in one line what is wrong, and keep what they speak of."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from autodeco_gguf.errors import AutoDecoError, BadFile, Busy, Closed, InvalidInput, ModelFailed, not_installed

TYPES = (InvalidInput, BadFile, Busy, Closed, ModelFailed)


def test_what_a_caller_can_tell_apart() -> None:
    assert all(issubclass(kind, AutoDecoError) for kind in TYPES)
    assert not any(issubclass(a, b) for a in TYPES for b in TYPES if a is not b)
    # as llama_cpp raises for an argument or a file that will not do, and for a decode that fails
    assert [kind for kind in TYPES if issubclass(kind, ValueError)] == [InvalidInput, BadFile]
    assert [kind for kind in TYPES if issubclass(kind, RuntimeError)] == [ModelFailed]


def test_a_value_out_of_range() -> None:
    error = InvalidInput.of("k", 0, "at least 1")
    assert str(error) == "k 0, expected at least 1"
    assert (error.file, error.key, error.found, error.expected) == (None, "k", 0, "at least 1")


def test_a_file_that_will_not_do() -> None:
    error = BadFile.of(Path("a/b.gguf"), "tensor x is [3], expected [4]", key="x", expected=[4], found=[3])
    assert str(error) == "a/b.gguf: tensor x is [3], expected [4]"
    assert (error.file, error.key, error.found, error.expected) == ("a/b.gguf", "x", [3], [4])


def test_a_reason_that_is_an_error_gives_its_attributes() -> None:
    error = BadFile.of("x", InvalidInput.of("k", 0, 1))
    assert (str(error), error.file, error.key, error.found, error.expected) == ("x: k 0, expected 1", "x", "k", 0, 1)


@pytest.mark.parametrize("kind", TYPES)
def test_within_something_larger_it_stays_what_it_is(kind: type[AutoDecoError]) -> None:
    outer = kind("is empty", file="d.jsonl", key="prompt", expected="a text", found="").within("d.jsonl:3")
    assert type(outer) is kind
    assert str(outer) == "d.jsonl:3: is empty"
    assert (outer.file, outer.key, outer.expected, outer.found) == ("d.jsonl", "prompt", "a text", "")


def test_errors_pass_between_processes() -> None:
    error = BadFile.of("x.gguf", "truncated", key="t", found=7)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (BadFile, str(error), vars(error))


def test_one_way_to_install_what_is_missing() -> None:
    error = not_installed("matplotlib is not installed", "matplotlib", "eval")
    how = 'pip install matplotlib, or in a clone: pip install ".[eval]"'
    assert (str(error), error.key) == (f"matplotlib is not installed; {how}", "eval")


def test_lines_of_the_log_are_notes() -> None:
    error = ModelFailed("x: no context").with_log(["no memory\x1b[2J", "no buffer"])
    assert (str(error), error.__notes__) == ("x: no context", [r"llama.cpp: no memory\x1b[2J", "llama.cpp: no buffer"])
    assert pickle.loads(pickle.dumps(error)).__notes__ == error.__notes__
    assert error.within("request 3").__notes__ == error.__notes__
