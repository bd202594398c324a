"""What stands between llama.cpp and a worker: ggml ends the process where its connection to a worker breaks.

ggml connects to a port of ours on loopback instead, and all that it sends goes on to the worker. When that is lost, the
relay goes on answering with well-formed empty answers, and remembers it: who uses what llama.cpp computed asks first.
"""

from __future__ import annotations

import collections
import ctypes
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from autodeco_gguf.files.system import HANGUP
from autodeco_gguf.model.rpc import protocol
from autodeco_gguf.model.rpc.address import Address
from autodeco_gguf.model.rpc.protocol import Memory

CONNECT_S = 10.0
"""For a worker to take a connection and say which version it is: it serves one client at a time."""

_CHUNK = 1 << 20
"""Bytes that are passed on at a time."""

_RETRY_S = 0.1

_GRACE_S = 2.0
"""For a worker to answer once the process is told to end."""

_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Of a machine that has gone without a word the system learns within half a minute, where it has these options.

TCP_USER_TIMEOUT would count a worker that is busy, and takes nothing meanwhile, as gone.
"""


_here = threading.local()
_starting: list[None] = []  # threads of relays that have not come to their first line
_put_off: collections.deque[Callable[[], object]] = collections.deque()
_processes = set[int]()  # in which there are relays: this one, and those that it was forked from


def _start(name: str, target: Callable[..., None], *args: object) -> None:
    """Start a thread of a relay. Garbage may be collected in it before its first line, so all is put off till then."""

    def run() -> None:
        _here.is_relay = True
        _starting.pop()
        target(*args)

    _starting.append(None)
    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:  # there are too many
        _starting.pop()
        raise


def off_relays(function: Callable[[], object]) -> None:
    """Call it after what was put off; put it off itself in a thread of a relay, or while one starts.

    It is called when another thread comes by here.

    Python collects garbage in whatever thread it happens to be, and what lets go of something on a worker there would
    wait for the very relay that is to answer. In the child of a fork none does: what would be freed stays.
    """
    if _processes - {os.getpid()}:
        stay(function)
        return
    if _starting or getattr(_here, "is_relay", False):
        _put_off.append(function)
        return
    while _put_off:
        with suppress(Exception):  # of a finalizer, whose object may have been closed with another
            _put_off.popleft()()
    function()


def stay(function: Callable[[], object]) -> None:
    """Never let go of a function, nor of what it belongs to, so that none of it is ever finalized."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(function))


class Relay:
    """A port on loopback behind which a worker is, or what remains of it.

    It lives as long as the process: ggml never forgets where it has found a device.

    Attributes:
        worker: the worker's address.
        devices: of the worker, when it was asked.
        endpoint: the port's address, as ggml takes it.
        lost: how the worker was lost; None: it was not.
    """

    def __init__(self, worker: Address, devices: tuple[Memory, ...], limit_s: float) -> None:
        """Listen for llama.cpp; a worker that is silent for ``limit_s`` seconds where it has to answer is lost."""
        self.worker, self.devices, self.limit_s = worker, devices, limit_s
        self.lost: str | None = None
        _processes.add(os.getpid())
        self._users = 0
        self._waits = set[_Wait]()
        self._graphs = dict[bytes, bytes]()
        self._forgotten = set[bytes]()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        _start(f"relay to {worker}", self._accept)
        _watch_signals(self)

    @property
    def in_use(self) -> bool:
        """Whether llama.cpp has something on the worker."""
        return self._users > 0

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # no file to be had: llama.cpp waits until there is one
                time.sleep(_RETRY_S)
                continue
            with self._lock:
                self._users += 1
            _start(f"relay to {self.worker}", self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream, incoming = None, _Incoming(client)
        try:
            if not incoming.begins_with(protocol.HELLO):  # no llama.cpp, which the worker has no time for
                return
            upstream = self._connect()
            with selectors.DefaultSelector() as both:  # which takes files of any number
                both.register(client, selectors.EVENT_READ)
                if upstream is not None:
                    both.register(upstream, selectors.EVENT_READ)
                while True:
                    if upstream is not None and not incoming.waiting:
                        self._watch(both, client, upstream)
                    if upstream is not None and self.lost:  # or it would be busy with us, should it come back
                        both.unregister(upstream)
                        upstream.close()
                        upstream = None
                    self._pass_on(incoming, client, upstream)
        except OSError:  # of the client, which closes with the last of what it has on the worker
            pass
        finally:
            for connection in (client, upstream):
                if connection is not None:
                    connection.close()
            with self._lock:
                self._users -= 1

    def _connect(self) -> socket.socket | None:
        """A connection to the worker that has said hello; None where it is lost."""
        if self.lost is not None:
            return None
        connection = None
        try:
            connection = connect(self.worker)
            version = protocol.hello(connection)
            if not protocol.is_usable(version):
                raise protocol.Unfit(f"it has another version now: {'.'.join(map(str, version))}")
            connection.settimeout(self.limit_s)
            return connection
        except (OSError, protocol.Unfit) as e:
            if connection is not None:
                connection.close()
            self._lose(reason_of(e, CONNECT_S))
            return None

    def _lose(self, how: str) -> None:
        self.lost = self.lost or how

    def _watch(self, both: selectors.BaseSelector, client: socket.socket, upstream: socket.socket) -> None:
        """Wait for llama.cpp's next command; a worker that ends meanwhile is lost at once, not when it is needed."""
        while not self.lost:
            if client in [key.fileobj for key, _ in both.select()]:
                return
            try:
                self._lose("it closed the connection" if not upstream.recv(1) else "it spoke without being asked")
            except OSError as e:
                self._lose(reason_of(e, self.limit_s))

    def _pass_on(self, incoming: _Incoming, client: socket.socket, upstream: socket.socket | None) -> None:
        """One command of llama.cpp's, and its answer."""
        command, size = protocol.HEADER.unpack(incoming.read(protocol.HEADER.size))
        if command == protocol.HELLO:  # said when the worker was connected to
            upstream = None
        payload = b""
        if command in (protocol.GRAPH_COMPUTE, protocol.GRAPH_RECOMPUTE):
            self._compute(upstream, command, incoming.read(size))
        else:
            self._send(upstream, protocol.HEADER.pack(command, size))
            for part in incoming.parts(size):
                self._send(upstream, part)
                payload = (payload + part)[-protocol.NEEDED :]
        if command == protocol.FREE_BUFFER:
            self._forgotten.update(self._graphs)
        left = protocol.answer_size(command, payload)
        if left is None:
            return
        prefix = protocol.SIZE.pack(left)
        if upstream is not None and self._received(upstream, len(prefix)) not in (prefix, None):
            self._lose("it gave an answer of another size than was asked for")
        while prefix or left:
            n = min(left, _CHUNK)
            answer = self._received(upstream, n)
            if answer is None:
                answer = bytes(n) if command == protocol.GET_TENSOR else self._empty_answer(command, payload)
            client.sendall(prefix + answer)
            prefix, left = b"", left - n

    def _compute(self, upstream: socket.socket | None, command: int, payload: bytes) -> None:
        """Send a graph, or that the last one of a device is to be computed again.

        A worker forgets the graphs of all devices with each buffer that is freed, of another model too, and hangs up
        when it is then asked for one, which ggml does not know.
        """
        device = payload[: protocol.DEVICE_BYTES]
        if command == protocol.GRAPH_COMPUTE:
            self._graphs[device] = payload
        elif device in self._forgotten:
            command, payload = protocol.GRAPH_COMPUTE, self._graphs[device]
        self._forgotten.discard(device)
        self._send(upstream, protocol.HEADER.pack(command, len(payload)))
        self._send(upstream, payload)

    def _empty_answer(self, command: int, payload: bytes) -> bytes:
        return protocol.empty_answer(command, payload, self.devices)

    def _send(self, upstream: socket.socket | None, data: bytes) -> None:
        """Send the worker something, unless it is lost."""
        if upstream is not None and self.lost is None:
            try:
                with self._waiting(upstream):
                    upstream.sendall(data)
            except OSError as e:
                self._lose(reason_of(e, self.limit_s))

    def _received(self, upstream: socket.socket | None, n: int) -> bytes | None:
        """So many bytes of the worker's, None where it is lost."""
        if upstream is not None and self.lost is None:
            try:
                with self._waiting(upstream):
                    return protocol.receive(upstream, n)
            except OSError as e:
                self._lose(reason_of(e, self.limit_s))
        return None

    @contextmanager
    def _waiting(self, upstream: socket.socket) -> Iterator[None]:
        wait = _Wait(upstream)
        self._waits.add(wait)
        try:
            yield
        finally:
            self._waits.discard(wait)

    def hurry(self) -> None:
        """What is waited for a second time, since the first of which nothing has come, is not waited for any longer."""
        for wait in list(self._waits):
            if wait.hurried:
                self._lose("interrupted while it did not answer")
                with suppress(OSError):
                    wait.upstream.shutdown(socket.SHUT_RDWR)
            wait.hurried = True


@dataclass(eq=False)
class _Wait:
    """For a worker, on a connection; hurried: by a signal."""

    upstream: socket.socket
    hurried: bool = False


_relays = list[Relay]()


def _watch_signals(relay: Relay) -> None:
    """Have signals hurry a relay, where nothing else is told of them: llama.cpp's wait ends for none.

    A second Ctrl-C gives up a worker that has not answered since the first, SIGTERM one that does not within seconds.
    """
    _relays.append(relay)
    if len(_relays) > 1 or threading.current_thread() is not threading.main_thread():
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if before < 0:
        _start("relays' signals", _hurry, reader)
    else:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _hurry(signals: int) -> None:
    times: dict[int, int] = {signal.SIGINT: 1, signal.SIGTERM: 2, HANGUP: 2}
    while number := os.read(signals, 1):
        for again in range(times.get(number[0], 0)):
            time.sleep(_GRACE_S * again)
            for relay in _relays:
                relay.hurry()


class _Incoming:
    """What llama.cpp sends, read in pieces as large as come."""

    def __init__(self, client: socket.socket) -> None:
        self._client, self._data = client, b""

    @property
    def waiting(self) -> bool:
        """Whether some of it is here already."""
        return bool(self._data)

    def begins_with(self, command: int) -> bool:
        """Whether this is the first byte that comes."""
        self._data = self._data or self._client.recv(_CHUNK)
        return self._data[:1] == bytes([command])

    def parts(self, n: int) -> Iterator[bytes]:
        """The next bytes, so many in all; ConnectionError where the other side closes before."""
        while n:
            self._data = self._data or self._client.recv(_CHUNK)
            if not self._data:
                raise ConnectionError("closed")
            part, self._data = self._data[:n], self._data[n:]
            n -= len(part)
            yield part

    def read(self, n: int) -> bytes:
        """The next bytes, exactly so many."""
        return b"".join(self.parts(n))


def connect(worker: Address) -> socket.socket:
    """A connection to a worker that nothing was said on, with a time limit of :data:`CONNECT_S`; OSError else."""
    connection = socket.create_connection(worker, timeout=CONNECT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def reason_of(error: Exception, limit_s: float) -> str:
    """What happened to a connection to a worker, in a few words; ``limit_s`` was the time limit."""
    if isinstance(error, protocol.Unfit):
        return str(error)
    if isinstance(error, TimeoutError) and error.errno is None:  # else the system gave up, by limits of its own
        return f"it did not answer within {limit_s:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)
