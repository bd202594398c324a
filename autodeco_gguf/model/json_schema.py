"""What is refused of a JSON schema: what llguidance would not enforce; it compiles the others."""

from __future__ import annotations

import bisect
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

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
_TOGETHER = frozenset(["$ref", "allOf", "anyOf", "oneOf"])
_WITH_NUMBERS = frozenset(
    ["multipleOf", "properties", "items", "additionalItems", "additionalProperties", "prefixItems"]
)
"""What a multipleOf stands in, beside those."""
_MOST_PATTERNS = 100
"""Of properties, in a schema as a whole: each is compared with each, and where there are twice as many that takes a
second."""
_MOST_REMAINDERS = 100_000, 100
"""All multipleOf together are no larger than the first; one counts without zeros at its end where it is no larger than
the second then. llguidance keeps each remainder, up to 0.4 s long."""
_BOUNDS = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_CLASS = re.compile(r"\\.|\[(?P<inner>\^?(?:\\.|[^\]\\])*)(?P<end>\]?)", re.DOTALL)
"""An escape, or a class, which in a comment may have no end: then nothing is looked for within it."""
_INDEX = re.compile("0|[1-9][0-9]{0,8}")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_OF_SETS = re.compile(r"\[(?!:\^?[a-z]+:)|&&|--|~~")
"""Within a class what Rust's expressions have for operations on sets; nobody means [[:alpha:]] otherwise than it."""
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


def _schemas(schema: Any) -> list[dict[str, Any]]:
    """A schema and all within it."""
    found, waiting = [], [schema]
    while waiting:
        at = waiting.pop()
        if isinstance(at, list):
            waiting += at
        if isinstance(at, dict):
            found.append(at)
            waiting += [at[key] for key in _SCHEMAS if key in at]
            waiting += [part for key in NAMED if isinstance(at.get(key), dict) for part in at[key].values()]
    return found


def _check_keywords(at: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a keyword or a format that is none; "x-..." says something to other programs."""
    if at.get("format") == "unknown":  # any text to llguidance, which refuses what it does not know
        raise InvalidInput("JSON schema: Unknown format: unknown", key="schema")
    for key in at:
        if key == "x-guidance" or not (key in _KEYWORDS or key.startswith("x-")):
            raise InvalidInput(f"JSON schema: unknown keyword {key!r}, which would not be enforced", key="schema")


def _check_references(root: Any, schemas: list[dict[str, Any]]) -> None:
    """Raise InvalidInput for a reference to a part that stands where no schema does: nothing here has looked at it."""
    known = {id(at) for at in schemas}
    for reference in (at["$ref"] for at in schemas if isinstance(at.get("$ref"), str)):
        found = root
        for step in unquote(reference.partition("#")[2]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                index = int(name) if _INDEX.fullmatch(name) else len(found)
                found = found[index] if index < len(found) else None
            else:
                found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict) and id(found) not in known:
            reason = f"$ref {reference!r:.80} names a part that is no schema; schemas to refer to belong into $defs"
            raise InvalidInput(f"JSON schema: {reason}", key="schema")


def _check_patterns(at: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a class of characters that llguidance reads otherwise than ECMA 262 does."""
    named = at.get("patternProperties")
    for pattern in (at.get("pattern"), *(named if isinstance(named, dict) else ())):
        for found in _CLASS.finditer(pattern) if isinstance(pattern, str) else ():
            inner = found["inner"]
            if found["end"] and (inner in ("", "^") or _OF_SETS.search(_ESCAPED.sub("", inner))):
                reason = f"pattern {pattern!r:.80}: {found[0]:.80} would mean something else; write [, ], - and &"
                raise InvalidInput(f"JSON schema: {reason} as \\[, \\], \\- and \\& in it", key="schema")


def _values(values: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """These values with their keys, and all within them; the key of a part of a const or an enum is this."""
    values = [*values]
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


def _check_multiples(schemas: list[dict[str, Any]]) -> None:
    """Raise InvalidInput for multipleOf that have no end in sight, all of them together or where they may meet."""
    whole, rest = _MOST_REMAINDERS

    def remainders(n: int) -> int:
        short = int(str(n).rstrip("0"))
        return short if n > whole and short <= rest else n

    given = [n for at in schemas if _is_number(n := at.get("multipleOf", 0)) and 0 < n < math.inf]
    meet = any(map(_meets, schemas))
    total, multiple = 0, 1
    for n in given:
        numerator = Fraction(str(n)).numerator
        total += remainders(numerator)
        multiple = math.lcm(multiple, numerator) if meet else 1
        if max(total, remainders(multiple)) > whole:
            reason = f"multipleOf {n} has too many remainders, alone or with the other multipleOf"
            raise InvalidInput(f"JSON schema: {reason}; at most {whole}", key="schema")


def _meets(at: Mapping[str, Any]) -> bool:
    """Whether what stands in several places of a schema may be of one value: not in the branches of an anyOf alone."""
    combined = _TOGETHER & at.keys()
    several = len(combined) > 1 or (isinstance(at.get("allOf"), list) and len(at["allOf"]) > 1)
    return several or "patternProperties" in at or bool(combined and _WITH_NUMBERS & at.keys())


def _check_count(schemas: list[dict[str, Any]]) -> None:
    """Raise InvalidInput for too many patterns of properties."""
    n = sum(len(at["patternProperties"]) for at in schemas if isinstance(at.get("patternProperties"), dict))
    if n > _MOST_PATTERNS:
        raise InvalidInput(f"JSON schema: patternProperties has {n} patterns, at most {_MOST_PATTERNS}", key="schema")


def _options(schemas: list[dict[str, Any]]) -> Any:
    """How a schema is compiled; raise InvalidInput for a text that cannot be written so."""
    if not any(_NAMING & at.keys() and _has_others(at) for at in schemas):
        return _OPTIONS
    for key, value in _values([(key, at[key]) for at in schemas for key in ("const", "enum") if key in at]):
        if isinstance(value, str) and _NEEDS_CODE.search(value):
            reason = f"{key} {value!r:.40} has a control character, where an object may have keys beside those it names"
            raise InvalidInput(f"JSON schema: {reason}", key="schema")
    return _NO_CODES


def _check_bounds(schemas: list[dict[str, Any]]) -> None:
    """Raise InvalidInput for a whole number that llguidance lets through although it is excluded.

    Where schemas are put together, any two of them may meet in one.
    """
    together = any(_TOGETHER & at.keys() for at in schemas)
    for parts in [schemas] if together else [[at] for at in schemas]:
        low, high = ([(k, part[k]) for part in parts for k in keys if _is_number(part.get(k))] for keys in _BOUNDS)
        for ours, others in ((low, high), (high, low)):
            values = sorted(value for _, value in others)
            for key, n in ours:
                if key.startswith("exclusive") and n == int(n) and n + 1 > _next(values, n - 1):
                    reason = f"{key} less than 1 from the other bound, which would not be enforced"
                    raise InvalidInput(f"JSON schema: {reason}", key="schema")


def _next(values: Sequence[float], value: float) -> float:
    """The least of sorted values above one."""
    at = bisect.bisect_right(values, value)
    return values[at] if at < len(values) else math.inf


def _check_keys(at: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a minProperties that one key could meet by coming twice."""
    required = at.get("required")
    names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    n = at.get("minProperties", 0)
    if _has_others(at) and _is_number(n) and n > max(1, len(names)):
        reason = f"minProperties {n}, where a key that properties does not name may come twice"
        raise InvalidInput(f"JSON schema: {reason}", key="schema")


def _has_others(at: Mapping[str, Any]) -> bool:
    """Whether an object may have keys that properties does not name."""
    return bool(at.get("patternProperties")) or at.get("additionalProperties") is not False


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
    _check_numbers(_values([("", parsed)]))
    schemas = _schemas(parsed)
    _check_references(parsed, schemas)
    _check_multiples(schemas)
    _check_count(schemas)
    options = _options(schemas)
    try:
        grammar = LLMatcher.grammar_from_json_schema(text, overrides=options)
    except ValueError as e:
        raise InvalidInput(f"JSON schema: {e}", key="schema") from e
    _, reasons = LLMatcher.validate_grammar_with_warnings(grammar)
    if reasons:
        raise InvalidInput(f"JSON schema: {' '.join(reasons[0].split())}", key="schema")
    _check_bounds(schemas)
    for at in schemas:
        _check_keys(at)
        _check_keywords(at)
        _check_patterns(at)
    return grammar
