"""Errors say in one line what is wrong, and the same as attributes."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodeco_gguf.errors import AutoDecoError, BadFile, Busy, Closed, InvalidInput, ModelFailed, not_installed


def facts(e: AutoDecoError) -> tuple[str, str | None, str | None, object, object]:
    return str(e), e.file, e.key, e.expected, e.found


ERRORS: list[tuple[AutoDecoError, tuple[str, str | None, str | None, object, object]]] = [
    (InvalidInput.of("k", 0, "at least 1"), ("k 0, expected at least 1", None, "k", "at least 1", 0)),
    (BadFile.of(Path("x"), "broken"), ("x: broken", "x", None, None, None)),
    (BadFile.of("x", "size is 2", key="size", expected=1, found=2), ("x: size is 2", "x", "size", 1, 2)),
    (BadFile.of("x", InvalidInput.of("k", 0, 1)), ("x: k 0, expected 1", "x", "k", 1, 0)),
    (InvalidInput.of("k", 0, 1).within("x:3", file="x"), ("x:3: k 0, expected 1", "x", "k", 1, 0)),
    (BadFile.of("x", "broken").within("y", file="y"), ("y: x: broken", "x", None, None, None)),
    (
        not_installed("training needs torch", "train"),
        ('training needs torch; pip install "autodeco-gguf[train]"', None, "train", None, None),
    ),
]


@pytest.mark.parametrize(("error", "expected"), ERRORS)
def test_what_an_error_says(error: AutoDecoError, expected: tuple[object, ...]) -> None:
    assert facts(error) == expected


def test_types() -> None:
    for kind in (InvalidInput, BadFile, Busy, Closed, ModelFailed):
        assert type(kind("x").within("y")) is kind
        assert issubclass(kind, AutoDecoError)
    values = [kind for kind in (InvalidInput, BadFile, Busy, Closed, ModelFailed) if issubclass(kind, ValueError)]
    assert values == [InvalidInput, BadFile]
