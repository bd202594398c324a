"""Workers for tests: real ones on loopback, and others that are none."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import pytest

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.model.rpc import protocol
from autodeco_gguf.model.rpc.address import Address
from autodeco_gguf.model.rpc.native import rpc_function
from autodeco_gguf.model.rpc.worker import Worker, listening_address, worker_devices

SET_TENSOR, GRAPH_COMPUTE, GRAPH_RECOMPUTE = 6, 10, 16
"""Commands that tests wait for."""

LOCAL = Address("127.0.0.1", 0)


def is_built() -> bool:
    with suppress(AutoDecoError):
        rpc_function(b"ggml_backend_rpc_add_server", None)
        return True
    return False


needs_rpc = pytest.mark.skipif(not is_built(), reason="llama.cpp was built without GGML_RPC; make test builds it with")


@contextmanager
def running(n: int = 1) -> Iterator[list[Worker]]:
    """Workers of the CPU, which nobody starts again."""
    with ExitStack() as stack:
        workers = []
        for _ in range(n):
            workers.append(Worker(listening_address(LOCAL), worker_devices(("none",)), 1))
            stack.callback(workers[-1].close)
        yield workers


def addresses(workers: Sequence[Worker]) -> tuple[str, ...]:
    return tuple(str(worker.address) for worker in workers)


def kill(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGKILL)


def stop(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGSTOP)


def restarted(worker: Worker) -> Worker:
    """Another one in the place of one that has ended."""
    worker.close()  # whose port is free only then
    return Worker(worker.address, worker_devices(("none",)), 1)


def at_command(patch: pytest.MonkeyPatch, commands: Sequence[int], n: int, action: Callable[[], object]) -> None:
    """Do something when a relay has passed the nth of some commands on, before its answer."""
    answer_size, left = protocol.answer_size, n

    def counting(command: int, payload: bytes) -> int | None:
        nonlocal left
        if command in commands:
            left -= 1
            if left == 0:
                action()
        return answer_size(command, payload)

    patch.setattr(protocol, "answer_size", counting)


@contextmanager
def listening(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """An address where each connection is given to ``serve``, in turn, and closed then."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@contextmanager
def nobody() -> Iterator[str]:
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen: nobody else gets it
        yield f"127.0.0.1:{taken.getsockname()[1]}"
