"""What stands before the routes: who may come in, how much they may send, and which path they mean."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.settings import ServerSettings

_READ_AT_MOST = 64 << 20
"""Bytes of a body too large that are read and thrown away, so that a client that sends first sees the answer."""

BODY_SECONDS = 30.0
"""For the next part of a body to come."""

_WITHOUT_V1 = re.compile(r"/(chat/completions|completions|models|responses|embeddings)(/.*)?")

OPEN_PATHS = frozenset({"/", "/health", "/v1/health"})
"""What needs no key, beside the files of the page: nothing of a model is in it."""


class Guard:
    """An ASGI application around another: paths made canonical, Host, Origin and key checked, bodies bounded."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, files: Iterable[str]) -> None:
        """Args: what it guards, how, and the paths of the page's files, which need no key."""
        self._app, self._settings = app, settings
        self._open = OPEN_PATHS | set(files)
        self._keys = [_digest(key.strip()) for key in settings.api_keys]
        self._hosts = {_name(host) for host in settings.allowed_hosts} | {"localhost"}
        self._origins = settings.origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the application answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host, path = _target(scope["path"])
        path = canonical(path)
        scope = {**scope, "path": path, "raw_path": path.encode("utf-8", "surrogateescape")}
        headers = dict(scope["headers"])
        try:
            self._check_host(host)
            self._check_host(headers.get(b"host", b"").decode("latin-1"))
            if self._keys and path not in self._open:
                self._check_key(headers.get(b"authorization", b""))
            if scope["method"] in ("POST", "PUT", "PATCH"):
                self._check_origin(headers)
                receive = await self._bounded(headers, receive)
        except ApiError as e:
            await e.response(path)(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # what GET answers, without the body
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        await self._app(scope, receive, send)

    def _check_host(self, header: str) -> None:
        """Raise for a name that is not ours: a page of another site that has its name lead here."""
        name = _name(header)
        if not name or name in self._hosts or "*" in self._hosts:
            return
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            text = f"Host {header!r} is not allowed; serve with --allow-host to allow a name"
            raise ApiError(403, text, code="host_not_allowed") from None

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Raise for a page of another site: a browser sends its request unasked, and hides only the answer.

        Programs with pages of their own, as extensions of a browser, have origins of another kind than the web's.
        """
        given = headers.get(b"origin", b"").decode("latin-1").lower()
        host = re.fullmatch(r"https?://(.*)|null", given)
        same = headers.get(b"sec-fetch-site", b"") == b"same-origin"  # behind a proxy that changes Host
        if host is None or same or host[1] == headers.get(b"host", b"").decode("latin-1").lower():
            return
        if "*" not in self._origins and given not in self._origins:
            text = f"a page of another site, {given}, may not ask here; serve with --cors {given} to allow it"
            raise ApiError(403, text, code="origin_not_allowed")

    def _check_key(self, header: bytes) -> None:
        kind, _, key = header.partition(b" ")
        given = _digest(key.strip()) if kind.lower() == b"bearer" else b""
        matches = [hmac.compare_digest(given, known) for known in self._keys]  # all of them, whichever is right
        if not any(matches):
            text = "no API key, or a wrong one; send it as Authorization: Bearer KEY"
            raise ApiError(401, text, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _bounded(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """A ``receive`` that gives the body, which is no larger than allowed."""
        size = headers.get(b"content-length", b"")
        if size.isdigit() and len(size) < 20 and int(size) > _READ_AT_MOST:
            raise self._too_large()
        body, n, ended = [], 0, False
        while not ended:
            try:
                message = await asyncio.wait_for(receive(), BODY_SECONDS)
            except asyncio.TimeoutError:
                raise ApiError(408, "the body did not come in time", headers={"Connection": "close"}) from None
            if message["type"] != "http.request":
                break
            part = message.get("body", b"")
            n += len(part)
            if n <= self._settings.max_body:
                body.append(part)
            elif n > _READ_AT_MOST:
                raise self._too_large()
            else:
                body.clear()
            ended = not message.get("more_body", False)
        if n > self._settings.max_body:
            raise self._too_large()
        whole: Message = {"type": "http.request", "body": b"".join(body), "more_body": False}
        given = False

        async def receive_whole() -> Message:
            nonlocal given
            if given or not ended:
                return await receive() if ended else {"type": "http.disconnect"}
            given = True
            return whole

        return receive_whole

    def _too_large(self) -> ApiError:
        text = f"the body is larger than {self._settings.max_body} bytes"
        return ApiError(413, text, code="body_too_large", headers={"Connection": "close"})


def _without_body(send: Send) -> Send:
    async def headers_only(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return headers_only


def _name(host: str) -> str:
    """A host's name, without a port."""
    return re.sub(r":\d*$", "", host.strip()).lower().rstrip(".")


def _digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key).digest()


def _target(path: str) -> tuple[str, str]:
    """Host and path of a request's target, which is a whole URL where a client takes us for a proxy."""
    url = re.fullmatch(r"https?://([^/]*)(.*)", path, re.I | re.S)
    return (url[1], url[2]) if url else ("", path)


def canonical(path: str) -> str:
    """A path as the routes have it: no doubled slash, none at the end, OpenAI's with its /v1.

    Examples:
        >>> [canonical(path) for path in ("//v1/chat/completions", "/chat/completions/", "//api//chat", "/")]
        ['/v1/chat/completions', '/v1/chat/completions', '/api/chat', '/']
    """
    path = re.sub("/{2,}", "/", path)
    path = path.rstrip("/") or "/"
    path = re.sub(r"^(/v1){2,}/", "/v1/", path)
    return f"/v1{path}" if _WITHOUT_V1.fullmatch(path) else path
