"""Addresses of workers."""

from __future__ import annotations

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.rpc.address import Address, parse_address, worker_addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50052", Address("127.0.0.1", 50052)),
        (" laptop.local:1 ", Address("laptop.local", 1)),
        ("[::1]:65535", Address("::1", 65535)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text, key="rpc") == address
    assert parse_address(str(address), key="rpc") == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "laptop",
        ":50052",
        "laptop:",
        "::1:50052",
        "a:0",
        "a:65536",
        "a:-1",
        "a:٣",
        "a:1 2",
        "a..b:1",
        f"{'a' * 64}:1",
    ],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^rpc '.*', expected host:port, such as 127.0.0.1:50052$") as e:
        parse_address(text, key="rpc")
    assert e.value.key == "rpc"


def test_any_port() -> None:
    assert parse_address("127.0.0.1:0", key="listen", any_port=True).port == 0


def test_several() -> None:
    assert worker_addresses("a:1, b:2") == (Address("a", 1), Address("b", 2)) == worker_addresses(["a:1", "b:2"])
    for text, words in {
        "a:1,": "^rpc '', expected",
        "a:1,b:2,a:1": "^rpc a:1 twice, expected each worker once$",
    }.items():
        with pytest.raises(InvalidInput, match=words):
            worker_addresses(text)
