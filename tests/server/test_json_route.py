"""Bodies that are JSON: what Python's own reader would let through."""

from __future__ import annotations

import codecs
import gzip
import threading
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, BeforeValidator
from server_helpers import Api, Loop, ok, refused

from autodeco_gguf.server.json_route import JsonRoute, streams


@pytest.mark.parametrize("body", [b'{"messages": NaN}', b'{"a": "\\ud800"}', b"{'a': 1}", b"[1,]", b"\xff\xfe{\0}\0"])
def test_no_json(api: Api, body: bytes) -> None:
    refused(api.raw("/v1/chat/completions", body), says="not JSON")


BODY = b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}'


def test_a_byte_order_mark_does_no_harm(api: Api) -> None:
    ok(api.raw("/v1/chat/completions", codecs.BOM_UTF8 + BODY))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP", "gzip, identity"])
def test_a_compressed_body(api: Api, coding: str) -> None:
    response = api.raw("/v1/chat/completions", gzip.compress(BODY), headers={"Content-Encoding": coding})
    refused(response, status=415, says="Content-Encoding")
    ok(api.raw("/v1/chat/completions", BODY, headers={"Content-Encoding": "identity"}))


def test_of_a_name_twice_the_last_counts(api: Api) -> None:
    answer = ok(api.raw("/v1/chat/completions", BODY[:-1] + b', "max_tokens": 2}'))
    assert answer["usage"]["completion_tokens"] == 2


class Ids(BaseModel):
    ids: list[Annotated[int, BeforeValidator(lambda i: threads.append(threading.current_thread()) or i)]]


threads: list[threading.Thread] = []


def test_a_large_body_does_not_stop_the_loop(loop: Loop) -> None:
    app, router = FastAPI(), APIRouter(route_class=JsonRoute)

    @router.post("/sum")
    async def add(body: Ids, request: Request) -> list[int]:
        return [sum(body.ids), len((await request.json())["ids"])]

    async def ask(n: int) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.post("/sum", json={"ids": [1] * n})

    app.include_router(router)
    for n, in_loop in ((10, True), (40_000, False)):
        assert loop.run(ask(n)).json() == [n, n]
        assert len(threads) == n
        assert {thread is loop._thread for thread in threads} == {in_loop}
        threads.clear()


def test_a_large_body_is_answered_as_a_small_one(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    for n in (10, 40_000):
        assert len(ok(api.post("/detokenize", {"tokens": [5] * n}))["content"]) == n
        refused(api.post("/detokenize", {"tokens": [5] * n + ["x"]}), f"tokens[{n}]", says='a whole number, not "x"')
        refused(api.raw("/detokenize", b'{"tokens": [' + b"5," * n), says="not JSON")
        refused(api.compl(prompt=[5] * n, suffix="x"), "suffix")
        assert ok(api.post("/api/chat", {"model": "demo", "zz": [5] * n}))["done_reason"] == "load"
    assert caplog.text.count("a request to load the model has 'zz'") == 2


def test_streams_are_documented() -> None:
    assert streams("a/b") == {200: {"content": {"a/b": {}}}}
