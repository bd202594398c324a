"""Ollama's /api/chat and /api/generate."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from server_helpers import STORY, Api, failing, lines, ok, text_of

from autodeco_gguf.model.chat import Chat
from autodeco_gguf.server import about
from autodeco_gguf.server.ollama import ollama_chat_plan
from autodeco_gguf.server.ollama_schemas import OllamaChatBody
from autodeco_gguf.server.service import Service

STORY_PROMPT = STORY["messages"][0]["content"]
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def chat(api: Api, **fields: Any) -> Any:
    return api.post("/api/chat", {"model": "demo", **STORY, **fields})


def generate(api: Api, **fields: Any) -> Any:
    return api.post("/api/generate", {"model": "demo", "prompt": STORY_PROMPT, **fields})


def refused(response: Any, says: str, status: int = 400) -> None:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert says in body["error"], body


# ---- loading ----


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/api/chat", {}, "load"),
        ("/api/chat", {"messages": []}, "load"),
        ("/api/chat", {"messages": None, "stream": True}, "load"),
        ("/api/chat", {"messages": [], "keep_alive": 0}, "unload"),
        ("/api/generate", {}, "load"),
        ("/api/generate", {"prompt": ""}, "load"),
        ("/api/generate", {"keep_alive": "0"}, "unload"),
        ("/api/generate", {"keep_alive": "0m"}, "unload"),
        ("/api/generate", {"keep_alive": 0.0}, "unload"),
        ("/api/generate", {"keep_alive": "0m0s"}, "unload"),
        ("/api/generate", {"keep_alive": "0.50s"}, "load"),
        ("/api/generate", {"keep_alive": ".5m"}, "load"),
        ("/api/generate", {"keep_alive": "+5m"}, "load"),
        ("/api/generate", {"keep_alive": "1h30m"}, "load"),
        ("/api/generate", {"keep_alive": "-1"}, "load"),
        ("/api/generate", {"keep_alive": None}, "load"),
        ("/api/generate", {"keep_alive": -1}, "load"),
    ],
)
def test_loading(api: Api, path: str, body: Any, reason: str) -> None:
    response = api.post(path, {"model": "demo", **body})
    assert response.headers["content-type"] == "application/json"
    answer = ok(response)
    assert (answer["done"], answer["done_reason"], answer["model"]) == (True, reason, "demo")
    assert ("message" in answer) == (path == "/api/chat")
    ok(api.chat(max_tokens=1))  # nothing is really unloaded


def test_a_typo_is_said(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ok(api.post("/api/generate", {"model": "demo", "message": STORY["messages"]}))
    assert "'message'" in caplog.text


def test_the_model_s_name(api: Api) -> None:
    for name in ("demo:latest", "DEMO", "Demo:Latest"):
        ok(chat(api, model=name, stream=False))
    refused(chat(api, model="demo:7b"), "model 'demo:7b' not found", 404)
    assert len(chat(api, model="x" * 100_000).text) < 300
    refused(chat(api, model="x"), "model 'x' not found", 404)
    refused(chat(api, model=None), "model")
    refused(api.post("/api/chat", STORY), "model")


# ---- streams ----


@pytest.mark.parametrize("stream", [None, "absent", True])
def test_streaming_is_the_default(api: Api, stream: Any) -> None:
    found = lines(chat(api, **({} if stream == "absent" else {"stream": stream}), options={"seed": 1}))
    assert "".join(line["message"]["content"] for line in found) == text_of(api.chat(STORY, seed=1))
    assert [line["done"] for line in found] == [False] * (len(found) - 1) + [True]
    last = found[-1]
    assert last["done_reason"] == "stop"
    for name in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
        assert isinstance(last[name], int)
    assert last["total_duration"] > last["eval_duration"] > 0
    assert (last["prompt_eval_count"], last["eval_count"]) == (22, 53)
    assert all(RFC3339.fullmatch(line["created_at"]) for line in found)


def test_unstreamed(api: Api) -> None:
    answer = ok(chat(api, stream=False, options={"seed": 1}))
    assert answer["message"] == {"role": "assistant", "content": text_of(api.chat(STORY, seed=1))}
    assert answer["done"] is True
    assert answer["eval_duration"] > 0
    assert ok(generate(api, stream=False, options={"seed": 1}))["response"] == answer["message"]["content"]
    found = lines(generate(api, options={"seed": 1}))
    assert "".join(line["response"] for line in found) == answer["message"]["content"]


@pytest.mark.parametrize(
    "fields",
    [
        {"keep_alive": "soon"},
        {"keep_alive": "."},
        {"keep_alive": ".m"},
        {"keep_alive": "1" * 100_000 + "."},
        {"keep_alive": {}},
        {"keep_alive": True},
        {"think": 7},
        {"think": "deeply"},
        {"think": "high"},
        {"temperature": 0.5},
        {"temperature": 0},
        {"seed": 0},
        {"num_predict": 5},
        {"max_tokens": 5},
        {"stop": ["a"]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"grammar": 'root ::= "a"'},
        {"logit_bias": {"5": 1}},
        {"n": 2},
        {"tool_choice": "required"},
    ],
)
def test_fields_refused(api: Api, fields: dict[str, Any]) -> None:
    (name,) = fields
    says = "thinking" if fields == {"think": "high"} else name
    refused(chat(api, **fields), says)
    refused(generate(api, **fields), says)


def test_a_schema_that_is_refused_is_that_of_the_format(api: Api) -> None:
    for ask in (chat, generate):
        refused(ask(api, format={"type": "strung"}), "format: JSON schema: Invalid type: strung")
        refused(ask(api, format={"$ref": "#"}), "format: JSON schema: no text follows it")


def test_fields_that_ask_for_nothing(api: Api) -> None:
    nothing = {"min_p": 0, "repeat_penalty": 1.0, "typical_p": 1, "n": 1, "tool_choice": "auto", "num_predict": -1}
    expected = text_of(api.chat(STORY, seed=1))
    assert ok(chat(api, stream=False, options={"seed": 1}, **nothing))["message"]["content"] == expected


@pytest.mark.parametrize("stream", ["false", 0, []])
def test_stream_is_a_flag(api: Api, stream: Any) -> None:
    refused(chat(api, stream=stream), "stream")


def test_a_failure_in_the_middle(api: Api, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing(service, patch, after=5)
        *before, last = lines(chat(api))
    assert last == {"error": "the model failed: the device is gone"}
    assert [line["done"] for line in before] == [False] * 5


def test_autodeco(api: Api) -> None:
    whole = ok(chat(api, stream=False, autodeco=True, options={"seed": 1}))["autodeco"]
    assert whole["source"] == "heads"
    parts = [line["autodeco"] for line in lines(chat(api, autodeco=True, options={"seed": 1})) if "autodeco" in line]
    assert [t for part in parts for t in part["temperature"]] == whole["temperature"]
    assert all(part["temperature"] for part in parts)


# ---- options ----


@pytest.mark.parametrize(
    ("n", "tokens", "reason"),
    [(-1, 53, "stop"), (-2, 53, "stop"), (1, 1, "length"), (2.0, 2, "length"), (None, 53, "stop")],
)
def test_num_predict(api: Api, n: Any, tokens: int, reason: str) -> None:
    answer = ok(chat(api, stream=False, options={"seed": 1, "num_predict": n}))
    assert (answer["eval_count"], answer["done_reason"]) == (tokens, reason)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_predict": 0}, "num_predict"),
        ({"num_predict": "10"}, 'option "num_predict" must be of type integer'),
        ({"temperature": "0.3"}, 'option "temperature" must be of type float32'),
        ({"temperature": True}, 'option "temperature" must be of type float32'),
        ({"seed": 42.7}, 'option "seed" must be of type integer'),
        ({"stop": "a"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of type array'),
        ({"num_ctx": "x"}, 'option "num_ctx" must be of type integer'),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ([], "options"),
        ("x", "options"),
    ],
)
def test_options_refused(api: Api, options: Any, says: str) -> None:
    refused(chat(api, options=options), says)


@pytest.mark.parametrize(
    "options",
    [
        None,
        {},
        {"temperature": None},
        {"foo": 1},
        {"num_ctx": 8192.0},
        {"num_ctx": 1 << 20},
        {"stop": None},
        {"stop": []},
    ],
)
def test_options_that_change_nothing(api: Api, options: Any) -> None:
    seeded = {"seed": 1, **(options or {})}
    assert ok(chat(api, stream=False, options=seeded))["message"]["content"] == text_of(api.chat(STORY, seed=1))
    ok(chat(api, stream=False, options=options))


def test_options_that_count(api: Api) -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.05, "seed": 4, "stop": ["coins"]}
    given |= {"typical_p": 0.7, "repeat_last_n": 33, "repeat_penalty": 1.2, "presence_penalty": 1.5}
    expected = text_of(api.chat(STORY, **given))
    assert ok(chat(api, stream=False, options=given))["message"]["content"] == expected


# ---- bodies shaped for the other API ----


def test_parts_are_joined(api: Api) -> None:
    parts = [{"type": "text", "text": STORY_PROMPT[:9]}, {"type": "text", "text": STORY_PROMPT[9:]}]
    answer = ok(chat(api, messages=[{"role": "user", "content": parts}], stream=False, options={"seed": 1}))
    assert answer["message"]["content"] == text_of(api.chat(STORY, seed=1))


def test_images_are_refused(api: Api) -> None:
    refused(chat(api, messages=[{"role": "user", "content": "x", "images": ["aaaa"]}]), "images")
    refused(generate(api, images=["aaaa"]), "images")


@pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}])
def test_calls_of_tools(api: Api, arguments: Any) -> None:
    turn = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    refused(chat(api, messages=[turn]), "knows no tool_calls")  # read, and then the template has no place for it


def test_results_of_tools_are_of_the_calls_that_they_name(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% for m in messages %}{% for call in m.tool_calls or [] %}{{ call.id }},{% endfor %}"
    template += "{{ m.tool_call_id }}={{ m.content }};{% endfor %}{# tool #}"
    context = service.engine.context
    monkeypatch.setattr(service.engine, "chat", Chat(template, context.vocab, context.file.path))
    calls = [{"id": name, "function": {"name": "f", "arguments": {}}} for name in "ab"]
    results = [{"role": "tool", "content": name * 2, "tool_call_id": name} for name in "ba"]
    messages: Any = [{"role": "assistant", "tool_calls": calls}, *results]
    plan, _ = ollama_chat_plan(service, OllamaChatBody(model="demo", messages=messages))
    assert context.text(plan.prompts[0]) == "a,b,=;b=bb;a=aa;"


@pytest.mark.parametrize("form", ["", None])
def test_no_format(api: Api, form: Any) -> None:
    answer = ok(chat(api, stream=False, format=form, options={"seed": 1}))
    assert answer["message"]["content"] == text_of(api.chat(STORY, seed=1))


def test_formats(api: Api) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"enum": [1]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert json.loads(ok(generate(api, stream=False, format=schema))["response"]) == {"a": 1}
    del schema["additionalProperties"]  # as Ollama reads it, there is nothing beside
    assert json.loads(ok(generate(api, stream=False, format=schema, options={"temperature": 9}))["response"]) == {
        "a": 1
    }
    assert ok(generate(api, stream=False, format="json", options={"num_predict": 3}))["response"].lstrip()[0] == "{"
    for form in ("yaml", 7, [], {"type": "strung"}):
        assert generate(api, format=form).status_code == 400


def test_generate(api: Api) -> None:
    raw = ok(generate(api, stream=False, raw=True, options={"seed": 1}))["response"]
    assert raw == text_of(api.compl(prompt=STORY_PROMPT, seed=1))
    messages = [{"role": "system", "content": "Be brief."}, *STORY["messages"]]
    with_system = ok(generate(api, stream=False, system="Be brief.", options={"seed": 1}))["response"]
    assert with_system == text_of(api.chat({"messages": messages}, seed=1))
    refused(generate(api, raw=True, system="x"), "system")
    refused(generate(api, suffix="x"), "suffix")
    refused(generate(api, prompt="1" * 600), "608 tokens, the context holds 512")


@pytest.mark.parametrize("reads", ["enable_thinking", "reasoning_effort"])
def test_thinking(api: Api, service: Service, monkeypatch: pytest.MonkeyPatch, reads: str) -> None:
    refused(chat(api, think=True), "does not support thinking")
    ok(chat(api, think=False, stream=False))
    for think in (True, "high"):
        refused(generate(api, raw=True, think=think), "think needs the chat template")
    ok(generate(api, raw=True, think=False, stream=False))
    assert "thinking" not in about.show(service)["capabilities"]
    monkeypatch.setitem(vars(service.prompts), "reads", {reads})
    monkeypatch.setattr(service.prompts, "_with", lambda kwargs: service.engine.chat)
    assert "thinking" in about.show(service)["capabilities"]
    for think in (True, "high", False):
        ok(chat(api, think=think, stream=False))
    refused(generate(api, raw=True, think=True), "think needs the chat template")
