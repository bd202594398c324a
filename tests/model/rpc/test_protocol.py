"""What is said over the wire, against a real worker's answers."""

from __future__ import annotations

import socket
import struct

import pytest
from rpc_helpers import listening, needs_rpc, running

from autodeco_gguf.model.rpc import protocol
from autodeco_gguf.model.rpc.protocol import Memory, Unfit, answer_size, empty_answer

DEVICES = (Memory(128, 1 << 40, 5, 9), Memory(32, 1 << 30, 6, 8))

PAYLOADS = {
    protocol.HELLO: bytes(24),
    protocol.DEVICE_COUNT: b"",
    protocol.GET_ALIGNMENT: bytes(4),
    protocol.GET_MAX_SIZE: bytes(4),
    protocol.GET_DEVICE_MEMORY: bytes(4),
    protocol.ALLOC_BUFFER: struct.pack("<IQ", 0, 4096),
}
"""Commands that a new connection may send, in this order."""


@needs_rpc
def test_a_worker_answers_with_so_many_bytes() -> None:
    with running() as (worker,), socket.create_connection(worker.address, timeout=30) as connection:
        for command, payload in PAYLOADS.items():
            connection.sendall(protocol.HEADER.pack(command, len(payload)) + payload)
            (size,) = protocol.SIZE.unpack(protocol.receive(connection, 8))
            answer = protocol.receive(connection, size)
            assert size == answer_size(command, payload) == len(empty_answer(command, payload, DEVICES)), command
            if command == protocol.HELLO:
                assert tuple(answer[:3]) == protocol.VERSION
        allocated, size = struct.unpack("<QQ", answer)
        assert (size, bool(allocated)) == (4096, True)
        base = protocol._asked(connection, protocol.BUFFER_GET_BASE, struct.pack("<Q", allocated))
        assert len(base) == len(empty_answer(protocol.BUFFER_GET_BASE, b"", DEVICES)) == 8


@needs_rpc
def test_hello_and_devices_of_a_worker() -> None:
    with running() as (worker,), socket.create_connection(worker.address, timeout=30) as connection:
        assert protocol.hello(connection) == protocol.VERSION
        (memory,) = protocol.devices(connection)
        assert memory.alignment in (32, 64, 128)
        assert 0 < memory.free <= memory.total <= memory.max_size


def test_empty_answers_can_be_worked_with() -> None:
    second = (1).to_bytes(4, "little")
    assert empty_answer(protocol.DEVICE_COUNT, b"", DEVICES) == (2).to_bytes(4, "little")
    assert empty_answer(protocol.GET_ALIGNMENT, second, DEVICES) == struct.pack("<Q", 32)
    assert empty_answer(protocol.GET_MAX_SIZE, second, DEVICES) == struct.pack("<Q", 1 << 30)
    assert empty_answer(protocol.GET_DEVICE_MEMORY, second, DEVICES) == struct.pack("<QQ", 6, 8)
    where, size = struct.unpack("<QQ", empty_answer(protocol.ALLOC_BUFFER, struct.pack("<IQ", 1, 77), DEVICES))
    assert (size, where > 0, where % 4096) == (77, True, 0)  # ggml ends the process for a buffer at NULL
    assert empty_answer(protocol.SET_TENSOR_HASH, b"", DEVICES) == b"\1"  # it has the data: none is sent


def test_a_tensor_is_answered_with_the_bytes_asked_for() -> None:
    payload = bytes(296) + struct.pack("<QQ", 4, 1234567)
    assert answer_size(protocol.GET_TENSOR, payload) == answer_size(protocol.GET_TENSOR, payload[-12:]) == 1234567
    assert answer_size(6, b"") is None  # SET_TENSOR


@pytest.mark.parametrize(
    ("version", "usable"),
    [
        ((7, 0, 0), True),
        ((7, 0, 9), True),
        ((7, 1, 0), False),
        ((6, 0, 0), False),
        ((8, 0, 0), False),
        ((4, 0, 1), False),
    ],
)
def test_which_versions_will_do(version: tuple[int, int, int], usable: bool) -> None:
    assert protocol.is_usable(version) == usable


@pytest.mark.parametrize("answer", [struct.pack("<Q", 2) + b"\7\0", struct.pack("<Q", 1 << 60), b"HTTP/1.1 400 Bad"])
def test_what_is_no_worker(answer: bytes) -> None:
    with listening(lambda c: (c.recv(100), c.sendall(answer))) as address:
        host, port = address.split(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as connection,
            pytest.raises(Unfit, match="no RPC"),
        ):
            protocol.hello(connection)
