"""A worker: llama.cpp's RPC server in a child process, that is started again when a client's rubbish ends it.

The server serves one client at a time. It has no authentication: who reaches its port can use, and crash, what it has.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from autodeco_gguf.errors import AutoDecoError, ModelFailed
from autodeco_gguf.model.devices import HOST, Device, find_devices, layer_devices, list_devices
from autodeco_gguf.model.rpc.address import Address
from autodeco_gguf.model.rpc.native import rpc_function
from autodeco_gguf.tasks.workers import python_command

START_S = 60.0
"""For the child to listen."""

_AT_ONCE_S, _TRIES = 5.0, 3
"""A child that ends so soon has not been ended by a client; after so many in a row there is no use in another."""


def worker_devices(names: Sequence[str] | None) -> list[Device]:
    """The devices that a worker lends: those of these names; by default all GPUs, or the CPU where there are none.

    Raises:
        InvalidInput: there is no such device.
    """
    cpu = [device for device in list_devices() if device.kind == "cpu"][:1]
    if names is not None and len(names) == 1 and names[0].casefold() in HOST:
        return cpu
    chosen = find_devices(names)
    return (layer_devices() or cpu) if chosen is None else chosen


def listening_address(wanted: Address) -> Address:
    """The address as the server takes it, by number and with a port that is free.

    Raises:
        AutoDecoError: no such host, or none of IPv4; or another program listens there.
    """
    try:
        host = socket.getaddrinfo(wanted.host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, wanted.port))
            return Address(str(host), int(probe.getsockname()[1]))
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise AutoDecoError(f"cannot listen on {wanted}: {reason}", key="listen", found=str(wanted)) from e


class Worker:
    """The server's process, and another in its place when it ends."""

    def __init__(self, address: Address, devices: Sequence[Device], threads: int, *, verbose: bool = False) -> None:
        """Start it, on a :func:`listening_address`.

        Raises:
            AutoDecoError: llama.cpp was built without RPC.
            ModelFailed: it does not listen.
        """
        rpc_function(b"ggml_backend_rpc_start_server", None)
        self.address, self._verbose, self._last = address, verbose, deque[str](maxlen=1)
        self._closed = False
        names = [device.name for device in devices]
        self._command = python_command(__name__, str(address), str(threads), *names)
        self._start()

    @property
    def pid(self) -> int:
        """Of the process that serves now."""
        return self._child.pid

    def run(self, say: Callable[[str], object]) -> None:
        """Have it run until it is closed, with a line for each time that it is started again.

        Raises:
            ModelFailed: it ends each time as soon as it is started.
        """
        short = 0
        while True:
            began = time.monotonic()
            status = self._reap()
            if self._closed:
                return
            short = short + 1 if time.monotonic() - began < _AT_ONCE_S else 0
            if short >= _TRIES:
                raise ModelFailed(f"worker {self.address}: {self._ended(status)}, {short} times in a row")
            line = f"worker {self.address}: {self._ended(status)}; started again"
            self._start()
            say(line)

    def close(self) -> None:
        """End it, and :meth:`run` with it."""
        self._closed = True
        self._child.kill()
        self._reap()

    def _reap(self) -> int:
        """Its exit status, once it has ended, with all it said read."""
        status = self._child.wait()
        self._reader.join()
        assert self._child.stdin is not None
        self._child.stdin.close()
        return status

    def _start(self) -> None:
        self._last.clear()
        self._child = child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=None if self._verbose else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            start_new_session=True,  # Ctrl-C in a terminal is for us alone
        )
        self._reader = threading.Thread(target=self._read, args=(child.stderr,), daemon=True)
        self._reader.start()
        end = time.monotonic() + START_S
        while not _listens(self.address):
            if child.poll() is not None or time.monotonic() > end:
                child.kill()
                raise ModelFailed(f"worker {self.address}: {self._ended(self._reap())} before it listened")
            time.sleep(0.02)

    def _read(self, log: IO[str]) -> None:
        with log:
            for line in log:
                if line.strip():
                    self._last.append(line.strip())
                if self._verbose:
                    sys.stderr.write(line)

    def _ended(self, status: int) -> str:
        how = f"exit status {status}"
        if status < 0:
            with suppress(ValueError):
                how = signal.Signals(-status).name
        return f"its process ended with {how}" + "".join(f" ({line})" for line in self._last)


def _listens(address: Address) -> bool:
    with suppress(OSError), socket.create_connection(address, timeout=1.0):
        return True
    return False


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Have SIGTERM end what runs here as Ctrl-C does; both only end it."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """What the child does: serve, for as long as its parent lives."""
    address, threads, *names = sys.argv[1:]

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    known = {device.name: device.address for device in list_devices()}
    devices = (ctypes.c_void_p * len(names))(*(known[name] for name in names))
    arguments = ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p
    serve = rpc_function(b"ggml_backend_rpc_start_server", None, *arguments)
    serve(address.encode(), None, int(threads), len(names), devices)
    sys.stderr.write(f"cannot listen on {address}\n")
    sys.stderr.flush()
    os._exit(1)  # at an end in order the interpreter aborts: the thread has a lock of standard input
