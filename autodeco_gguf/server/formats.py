"""What an answer must follow: ``response_format`` and ``grammar`` of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.gbnf import check_gbnf
from autodeco_gguf.model.grammar import FORMATS, LlamaGrammar, SchemaGrammar
from autodeco_gguf.model.json_schema import NAMED
from autodeco_gguf.server.errors import ApiError

_MOST_WAYS = 1000
"""Of a grammar whose rules lead back to each other: the worst that was found takes 0.4 s for a token."""


def grammar_of(
    response_format: Mapping[str, Any] | None,
    grammar: str | None,
    param: str = "response_format",
    expected: str = FORMATS,
) -> LlamaGrammar | None:
    """What the answer must follow; None where it is free. ``param``: the field that holds the format.

    ``expected``: what that may be, as its API has it.

    Raises:
        ApiError: not a format, not a grammar, or one of which something would not be enforced.
    """
    schema = _schema(response_format, param, expected) if response_format is not None else None
    if schema is not None and grammar:
        raise ApiError(400, "grammar and response_format: give one of them", param="grammar")
    if schema is not None:
        return schema_grammar(schema, param)
    if not grammar:
        return None
    try:
        check_gbnf(grammar, _MOST_WAYS)
        return LlamaGrammar(_grammar=grammar)
    except InvalidInput as e:
        raise ApiError(400, str(e), param="grammar") from e


def schema_grammar(schema: Mapping[str, Any], param: str) -> SchemaGrammar:
    """JSON by a schema.

    Raises:
        ApiError: it would not be enforced as a whole.
    """
    try:
        return SchemaGrammar(schema)
    except InvalidInput as e:
        raise ApiError(400, f"{param}: {e}", param=param) from e


def _schema(response_format: Mapping[str, Any], param: str, expected: str) -> Mapping[str, Any] | None:
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = response_format.get("schema")
        if schema is None:
            return {"type": "object"}
        if isinstance(schema, dict):
            return schema
    inner = response_format.get("json_schema")
    if kind == "json_schema" and isinstance(inner, dict) and isinstance(inner.get("schema"), dict):
        return inner["schema"]  # type: ignore[no-any-return]
    raise ApiError(400, f"{param}: expected {expected}", param=param)


def rewritten(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """What ``change`` makes of a schema and, before, of each within it; values and names of properties are none."""
    if isinstance(schema, list):
        return [rewritten(item, change) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in NAMED and isinstance(value, dict):
            found[key] = {name: rewritten(inner, change) for name, inner in value.items()}
        else:
            found[key] = value if key in ("const", "enum", "default", "examples") else rewritten(value, change)
    return change(found)
