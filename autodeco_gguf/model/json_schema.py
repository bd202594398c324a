"""What is refused of a JSON schema: what llguidance would not enforce; it compiles the others."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from autodeco_gguf.errors import InvalidInput

_OPTIONS: Any = {"lenient": False, "whitespace_pattern": r" ?|\n{1,2}[ \t]{0,20}"}
"""All that a schema says is enforced; the space between tokens of JSON is that of llama.cpp, which has an end."""

_NAMING = frozenset(["properties", "patternProperties", "required"])
_NO_CODES: Any = {**_OPTIONS, "json_allowed_escapes": 'nrbtf\\"'}
"""Without \\uXXXX. llguidance compares keys as they are written: by it a named one passes for another, unchecked. What
needs it, as ESC, is in no string then."""
_NEEDS_CODE = re.compile(r"[\0-\x07\x0b\x0e-\x1f\x7f]")

_SCHEMAS = ("additionalProperties", "additionalItems", "items", "not", "allOf", "anyOf", "oneOf", "prefixItems")
NAMED = ("$defs", "definitions", "patternProperties", "properties")
"""Keywords whose keys are names."""
_NUMBERS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_KEYWORDS = frozenset(
    [
        "$ref",
        "const",
        "enum",
        "type",
        "minItems",
        "maxItems",
        "required",
        "minProperties",
        "maxProperties",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "nullable",
        "$anchor",
        "$schema",
        "$id",
        "id",
        "$comment",
        "title",
        "description",
        "default",
        "deprecated",
        "example",
        "examples",
        "readOnly",
        "writeOnly",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "discriminator",
        "externalDocs",
        "xml",
    ]
) | {*_SCHEMAS, *NAMED}  # what llguidance enforces, and what allows no more than it would without
"""What a schema may say beside what llguidance refuses by itself: it ignores what it does not know, a typo too."""


def _check_keywords(schema: Any) -> None:
    """Raise InvalidInput for a keyword or a format that is none; "x-..." says something to other programs."""
    schemas = [schema]
    while schemas:
        at = schemas.pop()
        if isinstance(at, list):
            schemas += at
        if not isinstance(at, dict):
            continue
        _check_bounds(at)
        _check_keys(at)
        if at.get("format") == "unknown":  # any text to llguidance, which refuses what it does not know
            raise InvalidInput("JSON schema: Unknown format: unknown", key="schema")
        for key, value in at.items():
            if key == "x-guidance" or not (key in _KEYWORDS or key.startswith("x-")):
                raise InvalidInput(f"JSON schema: unknown keyword {key!r}, which would not be enforced", key="schema")
            if key in _SCHEMAS:
                schemas.append(value)
            elif key in NAMED and isinstance(value, dict):
                schemas += value.values()


def _values(schema: Any) -> list[tuple[str, Any]]:
    """Each value within a schema, and its key; that of a part of a const or an enum is this."""
    values = [("", schema)]
    for key, value in values:  # which grows meanwhile
        if isinstance(value, dict):
            values += [(key if key in ("const", "enum") else name, part) for name, part in value.items()]
        elif isinstance(value, list):
            values += [(key, part) for part in value]
    return values


def _check_numbers(values: list[tuple[str, Any]]) -> None:
    """Raise InvalidInput for numbers that llguidance rounds, or ends the process for."""
    for key, value in values:
        if key in _NUMBERS and _is_number(value):
            if isinstance(value, int) and abs(value) > 2**53:
                what = f"{key} has a whole number beyond 2^53, which would be rounded"
                raise InvalidInput(f"JSON schema: {what}", key="schema")
            if abs(value) > 10**18:
                what = f"{key} has a number beyond 10^18, which would not be enforced"
                raise InvalidInput(f"JSON schema: {what}", key="schema")


def _options(values: list[tuple[str, Any]]) -> Any:
    """How a schema is compiled; raise InvalidInput for a text that cannot be written so."""
    if not any(isinstance(at, dict) and _NAMING & at.keys() and _has_others(at) for _, at in values):
        return _OPTIONS
    for key, value in values:
        if key in ("const", "enum") and isinstance(value, str) and _NEEDS_CODE.search(value):
            reason = f"{key} {value!r:.40} has a control character, where an object may have keys beside those it names"
            raise InvalidInput(f"JSON schema: {reason}", key="schema")
    return _NO_CODES


def _check_bounds(at: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a whole number that llguidance lets through although it is excluded."""
    names = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
    parts = [at, *(part for key in ("allOf", "anyOf", "oneOf") for part in _list(at, key) if isinstance(part, dict))]
    low, high = ([(key, part[key]) for part in parts for key in keys if _is_number(part.get(key))] for keys in names)
    for (key, least), (other, most) in itertools.product(low, high):
        lost = [k for k, n in ((key, least), (other, most)) if k.startswith("exclusive") and n == int(n)]
        if lost and abs(most - least) < 1:
            reason = f"{lost[0]} less than 1 from the other bound, which would not be enforced"
            raise InvalidInput(f"JSON schema: {reason}", key="schema")


def _check_keys(at: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a minProperties that one key could meet by coming twice."""
    n, required = at.get("minProperties", 0), len(_list(at, "required"))
    if _has_others(at) and _is_number(n) and n > max(1, required):
        reason = f"minProperties {n}, where a key that properties does not name may come twice"
        raise InvalidInput(f"JSON schema: {reason}", key="schema")


def _has_others(at: Mapping[str, Any]) -> bool:
    """Whether an object may have keys that properties does not name."""
    return bool(at.get("patternProperties")) or at.get("additionalProperties") is not False


def _list(at: Mapping[str, Any], key: str) -> list[Any]:
    found = at.get(key)
    return found if isinstance(found, list) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compile_schema(text: str) -> str:
    """What llguidance makes of a schema. References are followed by recursion: the stack has to be large.

    Raises:
        InvalidInput: no JSON, or something that would not be enforced.
    """
    from llguidance import LLMatcher

    parsed = None
    with suppress(ValueError, RecursionError):  # what is no JSON, or too deep, is refused below
        parsed = json.loads(text)
    values = _values(parsed)
    _check_numbers(values)
    options = _options(values)
    try:
        grammar = LLMatcher.grammar_from_json_schema(text, overrides=options)
    except ValueError as e:
        raise InvalidInput(f"JSON schema: {e}", key="schema") from e
    _, reasons = LLMatcher.validate_grammar_with_warnings(grammar)
    if reasons:
        raise InvalidInput(f"JSON schema: {' '.join(reasons[0].split())}", key="schema")
    _check_keywords(parsed)  # not deep: llguidance has read it
    return grammar
