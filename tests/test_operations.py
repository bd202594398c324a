"""The table of operations in docs/devices.md: of the graph of the heads as other devices get it, and no others."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from conftest import load
from fake_devices import Operation, fake_devices

import autodeco_gguf as ad
from autodeco_gguf._native import core

TEXT = (Path(__file__).parent.parent / "docs" / "devices.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| ([\w, ]+) → (\w+) \|(?: [^|]+ \|){3}$", re.M)
NOTHING_TO_COMPUTE = {"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"}


def documented() -> set[tuple[str, str, str]]:
    """Operation, types of its sources and of its result."""
    table = TEXT.partition("## Operations")[2].partition("\n## ")[0]
    rows = ROW.findall(table)
    assert len(rows) == len(set(rows)) == table.count("\n| `")
    return set(rows)


def heads(n_vocab: int, n_features: int, gelu: bool) -> core.Heads:
    rng = np.random.default_rng(0)

    def mlp(n_in: int) -> list[tuple[object, object]]:
        return [
            (rng.normal(size=(n_out, n)).astype(np.float32), np.zeros(n_out, np.float32))
            for n_out, n in ((8, n_in), (1, 8))
        ]

    return core.Heads(
        n_embd=4, n_vocab=n_vocab, temp_scale=2.0, n_features=n_features,
        temp=mlp(4), temp_gelu=gelu, top_p=mlp(4 + n_features), top_p_gelu=gelu,
    )  # fmt: skip


def asked_alone() -> set[Operation]:
    """Of heads of all kinds by themselves, with vocabularies that are cut into parts and that are not."""
    with fake_devices("FAKE0") as (device,):
        for n_vocab, n, n_features in itertools.product((1, 3, 64, 1001, 1280), (1, 3), (1, 5)):
            given = np.zeros((n, 4), np.float32), np.zeros((n, n_vocab), np.float32)
            for gelu, use_temp in ((False, True), (True, True), (False, False)):
                heads(n_vocab, n_features, gelu).evaluate(*given, "FAKE0", use_temp, True)
        return set(device.asked)


def asked_in_graph(merged: Path, **heads: Any) -> set[Operation]:
    """Of a model, with the heads or without, whose tokens are drawn one by one and several at once."""
    temperature = 1.0 if heads else None
    with fake_devices("FAKE0") as (device,):
        llama = load(merged, f32_cache=True, **heads)
        llama.create_completion([5, 6, 7], max_tokens=2, seed=1, temperature=temperature)
        llama.close()
        machine = ad.Machine(n_threads=1, cache_type="f32")
        with ad.Engine(merged, n_parallel=3, n_ctx=64, machine=machine, **heads) as engine:
            requests = [ad.Request([5, n], seed=n, max_tokens=n, temperature=temperature) for n in (1, 2, 3)]
            list(engine.generate(requests))
        return set(device.asked)


@pytest.fixture(scope="module")
def asked(merged: Path) -> set[Operation]:
    """What of it computes something."""
    found = asked_alone() | (asked_in_graph(merged) - asked_in_graph(merged, heads_enabled=[]))
    return {operation for operation in found if operation.name not in NOTHING_TO_COMPUTE}


def test_the_table_is_that_of_the_graph(asked: set[Operation]) -> None:
    assert {(operation.name, ", ".join(operation.sources), operation.result) for operation in asked} == documented()


def test_sources_are_contiguous(asked: set[Operation]) -> None:
    """Which is the strictest that a device asks for."""
    assert {operation for operation in asked if not operation.contiguous} == set()


def test_the_table_was_read_for_this_version() -> None:
    """After an update of llama.cpp the rows are to be read again, then the version to be changed."""
    assert f"(llama-cpp-python {llama_cpp.__version__})" in TEXT
