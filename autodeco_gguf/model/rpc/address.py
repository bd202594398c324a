"""Where a worker listens: ``host:port``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from autodeco_gguf.errors import InvalidInput

SILENCE_S: Final = 120.0
"""Seconds without an answer, or without taking anything, after which a worker is lost, where nobody says otherwise."""


class Address(NamedTuple):
    """A host, by name or number, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, key: str, any_port: bool = False) -> Address:
    """The address that a text says, as "127.0.0.1:50052" or "[::1]:50052".

    Args:
        text: what was given.
        key: where, for the message.
        any_port: port 0 will do, which is any that is free.

    Raises:
        InvalidInput: it is none.

    Examples:
        >>> parse_address("laptop.local:50052", key="rpc")
        Address(host='laptop.local', port=50052)
        >>> str(parse_address("[::1]:50052", key="rpc"))
        '[::1]:50052'
    """
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and (0 if any_port else 1) <= int(port) <= 65535
    if not colon or not is_port or not _is_host(host):
        raise InvalidInput.of(key, repr(text), "host:port, such as 127.0.0.1:50052")
    return Address(host, int(port))


def _is_host(text: str) -> bool:
    try:
        return bool(text.encode("idna"))
    except UnicodeError:  # as for an empty or a long part between two dots
        return False


def worker_addresses(workers: str | Sequence[str]) -> tuple[Address, ...]:
    """Those of "host:port,host:port", or of one text each.

    Raises:
        InvalidInput: one that is no address, or is given twice.
    """
    texts = workers.split(",") if isinstance(workers, str) else workers
    addresses = [parse_address(text, key="rpc") for text in texts]
    for i, address in enumerate(addresses):
        if address in addresses[:i]:
            raise InvalidInput.of("rpc", f"{address} twice", "each worker once")
    return tuple(addresses)
