"""llama.cpp's RPC protocol as it goes over the wire (ggml/src/ggml-rpc/ggml-rpc.cpp), as far as a relay has to know it.

A command is a byte, the size of its payload in 8 bytes and the payload; some are answered, by a size and an answer. All
numbers are little-endian. The first command of a connection is HELLO, which says the version.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

VERSION: Final = (7, 0, 0)
"""Of the llama.cpp that is pinned (RPC_PROTO_*_VERSION); the first has to be the same, the second at most this."""

ALLOC_BUFFER, GET_ALIGNMENT, GET_MAX_SIZE, BUFFER_GET_BASE, FREE_BUFFER = 0, 1, 2, 3, 4
SET_TENSOR_HASH, GET_TENSOR, COPY_TENSOR, GRAPH_COMPUTE = 7, 8, 9, 10
GET_DEVICE_MEMORY, GET_ALLOC_SIZE, HELLO, DEVICE_COUNT, GRAPH_RECOMPUTE = 11, 13, 14, 15, 16

HEADER: Final = struct.Struct("<BQ")
"""Command and size of its payload."""

SIZE: Final = struct.Struct("<Q")

_CAPABILITIES: Final = bytes(24)
"""Of a connection: none, as RDMA would go past a relay."""

_ANSWERS: Final = {
    ALLOC_BUFFER: 16,
    GET_ALIGNMENT: 8,
    GET_MAX_SIZE: 8,
    BUFFER_GET_BASE: 8,
    SET_TENSOR_HASH: 1,
    COPY_TENSOR: 1,
    GET_DEVICE_MEMORY: 16,
    GET_ALLOC_SIZE: 8,
    HELLO: 4 + len(_CAPABILITIES),
    DEVICE_COUNT: 4,
}
"""Bytes of the answer to a command, besides GET_TENSOR's, whose request says them; the others have none."""

NEEDED: Final = 12
"""Bytes at the end of a payload by which its answer is known."""

DEVICE_BYTES: Final = 4
"""At the start of a graph: the number of its device."""

_SOMEWHERE: Final = 1 << 20
"""An address for a buffer that is nowhere: ggml wants one that is not NULL, and aligned."""


class Memory(NamedTuple):
    """What a worker says of the memory of a device, in bytes."""

    alignment: int
    max_size: int
    free: int
    total: int


def answer_size(command: int, payload: bytes) -> int | None:
    """Bytes of the answer to a command, of whose payload the last :data:`NEEDED` will do; None: it is not answered."""
    if command == GET_TENSOR:
        return int(SIZE.unpack(payload[-8:].rjust(8, b"\0"))[0])
    return _ANSWERS.get(command)


def hello_answer(version: tuple[int, int, int]) -> bytes:
    """What a worker of a version says, with no capabilities."""
    return bytes([*version, 0]) + _CAPABILITIES


def empty_answer(command: int, payload: bytes, devices: tuple[Memory, ...]) -> bytes:
    """A well-formed answer for a worker that is lost, to any command but GET_TENSOR, with which ggml can go on.

    ``payload`` is its end, as in :func:`answer_size`.

    What is allocated is nowhere, what is copied is copied, and devices are those there were.
    """
    number = int.from_bytes(payload[:4], "little")
    device = devices[number] if number < len(devices) else devices[0]
    answers = {
        ALLOC_BUFFER: SIZE.pack(_SOMEWHERE) + payload[-8:],  # as large as it was to be
        GET_ALIGNMENT: SIZE.pack(device.alignment),
        GET_MAX_SIZE: SIZE.pack(device.max_size),
        BUFFER_GET_BASE: SIZE.pack(_SOMEWHERE),
        SET_TENSOR_HASH: b"\1",
        COPY_TENSOR: b"\1",
        GET_DEVICE_MEMORY: SIZE.pack(device.free) + SIZE.pack(device.total),
        GET_ALLOC_SIZE: SIZE.pack(0),  # ggml takes at least the tensor's own size
        HELLO: hello_answer(VERSION),
        DEVICE_COUNT: len(devices).to_bytes(4, "little"),
    }
    return answers[command]


class Unfit(Exception):
    """What answers is no worker that llama.cpp here can use; says why."""


def hello(connection: socket.socket) -> tuple[int, int, int]:
    """Begin a connection; the worker's version.

    Raises:
        Unfit: no answer that a worker would give.
        OSError: the connection fails.
    """
    return _hello(connection, _CAPABILITIES)


def old_hello(connection: socket.socket) -> tuple[int, int, int]:
    """As :func:`hello`, to a worker from before capabilities, which closes the connection at a newer one's."""
    return _hello(connection, b"")


def _hello(connection: socket.socket, capabilities: bytes) -> tuple[int, int, int]:
    connection.sendall(HEADER.pack(HELLO, len(capabilities)) + capabilities)
    size = SIZE.unpack(receive(connection, 8))[0]
    if not 3 <= size <= 256:
        raise Unfit("what answers is no RPC worker of llama.cpp")
    major, minor, patch = receive(connection, size)[:3]
    return major, minor, patch


def is_usable(version: tuple[int, int, int]) -> bool:
    """Whether llama.cpp here takes a worker of this version."""
    return version[0] == VERSION[0] and version[1] <= VERSION[1]


def devices(connection: socket.socket) -> tuple[Memory, ...]:
    """The devices of a worker that has said hello.

    Raises:
        Unfit: no answer that a worker would give.
        OSError: the connection fails.
    """
    n = int.from_bytes(_asked(connection, DEVICE_COUNT, b""), "little")
    if not 1 <= n <= 64:
        raise Unfit(f"the worker says that it has {n} devices")
    return tuple(_memory(connection, number.to_bytes(4, "little")) for number in range(n))


def _memory(connection: socket.socket, device: bytes) -> Memory:
    alignment, max_size = (SIZE.unpack(_asked(connection, c, device))[0] for c in (GET_ALIGNMENT, GET_MAX_SIZE))
    free, total = struct.unpack("<QQ", _asked(connection, GET_DEVICE_MEMORY, device))
    return Memory(alignment, max_size, free, total)


def _asked(connection: socket.socket, command: int, payload: bytes) -> bytes:
    connection.sendall(HEADER.pack(command, len(payload)) + payload)
    size = SIZE.unpack(receive(connection, 8))[0]
    if size != answer_size(command, payload):
        raise Unfit(f"the worker answers command {command} with {size} bytes")
    return receive(connection, size)


def receive(connection: socket.socket, n: int) -> bytes:
    """Exactly so many bytes; ConnectionError where the other side closes before."""
    data = bytearray()
    while len(data) < n:
        part = connection.recv(n - len(data))
        if not part:
            raise ConnectionError("the connection was closed")
        data += part
    return bytes(data)
