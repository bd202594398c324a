"""Values as JSON and back, and what is no such value."""

from __future__ import annotations

from typing import Any

import pytest

from autodeco_gguf.evaluation.as_json import from_json, to_json
from autodeco_gguf.evaluation.drawing import Session
from autodeco_gguf.evaluation.methods import Method, config_of
from autodeco_gguf.evaluation.results import Comparison, GridRow, Moments, Point
from autodeco_gguf.evaluation.samples import Drawn
from autodeco_gguf.evaluation.settings import EvalSettings

POINT = {"problems": 2, "pass@1": 0.5, "se": None, "distinct": 1.5, "k": 4}
VALUES: list[tuple[Any, dict[str, Any]]] = [
    (Moments(0.5, 0.0), {"mean": 0.5, "sd": 0.0}),
    (Point(2, 0.5, None, 1.5, 4), POINT),
    (
        GridRow(config_of("static:1,0.5"), 1.0, 0.5, 2, 0.5, None, 1.5, 4, {"t": Point(2, 0.5, None, 1.5, 4)}),
        {"config": "static:1,0.5", "temperature": 1.0, "top_p": 0.5, **POINT, "tasks": {"t": POINT}},
    ),
    (
        Comparison("greedy", config_of("static:0,1"), "pass@1", 0.25, (0.0, 0.5), 0.04),
        {
            "method": "greedy",
            "config": "static:0,1",
            "metric": "pass@1",
            "difference": 0.25,
            "ci": [0.0, 0.5],
            "p": 0.04,
            "ahead": "autodeco",
        },
    ),
    (Method("oracle", "constant", None), {"name": "oracle", "kind": "constant", "config": None}),
    (
        Session(config_of("model"), 30, 1.5, "2026-01-02T03:04:05+00:00"),
        {"config": "model", "tokens": 30, "seconds": 1.5, "date": "2026-01-02T03:04:05+00:00"},
    ),
    (Drawn(None, None, (1, 2)), {"mean": None, "sd": None, "bins": [1, 2]}),
    (
        EvalSettings(tasks=("a", "b"), k=2),
        {
            "tasks": ["a", "b"],
            "k": 2,
            "seeds": 8,
            "seed": 0,
            "max_tokens": None,
            "search_samples": None,
            "validation": None,
        },
    ),
]


@pytest.mark.parametrize(("value", "expected"), VALUES)
def test_values(value: Any, expected: dict[str, Any]) -> None:
    written = to_json(value)
    assert written == expected
    assert list(written) == list(expected)
    assert from_json(type(value), expected) == value


def test_a_config_is_what_its_key_says() -> None:
    read = from_json(Method, {"name": "x", "kind": "constant", "config": "static:0.6,0.95"})
    assert read.config is not None
    assert read.config.pair == (0.6, 0.95)


def test_other_versions() -> None:
    assert from_json(EvalSettings, {"k": 3, "of the future": 1}) == EvalSettings(k=3)


@pytest.mark.parametrize(
    "value",
    [
        *({}, [], 3, None, {"config": "model"}),
        {"config": [], "tokens": 1, "seconds": 1, "date": ""},
        *({"config": "model", "tokens": n, "seconds": 1, "date": ""} for n in ("1", None, True, [1])),
        {"config": "model", "tokens": 1, "seconds": 1, "date": 5},
    ],
)
def test_something_else(value: object) -> None:
    with pytest.raises((TypeError, KeyError, AttributeError)):
        from_json(Session, value)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(TypeError, match=r"^no tokens, date$"):
        from_json(Session, {"config": "model", "seconds": 1})
    with pytest.raises(TypeError, match=r"^found 3, expected an object$"):
        from_json(Session, 3)


def test_a_number_that_numpy_does_not_know() -> None:
    line = {"config": "model", "tokens": 2**63, "seconds": 1, "date": ""}
    with pytest.raises(ValueError, match="too large"):
        from_json(Session, line)


@pytest.mark.parametrize("tasks", ["a", {"a": 1}, [1], None])
def test_a_list_is_one(tasks: object) -> None:
    with pytest.raises(TypeError, match=r"^found .*, expected "):
        from_json(EvalSettings, {"tasks": tasks})
