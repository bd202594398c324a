"""A worker goes on, whatever its clients do."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from fake_devices import fake_devices
from rpc_helpers import LOCAL, SET_TENSOR, addresses, kill, needs_rpc, nobody, running
from server_helpers import wait_until

import autodeco_gguf as ad
from autodeco_gguf.errors import AutoDecoError, InvalidInput, ModelFailed
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.rpc import protocol
from autodeco_gguf.model.rpc.address import Address, parse_address
from autodeco_gguf.model.rpc.remote import connect_workers
from autodeco_gguf.model.rpc.worker import Worker, listening_address, worker_devices

pytestmark = needs_rpc


@contextmanager
def kept_running() -> Iterator[tuple[Worker, list[str]]]:
    """A worker that is started again, and what is said about it."""
    said: list[str] = []
    with running() as (one,):
        thread = threading.Thread(target=one.run, args=(said.append,), daemon=True)
        thread.start()
        yield one, said
        one.close()
        thread.join(10)
        assert not thread.is_alive()


def connected(one: Worker) -> socket.socket:
    connection = socket.create_connection(one.address, timeout=30)
    assert protocol.hello(connection) == protocol.VERSION
    return connection


def answers(one: Worker, merged: Path) -> bool:
    """Whether a model can be run on it."""
    machine = Machine(n_threads=1, device=("none",), rpc=addresses([one]), rpc_timeout=20.0)
    with ad.Engine(merged, n_parallel=1, n_ctx=64, machine=machine) as engine:
        return len(engine.generate([ad.Request([5, 6, 7], max_tokens=3, seed=1)])[0].trace) > 0


def test_rubbish_and_a_client_that_vanishes(merged: Path) -> None:
    with kept_running() as (one, said):
        rubbish = np.random.default_rng(3)
        for first in (b"\x05", b"\x0e"):  # as of something else, and like a HELLO
            with socket.create_connection(one.address, timeout=30) as connection:
                connection.sendall(first + rubbish.bytes(4095))
        with connected(one) as connection:  # in mid-transfer
            connection.sendall(protocol.HEADER.pack(SET_TENSOR, 1 << 20) + bytes(1000))
        with connected(one) as connection:
            connection.sendall(protocol.HEADER.pack(77, 4))
        assert answers(one, merged)
        assert said == []


def test_rubbish_that_ends_it(merged: Path) -> None:
    with kept_running() as (one, said):
        for n in (1, 2):
            with connected(one) as connection, suppress(OSError):
                connection.sendall(protocol.HEADER.pack(SET_TENSOR, (1 << 64) - 1))  # more than any memory
                assert connection.recv(1) == b""
            wait_until(lambda n=n: len(said) == n, 30)
            assert answers(one, merged)
        assert said[0] == said[1]
        words = f"worker {one.address}: its process ended with SIGABRT ("
        assert said[0].startswith(words)
        assert said[0].endswith("; started again")


def test_two_clients_at_once(merged: Path) -> None:
    with running() as (one,):
        machine = Machine(n_threads=1, device=("none",), rpc=addresses([one]), rpc_timeout=20.0)
        with ad.Engine(merged, n_parallel=1, n_ctx=64, machine=machine) as engine:
            waiting = socket.create_connection(one.address, timeout=30)  # served once the first is done
            assert len(engine.generate([ad.Request([5, 6], max_tokens=3, seed=1)])[0].trace) > 0
        del engine  # with the last of what it has there
        assert protocol.hello(waiting) == protocol.VERSION
        waiting.close()


def test_one_that_always_ends() -> None:
    said: list[str] = []
    with running() as (one,):
        one._command = [sys.executable, "-c", "import sys; sys.exit('no memory')"]
        kill(one)
        words = rf"^worker {one.address}: its process ended with exit status 1 \(no memory\) before it listened$"
        with pytest.raises(ModelFailed, match=words):
            one.run(said.append)
        assert said == []


def test_one_that_cannot_listen() -> None:
    with nobody() as taken:
        address = parse_address(taken, key="listen")
        words = (
            rf"^worker {taken}: its process ended with exit status 1 \(cannot listen on {taken}\) before it listened$"
        )
        with pytest.raises(ModelFailed, match=words):
            Worker(address, worker_devices(("none",)), 1)


def test_it_does_not_outlive_its_parent() -> None:
    with running() as (one,):
        assert one._child.stdin is not None
        one._child.stdin.close()  # as the system does for a parent that is killed
        assert one._child.wait(30) == 0


def test_where_it_listens() -> None:
    assert listening_address(LOCAL).port > 0
    assert listening_address(Address("localhost", 0)).host == "127.0.0.1"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = rf"^cannot listen on 127\.0\.0\.1:{port}: address already in use$"
        with pytest.raises(AutoDecoError, match=words) as e:
            listening_address(Address("127.0.0.1", port))
        assert e.value.key == "listen"
    with pytest.raises(AutoDecoError, match=r"^cannot listen on nobody\.invalid:1: "):
        listening_address(Address("nobody.invalid", 1))


def test_what_it_lends() -> None:
    assert [device.kind for device in worker_devices(("none",))] == ["cpu"]
    with fake_devices("FAKE0", "FAKE1"):
        assert [device.name for device in worker_devices(None)] == ["FAKE0", "FAKE1"]
        assert [device.name for device in worker_devices(("fake1",))] == ["FAKE1"]
        assert [device.kind for device in worker_devices(("CPU",))] == ["cpu"]
    assert [device.kind for device in worker_devices(None)] == ["cpu"]
    with pytest.raises(InvalidInput, match=r"^no device 'FAKE0'"):
        worker_devices(("FAKE0",))


def test_ctrl_c_in_a_terminal_leaves_its_end_to_its_parent() -> None:
    with running() as (one,):
        assert os.getpgid(one.pid) != os.getpgid(0)
        assert connect_workers(addresses([one]), 5.0).lost is None
