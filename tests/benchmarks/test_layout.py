"""llama.cpp lays the memory of its graphs out once, for a graph of many outputs, also where the heads are in them.

One that does not fit is laid out anew, and a single output's number then moves all tensors half a cache line: attention
over a long prompt took a fifth longer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

pytest.importorskip("gguf")
import overhead
import reference
from llama_cpp import llama_cpp as lib
from synthetic import SMALL

import autodeco_gguf as ad
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request

CACHE_LINE = 64


class Addresses:
    """Where the embeddings of each decode lay, by llama.cpp's callback at every node."""

    def __init__(self) -> None:
        self.found: list[int] = []
        shared = lib._lib
        shared.ggml_get_data.argtypes = shared.ggml_get_name.argtypes = [ctypes.c_void_p]
        shared.ggml_get_data.restype, shared.ggml_get_name.restype = ctypes.c_void_p, ctypes.c_char_p

        def note(tensor: Any, ask: bool, _: Any) -> bool:
            address = ctypes.cast(tensor, ctypes.c_void_p)
            if ask and shared.ggml_get_name(address) == b"embd":
                self.found.append(shared.ggml_get_data(address))
            return False

        self.callback = lib.ggml_backend_sched_eval_callback(note)


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Addresses]:
    addresses = Addresses()
    default = lib.llama_context_default_params

    def params() -> Any:
        found = default()
        found.cb_eval = addresses.callback
        return found

    for module in (lib, llama_cpp):
        monkeypatch.setattr(module, "llama_context_default_params", params)
    yield addresses
    assert addresses.found  # else nothing was looked at


@pytest.fixture(scope="module", params=[384, 20_000])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and an adapter; a long row of logits is shared among threads, a short one is not."""
    shape = replace(SMALL, name="narrow", hidden=64, layers=1, heads=2, ff=128, vocab=request.param)
    return overhead.prepare(tmp_path_factory.mktemp("layout"), shape)


def off_the_line(addresses: Addresses) -> Sequence[int]:
    return [address % CACHE_LINE for address in addresses.found if address % CACHE_LINE]


@pytest.mark.parametrize("heads_enabled", [None, ["temperature"], ["top_p"]])
def test_of_llama(files: tuple[Path, Path], addresses: Addresses, heads_enabled: list[str] | None) -> None:
    base, adapter = files
    with_heads = ad.Llama(base, heads=adapter, heads_enabled=heads_enabled, n_ctx=1024, n_threads=2, verbose=False)
    stream = with_heads.generate([i % 300 for i in range(600)])
    for _ in range(4):
        next(stream)
    stream.close()
    with_heads.close()
    assert not off_the_line(addresses)


@pytest.mark.parametrize("n_parallel", [1, 4, 5, 33])
def test_of_an_engine(files: tuple[Path, Path], addresses: Addresses, n_parallel: int) -> None:
    base, adapter = files
    engine = Engine(base, heads=adapter, n_ctx=160, n_parallel=n_parallel, machine=ad.Machine(n_threads=2))
    engine.generate([Request([i % 300 for i in range(100 + n)], max_tokens=4) for n in range(n_parallel)])
    engine.close()
    assert not off_the_line(addresses)


def test_of_a_prompt_of_which_whole_batches_have_no_output(files: tuple[Path, Path], addresses: Addresses) -> None:
    base, adapter = files
    engine = Engine(base, heads=adapter, n_ctx=1400, n_parallel=2, machine=ad.Machine(n_threads=2))
    engine.generate([Request([i % 300 for i in range(1200 + n)], max_tokens=4) for n in range(2)])
    engine.close()
    assert not off_the_line(addresses)


def test_the_entropy_of_a_trace(files: tuple[Path, Path]) -> None:
    """The graph computes it, of a short row one thread, of a long one all."""
    base, adapter = files
    llama = ad.Llama(base, heads=adapter, n_ctx=64, n_threads=2, verbose=False)
    tokens = list(islice(llama.generate([5, 17, 3]), 6))
    found = [t.entropy for t in llama.trace]
    llama.close()
    stock = llama_cpp.Llama(str(base), n_ctx=64, logits_all=True, verbose=False)
    stock.eval([5, 17, 3, *tokens])
    np.testing.assert_allclose(found, [reference.entropy(row) for row in stock.scores[2:8]], rtol=1e-5)
    assert len(set(found)) > 1
    stock.close()
