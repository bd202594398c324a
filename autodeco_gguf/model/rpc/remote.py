"""The workers that a model is on: found and checked before it is loaded, asked afterwards if they are still there."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from llama_cpp import llama_cpp as lib
from llama_cpp._internals import LlamaContext, LlamaModel

from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.model.devices import Device
from autodeco_gguf.model.rpc import protocol
from autodeco_gguf.model.rpc.address import SILENCE_S, Address, worker_addresses
from autodeco_gguf.model.rpc.native import ggml_function, rpc_function
from autodeco_gguf.model.rpc.protocol import Memory
from autodeco_gguf.model.rpc.relay import CONNECT_S, Relay, connect, off_relays, reason_of, stay
from autodeco_gguf.model.turns import SPAWN

_lock = threading.Lock()
_relays: dict[Address, Relay] = {}


class Remote:
    """The workers of one model; none for most, and then there is nothing to do.

    A worker that is lost stays so for this object and what was loaded with it: connect again and load again.
    """

    def __init__(self, relays: Sequence[Relay] = ()) -> None:
        """Of these relays; use :func:`connect_workers`."""
        self._relays, self._process = relays, os.getpid()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._relays)

    def devices(self) -> list[Device]:
        """All devices of the workers, as ggml knows them, the first worker's first.

        They are not in ggml's registry: a model that names no devices is never put on them.
        """
        return [device for relay in self._relays for device in _devices(relay)]

    @property
    def addresses(self) -> tuple[str, ...]:
        """The workers'."""
        return tuple(str(relay.worker) for relay in self._relays)

    @property
    def lost(self) -> str | None:
        """Which worker was lost, and how; None while all are there."""
        for relay in self._relays:
            if relay.lost is not None:
                return f"worker {relay.worker}: lost: {relay.lost}"
        return None

    @property
    def _forked(self) -> bool:
        """Whether this is the child of a fork: nothing answers there, as relays and ggml have no threads."""
        return bool(self) and os.getpid() != self._process

    def freeing(self, free: Callable[[], None]) -> Callable[[], None]:
        """The same, but that in the child of a fork all stays: it would wait for ever."""
        return lambda: stay(free) if self._forked else free()

    def check(self) -> None:
        """Call it before llama.cpp computes, and after its results have been read, before they are used.

        Raises:
            ModelFailed: a worker has been lost, and what was read may be nothing of its; says which one and how. Or
                this is the child of a fork, which has no threads that would pass anything on.
        """
        if not self._relays:
            return
        if self._forked:
            text = f"workers {', '.join(self.addresses)}: the child of a fork cannot use them; {SPAWN}"
            raise ModelFailed(text, key="rpc")
        if self.lost is not None:
            raise ModelFailed(self.lost, key="rpc")

    def settle(self, ctx: Any) -> None:
        """Wait until a llama_context has computed, so that :meth:`check` is about all of it."""
        if self:
            lib.llama_synchronize(ctx)
            self.check()

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Load a model; whatever goes wrong after a worker is lost does so because of it."""
        try:
            yield
        except Exception as e:
            if self.lost is not None:
                raise ModelFailed(self.lost, key="rpc") from e
            raise
        self.check()

    def watching(self, report: Callable[[float], object] | None) -> Callable[[float], object] | None:
        """The same report of how far a load is, that ends the load where a worker is lost."""
        if not self:
            return report

        def reporting(share: float) -> None:
            self.check()
            if report is not None:
                report(share)

        return reporting


NOBODY: Final = Remote()
"""No workers."""


def connect_workers(workers: str | Sequence[str], silence_s: float) -> Remote:
    """Find workers and see whether each can be used.

    Args:
        workers: their addresses, as :func:`worker_addresses` takes them; none is fine.
        silence_s: seconds without an answer, or without taking anything, after which one is lost; a large batch on a
            slow machine takes its time.

    Raises:
        InvalidInput: an address that is none.
        ModelFailed: one that cannot be reached, does not answer, or is of another version: its address, and what it is.
        AutoDecoError: llama.cpp was built without RPC.
    """
    if not workers:
        return NOBODY
    addresses = worker_addresses(workers)
    rpc_function(b"ggml_backend_rpc_add_server", ctypes.c_void_p)
    _finalize_off_relays()
    off_relays(lambda: None)
    return Remote([_relay(address, silence_s) for address in addresses])


def as_remote(workers: str | Sequence[str] | Remote) -> Remote:
    """The workers as they are, or those of addresses, as :func:`connect_workers`."""
    return workers if isinstance(workers, Remote) else connect_workers(workers, SILENCE_S)


@cache
def _finalize_off_relays() -> None:
    """Have llama_cpp's objects put off closing what they have where they are finalized in a relay's thread."""
    for kind in (LlamaModel, LlamaContext):
        kind.__del__ = lambda self: off_relays(self.close)


def _relay(address: Address, silence_s: float) -> Relay:
    """The relay to a worker, another one where what ggml remembers of its devices may not hold any more."""
    with _lock:
        relay = _relays.get(address)
        if relay is not None and relay.lost is None and relay.in_use:
            return relay
        devices = _probe(address)
        if relay is None or relay.lost is not None or _kinds(relay.devices) != _kinds(devices):
            relay = _relays[address] = Relay(address, devices, silence_s)
        relay.limit_s = silence_s
        return relay


def _kinds(devices: Sequence[Memory]) -> list[Memory]:
    return [memory._replace(free=0) for memory in devices]


def _probe(address: Address) -> tuple[Memory, ...]:
    """The devices of a worker that can be used.

    Raises:
        ModelFailed: there is none, with the reason.
    """
    try:
        with connect(address) as connection:
            version = _version(connection, address)
            if not protocol.is_usable(version):
                found, expected = ".".join(map(str, version)), ".".join(map(str, protocol.VERSION[:2]))
                raise protocol.Unfit(
                    f"version {found} of llama.cpp's RPC protocol, expected {expected}: have the same llama.cpp there"
                )
            return protocol.devices(connection)
    except ConnectionRefusedError as e:
        text = f"connection refused; start it there: autodeco-gguf worker --listen {address}"
        raise ModelFailed(f"worker {address}: {text}", key="rpc") from e
    except TimeoutError as e:
        text = f"no answer within {CONNECT_S:g} s: it hangs, or serves another program, which it does one at a time"
        raise ModelFailed(f"worker {address}: {text}", key="rpc") from e
    except (OSError, protocol.Unfit) as e:
        raise ModelFailed(f"worker {address}: {reason_of(e, CONNECT_S)}", key="rpc") from e


def _version(connection: socket.socket, address: Address) -> tuple[int, int, int]:
    try:
        return protocol.hello(connection)
    except ConnectionError as e:
        with connect(address) as other:
            try:
                return protocol.old_hello(other)
            except OSError:
                raise protocol.Unfit("it closed the connection: no RPC worker of llama.cpp, or a very old one") from e


def _devices(relay: Relay) -> list[Device]:
    add = rpc_function(b"ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)
    registry = add(relay.endpoint.encode())
    device = ggml_function("ggml_backend_reg_dev_get", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    found = []
    for i, memory in enumerate(relay.devices):
        name = f"{relay.worker}" if len(relay.devices) == 1 else f"{relay.worker}/{i}"
        found.append(Device(name, "RPC", "gpu", memory.free, memory.total, device(registry, i)))
    return found
