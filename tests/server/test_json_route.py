"""Bodies that are JSON: what Python's own reader would let through."""

from __future__ import annotations

import pytest
from server_helpers import Api, refused

from autodeco_gguf.server.json_route import streams


@pytest.mark.parametrize("body", [b'{"messages": NaN}', b'{"a": "\\ud800"}', b"\xef\xbb\xbf{}", b"{'a': 1}", b"[1,]"])
def test_no_json(api: Api, body: bytes) -> None:
    refused(api.raw("/v1/chat/completions", body), says="not JSON")


def test_streams_are_documented() -> None:
    assert streams("a/b") == {200: {"content": {"a/b": {}}}}
