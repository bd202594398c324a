"""JSON schemas of which something would not be enforced."""

from __future__ import annotations

import json
import time
from typing import Any

import llguidance
import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.grammar import SchemaGrammar

POSITIVE = {"positive": {"type": "number", "exclusiveMinimum": 0}}
TO_POSITIVE = {"$ref": "#/$defs/positive"}
LESS = "exclusiveMinimum less than 1 from the other bound"
ABOVE_5, BELOW_5_5 = ({"properties": {"a": at}} for at in ({"exclusiveMinimum": 5}, {"exclusiveMaximum": 5.5}))

REFUSED: list[tuple[Any, str]] = [
    ({"not": {"type": "string"}}, 'Unimplemented keys: \\["not"\\]'),
    ({"properties": {"a": {"if": {}, "then": {}}}}, '"if"'),
    ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
    ({"x-guidance": {"lenient": True}, "not": {}}, '"not"'),
    ({"type": "frob"}, "Invalid type: frob"),
    ({"format": "frob", "type": "string"}, "Unknown format: frob"),
    ({"type": "array", "items": {"format": "unknown", "type": "string"}}, "Unknown format: unknown"),
    ({"$ref": "#/$defs/missing"}, "'/\\$defs/missing' does not exist"),
    ({"$ref": "https://example.com/a.json"}, "https://example.com/a.json"),
    ({"$ref": "file:///etc/passwd"}, "file:///etc/passwd"),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"type": "string", "pattern": "("}, "unclosed group"),
    ({"type": "string", "pattern": "\\bfoo\\b"}, "lookarounds not supported"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum \\(5\\) is greater than maximum \\(3\\)"),
    (False, "Expecting object schema"),
    ("{", "EOF while parsing"),
    ("[1]", "Expecting object schema"),
    ('{"items":' * 20_000 + "{}" + "}" * 20_000, "recursion limit exceeded"),
    ({"enum": ["x" * 300_000]}, "of 3000.. characters, expected at most 262144"),
    ({"const": [{"a": 2**53 + 1}]}, "const has a whole number beyond 2\\^53, which would be rounded"),
    ({"type": "integer", "minimum": 2**53 + 1, "maximum": 2**53 + 1}, "minimum has a whole number beyond"),
    ({"const": 2**63}, "const has a whole number beyond"),
    ({"type": "integer", "enum": [1, -(10**19)]}, "enum has a whole number beyond"),  # it would end the process
    ({"type": "integer", "const": -(2**63) + 1}, "const has a whole number beyond"),
    ({"allOf": [{"type": "integer"}, {"minimum": -9.3e18, "maximum": -9.25e18}]}, "has a number beyond 10\\^18"),
    ({"const": {"a": [1e300]}}, "const has a number beyond 10\\^18, which would not be enforced"),
    ('{"minimum": -1e400}', "minimum has a number beyond 10\\^18"),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "exclusiveMinimum less than 1 from the other bound"),
    ({"type": "number", "exclusiveMinimum": 1.0, "exclusiveMaximum": 1.5}, "exclusiveMinimum less than 1 from"),
    ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, "exclusiveMaximum less than 1 from the other bound"),
    ({"type": "number", "maximum": 0.5, "allOf": [{"exclusiveMinimum": 0}]}, "exclusiveMinimum less than 1 from"),
    ({"properties": {"p": {**TO_POSITIVE, "maximum": 0.5}}, "$defs": POSITIVE}, LESS),
    ({"allOf": [TO_POSITIVE, {"maximum": 0.5}], "$defs": POSITIVE}, LESS),
    ({"anyOf": [TO_POSITIVE], "maximum": 0.5, "$defs": POSITIVE}, LESS),
    ({"allOf": [{"allOf": [{"type": "number", "exclusiveMinimum": 5}]}, {"maximum": 5.5}]}, LESS),
    ({"type": "object", "allOf": [ABOVE_5, BELOW_5_5]}, LESS),
    ({"$ref": "#/x-defs/a", "x-defs": {"a": {"patern": "b"}}}, "\\$ref '#/x-defs/a' names a part that is no schema"),
    (
        {"$ref": "#/%78-defs/a", "x-defs": {"a": {"patern": "b"}}},
        "\\$ref '#/%78-defs/a' names a part that is no schema",
    ),
    ({"properties": [1]}, "properties must be an object"),
    ({"$ref": "#/x-a~01b", "x-a~1b": {"patern": "b"}}, "\\$ref '#/x-a~01b' names a part that is no schema"),
    ({"$ref": "#/x-defs/1", "x-defs": [{}, {"patern": "b"}]}, "\\$ref '#/x-defs/1' names a part that is no schema"),
    ({"$ref": "#/$defs/a/default", "$defs": {"a": {"default": {}}}}, "\\$ref '#/\\$defs/a/default' names a part"),
    (
        {"type": "string", "pattern": "^[a-z&&[^b]]$"},
        "\\[a-z&&\\[\\^b\\] would mean something else",
    ),
    ({"patternProperties": {"x[+--]": {}}}, "\\[\\+--\\] would mean something else"),
    ({"type": "string", "pattern": "^[]a]$"}, "\\[\\] would mean something else"),
    ({"type": "string", "pattern": "^[^]a]$"}, "\\[\\^\\] would mean something else"),
    ({"type": "object", "properties": {"a": {"enum": ["\x7f"]}}}, "enum '.x7f' has a control character"),
    ({"type": "object", "required": ["a", "a", "a"], "minProperties": 3}, "minProperties 3, where a key"),
    (
        {"type": "object", "minProperties": 2, "patternProperties": {"^[1-3]$": {}}, "additionalProperties": False},
        "minProperties 2, where a key that properties does not name may come twice",
    ),
    ({"type": "object", "minProperties": 2}, "minProperties 2, where a key"),
    *(
        (
            schema,
            f"multipleOf {n} has too many remainders, alone or with the other multipleOf; at most 100000",
        )
        for n, schema in [
            (100000007, {"type": "integer", "multipleOf": 100000007}),
            (86400000, {"items": {"multipleOf": 86400000}}),
            (9999.83, {"type": "number", "multipleOf": 9999.83}),
            (97, {"type": "integer", "allOf": [{"multipleOf": n} for n in (97, 89, 83)]}),
            (99989, {"properties": {"a": {"multipleOf": 99989}, "b": {"multipleOf": 99991}}}),
            (
                83,
                {
                    "$ref": "#/$defs/a",
                    "multipleOf": 89,
                    "$defs": {"a": {"multipleOf": 97, "allOf": [{"multipleOf": 83}]}},
                },
            ),
            (997, {"$ref": "#/$defs/a", "anyOf": [{"multipleOf": 997}], "$defs": {"a": {"multipleOf": 991}}}),
            (991, {"properties": {"a": {"multipleOf": 997}}, "patternProperties": {"^a": {"multipleOf": 991}}}),
        ]
    ),
    ({"type": "object", "patternProperties": {f"^k{i}$": {} for i in range(101)}}, "has 101 patterns, at most 100"),
    ({"$ref": "#/x-a", "x-a": {"multipleOf": 100000007}}, "\\$ref '#/x-a' names a part that is no schema"),
    ({"const": {1, 2}}, "set is not JSON serializable"),
]


@pytest.mark.parametrize(("schema", "match"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_enforced_is_refused(schema: Any, match: str) -> None:
    with pytest.raises(InvalidInput, match=f"^JSON schema.*{match}") as error:
        SchemaGrammar(schema)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "string", "minLenght": 3}, "minLenght"),
        ({"type": "integer", "divisibleBy": 3}, "divisibleBy"),
        ({"properties": {"a": {"anyOf": [{"items": {"requires": ["b"]}}]}}}, "requires"),
        ({"$defs": {"a": {"$defs": {"b": {"enums": []}}}}, "type": "null"}, "enums"),
        ({"type": "array", "prefixItems": [{"extends": {}}]}, "extends"),
        ({"x-guidance": {"lenient": True}, "type": "object"}, "x-guidance"),
    ],
    ids=str,
)
def test_a_keyword_that_is_none(schema: Any, keyword: str) -> None:
    with pytest.raises(InvalidInput, match=f"unknown keyword '{keyword}'"):
        SchemaGrammar(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"minLenght": {"type": "string"}}, "required": ["minLenght"]},
        {"properties": {"format": {"const": "unknown"}}, "default": {"format": "unknown"}},
        {"enum": [{"minLenght": 3}], "examples": [{"foo": 1}], "title": "x", "deprecated": True, "x-order": 1},
        {"$defs": {"foo": {"const": {"bar": 1}}}, "$ref": "#/$defs/foo"},
    ],
    ids=str,
)
def test_names_and_values_are_no_keywords(schema: Any) -> None:
    SchemaGrammar(schema)


def test_a_long_comment_in_a_pattern() -> None:
    """Where an end was looked for from each bracket on."""
    begun = time.process_time()
    SchemaGrammar({"type": "string", "pattern": "(?x)a#" + "[" * 20_000})
    assert time.process_time() - begun < 5


def test_many_references_into_a_long_list() -> None:
    """For each of which all of it was numbered."""
    references = {str(i): {"$ref": "#/examples/1"} for i in range(4000)}
    begun = time.process_time()
    SchemaGrammar({"examples": [0] * 16_000, "$defs": references})
    assert time.process_time() - begun < 5


def allows(schema: Any, text: str) -> bool:
    """Whether a text, byte by byte, follows a schema."""
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), SchemaGrammar(schema).compiled, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.try_consume_tokens(list(text.encode())) == len(text.encode()) and matcher.is_accepting()


WORD: dict[str, Any] = {"type": "string"}
CLOSED: dict[str, Any] = {"type": "object", "additionalProperties": False}
SAFE: dict[str, Any] = {"properties": {"a": {"const": "safe"}}, "required": ["a"], "type": "object"}
BAD_B = '{"a": "safe", "b": {"a": "safe", "\\u0061": 1}}'
ESCAPED: list[tuple[Any, str]] = [
    (SAFE, r'{"a": "safe", "\u0061": "evil"}'),
    (SAFE, '{"a": "safe", "a": "evil"}'),
    (SAFE | {"additionalProperties": WORD}, r'{"a": "safe", "\u0061": "evil"}'),
    ({"type": "object", "required": ["a"], "additionalProperties": WORD}, r'{"a": "x", "\u0061": "y"}'),
    ({"properties": {"a": {"type": "integer"}}, "type": "object"}, r'{"\u0061": null}'),
    ({"patternProperties": {"^b": WORD}, "type": "object"}, r'{"\u0062": 1}'),
    *(
        ({"properties": {name: WORD}, "type": "object"}, f'{{"{code}": 1}}')
        for name, code in [
            *[("é", r"\u00e9"), ('"', r"\u0022"), ("\\", r"\u005c"), ("/", r"\/"), ("😀", r"\ud83d\ude00")],
            *[("\n", r"\u000a"), ("\x1f", r"\u001F"), ("\x7f", r"\u007f")],
        ]
    ),
    (
        {
            "properties": {"\x1f": WORD},
            "patternProperties": {"": True},
            "additionalProperties": False,
            "type": "object",
        },
        r'{"\u001F": 1}',
    ),
    *(
        (CLOSED | {"properties": {"a": WORD, "b": inner}}, BAD_B)
        for inner in [{"anyOf": [{"type": "null"}, SAFE]}, {"allOf": [SAFE, {"type": "object"}]}]
    ),
    (SAFE | {"properties": {**SAFE["properties"], "b": {"$ref": "#"}}}, BAD_B),
    ({"properties": {"properties": SAFE}, "type": "object"}, r'{"properties": {"a": "safe", "\u0061": 1}}'),
    ({"$ref": "#/definitions/a", "definitions": {"a": SAFE}}, r'{"a": "safe", "\u0061": "evil"}'),
    ({"type": "array", "items": SAFE}, r'[{"a": "safe", "\u0061": "evil"}]'),
]


@pytest.mark.parametrize(("schema", "text"), ESCAPED, ids=range(len(ESCAPED)))
def test_a_named_key_passes_for_no_other(schema: Any, text: str) -> None:
    assert not allows(schema, text)


@pytest.mark.parametrize("other", [{}, {"additionalProperties": WORD}, {"patternProperties": {"^[^a]": WORD}}], ids=str)
def test_keys_beside_the_named_ones(other: Any) -> None:
    for key in ("b", "aa", "é", "😀", "/", 'b"', "b\\", "b\n\t\b\f\r", '"a'):
        assert allows(SAFE | other, json.dumps({"a": "safe", key: "x\n"}, ensure_ascii=False))
    assert not allows(SAFE | other, '{"a": "evil"}')


def test_control_characters_where_no_key_passes_for_another() -> None:
    for schema in (CLOSED | {"properties": {"a": WORD}}, {"type": "object"}, {"const": {"a": "\x1b"}}):
        assert allows(schema, r'{"a":"\u001b"}')
    with pytest.raises(InvalidInput, match=r"^JSON schema: enum '\\x1b' has a control character, where an object may"):
        SchemaGrammar({"type": "object", "properties": {"a": {"enum": ["x", "\x1b"]}}})


TAKEN: list[tuple[Any, Any, Any]] = [
    ({"type": "string", "pattern": r"^[\[&\]][[:alpha:]]--$"}, "&a--", "&1--"),
    ({"properties": {"const": {"type": "string", "description": "\a"}}}, {"const": "a"}, {"const": 1}),
    ({"properties": {"a": POSITIVE["positive"], "b": {"type": "number", "maximum": 0.5}}}, {"a": 1, "b": 0}, {"a": 0}),
    ({"$ref": "#/%24defs/a~1b", "$defs": {"a/b": {"type": "null"}}}, None, 1),
    ({"properties": {"a": {"multipleOf": 86400}, "b": {"multipleOf": 1021}}}, {"a": 86400, "b": 1021}, {"a": 1021}),
    ({"allOf": [{"multipleOf": 0.01}, {"multipleOf": 1024}], "type": "number"}, 2048, 1023),
    ({"type": "number", "multipleOf": 3600000}, 7200000, 3600),
    (
        {
            "properties": {
                str(n): {"anyOf": [{"type": "integer", "multipleOf": n}, {"type": "null"}]} for n in (64, 22050, 3600)
            }
        },
        {"64": 128, "22050": None, "3600": 3600},
        {"64": 3},
    ),
    (
        {"type": "object", "patternProperties": {f"^k{i}$": POSITIVE["positive"] for i in range(100)}},
        {"k7": 1},
        {"k7": 0},
    ),
    ({"$ref": "#/anyOf/0", "anyOf": [{"type": "null"}]}, None, 1),
    ({"type": "object", "minProperties": 1}, {"a": 1}, {}),
    ({"type": "number", "exclusiveMinimum": 0.5, "maximum": 1}, 0.75, 0.5),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), TAKEN, ids=range(len(TAKEN)))
def test_what_resembles_it_is_taken(schema: Any, right: Any, wrong: Any) -> None:
    assert allows(schema, json.dumps(right))
    assert not allows(schema, json.dumps(wrong))
