"""Every bad request that the server knows: its status, the field that is wrong, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from server_helpers import Api, Loop, U, demo_engine, refused, serving

CHAT, TEXT, TOKENS = "/v1/chat/completions", "/v1/completions", "/tokenize"


def chat(**fields: Any) -> tuple[str, Any]:
    return CHAT, {**U, **fields}


def text(**fields: Any) -> tuple[str, Any]:
    return TEXT, {"prompt": "a", **fields}


def message(**fields: Any) -> tuple[str, Any]:
    return CHAT, {"messages": [fields]}


SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 3}}}

Row = tuple[tuple[str, Any], str | None, str]
"""Path and body, the field, what the message holds."""

ROWS: dict[str, Row] = {
    "no object": ((CHAT, [1]), None, "expected an object"),
    "no messages": ((CHAT, {}), "messages", "required"),
    "messages are a text": ((CHAT, {"messages": "a"}), "messages", "expected a list"),
    "messages are empty": ((CHAT, {"messages": []}), "messages", "empty"),
    "a message is a text": ((CHAT, {"messages": ["a"]}), "messages[0]", "expected an object"),
    "no role": (message(content="a"), "messages[0].role", "required"),
    "a role of its own": (message(role="x", content="a"), "messages[0].role", "expected one of"),
    "no content": (message(role="user"), "messages[0].content", "expected a message of role user to have it"),
    "content is a number": (message(role="user", content=3), "messages[0].content", "expected"),
    "a picture": (message(role="user", content=[{"type": "image_url"}]), "messages[0].content[0]", "only text is"),
    "temperature is a text": (chat(temperature="1"), "temperature", "expected a number"),
    "temperature is below 0": (chat(temperature=-1), "temperature", "greater than or equal to 0"),
    "temperature is huge": (chat(temperature=1e9), "temperature", "less than or equal to 1000000"),
    "top_p is above 1": (chat(top_p=1.5), "top_p", "less than or equal to 1"),
    "top_p is true": (chat(top_p=True), "top_p", "expected a number"),
    "max_tokens is 0": (chat(max_tokens=0), "max_tokens", "0, expected at least 1 for a chat"),
    "max_tokens is half": (chat(max_tokens=1.5), "max_tokens", "expected a whole number"),
    "n is 0": (chat(n=0), "n", "greater than or equal to 1"),
    "n is a million": (chat(n=10**6), "n", "less than or equal to"),
    "seed is a text": (chat(seed="a"), "seed", "expected"),
    "stop is a number": (chat(stop=3), "stop", "expected"),
    "logit_bias is a list": (chat(logit_bias=[1]), "logit_bias", "expected"),
    "logit_bias of no token": (chat(logit_bias={"999999": 1}), "logit_bias", "999999"),
    "logit_bias is infinite": (chat(logit_bias={"1": "x"}), "logit_bias", "expected"),
    "alternatives of nothing": (chat(top_logprobs=3), "top_logprobs", "needs logprobs: true"),
    "too many alternatives": (chat(logprobs=True, top_logprobs=99), "top_logprobs", "less than or equal to 20"),
    "answers that tell too much": (chat(n=128, logprobs=True, top_logprobs=20), "n", "128 answers, each of up to"),
    "a format of its own": (chat(response_format={"type": "xml"}), "response_format", "expected"),
    "a schema that is none": (chat(response_format=SCHEMA), "response_format", "type must be a string"),
    "a tool without a name": (chat(tools=[{"type": "function", "function": {}}]), "tools[0].function.name", "required"),
    "a choice of no tool": (chat(tool_choice="x"), "tool_choice", "expected"),
    "the web": (chat(web_search_options={}), "web_search_options", "there is no way to the web"),
    "sound": (chat(modalities=["audio"]), "modalities", "answers are text"),
    "an echo": (chat(echo=True), "echo", "use /v1/completions"),
    "effort": (chat(reasoning_effort="immense"), "reasoning_effort", "expected one of"),
    "what the template does not read": (chat(chat_template_kwargs={"x": 1}), "chat_template_kwargs", "x"),
    "a long prompt": ((TEXT, {"prompt": "word " * 3000}), "prompt", "the context holds"),
    "no prompt": ((TEXT, {}), "prompt", "required"),
    "prompt is an object": ((TEXT, {"prompt": {}}), "prompt", "expected a text, tokens, or a list"),
    "prompt is an empty list": ((TEXT, {"prompt": []}), "prompt", "expected a text, tokens, or a list"),
    "prompt is of no token": ((TEXT, {"prompt": [999999]}), "prompt", "999999"),
    "fewer are drawn than given": (text(n=3, best_of=2), "best_of", "expected at least n, which is 3"),
    "the best of a stream": (text(best_of=2, stream=True), "best_of", "cannot be streamed"),
    "a suffix": (text(suffix="x"), "suffix", "nothing is inserted"),
    "logprobs are true": (text(logprobs=True), "logprobs", "expected a whole number"),
    "an echo in a stream": (text(echo=True, logprobs=1, stream=True), "stream", "cannot be streamed"),
    "no content to tokenize": ((TOKENS, {}), "content", "expected a text, either here or in prompt"),
    "no text to tokenize": ((TOKENS, {"content": 3}), "content", "expected a text"),
    "no tokens": (("/detokenize", {}), "tokens", "required"),
    "a token that is none": (("/detokenize", {"tokens": [-1]}), "tokens", "expected 0 to"),
    "no input": (("/v1/responses", {}), "input", "required"),
    "embeddings": (("/v1/embeddings", {"input": "a"}), None, "embeddings are not supported"),
}

SURROGATE = b'{"prompt": "\\ud800"}'

STATUS: dict[str, tuple[str, str, bytes, int]] = {
    "no JSON": ("POST", CHAT, b"{oops", 400),
    "no UTF-8": ("POST", CHAT, b'{"a": "\xff"}', 400),
    "half a surrogate": ("POST", TEXT, SURROGATE, 400),
    "nested": ("POST", CHAT, b"[" * 100_000, 400),
    "no body": ("POST", CHAT, b"", 400),
    "too large": ("POST", CHAT, b" " * (9 << 20), 413),
    "no such way": ("GET", "/v1/nonsense", b"", 404),
    "another method": ("GET", CHAT, b"", 405),
    "no such model": ("GET", "/v1/models/nonsense", b"", 404),
}


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    loop = Loop()
    with demo_engine(2) as engine:
        service = serving(engine)
        yield Api(service, loop)
        service.driver.close()
    loop.close()


@pytest.mark.parametrize("name", ROWS)
def test_bad_body(name: str, api: Api) -> None:
    (path, body), param, says = ROWS[name]
    refused(api.post(path, body), param, says=says)


@pytest.mark.parametrize("name", STATUS)
def test_bad_request(name: str, api: Api) -> None:
    method, path, content, status = STATUS[name]
    headers = {"content-type": "application/json"}
    response = api.request(method, path, content=content, headers=headers)
    assert response.status_code == status, response.text
    assert "Traceback" not in response.text


def test_it_still_answers(api: Api) -> None:
    assert api.chat(max_tokens=1).status_code == 200
