"""Types of fields: JSON's, taken by the letter. A text is no number, true is not 1, and 1.0 is 1."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from autodeco_gguf.model.sampling import MAX_TOP


def refused(message: str, param: str | int | None = None, kind: str = "value") -> PydanticCustomError:
    """The error for a value that will not do; ``param`` is the field below it that it is about."""
    return PydanticCustomError(kind, "{text}", {"text": message, "param": param})


def is_whole(value: Any) -> bool:
    """Whether a JSON value is a whole number, though it be written as 1.0."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _whole(value: Any) -> Any:
    if value is None:
        return None
    if not is_whole(value):
        raise refused("expected a whole number")
    return int(value)


def _number(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refused("expected a number")
    if (isinstance(value, int) and abs(value) > 1 << 64) or not math.isfinite(value):
        raise refused("expected a number within the range of float32")
    return float(value)


def kind_check(kind: type, words: str) -> Callable[[Any], Any]:
    """A validator that wants a JSON type, or null."""

    def check(value: Any) -> Any:
        if value is not None and not isinstance(value, kind):
            raise refused(f"expected {words}")
        return value

    return check


def _object(value: Any) -> Any:
    value = kind_check(dict, "an object")(value)
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as e:
        raise refused("a number within it is too large") from e
    return value


def _texts(value: Any) -> Any:
    value = kind_check(dict, "an object")(value)
    for name, text in (value or {}).items():
        if not isinstance(text, str):
            raise refused("expected a text", name)
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Flag = Annotated[bool, BeforeValidator(kind_check(bool, "true or false"))]
Text = Annotated[str, BeforeValidator(kind_check(str, "a text"))]
Object = Annotated[dict[str, Any], BeforeValidator(_object)]
Texts = Annotated[dict[str, str], BeforeValidator(_texts)]


T = TypeVar("T")

MAX_ITEMS = 1 << 14
"""Messages of a request, parts of one, tools: more than any context holds, and looked at in a fraction of a second."""

Several = Annotated[list[T], Field(fail_fast=True, max_length=MAX_ITEMS)]
"""A list, of which the first that is wrong is told: to gather what is wrong of millions would take gigabytes."""


_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}


def _with_limits(schema: dict[str, Any]) -> None:
    """Name limits as JSON schemas do; pydantic does not where a validator of ours stands before them."""
    for field in schema.get("properties", {}).values():
        for kind in field.get("anyOf", ()):
            for name in _LIMITS.keys() & kind.keys():
                kind[_LIMITS[name]] = kind.pop(name)


class Body(BaseModel):
    """A JSON object of a request. A field that is null is as if it were not there; unknown ones are passed over."""

    model_config = ConfigDict(extra="ignore", json_schema_extra=_with_limits)


def _autodeco(value: Any) -> Any:
    if isinstance(value, bool):
        return AutoDecoOptions() if value else None
    if value is not None and not isinstance(value, dict | AutoDecoOptions):
        raise refused("expected true, false or an object")
    return value


class AutoDecoOptions(Body):
    """What of a trace an answer carries."""

    tokens: Annotated[Flag | None, Field(description="Also each token, with entropy, nucleus and probability.")] = None
    top: Annotated[Whole | None, Field(ge=0, le=MAX_TOP, description="So many alternatives of each token.")] = None


def _stop(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if value is not None and (not isinstance(value, list) or not all(isinstance(text, str) for text in value)):
        raise refused("expected a text or a list of texts")
    return value


_SEED_LIMIT = 2**63


def _seed(value: Any) -> Any:
    value = _whole(value)
    if value is not None and not -_SEED_LIMIT <= value < _SEED_LIMIT:
        raise refused("expected a whole number of 64 bits")
    return value


def _bias(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise refused("expected an object of numbers by token id")
    biases = {}
    for token, bias in value.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 10):
            raise refused(f"expected token ids as keys, not {token[:40]!r}")
        number = _number(bias)
        if number is None or abs(number) > 100:
            raise refused(f"expected -100 to 100 for token {token}")
        biases[int(token)] = number
    return biases


Seed = Annotated[int, BeforeValidator(_seed)]
Stop = Annotated[list[str], BeforeValidator(_stop, json_schema_input_type=str | list[str])]
LogitBias = Annotated[dict[int, float], BeforeValidator(_bias)]
AutoDeco = Annotated[
    AutoDecoOptions | None, BeforeValidator(_autodeco, json_schema_input_type=bool | AutoDecoOptions | None)
]


def one_of(*names: str) -> BeforeValidator:
    """A text that is one of some."""

    def check(value: Any) -> Any:
        if value is not None and (not isinstance(value, str) or value not in names):
            raise refused(f"expected one of {', '.join(names)}")
        return value

    return BeforeValidator(check, json_schema_input_type=Literal[names])
