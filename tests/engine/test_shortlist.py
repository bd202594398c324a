"""Many sequences whose logits stay on the device that draws, beside others that need all of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_helpers import PROMPTS, answers, make
from llama_cpp import LlamaGrammar
from llama_cpp import llama_cpp as lib

from autodeco_gguf._native import core
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.heads.compute import Heads
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.sampler import Predictor, Sampler

GRAMMAR = LlamaGrammar.from_string("root ::= [a-z]+", verbose=False)

WAYS: list[dict[str, Any]] = [
    {},
    {"top": 3},
    {"temperature": 0.0},
    {"top_p": 0.5},
    {"grammar": GRAMMAR},
    {"temperature": 0.7, "top_p": 0.9},
    {"prompt_logprobs": True},
    {"prompt_logprobs": True, "top": 2},
    {"repeat_penalty": 1.3},
    {"logit_bias": {7: 3.0}},
    {"gate": 0.5},
    {"min_p": 0.05},
    {"top_p": 1.0},
]
"""Some want nothing but the draw, others the whole row."""


def requests() -> list[Request]:
    n = 3 * len(WAYS)
    return [Request(PROMPTS[i % len(PROMPTS)], seed=i, max_tokens=4 + i % 7, **WAYS[i % len(WAYS)]) for i in range(n)]


def results_of(engine: Engine) -> list[Result]:
    with engine:
        return answers(engine, requests())


@pytest.mark.parametrize("n_parallel", [1, 4, 16])
def test_the_same_as_on_the_host(n_parallel: int, merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTODECO_DRAW", "host")
    expected = results_of(make(merged, n_parallel=n_parallel))
    monkeypatch.setenv("AUTODECO_DRAW", "device")
    found = results_of(make(merged, n_parallel=n_parallel))
    for one, other in zip(found, expected, strict=True):
        assert (one.tokens, one.finish_reason, one.error) == (other.tokens, other.finish_reason, other.error)
        for a, b in zip(one.trace, other.trace, strict=True):
            assert (a.id, a.nucleus) == (b.id, b.nucleus)
            close = pytest.approx([b.temperature, b.top_p, b.entropy, b.prob], abs=2e-5, nan_ok=True)
            assert [a.temperature, a.top_p, a.entropy, a.prob] == close
            assert a.logprob == pytest.approx(b.logprob, abs=1e-5, nan_ok=True)
        assert (one.prompt_logprobs is None) == (other.prompt_logprobs is None)
        for c, d in zip(one.prompt_logprobs or [], other.prompt_logprobs or [], strict=True):
            assert c.id == d.id
            assert c.logprob == (None if d.logprob is None else pytest.approx(d.logprob, abs=1e-5))


@pytest.fixture
def context(merged: Path) -> Context:
    return Context(merged, n_ctx=64, n_seq=4, machine=Machine(n_threads=1, cache_type="f32"))


def rows(context: Context) -> Any:
    """The logits of four outputs in llama.cpp's own buffer."""
    return np.ctypeslib.as_array(lib.llama_get_logits(context._ctx.ctx), (4, context.n_vocab))


def test_only_rows_that_are_wanted_come_to_the_host(
    context: Context, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by a decode whose logits are asked for, all of them do."""
    monkeypatch.setenv("AUTODECO_DRAW", "device")
    predictor = Predictor(Heads.load(merged))
    batch = [5, 6, 7, 8], [0] * 4, [0, 1, 2, 3]
    expected = context.decode(*batch, hidden=False)[0].copy()
    context.clear()
    assert context.attach(predictor)
    rows(context)[:] = 0.0
    samplers = [Sampler(predictor, seed=i, temperature=0.7 if i == 2 else None) for i in range(4)]
    drawn = context.draw(*batch, samplers, predictor)
    assert drawn.errors == {}
    assert [sampler.native.n_listed for sampler in samplers] == [1, 1, 0, 1]
    np.testing.assert_array_equal(rows(context)[2], expected[2])
    assert not rows(context)[[0, 1, 3]].any()
    np.testing.assert_array_equal(core.logits(context.address, 1), expected[1])
    assert not rows(context)[[0, 3]].any()
    context.clear()
    np.testing.assert_array_equal(context.decode(*batch, hidden=False)[0], expected)
    context.clear()
    again = context.draw(*batch, [Sampler(predictor, seed=i) for i in range(4)], predictor)
    assert [again.tokens[i] for i in (0, 1, 3)] == [drawn.tokens[i] for i in (0, 1, 3)]
    predictor.detach()
    context.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in /proc")
def test_a_draw_ends_none_of_the_threads_that_decode(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP ends those that a call has no use for: of four, two or three draw these rows."""
    monkeypatch.setenv("AUTODECO_DRAW", "device")

    def threads() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    before, during = threads(), []
    with make(merged, n_parallel=20, machine=Machine(n_threads=4, cache_type="f32")) as engine:
        answers_to = [
            engine.submit(Request(PROMPTS[0], seed=i, max_tokens=8), lambda _: during.append(threads() - before))
            for i in range(20)
        ]
        engine.run_until(lambda: all(generation.finish_reason for generation in answers_to))
    assert len(during) > 60
    assert all(some == during[0] for some in during)
