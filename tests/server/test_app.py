"""The application: forms of errors, the page, what it says of itself; and schemathesis over all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance, unsupported_method
from server_helpers import Api, Loop, ok, refused, serving

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.server import about
from autodeco_gguf.server.app import _Innermost, create_app
from autodeco_gguf.server.service import Service

CASES = int(os.environ.get("SERVER_CASES", "8"))
"""Bodies for each route."""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"nul", b"\xff", b'"\\ud800"', b"{} {}", b"[" * 100_000, b'{"a":' + b"9" * 10**6]
)
def test_what_is_no_json(api: Api, path: str, content: bytes) -> None:
    response = api.raw(path, content)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert "error" in response.json()


def test_any_content_type_is_json(api: Api) -> None:
    body = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":1}'
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
        ok(api.raw("/v1/chat/completions", body, headers={"Content-Type": kind}))


def test_a_bug_is_an_answer_too(api: Api, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "engine", None)
    with pytest.raises(AttributeError):  # for the log; the client gets 500
        api.get("/v1/models")


def test_metrics(api: Api) -> None:
    ok(api.chat(max_tokens=3))
    api.get("/nothing/of/a/client's")
    text = api.get("/metrics").text
    assert 'autodeco_requests_total{method="POST",path="/v1/chat/completions",status="200"}' in text
    assert "client's" not in text
    for name in ("prompt_tokens_total", "completion_tokens_total", "running", "first_token_seconds_bucket"):
        assert f"autodeco_{name}" in text


def test_what_has_no_route_is_counted_too(engine: Engine, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    service = serving(engine, api_keys=("K",), cors_origins=("http://a.example",), max_body=100)
    api, key = Api(service, loop), {"Authorization": "Bearer K"}
    origin = {"Origin": "http://a.example"}
    api.get("/v1/models")
    api.get("/v1/secret")
    api.get("//props/", headers={"Host": "evil.example"})
    api.raw("/v1/chat/completions", b" " * 101, headers=key)
    api.request("HEAD", "/v1/models", headers=key)
    api.request("SECRET", "/v1/models", headers=key)
    monkeypatch.setattr(about, "model", None)
    answer = api.request("GET", "/v1/models", headers={**key, **origin}, raise_app_exceptions=False)
    assert answer.headers["access-control-allow-origin"] == "http://a.example"
    assert refused(answer, status=500)["code"] == "internal"
    text = service.metrics.text().decode()
    for method, path, status in (
        ("GET", "/v1/models", 401),
        ("GET", "other", 401),
        ("GET", "/props", 403),
        ("POST", "/v1/chat/completions", 413),
        ("HEAD", "/v1/models", 200),
        ("other", "/v1/models", 405),
        ("GET", "/v1/models", 500),
    ):
        assert f'requests_total{{method="{method}",path="{path}",status="{status}"}} 1.0' in text
    assert "secret" not in text.lower()
    service.driver.close()


def test_a_bug_in_the_midst_of_an_answer_begins_no_other(loop: Loop) -> None:
    sent: list[Any] = []

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("bug")

    async def send(message: Any) -> None:
        sent.append(message["type"])

    with pytest.raises(KeyError):
        loop.run(_Innermost(broken)({"type": "http", "path": "/", "state": {}}, None, send))  # type: ignore[arg-type]
    assert sent == ["http.response.start"]


def test_props(api: Api) -> None:
    props = ok(api.get("/props"))
    assert props["model"] == "demo"
    assert (props["n_ctx"], props["n_parallel"], props["heads"]) == (512, 4, ["temperature", "top_p"])
    assert props["defaults"] == {"source": "heads"}
    assert props["chat_template"] is True


def test_health(api: Api) -> None:
    for path in ("/health", "/v1/health"):
        assert ok(api.get(path)) == {"status": "ok", "running": 0, "waiting": 0}


def test_refusals_are_in_openai_s_form(api: Api) -> None:
    refused(api.get("/nothing"), status=404)
    refused(api.get("/v1/chat/completions"), status=405)


@pytest.fixture(scope="module")
def schema(engine: Engine) -> Iterator[Any]:
    service = serving(engine, allowed_hosts=("*",), max_queue=1000)
    yield schemathesis.openapi.from_asgi("/openapi.json", create_app(service))
    service.driver.close()


SHORT = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "n", "best_of")


def shorten(body: Any) -> None:
    """Have an answer in less time; what is no number stays."""
    for name in SHORT:
        if isinstance(body, dict) and (body.get(name) is None or (type(body[name]) in (int, float) and body[name] > 2)):
            body[name] = 2
    if isinstance(body, dict) and isinstance(body.get("options"), dict):
        shorten(body["options"])


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_schemathesis(schema: Any, mode: GenerationMode) -> None:
    """Whatever a body says, made from the schema or against it: a documented status and type, and no 5xx.

    That all that follows the schema is taken is not checked: it does not say what fits together.
    """
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, unsupported_method]
    settings = hypothesis.settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    n = 0
    for operation in schema.get_all_operations():

        def check(case: Any) -> None:
            nonlocal n
            n += 1
            shorten(case.body)
            case.call_and_validate(checks=checks)

        with suppress(hypothesis.errors.Unsatisfiable):  # nothing of a route without parameters can be wrong
            hypothesis.given(case=operation.ok().as_strategy(generation_mode=mode))(settings(check))()
    assert n > 6 * CASES
