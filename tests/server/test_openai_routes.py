"""OpenAI's routes beside the completions, and its Python client's own calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel
from server_helpers import STORY, Api, U, demo_engine, failing, ok, refused, served, serving


@pytest.mark.parametrize("model", [None, "", "gpt-4o", "demo", "demo:latest", "/models/x.gguf", "absent"])
def test_any_name_is_the_one_model(api: Api, model: Any) -> None:
    fields = {} if model == "absent" else {"model": model}
    for response in (api.chat(max_tokens=1, **fields), api.compl(prompt="x", max_tokens=1, **fields)):
        assert ok(response)["model"] == "demo"


def test_models(api: Api) -> None:
    (model,) = ok(api.get("/v1/models"))["data"]
    assert (model["id"], model["object"]) == ("demo", "model")
    assert ok(api.get("/v1/models/demo")) == ok(api.get("/models/demo:latest")) == model
    assert refused(api.get("/v1/models/gpt-4o"), "model", 404)["code"] == "model_not_found"


def test_embeddings_are_refused_in_words(api: Api) -> None:
    for body in ({"input": "x"}, {}, [], None):
        refused(api.post("/v1/embeddings", body), says="not supported")
    refused(api.raw("/v1/embeddings", b""), says="not supported")


# ---- openai's client ----


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with demo_engine() as engine:
        service = serving(engine, api_keys=("K",))
        with served(service) as url, httpx.Client(trust_env=False) as http:
            found = openai.OpenAI(base_url=f"{url}/v1", api_key="K", http_client=http, max_retries=0)
            found.service = service  # type: ignore[attr-defined]
            yield found


def test_a_chat(client: openai.OpenAI) -> None:
    messages: Any = STORY["messages"]
    answer = client.chat.completions.create(model="x", messages=messages, seed=1, logprobs=True, top_logprobs=2)
    text = answer.choices[0].message.content
    assert text is not None
    assert answer.usage is not None
    assert answer.usage.total_tokens == 75
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == text
    chunks = list(client.chat.completions.create(model="x", messages=messages, seed=1, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text


def test_the_stream_helper(client: openai.OpenAI) -> None:
    messages: Any = STORY["messages"]
    with client.beta.chat.completions.stream(model="x", messages=messages, seed=1) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    whole = client.chat.completions.create(model="x", messages=messages, seed=1)
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_autodeco_in_the_client(client: openai.OpenAI) -> None:
    extra: Any = {"autodeco": {"tokens": True}}
    answer = client.chat.completions.create(model="x", messages=U["messages"], extra_body=extra)
    found = answer.choices[0].model_extra
    assert found is not None
    assert found["autodeco"]["source"] == "heads"


def test_a_parsed_answer(client: openai.OpenAI) -> None:
    class Sum(BaseModel):
        is_even: bool

    messages: Any = U["messages"]
    answer = client.chat.completions.parse(model="x", messages=messages, response_format=Sum, seed=1)
    assert isinstance(answer.choices[0].message.parsed, Sum)


def test_completions_and_responses(client: openai.OpenAI) -> None:
    scored = client.completions.create(model="x", prompt="Tell a story", echo=True, logprobs=1, max_tokens=0)
    assert scored.choices[0].logprobs is not None
    assert scored.choices[0].logprobs.token_logprobs is not None
    answer = client.responses.create(model="x", input="What is 2 + 2?", extra_body={"seed": 1})
    with client.responses.stream(model="x", input="What is 2 + 2?", extra_body={"seed": 1}) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text == answer.output_text
    assert [model.id for model in client.models.list()] == ["demo"]


def test_its_errors(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: Any = STORY["messages"]
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="x", messages=messages, temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="not supported"):
        client.embeddings.create(model="x", input="x")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with monkeypatch.context() as patch:
        failing(client.service, patch, after=5)  # type: ignore[attr-defined]
        with pytest.raises(openai.APIError, match="the device is gone"):
            list(client.chat.completions.create(model="x", messages=messages, stream=True))
    with monkeypatch.context() as patch:
        failing(client.service, patch, after=5)  # type: ignore[attr-defined]
        with pytest.raises(openai.APIError, match="the device is gone"):
            list(client.responses.create(model="x", input="hi", stream=True))
    with monkeypatch.context() as patch:
        failing(client.service, patch, after=3)  # type: ignore[attr-defined]
        with pytest.raises(openai.APIError, match="the device is gone"):
            list(client.completions.create(model="x", prompt="Tell a story about", stream=True))
