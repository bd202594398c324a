"""JSON's types by the letter."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from autodeco_gguf.server.fields import Flag, LogitBias, Number, Object, Seed, Stop, Text, Texts, Whole, one_of

Size = Annotated[str, one_of("small", "large")]


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (Whole, 1.0, 1),
        (Whole, -3, -3),
        (Whole, 1e9, 10**9),
        (Number, 1, 1.0),
        (Flag, True, True),
        (Stop, "a", ["a"]),
        (LogitBias, {"7": 1, "8": -0.5}, {7: 1.0, 8: -0.5}),
        (Seed, -(2**63), -(2**63)),
        (Size, "small", "small"),
    ],
)
def test_taken(kind: Any, given: Any, value: Any) -> None:
    found = TypeAdapter(kind).validate_python(given)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Whole, [True, "1", 1.5, [], {}, float("inf"), float("nan")]),
        (Number, [True, "1", [], float("inf"), float("nan"), 10**400]),
        (Flag, [1, 0, "true", "false", []]),
        (Text, [1, True, [], {}]),
        (Object, [[], "x", 1]),
        (Texts, [[], "x", {"a": 1}, {"a": None}, {"a": float("inf")}]),
        (Stop, [1, [1], {}, [None]]),
        (Seed, [2**63, True, "1", 0.5]),
        (
            LogitBias,
            [[], {"a": 1}, {"1": True}, {"1": "x"}, {"٣": 1}, {"1" * 10: 1}, {"1" * 5000: 1}, {"1": None}, {"1": 101}],
        ),
        (Size, ["medium", 1, [], {}]),
    ],
)
def test_refused(kind: Any, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValidationError, match="expected"):
            TypeAdapter(kind).validate_python(value)


def test_an_object_holds_what_json_can() -> None:
    assert TypeAdapter(Object).validate_python({"a": [1e300]}) == {"a": [1e300]}
    with pytest.raises(ValidationError, match="too large"):
        TypeAdapter(Object).validate_python({"a": [float("inf")]})


def test_braces_in_a_message_stand_as_they_are() -> None:
    with pytest.raises(ValidationError, match=r"\{0\}"):
        TypeAdapter(LogitBias).validate_python({"{0}": 1})
