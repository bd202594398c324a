"""What a model runs on, for an Engine, a Context and a Llama alike."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

import autodeco_gguf as ad
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine, default_threads


@pytest.mark.parametrize(("cores", "threads"), [(None, 1), (1, 1), (2, 2), (4, 4), (5, 2), (6, 3), (64, 32)])
def test_default_threads(cores: int | None, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert default_threads() == threads == Machine().threads
    assert Machine(n_threads=7).threads == 7


def test_it_is_a_value() -> None:
    assert Machine(n_threads=2) == Machine(n_threads=2) != Machine()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Machine().verbose = True  # type: ignore[misc]


@pytest.mark.parametrize("cache_type", ["f16", "f32"])
def test_a_llama_takes_it(cache_type: str, merged: Path) -> None:
    machine = Machine(n_threads=1, n_gpu_layers=0, cache_type=cache_type)  # type: ignore[arg-type]
    llama = ad.Llama(merged, n_ctx=64, **machine.llama_arguments())
    expected = llama_cpp.GGML_TYPE_F32 if cache_type == "f32" else llama_cpp.GGML_TYPE_F16
    params = llama.context_params
    assert (params.type_k, params.type_v, params.n_threads, params.n_threads_batch) == (expected, expected, 1, 1)
    assert (llama.model_params.n_gpu_layers, llama.verbose) == (0, False)


def test_a_context_computes_what_a_llama_does(merged: Path) -> None:
    machine = Machine(n_threads=1, cache_type="f32")
    llama = ad.Llama(merged, n_ctx=64, logits_all=True, **machine.llama_arguments())
    llama.eval([5, 6, 7])
    context = Context(merged, n_ctx=64, machine=machine)
    logits, _ = context.decode([5, 6, 7], range(3), [0] * 3, hidden=False)
    np.testing.assert_array_equal(logits, llama.scores[:3])
    context.close()
