"""Who may come in, how much they may send, and which path they mean."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from server_helpers import Api, Loop, U, ok, refused, serving

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.server.guard import Guard, canonical
from autodeco_gguf.server.settings import ServerSettings

KEY = {"Authorization": "Bearer K"}
PREFLIGHT = {
    "Origin": "http://a.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@pytest.fixture(scope="module")
def locked(engine: Engine, loop: Loop) -> Iterator[Api]:
    """With keys, CORS, a small body and no queue."""
    service = serving(engine, api_keys=("K", "ключ"), cors_origins=("http://A.example/",), max_body=2000)
    yield Api(service, loop)
    service.driver.close()


# ---- keys ----


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/props", "/api/tags", "/v1/chat/completions", "/none"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer k"},
        {"Authorization": "K"},
        {"Authorization": "Basic K"},
        {"Authorization": "Bearer KK"},
        {"Authorization": "Bearer "},
    ],
)
def test_no_key(locked: Api, path: str, headers: dict[str, str]) -> None:
    response = locked.get(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    if not path.startswith("/api/"):
        assert refused(response, status=401)["code"] == "invalid_api_key"


@pytest.mark.parametrize("key", [b"Bearer K", b"bearer K", b"Bearer  K", "Bearer ключ".encode()])
def test_a_key(locked: Api, key: bytes) -> None:
    ok(locked.get("/v1/models", headers={b"Authorization": key}))


@pytest.mark.parametrize("path", ["/", "/health", "//health"])
def test_what_needs_none(locked: Api, path: str) -> None:
    assert locked.get(path).status_code == 200


# ---- CORS ----


def test_a_preflight_needs_no_key(locked: Api, api: Api) -> None:
    response = locked.request("OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] == "http://a.example"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "authorization" in response.headers["access-control-allow-headers"]
    off = api.request("OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
    assert not [name for name in off.headers if name.startswith("access-control")]


def test_a_page_of_the_web_and_a_server_of_this_machine(locked: Api) -> None:
    asked = {**PREFLIGHT, "Access-Control-Request-Private-Network": "true"}
    for origin, status in (("http://a.example", 200), ("http://b.example", 400)):
        response = locked.request("OPTIONS", "/v1/chat/completions", headers={**asked, "Origin": origin})
        assert response.status_code == status
        assert ("access-control-allow-origin" in response.headers) == (status == 200)
    assert response.headers["access-control-max-age"] == "3600"


def test_a_script_may_read_when_to_come_again(locked: Api) -> None:
    response = locked.get("/health", headers={"Origin": "http://a.example"})
    assert "retry-after" in response.headers["access-control-expose-headers"].lower()


def test_errors_carry_the_headers(locked: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = {"Origin": "http://a.example"}
    answers = [
        (401, locked.post("/v1/chat/completions", U, headers=origin)),
        (400, locked.post("/v1/chat/completions", {}, headers={**origin, **KEY})),
        (404, locked.get("/none", headers={**origin, **KEY})),
        (403, locked.get("/v1/models", headers={**origin, **KEY, "Host": "evil.example"})),
    ]
    monkeypatch.setattr(locked.service.driver, "_max_queue", -5)
    answers.append((503, locked.post("/v1/chat/completions", U, headers={**origin, **KEY})))
    for status, answer in answers:
        assert answer.status_code == status, answer.text
        assert answer.headers["access-control-allow-origin"] == "http://a.example"
    assert answers[-1][1].headers["retry-after"] == "1"


EVIL = "http://evil.example"


@pytest.mark.parametrize("origin", [EVIL, "https://localhost.evil.example", "null", "HTTP://127.0.0.1:9", "http://"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/none"])
def test_a_page_of_another_site_is_not_answered(api: Api, origin: str, path: str) -> None:
    """A body of text/plain is what a browser sends without asking first."""
    sent = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
    response = api.post(path, U, headers=sent)
    assert response.status_code == 403
    assert f"a page of another site, {origin.lower()}, may not ask here; serve with --cors" in response.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://127.0.0.1:8080", "Host": "127.0.0.1:8080"},
        {"Origin": "https://Localhost", "Host": "localhost"},  # behind a proxy with TLS
        {"Origin": "https://llm.example", "Host": "127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"},  # that changes it
        {"Origin": "chrome-extension://abcdef", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "app://obsidian.md"},
        {},
    ],
)
def test_pages_and_programs_of_our_own(api: Api, headers: dict[str, str]) -> None:
    ok(api.post("/v1/chat/completions", {**U, "max_tokens": 1}, headers=headers))


@pytest.mark.parametrize("allowed", ["*", f"{EVIL.upper()}/"])
def test_an_origin_that_is_allowed(engine: Engine, loop: Loop, allowed: str) -> None:
    service = serving(engine, cors_origins=(allowed,))
    ok(Api(service, loop).post("/v1/chat/completions", {**U, "max_tokens": 1}, headers={"Origin": EVIL}))
    service.driver.close()


def test_other_origins_get_none(locked: Api, api: Api) -> None:
    for one in (locked, api):
        response = one.get("/health", headers={"Origin": "http://b.example"})
        assert "access-control-allow-origin" not in response.headers


# ---- Host ----


@pytest.mark.parametrize("path", ["/", "/v1/models", "/metrics", "/health", "/api/tags"])
@pytest.mark.parametrize(
    "host", ["evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil", "[::1", "a:b:c"]
)
def test_foreign_hosts(api: Api, path: str, host: str) -> None:
    response = api.get(path, headers={"Host": host})
    assert response.status_code == 403
    assert "not allowed" in response.text
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "127.0.0.1", "[::1]:8080", "localhost.", "localhost:9", "192.168.1.5:8080", ""],
)
def test_own_hosts(api: Api, host: str) -> None:
    ok(api.get("/v1/models", headers={"Host": host}))


def test_hosts_that_are_allowed(engine: Engine, loop: Loop) -> None:
    for allowed, host, status in (
        ("me.example", "Me.example:1", 200),
        ("me.example:8080", "me.example:8080", 200),
        ("me.example", "x.example", 403),
        ("*", "x", 200),
    ):
        service = serving(engine, allowed_hosts=(allowed,))
        assert Api(service, loop).get("/health", headers={"Host": host}).status_code == status
        service.driver.close()


# ---- paths ----


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/chat/completions",
        "/v1/v1/chat/completions",
        "//v1///chat//completions//",
    ],
)
def test_paths_that_mean_it(api: Api, path: str) -> None:
    body = {**U, "seed": 1, "max_tokens": 3}
    assert ok(api.post(path, body))["choices"] == ok(api.chat(seed=1, max_tokens=3))["choices"]


def test_ollama_s_path_too(api: Api) -> None:
    ok(api.post("//api/chat", {"model": "demo", **U, "stream": False}))


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/V1/models", 404, "/v1/models"),
        ("POST", "/V1/Chat/Completions", 404, "/v1/chat/completions"),
        ("POST", "/openai/v1/chat/completions", 404, "/v1/chat/completions"),
        ("GET", "/v1/chat/completions", 405, "POST"),
        ("DELETE", "/v1/models", 405, "GET"),
        ("GET", "/nothing", 404, "/nothing"),
        ("GET", "/../../etc/passwd", 404, "there is no"),
    ],
)
def test_other_paths(api: Api, method: str, path: str, status: int, says: str) -> None:
    response = api.request(method, path)
    refused(response, status=status, says=says)
    if status == 405:
        assert says in response.headers["allow"]


def test_canonical_paths() -> None:
    assert canonical("") == "/"
    assert canonical("/v1/models/a/b") == "/v1/models/a/b"
    for path in ("/models/x", "/embeddings", "/completions", "/responses"):
        assert canonical(path) == f"/v1{path}"


# ---- bodies ----


def test_a_body_too_large(locked: Api) -> None:
    for size in (2001, 100_000):
        answer = locked.raw("/v1/chat/completions", b" " * size, headers=KEY)
        assert refused(answer, status=413)["code"] == "body_too_large"
        assert answer.headers["connection"] == "close"  # what is left of the body is no request
    assert locked.raw("/v1/chat/completions", b" " * 2000, headers=KEY).status_code == 400


def test_two_gigabytes_are_not_read(locked: Api) -> None:
    async def body() -> Any:
        yield b"x"
        raise AssertionError("it was read")

    headers = {**KEY, "Content-Length": str(2**31)}
    refused(locked.request("POST", "/v1/chat/completions", content=body(), headers=headers), status=413)


def test_a_body_without_an_end_is_not_read_for_ever(locked: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autodeco_gguf.server.guard._READ_AT_MOST", 10_000)
    n = 0

    async def body() -> Any:
        nonlocal n
        while n < 100:
            n += 1
            yield b" " * 1000

    refused(locked.request("POST", "/v1/chat/completions", content=body(), headers=KEY), status=413)
    assert n == 11


def test_a_body_of_which_a_part_came_is_none() -> None:
    """Though the part be JSON by itself."""
    gone = {"type": "http.disconnect"}
    parts = iter([{"type": "http.request", "body": b"{}", "more_body": True}, gone])
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.extend([await receive(), await receive()])

    async def receive() -> Any:
        return next(parts)

    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [(b"host", b"localhost")]}
    asyncio.run(Guard(app, ServerSettings(), ())(scope, receive, None))  # type: ignore[arg-type]
    assert found == [gone, gone]


def test_nothing_secret_in_the_log(locked: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        locked.get("/v1/models", headers={"Authorization": "Bearer wrong-secret"})
    assert "wrong-secret" not in caplog.text
