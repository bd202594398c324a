"""Options as OpenAI's fields."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from autodeco_gguf.server.foreign import ELSEWHERE
from autodeco_gguf.server.ollama_schemas import OllamaChatBody, OllamaMessage, Options


def test_options_are_the_same_fields() -> None:
    body = Options(temperature=0.5, top_k=4.0, seed=3, repeat_penalty=1.5).sampling("on")
    assert (body.temperature, body.top_k, body.seed, body.repeat_penalty, body.heads) == (0.5, 4, 3, 1.5, "on")
    assert body.top_p is None


def test_ranges_are_openai_s() -> None:
    with pytest.raises(ValidationError):
        Options(temperature=-1).sampling(None)


@pytest.mark.parametrize("name", [*Options.model_fields, *ELSEWHERE, "grammar", "reasoning_effort", "best_of"])
def test_what_is_no_field_is_refused(name: str) -> None:
    body = {"model": "m", name: "json" if name == "format" else 7}
    if name in OllamaChatBody.model_fields:
        assert OllamaChatBody(**body)
        return
    with pytest.raises(ValidationError, match="not supported") as raised:
        OllamaChatBody(**body)
    assert not {"response_format", "logit_bias", "max_tokens"} & set(re.split(r"[^a-z_]+", str(raised.value)))


def test_formats() -> None:
    assert OllamaChatBody(model="m", format="").response_format is None
    assert OllamaChatBody(model="m", format="json").response_format == {"type": "json_object"}
    form = OllamaChatBody(model="m", format={"type": "array"}).response_format
    assert form == {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}


def test_a_tool_s_answer_has_its_name() -> None:
    message = OllamaMessage(role="tool", content="5", tool_name="add").openai()
    assert (message["role"], message["content"], message["name"]) == ("tool", "5", "add")


def schema_of(schema: dict[str, Any]) -> Any:
    form = OllamaChatBody(model="m", format=schema).response_format
    assert form is not None
    return form["json_schema"]["schema"]


def test_objects_are_closed_as_ollama_closes_them() -> None:
    class Language(BaseModel):
        name: str

    class Country(BaseModel):
        properties: list[Language]
        capital: Language | None = None

    schema = Country.model_json_schema()
    closed = schema_of(schema)
    assert closed.pop("additionalProperties") is closed["$defs"]["Language"].pop("additionalProperties") is False
    assert closed == schema


OPEN: list[dict[str, Any]] = [
    {"type": "object"},
    {"properties": {}, "additionalProperties": True},
    {"properties": {}, "additionalProperties": {"type": "string"}},
    {"properties": {}, "patternProperties": {"^x": {}}},
    {"properties": {}, "minProperties": 1},
    {"properties": {}, "required": ["a"]},
    {"const": {"properties": {}}},
    {"enum": [{"properties": {}}]},
    {"examples": [{"properties": {}}]},
    {"properties": []},
    {"$defs": 3},
    {"default": {"properties": {}}},
    {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
    {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}, {"required": ["a"]}]},
    {"$defs": {"a": {"properties": {}}}, "$ref": "#/$defs/a", "properties": {"b": {}}},
]


@pytest.mark.parametrize("schema", OPEN)
def test_what_stays_open(schema: dict[str, Any]) -> None:
    assert schema_of(schema) == schema
