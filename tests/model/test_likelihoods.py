"""Log-probabilities and alternatives of drawn tokens, from logits that a test has written into the context."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.heads.compute import Heads
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.sampler import Predictor, Sampler, build_sampler
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.model.trace import Alternative, Trace, TraceToken

N_VOCAB = 384
FOUR = {7: math.log(0.5), 3: math.log(0.25), 9: math.log(0.125), 5: math.log(0.125)}


@pytest.fixture(scope="module")
def context(merged: Path) -> Iterator[Context]:
    context = Context(merged, n_ctx=64)
    yield context
    context.close()


def put(context: Context, logits: Any) -> None:
    """Have these as the logits of the last decode; of a dict, -inf for all others."""
    context.clear()
    found, _ = context.decode([0], [0], [0], hidden=False)
    if isinstance(logits, dict):
        found[0] = -np.inf
        for token, value in logits.items():
            found[0, token] = value
    else:
        found[0] = logits


def drawn(context: Context, top: int = 64, n: int = 1, **sampling: Any) -> list[TraceToken]:
    """Tokens drawn from what was put there."""
    fixed = {"temperature": 1.0, "top_p": 1.0, "seed": 1} | sampling
    sampler = build_sampler(Predictor(None), Sampling(**fixed), context.model)
    sampler.native.top = top
    for _ in range(n):
        sampler.sample(context.address)
    return list(Trace(sampler.native.records, context.token_bytes))


def log_softmax(logits: Any) -> np.ndarray[Any, Any]:
    x = np.asarray(logits, np.float64)
    return np.asarray(x - x.max() - np.log(np.exp(x - x.max()).sum()))


@pytest.mark.parametrize(
    ("sampling", "probs"),
    [
        ({}, [1 / 2, 1 / 4, 1 / 8, 1 / 8]),
        ({"temperature": 0.5}, [16 / 22, 4 / 22, 1 / 22, 1 / 22]),
        ({"top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.8}, [4 / 7, 2 / 7, 1 / 7, 0]),  # of two that are equal the lower id is kept
        ({"top_p": 0.0}, [1, 0, 0, 0]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
        ({"gate": 0.4}, [1, 0, 0, 0]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"min_p": 0.3, "temperature": 0.5}, [1, 0, 0, 0]),
        ({"logit_bias": {7: -math.inf}}, [0, 1 / 2, 1 / 4, 1 / 4]),
        ({"logit_bias": {5: math.log(4)}}, [4 / 11, 2 / 11, 4 / 11, 1 / 11]),
        ({"order": "llama.cpp", "top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]),
        ({"order": "llama.cpp", "temperature": 0.0}, [1, 0, 0, 0]),
        ({"mirostat_mode": 2, "mirostat_tau": 50.0}, [1 / 2, 1 / 4, 1 / 8, 1 / 8]),
        ({"mirostat_mode": 2, "mirostat_tau": 0.5}, [1, 0, 0, 0]),
    ],
)
def test_as_drawn_and_raw(sampling: dict[str, Any], probs: list[float], context: Context) -> None:
    put(context, FOUR)
    for token in drawn(
        context, n=1 if "mirostat_mode" in sampling else 9, **sampling
    ):  # which learns from what it draws
        assert [a.id for a in token.alternatives] == [7, 3, 5, 9]
        np.testing.assert_allclose(
            [a.logprob for a in token.alternatives], np.log([0.5, 0.25, 0.125, 0.125]), atol=1e-7
        )
        np.testing.assert_allclose([a.prob for a in token.alternatives], probs, atol=1e-6)
        assert [(token.logprob, token.prob)] == [(a.logprob, a.prob) for a in token.alternatives if a.id == token.id]
        assert [a.text for a in token.alternatives] == [context.token_bytes(id_) for id_ in (7, 3, 5, 9)]


def test_the_penalties_of_what_was_drawn(context: Context) -> None:
    put(context, {7: 2.0, 3: 0.0})
    first, second = drawn(context, n=2, presence_penalty=2.0, logit_bias={7: 100.0}, temperature=0.0)
    assert (first.id, second.id, first.prob) == (7, 7, 1.0)
    assert second.alternatives == first.alternatives  # raw, whatever is drawn from
    put(context, {7: 2.0, 3: 2.0})
    tokens = drawn(context, n=30, frequency_penalty=1.0)
    for i, token in enumerate(tokens):
        counts = np.array([sum(t.id == id_ for t in tokens[:i]) for id_ in (3, 7)])
        expected = np.exp(-counts) / np.exp(-counts).sum()
        assert [a.id for a in token.alternatives] == [3, 7]
        np.testing.assert_allclose([a.prob for a in token.alternatives], expected, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose([a.logprob for a in token.alternatives], [-math.log(2)] * 2, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("top", [0, 1, 20, 64])
def test_the_reference(scale: float, top: int, context: Context) -> None:
    rng = np.random.default_rng(int(scale) + top)
    for _ in range(20):
        logits = np.float32(rng.normal(size=N_VOCAB) * scale)
        logits[rng.integers(0, N_VOCAB, 40)] = logits[rng.integers(0, N_VOCAB)]  # ties
        t, p = float(np.float32(rng.uniform(0.2, 2))), float(rng.uniform(0.1, 1))
        put(context, logits)
        (token,) = drawn(context, top, temperature=t, top_p=p, seed=int(rng.integers(1 << 31)))
        expected, order = log_softmax(logits), np.argsort(-logits, kind="stable")[:top]
        np.testing.assert_allclose(token.logprob, expected[token.id], rtol=1e-12, atol=1e-14)
        assert [a.id for a in token.alternatives] == order.tolist()
        np.testing.assert_allclose([a.logprob for a in token.alternatives], expected[order], rtol=1e-12, atol=1e-14)
        cut = reference.nucleus(logits, t, p)
        if (cut == reference.nucleus(logits, t, p, reference.ROUNDING)).all():  # rounding decides nothing
            exact = reference.distribution(logits, t, p)[order]
            np.testing.assert_allclose([a.prob for a in token.alternatives], exact, rtol=1e-4, atol=1e-9)


def test_the_most_likely_one_is_drawn_at_temperature_0(context: Context) -> None:
    logits = np.zeros(N_VOCAB, np.float32)
    logits[[300, 20, 100]] = 3.0
    put(context, logits)
    (token,) = drawn(context, 5, temperature=0.0)
    assert [a.id for a in token.alternatives] == [20, 100, 300, 0, 1]
    assert (token.id, token.logprob, token.prob) == (20, token.alternatives[0].logprob, 1.0)


@pytest.mark.parametrize("far", [1.0, 40.0, 700.0, 3e38])
def test_what_is_all_but_certain(far: float, context: Context) -> None:
    put(context, {7: 0.0, 8: -far})
    (token,) = drawn(context, 2, temperature=0.0)
    certain, other = token.alternatives
    assert token.logprob == certain.logprob == 0.0 - math.log1p(math.exp(-float(np.float32(far))))
    assert str(certain.logprob) != "-0.0"
    assert other.logprob == pytest.approx(-float(np.float32(far)) + certain.logprob, rel=1e-12)
    put(context, {7: 5.0})
    (token,) = drawn(context, 2, temperature=0.0)
    assert str(token.logprob) == "0.0"
    assert [(a.id, a.logprob, a.prob) for a in token.alternatives] == [(7, 0.0, 1.0)]


def test_a_token_that_the_model_excludes(context: Context) -> None:
    """A processor may draw what has a logit of -inf; JSON has no number for that."""
    put(context, {7: 1.0})
    sampler = Sampler(None, logits_processors=[lambda _, x: np.where(np.arange(x.size) == 5, 9.0, -np.inf)])
    sampler.native.top = 2
    assert sampler.sample(context.address) == 5
    assert sampler.trace[0].logprob == -math.inf
    assert sampler.trace[0].alternatives == (Alternative(7, b"", 0.0, 0.0),)
    assert "logprob" not in sampler.trace[0].to_dict("")


def test_what_the_graph_has_scaled(merged: Path) -> None:
    """T and P predicted, and the weights taken over from the heads: the probabilities are those of any other way."""
    context = Context(merged, n_ctx=64)
    sampler = Sampler(Heads.load(merged), seed=1)
    sampler.native.top = 64
    sampler.attach(context.address)
    for i in range(20):
        context.decode([5 + i], [i], [0], hidden=False)
        raw = core.logits(context.address, 0)
        token = sampler.sample(context.address)
        found = sampler.trace[i]
        exact = reference.distribution(raw, found.temperature, found.top_p)
        for a in found.alternatives:
            assert a.logprob == pytest.approx(log_softmax(raw)[a.id], rel=1e-12)
            assert a.prob == pytest.approx(exact[a.id], rel=1e-3, abs=1e-6)
            assert a.id != token or (a.prob, a.logprob) == (found.prob, found.logprob)
    sampler.detach()
    context.close()


def test_it_is_not_there_unless_asked_for(context: Context) -> None:
    put(context, FOUR)
    (token,) = drawn(context, -1)
    assert (math.isnan(token.logprob), token.alternatives) == (True, ())
    sampler = Sampler(None, seed=1)
    sampler.sample(context.address)
    assert sampler.native.records.likelihood(0) is None
    sampler.native.top = 1  # from now on
    sampler.sample(context.address)
    before, after = sampler.trace
    assert (math.isnan(before.logprob), before.alternatives) == (True, ())
    assert after.alternatives[0].logprob == pytest.approx(math.log(0.5), rel=1e-6)


def test_several_outputs_of_a_decode(merged: Path) -> None:
    context = Context(merged, n_ctx=64)
    logits, _ = context.decode([1, 2, 3, 4], range(4), [0] * 4, hidden=False)
    expected = [log_softmax(row) for row in logits]
    found = core.likelihoods(context.address, 1, [9, 383, 0], 1000)  # more than there are
    for (logprob, others), row, token in zip(found, expected[1:], (9, 383, 0), strict=True):
        assert logprob == pytest.approx(row[token], rel=1e-12)
        order = np.argsort(-row, kind="stable")
        assert [id_ for id_, _, _ in others] == order.tolist()
        np.testing.assert_allclose([x for _, x, _ in others], row[order], rtol=1e-12)
        assert all(math.isnan(prob) for *_, prob in others)  # nothing was drawn
    assert core.likelihoods(context.address, 0, [], 3) == []
    with pytest.raises(ModelFailed, match="the last decode has no output 4"):
        core.likelihoods(context.address, 4, [9], 3)
    for token in (-1, 384):
        with pytest.raises(InvalidInput, match=f"token {token}, the vocabulary has 384"):
            core.likelihoods(context.address, 0, [token], 3)
    context.close()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 200, 383])
def test_logits_that_are_no_distribution(value: float, where: int, context: Context) -> None:
    put(context, np.where(np.arange(N_VOCAB) == where, value, 1.0))
    ((logprob, others),) = core.likelihoods(context.address, 0, [5], 3)
    assert (math.isnan(logprob), others) == (True, ())
    put(context, {})
    ((logprob, others),) = core.likelihoods(context.address, 0, [5], 3)
    assert (math.isnan(logprob), others) == (True, ())
