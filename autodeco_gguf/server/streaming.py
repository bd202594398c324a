"""Answers that are sent as they come, and clients that go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


def sse(data: Any, event: str | None = None) -> bytes:
    """A server-sent event with JSON."""
    head = b"" if event is None else f"event: {event}\n".encode()
    return head + b"data: " + dumps(data) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def ndjson(data: Any) -> bytes:
    """JSON on a line."""
    return dumps(data) + b"\n"


NOTHING = "nothing"
"""Key of a request's state: what may stand between two parts of its stream, and says nothing."""

_LINE_ENDS = {ord(c): f"\\u{ord(c):04x}" for c in "\x85\u2028\u2029"}
"""What ends a line for Python's ``splitlines``, and so for httpx, beside control characters, which JSON escapes."""


def dumps(data: Any) -> bytes:
    """Compact JSON on a line; ValueError for NaN."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_LINE_ENDS).encode("utf-8")


def dumps_in_turn(data: dict[str, Any]) -> bytes:
    """The JSON of an object; what is an iterator in it is a list, of which one item at a time is there as objects."""
    parts = []
    for name, value in data.items():
        json_ = b"[%b]" % b",".join(map(dumps, value)) if isinstance(value, Iterator) else dumps(value)
        parts.append(b"%b:%b" % (dumps(name), json_))
    return b"{%b}" % b",".join(parts)


class Stream(Response):
    """A body that comes bit by bit; ``gone`` is called when the client is, and at the end."""

    def __init__(self, parts: AsyncIterator[bytes], media_type: str, gone: Callable[[], None]) -> None:
        """Send the parts as they come."""
        self._parts, self._gone = parts, gone
        self.status_code, self.background = 200, None
        # for proxies: nginx holds back what does not say so
        headers = {"content-type": media_type, "cache-control": "no-cache", "x-accel-buffering": "no"}
        self.raw_headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        is_sse = (b"content-type", b"text/event-stream") in self.raw_headers
        scope.setdefault("state", {})[NOTHING] = b":\n\n" if is_sse else b" "
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await or_gone(self._send(send), receive, self._gone)

    async def _send(self, send: Send) -> None:
        async for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Gone(Exception):
    """The client went away: nobody waits for an answer."""


async def or_gone(work: Awaitable[T], receive: Receive, gone: Callable[[], None]) -> T | None:
    """What ``work`` returns, or None once the client has gone away; ``gone`` is called in any case."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    tasks = working, asyncio.ensure_future(watch())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return None
        return working.result()
    finally:
        gone()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def while_there(work: Awaitable[T], request: Request, gone: Callable[[], None]) -> T:
    """What ``work`` returns.

    Raises:
        Gone: the client went away before.
    """
    found = await or_gone(work, request.receive, gone)
    if found is None:
        raise Gone
    return found
