"""Bodies that are JSON."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

_LARGE = 1 << 16
"""Bytes of a body from which on it is validated in a thread: a second for 8 MiB of token ids."""


class _JsonRequest(Request):
    """A request whose body is JSON by the letter, whatever its Content-Type says; curl's -d says that it is a form."""

    valid: Any = None

    async def json(self) -> Any:
        """The body; the first time what it is as a model, where that is known, which FastAPI takes as it is."""
        valid, self.valid = self.valid, None
        if valid is not None:
            return valid
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise HTTPException(415, f"a body with Content-Encoding {coding[:40]} is not read, send it as it is")
        try:
            return from_json((await self.body()).removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
        except ValueError as e:
            raise HTTPException(400, f"the body is not JSON: {e}") from e


def streams(media_type: str) -> dict[int | str, dict[str, Any]]:
    """What a route documents that answers with JSON or as a stream."""
    return {200: {"content": {media_type: {}}}}


class JsonRoute(APIRoute):
    """A route that takes JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with its request as JSON."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            others = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
            scope = {**request.scope, "headers": [*others, (b"content-type", b"application/json")]}
            given = _JsonRequest(scope, request.receive)
            with suppress(ClientDisconnect):  # which the handler meets, too
                if self.body_field is not None and len(await given.body()) > _LARGE:
                    validate, data = self.body_field.validate, await given.json()
                    given.valid, errors = await run_in_threadpool(validate, data, {}, loc=("body",))
                    if errors:
                        raise RequestValidationError(errors)
            return await handler(given)

        return handle
