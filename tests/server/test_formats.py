"""What an answer must follow."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from server_helpers import Api, events, ok, refused, text_of

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
JSON = {"type": "json_object"}
CLOSED = {
    **SCHEMA,
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
    "additionalProperties": False,
}
OF_SCHEMA, OF_CLOSED = (
    {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}} for schema in (SCHEMA, CLOSED)
)


@pytest.mark.parametrize("form", [None, {"type": "text"}])
def test_no_format(api: Api, form: Any) -> None:
    assert text_of(api.chat(seed=1, response_format=form)) == text_of(api.chat(seed=1))


@pytest.mark.parametrize("form", [JSON, {**JSON, "schema": None}, OF_SCHEMA, OF_CLOSED])
def test_json(api: Api, form: Any) -> None:
    ended = 0
    for seed in range(6):
        choice = ok(api.chat(seed=seed, max_tokens=60, response_format=form))["choices"][0]
        if choice["finish_reason"] == "length":
            continue
        ended += 1
        value = json.loads(choice["message"]["content"])
        assert isinstance(value, dict)
        if form["type"] == "json_schema":
            assert isinstance(value["a"], int)
    assert ended or form is not OF_CLOSED  # others may go on for as long as the model likes


def with_property(schema: Any) -> dict[str, Any]:
    properties = {"type": "object", "properties": {"p": schema}, "required": ["p"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": properties}}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "n"}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": "x"}},
        {"type": "xml"},
        {"type": ["json_object"]},
        with_property({"type": "string", "pattern": "("}),
        with_property({"type": "strung"}),
        with_property({"not": {}}),
        with_property({"$ref": "https://example.com/x"}),
        with_property({"$ref": "#/$defs/none"}),
        with_property({"typ": "string"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_formats_refused(api: Api, form: Any, stream: bool) -> None:
    begun = time.monotonic()
    response = api.chat(response_format=form, stream=stream)
    refused(response, "response_format")
    assert time.monotonic() - begun < 5


def test_a_pattern_is_enforced(api: Api) -> None:
    form = with_property({"type": "string", "pattern": "^hello there indeed\\!$"})
    assert json.loads(text_of(api.chat(response_format=form, seed=1))) == {"p": "hello there indeed!"}


def test_a_schema_that_is_itself(api: Api) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"$ref": "#"}}}
    begun = time.monotonic()
    refused(api.chat(response_format=form, max_tokens=5), "response_format")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("depth", [10_000, 100_000])
def test_a_schema_too_deep(api: Api, depth: int) -> None:
    schema = '{"items":' * depth + "{}" + "}" * depth
    form = '{"type":"json_schema","json_schema":{"name":"n","schema":' + schema + "}}"
    body = '{"messages":[{"role":"user","content":"hi"}],"response_format":' + form + "}"
    refused(api.raw("/v1/chat/completions", body.encode()))
    ok(api.chat(max_tokens=1))


@pytest.mark.parametrize(
    "grammar", ['rout::="route"', "root ::= undefined", "root ::= (", "root ::= root", "x", 'root ::= "a"{99999999}']
)
@pytest.mark.parametrize("stream", [False, True])
def test_grammars_refused(api: Api, grammar: str, stream: bool) -> None:
    refused(api.chat(grammar=grammar, stream=stream), "grammar")


def test_a_grammar_with_too_many_ways_to_go_on(api: Api) -> None:
    """A token of one took seconds, which the others waited for."""
    grammar = "root ::= " + " | ".join(['"a" root "b" | "a"'] * 334)
    says = "lead back to each other and have 1002 alternatives, references and repetitions, at most 1000"
    refused(api.chat(grammar=grammar), "grammar", says=says)
    states = [f"s{i} ::= " + " | ".join(f'"{c}" s{(i * 7 + j) % 60}' for j, c in enumerate("abcde")) for i in range(60)]
    ok(api.chat(grammar="root ::= s0\n" + "\n".join(f'{state} | "."' for state in states), max_tokens=3))
    ok(api.chat(grammar="root ::= " + " | ".join(f'"{i}"' for i in range(2000)), max_tokens=3))


def test_no_grammar(api: Api) -> None:
    assert text_of(api.chat(seed=1, grammar="")) == text_of(api.chat(seed=1))


def test_a_grammar(api: Api) -> None:
    assert text_of(api.chat(grammar='root ::= "route" [0-9]', seed=1)).startswith("route")
    chunks = events(api.chat(grammar='root ::= "route"', stream=True))[:-1]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "route"


def test_one_of_them(api: Api) -> None:
    refused(api.chat(grammar='root ::= "a"', response_format={"type": "json_object"}), "grammar")
