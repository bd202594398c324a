"""Options as OpenAI's fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from autodeco_gguf.server.ollama_schemas import OllamaChatBody, Options


def test_options_are_the_same_fields() -> None:
    body = Options(temperature=0.5, top_k=4.0, seed=3, repeat_penalty=1.5).sampling("on")
    assert (body.temperature, body.top_k, body.seed, body.repeat_penalty, body.heads) == (0.5, 4, 3, 1.5, "on")
    assert body.top_p is None


def test_ranges_are_openai_s() -> None:
    with pytest.raises(ValidationError):
        Options(temperature=-1).sampling(None)


def test_formats() -> None:
    assert OllamaChatBody(model="m", format="").response_format is None
    assert OllamaChatBody(model="m", format="json").response_format == {"type": "json_object"}
    form = OllamaChatBody(model="m", format={"type": "array"}).response_format
    assert form == {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}
