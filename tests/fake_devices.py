"""GPUs that are made up: ggml devices whose memory and arithmetic are the CPU's, and that may lack operations.

The structs are those of ggml-backend-impl.h of the llama.cpp that is pinned.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from autodeco_gguf._native import core
from autodeco_gguf.model.rpc.native import ggml_function

P = ctypes.c_void_p
_CALLS = [  # of ggml_backend_device_i
    *("get_name", "get_description", "get_memory", "get_type", "get_props", "init_backend", "get_buffer_type"),
    *("get_host_buffer_type", "buffer_from_host_ptr", "supports_op", "supports_buft", "offload_op"),
    *("event_new", "event_free", "event_synchronize"),
]
_BACKEND_DEVICE = 8 + 16 * 8
"""Bytes before ``device`` in ggml_backend: a guid, and 16 functions."""


class _Device(ctypes.Structure):
    _fields_ = [(name, P) for name in (*_CALLS, "reg", "context")]


_OF_BUFFERS = ["get_name", "alloc_buffer", "get_alignment", "get_max_size", "get_alloc_size", "is_host"]


class _BufferType(ctypes.Structure):
    _fields_ = [(name, P) for name in (*_OF_BUFFERS, "device", "context")]


class _Registry(ctypes.Structure):
    _fields_ = [("version", ctypes.c_int), *((name, P) for name in ("get_name", "count", "device", "proc", "context"))]


class _Properties(ctypes.Structure):
    _fields_ = [
        *(("name", P), ("description", P), ("free", ctypes.c_size_t), ("total", ctypes.c_size_t)),
        *(("type", ctypes.c_int), ("device_id", P), ("caps", ctypes.c_bool * 5)),
    ]


class _Tensor(ctypes.Structure):  # the beginning of ggml_tensor
    _fields_ = [
        *(("type", ctypes.c_int), ("buffer", P), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4)),
        *(("op", ctypes.c_int), ("parameters", ctypes.c_int32 * 16), ("flags", ctypes.c_int32), ("src", P * 10)),
    ]


class Operation(NamedTuple):
    """What a device is asked for: "MUL_MAT", ("f32", "f32"), "f32", and whether all its sources are contiguous."""

    name: str
    sources: tuple[str, ...]
    result: str
    contiguous: bool

    @classmethod
    def of(cls, address: int) -> Operation:
        """Of a ggml_tensor."""
        tensor = _Tensor.from_address(address)
        sources = [(source, _Tensor.from_address(source)) for source in tensor.src if source]
        type_name = ggml_function("ggml_type_name", ctypes.c_char_p, ctypes.c_int)
        contiguous = ggml_function("ggml_is_contiguous", ctypes.c_bool, P)
        return cls(
            ggml_function("ggml_op_desc", ctypes.c_char_p, P)(address).decode(),
            tuple(type_name(source.type).decode() for _, source in sources),
            type_name(tensor.type).decode(),
            all(contiguous(source) for source, _ in sources),
        )


class FakeDevice:
    """One of them; ``backends`` and ``buffers`` count what was made for it, ``asked`` is which operations."""

    def __init__(self, name: str, memory: int, lacks: Collection[str]) -> None:
        self.name, self.memory, self.lacks = name.encode(), memory, frozenset(lacks)
        self.backends = self.buffers = 0
        self.asked: set[Operation] = set()
        cpu = next(device[5] for device in core.devices() if device[2] == "cpu")
        self._cpu, self._text = cpu, ctypes.create_string_buffer(self.name)
        self._kept: list[Any] = []
        self.struct = _Device.from_buffer_copy(_Device.from_address(cpu))
        self.address = ctypes.addressof(self.struct)
        buffers = ggml_function("ggml_backend_cpu_buffer_type", P)()
        self._buffers = _BufferType.from_buffer_copy(_BufferType.from_address(buffers))
        self._buffers.device = self.address
        text = ctypes.addressof(self._text)
        self._buffers.get_name = self._call(lambda _: text, P, P)
        allocate = ctypes.CFUNCTYPE(P, P, ctypes.c_size_t)(self._buffers.alloc_buffer)
        self._buffers.alloc_buffer = self._call(lambda *a: self._allocated(allocate(*a)), P, P, ctypes.c_size_t)
        self._cpu_supports = ctypes.CFUNCTYPE(ctypes.c_bool, P, P)(self.struct.supports_op)
        size = ctypes.POINTER(ctypes.c_size_t)
        for name, value in {
            "get_name": self._call(lambda _: text, P, P),
            "get_description": self._call(lambda _: text, P, P),
            "get_memory": self._call(self._memory, None, P, size, size),
            "get_type": self._call(lambda _: 1, ctypes.c_int, P),
            "get_props": self._call(self._properties, None, P, ctypes.POINTER(_Properties)),
            "init_backend": self._call(self._backend, P, P, P),
            "get_buffer_type": self._call(lambda _: ctypes.addressof(self._buffers), P, P),
            "get_host_buffer_type": None,
            "buffer_from_host_ptr": None,
            "supports_op": self._call(self._supports, ctypes.c_bool, P, P),
            "supports_buft": self._call(lambda _, t: t == ctypes.addressof(self._buffers), ctypes.c_bool, P, P),
            "offload_op": None,
        }.items():
            setattr(self.struct, name, value)

    def _call(self, function: Any, result: Any, *arguments: Any) -> int | None:
        pointer = ctypes.CFUNCTYPE(result, *arguments)(function)
        self._kept.append(pointer)
        return ctypes.cast(pointer, P).value

    def _allocated(self, buffer: int) -> int:
        self.buffers += 1
        return buffer

    def _memory(self, _: int, free: Any, total: Any) -> None:
        free[0], total[0] = self.memory // 2, self.memory

    def _properties(self, _: int, properties: Any) -> None:
        text = ctypes.addressof(self._text)
        properties[0] = _Properties(text, text, self.memory // 2, self.memory, 1, None, (ctypes.c_bool * 5)())

    def _backend(self, _: int, __: int) -> int:
        backend: int = ggml_function("ggml_backend_cpu_init", P)()
        device = P.from_address(backend + _BACKEND_DEVICE)
        assert device.value == self._cpu
        device.value = self.address
        self.backends += 1
        return backend

    def _supports(self, _: int, op: int) -> bool:
        operation = Operation.of(op)
        self.asked.add(operation)
        return operation.name not in self.lacks and bool(self._cpu_supports(self._cpu, op))


@contextmanager
def fake_devices(*names: str, memory: int = 8 << 30, lacks: Collection[str] = ()) -> Iterator[list[FakeDevice]]:
    """Have ggml know these devices for a time, which lack the operations of these names, as "GELU"."""
    devices = [FakeDevice(name, memory, lacks) for name in names]
    kept = [
        ctypes.CFUNCTYPE(P, P)(lambda _: ctypes.addressof(text)),
        ctypes.CFUNCTYPE(ctypes.c_size_t, P)(lambda _: len(devices)),
        ctypes.CFUNCTYPE(P, P, ctypes.c_size_t)(lambda _, i: devices[i].address),
        ctypes.CFUNCTYPE(P, P, P)(lambda _, name: None),
    ]
    text = ctypes.create_string_buffer(b"FAKE")
    registry = _Registry(2, *(ctypes.cast(call, P).value for call in kept), None)
    for device in devices:
        device.struct.reg = ctypes.addressof(registry)
    ggml_function("ggml_backend_register", None, P)(ctypes.addressof(registry))
    try:
        yield devices
    finally:
        ggml_function("ggml_backend_unload", None, P)(ctypes.addressof(registry))
