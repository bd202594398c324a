"""Heads, engine, draws and training features on a device, against PyTorch and against the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import ways
from conftest import Case
from model.test_sampler_draw import p_value
from training_helpers import predicted

import autodeco_gguf as ad
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.features import stream
from autodeco_gguf.model.shipped import DEMO_MODEL

from .conftest import NAME, TOLERANCE

STORIES = ["Tell a story about Mia with 47 and 38.", "Tell a story about Tom with 20 and 13."]
N_DRAWS = 2000


def machine(device: str, cache_type: Any = "f32") -> ad.Machine:
    return ad.Machine(device=(device,), n_threads=1, cache_type=cache_type, flash_attn=False)


# ---- T and P ----


@pytest.mark.parametrize("cache", TOLERANCE)
@pytest.mark.parametrize("name", ways.CASES)
def test_in_the_graph_of_a_model(name: str, cache: str, merged_of: Callable[[Case], Path]) -> None:
    case, expected = ways.load_case(name)
    llama = ad.Llama(merged_of(case), n_ctx=256, **machine(NAME, cache).llama_arguments())
    assert not llama._host_way
    assert ways.difference(llama, case.tokens, expected) < TOLERANCE[cache]
    llama.close()


@pytest.mark.parametrize("name", ways.CASES)
def test_by_themselves(name: str, merged_of: Callable[[Case], Path]) -> None:
    """From PyTorch's hidden states and logits, so that nothing but the heads' own arithmetic is on the device."""
    case, expected = ways.load_case(name)
    found = ad.Heads.load(merged_of(case)).evaluate(case.golden["hidden"], case.golden["logits"], device=NAME)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE["f32"])


# ---- an engine ----


def answers(model: Path, prompts: list[Any], device: str, n_parallel: int) -> tuple[list[list[int]], Any]:
    """Tokens of each, and what they were drawn with, [n, 2, tokens]."""
    with ad.Engine(model, n_parallel=n_parallel, n_ctx=256, machine=machine(device)) as engine:
        bias = {token: -np.inf for token in range(engine.context.n_vocab) if engine.context.is_eog(token)}
        requests = [ad.Request(p, seed=i, max_tokens=12, logit_bias=bias) for i, p in enumerate(prompts)]
        traces = [result.trace for result in engine.generate(requests)]
    return [trace.ids for trace in traces], np.array([trace.parameters for trace in traces])


def assert_alike(found: tuple[Any, Any], expected: tuple[Any, Any], tolerance: float) -> None:
    """T and P up to the first token that differs; few answers may have one, where a draw is a rounding away from it."""
    same = 0
    for ids, others, values, wanted in zip(found[0], expected[0], found[1], expected[1], strict=True):
        differs = [i for i, (a, b) in enumerate(zip(ids, others, strict=True)) if a != b]
        same += not differs
        end = differs[0] + 1 if differs else len(ids)
        np.testing.assert_allclose(values[:, :end], wanted[:, :end], rtol=0, atol=tolerance)
    assert same >= len(found[0]) * (1.0 if NAME == "FAKE0" else 0.8)


@pytest.mark.parametrize("n_parallel", [1, 4, 16])
def test_an_engine_gives_what_it_gives_on_the_cpu(n_parallel: int, merged: Path) -> None:
    prompts = [[5 + i, 6, 7, *range(20, 20 + i % 3)] for i in range(16)]
    found, expected = (answers(merged, prompts, *where) for where in ((NAME, n_parallel), ("none", 1)))
    assert_alike(found, expected, TOLERANCE["f32"])


def test_the_demo_model_tells_what_it_tells_on_the_cpu() -> None:
    """It is quantized, which a device multiplies otherwise."""
    found, expected = (answers(DEMO_MODEL, STORIES, device, 1) for device in (NAME, "none"))
    assert found[0] == expected[0]
    assert_alike(found, expected, 2 * TOLERANCE["f16"])


# ---- draws ----


def test_what_is_drawn(merged: Path, qwen2: Case) -> None:
    """One token by many seeds: the distribution that T, P and the logits of PyTorch give."""
    at = 20
    llama = ad.Llama(merged, n_ctx=256, **machine(NAME).llama_arguments())
    tokens = []
    for seed in range(N_DRAWS):
        llama.set_seed(seed)
        tokens.append(next(llama.generate(qwen2.tokens[: at + 1])))
    llama.close()
    p = reference.distribution(qwen2.golden["logits"][at], *(qwen2.golden[head][at] for head in ways.HEADS))
    assert np.count_nonzero(p) > 5
    assert p_value(np.array(tokens), p) > 1e-4


# ---- what heads are trained on ----


def test_features(qwen2: Case) -> None:
    """Hidden states and logits of several texts, where they are predicted."""
    texts = [predicted(*qwen2.tokens[:n], after=n // 2) for n in (48, 20, 31)]
    found = {}
    for device in ("none", NAME):
        context = Context(qwen2.base, n_ctx=256, n_seq=4, machine=machine(device))
        parts = [part.copy() for part in stream(context, texts)]
        context.close()
        found[device] = [np.concatenate(column) for column in zip(*(p[:] for p in map(as_arrays, parts)), strict=True)]
    for there, here in zip(found[NAME], found["none"], strict=True):
        np.testing.assert_allclose(there, here, rtol=0, atol=4 * TOLERANCE["f32"] * max(1.0, float(np.std(here))))


def as_arrays(features: Any) -> list[np.ndarray[Any, Any]]:
    return [features.sequence, features.target, features.hidden, features.logits]
