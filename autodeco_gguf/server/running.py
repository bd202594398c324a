"""The process of a server: its socket, its protocol, its end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.server.app import create_app
from autodeco_gguf.server.service import Service

_LOOK_SECONDS = 0.02
"""How often a connection is looked at whose other side sends no more."""

_BACKLOG = 2048
"""Connections that the system may hold for us."""


class Protocol(H11Protocol):
    """uvicorn's, but that who sends no more is answered.

    A client that is gone and one that has only closed its sending side look the same, until something is written to
    them: the one's system answers with a reset. Before an answer begins that is "100 Continue", which every client of
    HTTP/1.1 passes over; an answer that streams is written to anyway.
    """

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to keep the connection for writing."""
        if self.cycle is None or self.cycle.response_complete or self.conn.their_state is h11.SEND_BODY:
            return False
        if not self.cycle.response_started and self.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.cycle.keep_alive = False
        self._look()
        return True

    def _look(self) -> None:
        """Close the connection once the other side has reset it: nothing is read any more that would tell."""
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(_LOOK_SECONDS, self._look)


def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on an address; on all that a name has.

    Raises:
        AutoDecoError: it is taken, or none of this machine's.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, proto, _, address in dict.fromkeys(found):
            listening = socket.socket(family, kind, proto)
            sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if len(sockets) > 1:  # port 0: the same for all
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            listening.bind(address)
            listening.listen(_BACKLOG)
    except OSError as e:
        for listening in sockets:
            listening.close()
        raise AutoDecoError(f"{host}:{port}: cannot listen: {e.strerror or e}", key="port") from e
    return sockets


def address_of(listening: socket.socket) -> str:
    """Where to find a socket, as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if listening.family == socket.AF_INET6 else f"http://{host}:{port}"


class Server:
    """A service on sockets, until it is told to stop."""

    def __init__(self, service: Service, sockets: list[socket.socket], *, drain_s: float, access_log: bool) -> None:
        """Prepare; ``drain_s`` seconds are left to what is under way at the end."""
        self._service, self._sockets = service, sockets
        config = uvicorn.Config(
            create_app(service),
            http=Protocol,
            ws="none",
            lifespan="off",
            log_level="info" if access_log else "warning",
            access_log=access_log,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(drain_s)),
            backlog=_BACKLOG,
        )
        self._server = uvicorn.Server(config)

    def run(self, started: Callable[[], Any] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, then let what is under way come to its end; a second signal cuts it.

        Raises:
            KeyboardInterrupt: it was SIGINT.
        """
        before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises it again when all is done
        try:
            asyncio.run(self.serve(started))
        finally:
            signal.signal(signal.SIGTERM, before)

    async def serve(self, started: Callable[[], Any] = lambda: None) -> None:
        """The same within a loop; for a thread, without signals."""
        serving = asyncio.ensure_future(self._server.serve(self._sockets))
        while not (self._server.started or serving.done()):
            await asyncio.sleep(0.01)
        started()
        try:
            await serving
        finally:
            with suppress(RuntimeError):
                self._service.driver.close()

    def stop(self) -> None:
        """As SIGTERM; from any thread."""
        self._server.should_exit = True
