"""Bodies that come bit by bit."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Request

from autodeco_gguf.server.streaming import Gone, dumps_in_turn, ndjson, or_gone, sse, while_there


def test_forms() -> None:
    assert sse({"a": "é\n"}) == 'data: {"a":"é\\n"}\n\n'.encode()
    assert sse([], "x") == b"event: x\ndata: []\n\n"
    assert ndjson({"a": 1}) == b'{"a":1}\n'
    line_ends = "\u2028\u2029\x85\x1c\x0b\n"  # httpx, and so Ollama's client, splits there
    assert json.loads(ndjson(line_ends)) == line_ends
    assert len(ndjson(line_ends).decode().splitlines()) == 1
    with pytest.raises(ValueError, match="JSON"):
        sse(float("nan"))


class Item(dict[str, int]):
    """What a weak reference can be had of."""


def test_of_items_one_at_a_time_is_there() -> None:
    made: list[weakref.ref[Item]] = []

    def items() -> Iterator[Item]:
        for i in range(3):
            assert [item() for item in made] == [None] * i
            item = Item(i=i)
            made.append(weakref.ref(item))
            yield item
            del item

    found = dumps_in_turn({"é": [1], "items": items(), "none": iter(()), "end": None})
    assert found.decode() == '{"é":[1],"items":[{"i":0},{"i":1},{"i":2}],"none":[],"end":null}'


def receiving(*messages: str) -> Any:
    left = list(messages)

    async def receive() -> dict[str, str]:
        if not left:
            await asyncio.sleep(60)
        return {"type": left.pop(0)}

    return receive


@pytest.mark.parametrize(("messages", "expected"), [((), 7), (("http.request", "http.disconnect"), None)])
def test_work_or_the_client(messages: tuple[str, ...], expected: int | None) -> None:
    calls, ended = [], []

    async def work() -> int:
        try:
            await asyncio.sleep(60 if messages else 0)
            return 7
        finally:
            ended.append(True)

    async def run() -> int | None:
        found = await or_gone(work(), receiving(*messages), lambda: calls.append(True))
        assert (calls, ended) == ([True], [True])  # before who asked goes on
        return found

    assert asyncio.run(run()) == expected


def test_an_error_of_the_work() -> None:
    async def work() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        asyncio.run(or_gone(work(), receiving(), lambda: None))


def test_nobody_is_there() -> None:
    async def run() -> None:
        request = Request({"type": "http", "method": "GET", "headers": []}, receiving("http.disconnect"))
        await while_there(asyncio.sleep(60), request, lambda: None)

    with pytest.raises(Gone):
        asyncio.run(run())
