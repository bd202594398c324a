"""What stands between llama.cpp and a worker, driven as llama.cpp does it."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from rpc_helpers import SET_TENSOR, kill, listening, needs_rpc, nobody, running, stop

from autodeco_gguf.model.rpc import protocol, relay
from autodeco_gguf.model.rpc.address import Address, parse_address
from autodeco_gguf.model.rpc.protocol import Memory
from autodeco_gguf.model.rpc.relay import Relay, reason_of

DEVICES = (Memory(64, 1 << 40, 5, 9),)


@contextmanager
def client_of(relay: Relay) -> Iterator[socket.socket]:
    host, port = relay.endpoint.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        assert protocol.hello(connection) == protocol.VERSION
        yield connection


def tensor(buffer: int, base: int, n: int, nb: int = 1) -> bytes:
    """An rpc_tensor: n bytes at the beginning of a buffer, of type I8."""
    head = struct.pack("<QIQ4I4I", 1, 24, buffer, n, 1, 1, 1, nb, n, n, n)
    return head + bytes(4 + 64 + 4 + 80 + 8 + 8) + struct.pack("<Q", base) + bytes(64 + 4)


def stored(client: socket.socket, data: bytes) -> bytes:
    """A request for bytes that were put on a worker."""
    (pointer, _) = struct.unpack(
        "<QQ", protocol._asked(client, protocol.ALLOC_BUFFER, struct.pack("<IQ", 0, len(data)))
    )
    (base,) = struct.unpack("<Q", protocol._asked(client, protocol.BUFFER_GET_BASE, struct.pack("<Q", pointer)))
    about = tensor(pointer, base, len(data))
    assert len(about) == 296
    payload = about + bytes(1 + 8) + data
    client.sendall(protocol.HEADER.pack(SET_TENSOR, len(payload)) + payload)
    return about + struct.pack("<QQ", 0, len(data))


@needs_rpc
def test_it_passes_on_what_is_larger_than_its_buffers() -> None:
    data = np.random.default_rng(0).bytes((5 << 20) + 17)
    with running() as (worker,):
        passing = Relay(worker.address, DEVICES, 30.0)
        with client_of(passing) as client:
            assert passing.in_use
            assert protocol._asked(client, protocol.GET_TENSOR, stored(client, data)) == data
        assert passing.lost is None


@needs_rpc
def test_what_a_lost_worker_does_not_give_is_zero() -> None:
    data = bytes([1]) * (3 << 20)
    with running() as (worker,):
        passing = Relay(worker.address, DEVICES, 30.0)
        with client_of(passing) as client:
            request = stored(client, data)
            assert protocol._asked(client, protocol.GET_TENSOR, request) == data
            kill(worker)
            assert protocol._asked(client, protocol.GET_TENSOR, request) == bytes(len(data))
            assert protocol._asked(client, protocol.DEVICE_COUNT, b"") == (1).to_bytes(4, "little")
            stored(client, data)  # is taken all the same
            assert passing.lost is not None
        with client_of(passing) as other:
            assert protocol.devices(other) == DEVICES


def broken(answer: bytes) -> str | None:
    """How a worker is lost that answers a question with something else."""

    def serve(connection: socket.socket) -> None:
        protocol.receive(connection, 9 + 24)
        connection.sendall(protocol.SIZE.pack(28) + protocol.hello_answer(protocol.VERSION))
        protocol.receive(connection, 9)
        connection.sendall(answer)

    with listening(serve) as address:
        passing = Relay(parse_address(address, key="rpc"), DEVICES, 1.0)
        with client_of(passing) as client:
            assert protocol._asked(client, protocol.DEVICE_COUNT, b"") == (1).to_bytes(4, "little")
        return passing.lost


def test_answers_that_are_none() -> None:
    assert broken(protocol.SIZE.pack(99) + bytes(99)) == "it gave an answer of another size than was asked for"
    assert broken(protocol.SIZE.pack(4) + bytes(2)) == "the connection was closed"
    assert broken(b"") == "the connection was closed"


def test_one_that_hangs() -> None:
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        protocol.receive(connection, 9 + 24)
        connection.sendall(protocol.SIZE.pack(28) + protocol.hello_answer(protocol.VERSION))
        done.wait(30)

    with listening(serve) as address:
        passing = Relay(parse_address(address, key="rpc"), DEVICES, 0.3)
        with client_of(passing) as client:
            assert protocol._asked(client, protocol.DEVICE_COUNT, b"") == (1).to_bytes(4, "little")
        assert passing.lost == "it did not answer within 0.3 s"
        done.set()


def test_one_that_is_lost_by_silence_is_let_go() -> None:
    """It serves one client at a time, and may come back."""
    let_go = threading.Event()

    def serve(connection: socket.socket) -> None:
        protocol.receive(connection, 9 + 24)
        connection.sendall(protocol.SIZE.pack(28) + protocol.hello_answer(protocol.VERSION))
        protocol.receive(connection, 9)
        assert connection.recv(1) == b""
        let_go.set()

    with listening(serve) as address:
        passing = Relay(parse_address(address, key="rpc"), DEVICES, 0.3)
        with client_of(passing) as client:
            protocol._asked(client, protocol.DEVICE_COUNT, b"")
            assert let_go.wait(10)
            assert protocol.devices(client) == DEVICES


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_stranger_on_its_port_loses_no_worker(said: bytes) -> None:
    with nobody() as address:
        passing = Relay(parse_address(address, key="rpc"), DEVICES, 1.0)
        host, port = passing.endpoint.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as stranger:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""
        assert passing.lost is None


def test_one_that_is_gone_or_another_when_llama_cpp_connects() -> None:
    with nobody() as address:
        passing = Relay(parse_address(address, key="rpc"), DEVICES, 1.0)
        with client_of(passing) as client:
            assert protocol.devices(client) == DEVICES
        assert passing.lost == "connection refused"
    with listening(lambda c: c.sendall(protocol.SIZE.pack(28) + bytes([8]) + bytes(27))) as address:
        passing = Relay(parse_address(address, key="rpc"), DEVICES, 1.0)
        with client_of(passing):
            assert passing.lost == "it has another version now: 8.0.0"


def test_garbage_that_is_collected_before_a_threads_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    freed, begin = list[int](), threading.Thread._set_ident  # type: ignore[attr-defined]

    def collecting(thread: threading.Thread) -> None:
        begin(thread)
        if thread.name.startswith("relay to"):
            relay.off_relays(lambda: freed.append(threading.get_ident()))

    monkeypatch.setattr(threading.Thread, "_set_ident", collecting)
    with nobody() as address:
        with client_of(Relay(parse_address(address, key="rpc"), DEVICES, 1.0)) as client:
            assert protocol.devices(client) == DEVICES
        assert freed == []
        relay.off_relays(lambda: None)
    assert freed == [threading.get_ident()] * 2


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux's")
def test_the_system_gives_up_no_worker_that_is_busy() -> None:
    """With this limit it gives up one that takes nothing, too, however long it may be silent."""
    with listening(lambda c: None) as address, relay.connect(parse_address(address, key="rpc")) as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15


def test_reasons() -> None:
    assert reason_of(TimeoutError("timed out"), 2.5) == "it did not answer within 2.5 s"
    assert reason_of(TimeoutError(110, "Connection timed out"), 2.5) == "connection timed out"
    assert reason_of(ConnectionResetError(104, "Connection reset by peer"), 1) == "connection reset by peer"
    assert reason_of(protocol.Unfit("x"), 1) == "x"
    with pytest.raises(OSError, match="refused"), nobody() as address:
        relay.connect(Address(*address.split(":")))  # type: ignore[arg-type]


# ---- signals ----


@needs_rpc
def test_a_wait_that_is_hurried_twice_ends() -> None:
    """Once does nothing, and what is answered in between is another wait."""
    with running() as (worker,):
        passing = Relay(worker.address, DEVICES, 120.0)
        with client_of(passing) as client:
            request = stored(client, b"abc")
            for _ in range(3):
                assert protocol._asked(client, protocol.GET_TENSOR, request) == b"abc"
                passing.hurry()
            stop(worker)
            client.sendall(protocol.HEADER.pack(protocol.GET_TENSOR, len(request)) + request)
            while not passing._waits:
                time.sleep(0.01)
            passing.hurry()
            assert passing.lost is None
            passing.hurry()
            assert protocol.receive(client, 8 + 3) == struct.pack("<Q", 3) + bytes(3)
            assert passing.lost == "interrupted while it did not answer"
        kill(worker)


@needs_rpc
@pytest.mark.parametrize(("signals", "status"), [(["SIGINT", "SIGINT"], 3), (["SIGTERM"], 4)], ids=["twice", "TERM"])
def test_a_signal_while_a_worker_is_silent(signals: list[str], status: int, merged: Path) -> None:
    """llama.cpp's wait for it would go on for two minutes."""
    with running() as (worker,):
        code = f"""if True:
            import os, signal, autodeco_gguf as ad
            signal.signal(signal.SIGTERM, lambda *_: os._exit(4))
            on = dict(rpc=["{worker.address}"], device="none", n_threads=1)
            llama = ad.Llama({str(merged)!r}, n_ctx=64, **on, verbose=False)
            print("loaded", flush=True)
            try:
                while True:
                    llama.create_completion([5, 6], max_tokens=9)
            except (KeyboardInterrupt, ad.ModelFailed):  # the latter where Python loses it in a callback
                os._exit(3)
        """
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            stop(worker)
            time.sleep(0.5)
            for name in signals:
                process.send_signal(getattr(signal, name))
                time.sleep(0.5)
            assert process.wait(60) == status
        kill(worker)
