"""Errors as answers."""

from __future__ import annotations

import json

import pytest

from autodeco_gguf.errors import AutoDecoError, BadFile, Busy, Closed, InvalidInput, ModelFailed
from autodeco_gguf.model.template import TEMPLATE_KEY
from autodeco_gguf.server.errors import ApiError, of_validation, param_of, shown


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidInput.of("temperature", 3, "less"), 400, None),
        (InvalidInput("too long", key="n_ctx", found=9, expected=8), 400, "context_length_exceeded"),
        (Busy("full"), 503, "queue_full"),
        (Closed("closed"), 503, "shutting_down"),
        (ModelFailed("gone"), 500, "model_failed"),
        (BadFile("broken"), 500, "model_failed"),
    ],
)
def test_the_status_is_by_the_type(error: AutoDecoError, status: int, code: str | None) -> None:
    found = ApiError.of(error, "prompt")
    assert (found.status, found.code) == (status, code)
    if code == "context_length_exceeded":
        assert found.param == "prompt"


def test_params_are_fields_of_the_request() -> None:
    for key, param in (
        ("temperature", "temperature"),
        ("logit_bias of token", "logit_bias"),
        ("schema", "response_format"),
    ):
        assert ApiError.of(InvalidInput("x", key=key)).param == param


def test_what_a_template_refuses_does_not_tell_where_the_model_is() -> None:
    found = ApiError.of(InvalidInput("/home/me/m.gguf: its chat template refuses: no", key=TEMPLATE_KEY), "input")
    assert (found.message, found.param) == ("template refuses: no", "input")


def test_places() -> None:
    assert param_of(["body", "messages", 0, "content", 1]) == "messages[0].content[1]"
    assert param_of(["body"]) == ""


def test_not_too_much_of_a_value_is_shown() -> None:
    assert (shown("x" * 78), shown("x" * 79)) == (f'"{"x" * 78}"', f'"{"x" * 79}...')


def test_messages_are_one_line() -> None:
    response = ApiError(400, "a\nb\x1b[2J").response("/v1/x")
    assert json.loads(bytes(response.body))["error"]["message"] == "a\\nb\\x1b[2J"
    assert json.loads(bytes(ApiError(404, "no").response("/api/x").body)) == {"error": "no"}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("expected a number", 'bias: expected a number, not "x"'),
        ("expected ids, not 'y'", "bias: expected ids, not 'y'"),
    ],
)
def test_what_was_found_is_said_once(said: str, message: str) -> None:
    error = {"type": "value", "loc": ("body", "bias"), "msg": said, "input": "x"}
    assert of_validation([error], "/v1/x").message == message
