"""Bodies that are JSON: what Python's own reader would let through."""

from __future__ import annotations

import codecs
import gzip

import pytest
from server_helpers import Api, ok, refused

from autodeco_gguf.server.json_route import streams


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


def test_streams_are_documented() -> None:
    assert streams("a/b") == {200: {"content": {"a/b": {}}}}
