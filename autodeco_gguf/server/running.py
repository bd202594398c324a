"""The process of a server: its socket, its protocol, its end."""

from __future__ import annotations

import asyncio
import copy
import errno
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.config import LOGGING_CONFIG
from uvicorn.protocols.http.h11_impl import H11Protocol

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.files.system import HANGUP
from autodeco_gguf.server.app import create_app
from autodeco_gguf.server.driver import Driver
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.service import Service
from autodeco_gguf.server.streaming import NOTHING, dumps

HEAD_SECONDS = 30.0
"""For the head of a request, from when the connection is there: who sends it too slowly holds it for nothing."""

WRITE_SECONDS = 120.0
"""For a client to take some of what is written to it, before its connection is closed."""

_LOOK_SECONDS = 0.02
"""How often a connection is looked at whose other side sends no more."""

_LOOKS_A_BEAT = 50
"""After so many looks something is written to such a connection, so that there is something to see."""

_GOODBYE_SECONDS = 5
"""For errors to reach those whose answers are cut off."""

_NEWS_SECONDS = 60.0
"""Between two lines of the log that say the same."""

_BACKLOG = 2048
"""Connections that the system may hold for us."""

_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Of an address that this machine has not, as ::1 of localhost where IPv6 is off."""

_LOGGING = copy.deepcopy(LOGGING_CONFIG)
"""uvicorn's, but that all goes to standard error."""
_LOGGING["handlers"]["access"]["stream"] = "ext://sys.stderr"


class Protocol(H11Protocol):
    """uvicorn's, but that heads have a time limit, errors are JSON, and who sends no more is answered.

    A client that is gone and one that has only closed its sending side look the same, until something is written to
    them: the one's system answers with a reset. Before an answer begins that is "100 Continue", which every client of
    HTTP/1.1 passes over; in one that streams, what says nothing there.
    """

    _late: asyncio.TimerHandle | None = None
    _full: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        for timer in (self._late, self._full):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Close the connection if nothing is taken for too long: what is to be written to it stays in memory."""
        super().pause_writing()
        self._full = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Wait no more for that."""
        super().resume_writing()
        if self._full is not None:
            self._full.cancel()

    def _should_upgrade(self) -> bool:
        """No: another protocol that is offered is passed over, as HTTP lets a server; uvicorn warns of each."""
        return False

    def _wait_for_head(self) -> None:
        """Close the connection if no head is there in time, nor the end of a body that nobody waits for any more.

        uvicorn has its own limit for a wait without any data.
        """
        state, answered = self.conn.their_state, self.cycle is not None and self.cycle.response_complete
        waits = state is h11.IDLE or (state is h11.SEND_BODY and answered)
        if waits and self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)
        elif not waits and self._late is not None:
            self._late.cancel()
            self._late = None

    def send_400_response(self, msg: str) -> None:
        """Say that a request is no HTTP, unless an answer to it has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = dumps(ApiError(400, msg).openai())
            headers = [("content-type", "application/json"), ("content-length", str(len(content)))]
            headers.append(("connection", "close"))
            head = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (head, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            if self.cycle is not None:
                self.cycle.disconnected = True  # what is under way answers no more
        self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to keep the connection for writing."""
        if self.cycle is None or self.cycle.response_complete or self.conn.their_state is h11.SEND_BODY:
            return False
        if not self.cycle.response_started and self.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.cycle.keep_alive = False
        self._look()
        return True

    def _look(self, looks: int = 1) -> None:
        """Close the connection once the other side has reset it: nothing is read any more that would tell."""
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            if looks % _LOOKS_A_BEAT == 0:
                self._write_nothing()
            self.loop.call_later(_LOOK_SECONDS, self._look, looks + 1)

    def _write_nothing(self) -> None:
        """Write what says nothing into an answer that streams, between two of its parts."""
        nothing = self.scope["state"].get(NOTHING)
        under_way = self.cycle.response_started and not self.cycle.response_complete
        if nothing and under_way and self.scope["http_version"] == "1.1":
            self.transport.write(b"%x\r\n%b\r\n" % (len(nothing), nothing))


class _Uvicorn(uvicorn.Server):
    """uvicorn's, but that answers under way when the time is up end with an error, not with their connection."""

    def __init__(self, config: uvicorn.Config, driver: Driver, drain_s: float) -> None:
        super().__init__(config)
        self._driver, self._drain_s = driver, drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what is under way."""
        late = asyncio.get_running_loop().call_later(self._drain_s, self._driver.cut)
        await super().shutdown(sockets)
        late.cancel()


def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on an address; on all of this machine's that a name has.

    Raises:
        AutoDecoError: it is taken, or none of this machine's.
    """
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        name = host.removeprefix("[").removesuffix("]")  # as an IPv6 address is in a URL
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, proto, _, address in dict.fromkeys(found):
            if sockets:  # port 0: the same for all
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sockets.append(_listening(family, kind, proto, address))
            except OSError as e:
                if e.errno not in _ABSENT:
                    raise
                absent = e
        if absent is not None and not sockets:
            raise absent
    except (OSError, UnicodeError) as e:  # what is no name of a host, neither
        for listening in sockets:
            listening.close()
        raise AutoDecoError(f"{host}:{port}: cannot listen: {getattr(e, 'strerror', None) or e}", key="port") from e
    return sockets


def _listening(family: int, kind: int, proto: int, address: tuple[Any, ...]) -> socket.socket:
    listening = socket.socket(family, kind, proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def address_of(listening: socket.socket) -> str:
    """Where to find a socket, as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if listening.family == socket.AF_INET6 else f"http://{host}:{port}"


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's log says more than that an answer was cut off at the end."""
    cause = record.exc_info[1] if record.exc_info else None
    return not isinstance(cause, asyncio.CancelledError | KeyboardInterrupt)


class _OutOfFiles:
    """asyncio's own handler, but that it says only once a minute that no connection can be taken: it does so thousands
    of times a second."""

    def __init__(self) -> None:
        self._next = -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context["message"] == "socket.accept() out of system resource":
            if loop.time() < self._next:
                return
            self._next = loop.time() + _NEWS_SECONDS
        loop.default_exception_handler(context)


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
            log_config=_LOGGING,
            log_level="info" if access_log else "warning",
            use_colors=sys.stderr is not None and sys.stderr.isatty(),
            access_log=access_log,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(drain_s) + _GOODBYE_SECONDS,
            backlog=_BACKLOG,
        )
        self._server = _Uvicorn(config, service.driver, drain_s)
        logging.getLogger("uvicorn.error").addFilter(_is_news)

    def run(self, started: Callable[[], Any] = lambda: None) -> None:
        """Serve until SIGTERM, SIGHUP or SIGINT, then let what is under way come to its end; a second Ctrl-C cuts it.

        Raises:
            KeyboardInterrupt: it was SIGINT.
        """
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, HANGUP)}
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises it again when all is done
        if before[HANGUP] is not signal.SIG_IGN:  # as nohup has it
            signal.signal(HANGUP, lambda *_: self.stop())
        try:
            asyncio.run(self.serve(started))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def serve(self, started: Callable[[], Any] = lambda: None) -> None:
        """The same within a loop; for a thread, without signals."""
        asyncio.get_running_loop().set_exception_handler(_OutOfFiles())
        serving = asyncio.ensure_future(self._server.serve(self._sockets))
        while not (self._server.started or serving.done()):
            await asyncio.sleep(0.01)
        started()
        try:
            await serving
        finally:
            self._service.driver.close(cut=True)  # whose clients have waited long enough

    def stop(self) -> None:
        """As SIGTERM; from any thread."""
        self._server.should_exit = True
