"""Grammars from text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_helpers import make

from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.constraint import from_gbnf, from_json_schema


def test_an_answer_follows_its_grammar(merged: Path) -> None:
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    with make(merged, n_parallel=1) as engine:
        first, second = engine.generate(
            [
                Request("x", grammar=from_gbnf('root ::= "word"'), seed=1),
                Request("x", grammar=from_json_schema(json.dumps(schema)), seed=1),
            ]
        )
    assert first.text == "word"
    assert isinstance(json.loads(second.text)["yes"], bool)


@pytest.mark.parametrize("schema", ["{", "[1]", '{"type": "object", "properties": 5}', '{"$ref": "#/nowhere"}'])
def test_what_is_no_schema(schema: str) -> None:
    with pytest.raises(InvalidInput, match=r"^the JSON schema will not do: ") as caught:
        from_json_schema(schema)
    assert caught.value.key == "json_schema"
