"""The step on reward: probabilities as the engine has them, derivatives by finite differences, and limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training_helpers import plain_features, plain_top_p_loss, random_features

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.model.features import Features, Tokens, stream
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.policy import RETURN, Limits, accumulate, drawn_nll, limited, predict
from autodeco_gguf.training.rewards import rewards_of, weights_of
from autodeco_gguf.training.settings import Objective

pytestmark = pytest.mark.usefixtures("one_thread")


def nll(logits: Tensor, tokens: Tensor, t: Tensor, p: Tensor, alpha: float = 30.0) -> Tensor:
    return drawn_nll(logits, tokens, t, p, alpha=alpha, tolerance=0.0)


# ---- the probability of what was drawn ----


def hard_nll(logits: np.ndarray, token: int, t: float, p: float) -> float:
    """Of the sampler's own cut, in float64: the fewest tokens whose probabilities reach P."""
    scaled = logits.astype(np.float64) / t
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    n = int(np.searchsorted(np.cumsum(probs[order]), p)) + 1
    assert token in order[:n]
    return -math.log(probs[token] / probs[order[:n]].sum())


def sequences(engine: Engine, t: float | None, p: float | None) -> tuple[list[Tokens], list[np.ndarray]]:
    """Drawn answers as they are trained on, and of each token T, P and the engine's own probability."""
    prompt = engine.prompt("Hello, what is it?")
    requests = [Request(prompt, temperature=t, top_p=p, seed=seed, max_tokens=30) for seed in range(3)]
    results = engine.generate(requests)
    found = [np.array([*prompt, *(~x for x in result.trace.ids)], np.int32) for result in results]
    rows = [np.array([[x.temperature, x.top_p, x.prob] for x in result.trace]) for result in results]
    engine.forget()
    return found, rows


@pytest.fixture(scope="module")
def engine(merged: Path) -> Iterator[Engine]:
    machine = Machine(n_threads=1, cache_type="f32")
    with Engine(merged, n_parallel=3, n_ctx=128, machine=machine) as engine:
        yield engine


@pytest.mark.parametrize("p", [1.0, 0.5, None])
@pytest.mark.parametrize("t", [0.3, 1.0, 1.7, None])
def test_the_trainer_and_the_engine_agree_on_what_was_drawn(t: float | None, p: float | None, engine: Engine) -> None:
    """Ratio 1 within 1e-4 for each token, with the same cut; of the soft cut where nothing is cut."""
    drawn, rows = sequences(engine, t, p)
    seen = [0, 0, 0]
    for part in stream(engine.context, drawn):
        for sequence, token, logits in zip(part.sequence, part.target, part.logits, strict=True):
            t_drawn, p_drawn, prob = rows[sequence][seen[sequence]]
            seen[sequence] += 1
            assert math.exp(-hard_nll(logits, int(token), t_drawn, p_drawn)) == pytest.approx(prob, rel=1e-4)
            if p == 1.0:
                at = (torch.tensor([x], dtype=torch.float32) for x in (t_drawn, p_drawn))
                soft = nll(torch.from_numpy(logits.copy())[None], torch.tensor([int(token)]), *at)
                assert math.exp(-float(soft)) == pytest.approx(prob, rel=1e-4)
    assert seen == [len(x) for x in rows]


def test_the_trainer_predicts_what_the_engine_drew_with(engine: Engine) -> None:
    heads = HeadsModule(engine.context.hidden_size, 3)
    engine.replace_heads(heads.weights(vocab_size=engine.context.n_vocab, base_model=""))
    drawn, rows = sequences(engine, None, None)
    seen = [0, 0, 0]
    with torch.no_grad():
        for part in stream(engine.context, drawn):
            t, p, _ = predict(heads, torch.from_numpy(part.hidden), torch.from_numpy(part.logits), Objective())
            for i, sequence in enumerate(part.sequence):
                assert rows[sequence][seen[sequence]][:2].tolist() == pytest.approx(
                    [float(t[i]), float(p[i])], abs=1e-4
                )
                seen[sequence] += 1
    assert seen == [len(x) for x in rows]


def test_it_is_the_softly_cut_distribution() -> None:
    features, _ = random_features()
    logits, tokens = torch.from_numpy(features[0].logits), torch.from_numpy(features[0].target)
    n = len(tokens)
    t, p = torch.linspace(0.3, 1.7, n), torch.linspace(0.95, 1.0, n)
    expected = plain_top_p_loss(logits.double(), tokens, t.double(), p.double())
    torch.testing.assert_close(nll(logits, tokens, t, p).double(), expected, rtol=1e-4, atol=1e-5)


# ---- the edges ----

EDGES: dict[str, tuple[list[float], float, float]] = {  # logits, T, P
    "nucleus of one": ([3.0, 2.0, 1.0], 1.0, 0.5),
    "P = 0": ([3.0, 2.0, 1.0], 1.0, 0.0),
    "P = 0, one token certain": ([50.0, 0.0, 0.0], 1.0, 0.0),
    "P = 0, T small": ([5.0, 4.0, 0.0], 0.05, 0.0),
}


@pytest.mark.parametrize("name", EDGES)
def test_a_token_that_is_alone_is_certain(name: str) -> None:
    logits, t, p = EDGES[name]
    t_, p_ = torch.tensor([t], requires_grad=True), torch.tensor([p], requires_grad=True)
    found = nll(torch.tensor([logits]), torch.tensor([0]), t_, p_)
    by_t, by_p = torch.autograd.grad(found.sum(), (t_, p_))
    assert math.exp(-float(found.detach())) == pytest.approx(1.0, abs=1e-3)
    assert float(by_p) == 0  # no cut is deeper than the likeliest token
    assert abs(float(by_t)) < 0.01


def test_of_a_nucleus_of_one_the_derivative_by_t_is_that_of_the_tokens_beyond() -> None:
    """-log(1 / (1 + r)): r is the second token's probability over the first's, times its mask, by T."""
    x, alpha = 1.0, 30.0

    def by_hand(t: float) -> float:
        p2 = 1 / (1 + math.exp(x / t))
        return math.log(1 + math.exp(-x / t) * math.exp(-alpha * p2))

    t = torch.tensor([0.9], requires_grad=True)
    found = nll(torch.tensor([[x, 0.0]]), torch.tensor([0]), t, torch.tensor([0.1]))
    assert float(found.detach()) == pytest.approx(by_hand(0.9), rel=1e-3)
    (by_t,) = torch.autograd.grad(found.sum(), t)
    assert float(by_t) == pytest.approx((by_hand(0.9001) - by_hand(0.8999)) / 2e-4, rel=1e-2)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("t", [0.01, 0.3, 1.7])
def test_a_token_that_has_left_the_nucleus_has_a_finite_loss(t: float, p: float) -> None:
    t_, p_ = torch.tensor([t], requires_grad=True), torch.tensor([p], requires_grad=True)
    found = nll(torch.tensor([[9.0, 3.0, 0.0, -40.0]]), torch.tensor([3]), t_, p_)
    gradients = torch.autograd.grad(found.sum(), (t_, p_))
    assert all(math.isfinite(float(x.detach())) for x in (found, *gradients))
    assert 5 < float(found.detach()) < 25


@pytest.mark.parametrize("p", [0.0, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("t", [0.3, 1.0, 1.7])
def test_derivatives_against_finite_differences(t: float, p: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(6, 40, generator=generator) * 2).double()
    tokens = torch.tensor([int(row.topk(3).indices[i % 3]) for i, row in enumerate(logits)])

    def at(t: float, p: float) -> Tensor:
        return nll(logits, tokens, *(torch.full((6,), x, dtype=torch.float64) for x in (t, p)))

    t_, p_ = (torch.full((6,), x, dtype=torch.float64, requires_grad=True) for x in (t, p))
    by_t, by_p = torch.autograd.grad(nll(logits, tokens, t_, p_).sum(), (t_, p_))
    h = 1e-6
    torch.testing.assert_close(by_t, (at(t + h, p) - at(t - h, p)) / (2 * h), rtol=1e-3, atol=1e-4)
    if 0 < p < 1:
        torch.testing.assert_close(by_p, (at(t, p + h) - at(t, p - h)) / (2 * h), rtol=1e-3, atol=1e-4)


# ---- the step ----


def heads_of(seed: int) -> HeadsModule:
    return HeadsModule(12, seed)


def gradients_of(heads: HeadsModule) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in heads.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("pull", [0.0, 0.3])
@pytest.mark.parametrize("trained", [("temperature", "top_p"), ("temperature",), ("top_p",)])
def test_the_gradients_are_those_of_the_objective(pull: float, trained: tuple[str, ...], scale: float) -> None:
    """Against torch's own backward pass through the loss as the paper has it, over all of the vocabulary; the heads
    see the logits before a scale of the model's."""
    parts = [replace(part, logits=scale * part.logits, raw=part.logits) for part in random_features()[0]]
    heads, start, weights = heads_of(0), heads_of(1), torch.tensor([0.5, -0.25, 0.0, 1.0, -1.0, 0.5, -0.75])
    objective = Objective(heads=trained, sort_tolerance=0.0)
    accumulate(heads, start, parts, weights, 100, objective, Limits(pull, (0.0, 2.0), (0.0, 1.0)))
    found = gradients_of(heads)
    heads.zero_grad()
    loss = torch.zeros(())
    for part in parts:
        logits, tokens, hidden = (torch.from_numpy(x.copy()) for x in (part.logits, part.target, part.hidden))
        predictions = []
        for of in (heads, start):
            t = of.temperature(hidden) if objective.temperature else torch.ones(len(part))
            features = plain_features(logits / scale, t).detach()
            predictions.append((t, of.top_p(hidden, features) if objective.top_p else torch.ones(len(part))))
        (t, p), (t0, p0) = predictions
        loss = loss + (weights[torch.from_numpy(part.sequence)] * plain_top_p_loss(logits, tokens, t, p)).sum()
        loss = loss + pull * ((t - t0.detach()).square() + (p - p0.detach()).square()).sum()
    (loss / 100).backward()
    expected = gradients_of(heads)
    assert found.keys() == expected.keys()
    assert len(found) == 4 * len(trained)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=1e-6)


def test_what_pushes_out_of_the_range_is_dropped_and_what_is_beyond_comes_back() -> None:
    value = torch.tensor([0.05, 0.05, 0.5, 1.6, 1.6])
    gradient = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    found = limited(gradient, value, value, (0.1, 1.5), 0.0, 0.5)
    back = RETURN * torch.tensor([-0.05, -0.05, 0.0, 0.1, 0.1])
    torch.testing.assert_close(found, torch.tensor([0.0, -1.0, 1.0, 0.0, 1.0]) + back)


def test_the_pull_is_towards_the_start() -> None:
    found = limited(torch.zeros(2), torch.tensor([0.5, 1.0]), torch.tensor([0.7, 0.7]), (0.0, 2.0), 0.1, 0.5)
    torch.testing.assert_close(found, torch.tensor([-0.02, 0.03]))


def adam(heads: HeadsModule) -> torch.optim.Optimizer:
    return torch.optim.AdamW(heads.parameters(), 5e-3, weight_decay=0.0)


@pytest.mark.parametrize("within", [((0.4, 1.2), (0.3, 0.9)), ((0.8, 1.0), (0.5, 0.6))])
def test_t_and_p_stay_within_their_range(within: tuple[tuple[float, float], tuple[float, float]]) -> None:
    """Whatever the rewards ask for: here every token is to become likelier, then less likely."""
    parts, _ = random_features()
    for sign in (1.0, -1.0):
        heads = heads_of(0)
        optimizer = adam(heads)
        for _ in range(60):
            optimizer.zero_grad()
            accumulate(heads, heads_of(0), parts, sign * torch.ones(7), 60, Objective(), Limits(0.0, *within))
            optimizer.step()
        with torch.no_grad():
            for part in parts:
                t, p, _ = predict(heads, torch.from_numpy(part.hidden), torch.from_numpy(part.logits), Objective())
                for values, (low, high) in zip((t, p), within, strict=True):
                    assert low - 0.15 < float(values.min())
                    assert float(values.max()) < high + 0.15


# ---- a model of two tokens, where the best T is known ----


def toy(reward: str, k: int, limits: Limits, rounds: int = 90) -> float:
    """T after training on answers of one token, drawn from logits [1, 0] / T at P = 1; token 0 is right for
    "correct" and "any", and both are for "distinct"."""
    heads, start = HeadsModule(4, 0), HeadsModule(4, 0)
    optimizer, rng = torch.optim.AdamW(heads.parameters(), 2e-2, weight_decay=0.0), np.random.default_rng(0)
    objective = Objective(heads=("temperature",))
    hidden, logits = np.ones((1, 4), np.float32), np.float32([[1.0, 0.0]])
    t = 1.0
    for _ in range(rounds):
        with torch.no_grad():
            t = float(heads.temperature(torch.from_numpy(hidden)))
        p0 = 1 / (1 + math.exp(-1 / t))
        drawn, weights = [], []
        for _ in range(16):
            tokens = [int(rng.random() >= p0) for _ in range(k)]
            right = [reward == "distinct" or x == RIGHT[reward] for x in tokens]
            drawn += tokens
            weights += weights_of(rewards_of(reward, right, list(map(str, tokens))))
        n = len(drawn)
        features = Features(np.arange(n), np.array(drawn), hidden.repeat(n, 0), logits.repeat(n, 0))
        optimizer.zero_grad()
        accumulate(heads, start, [features], torch.tensor(weights), n, objective, limits)
        optimizer.step()
    return t


RIGHT = {"correct": 0, "any": 1}


def test_correct_makes_the_likelier_right_token_certain() -> None:
    assert toy("correct", 4, Limits(0.0, (0.2, 1.8), (0.0, 1.0))) == pytest.approx(0.2, abs=0.08)


def test_any_makes_the_rare_right_token_frequent() -> None:
    """The less likely token is right: the more of it the better, so that T goes to the end of its range."""
    assert toy("any", 4, Limits(0.0, (0.2, 1.8), (0.0, 1.0))) == pytest.approx(1.8, abs=0.08)


def test_distinct_makes_both_tokens_frequent() -> None:
    """Both are right: two different ones of some draws are the likelier the nearer the two are."""
    assert toy("distinct", 4, Limits(0.0, (0.2, 1.8), (0.0, 1.0))) == pytest.approx(1.8, abs=0.08)


def test_the_pull_holds_t_where_it_balances_the_reward() -> None:
    """The optimum of (k - 1) p(T) / k - pull (T - T0)^2, of which a step climbs the gradient, by a search."""
    with torch.no_grad():
        t0 = float(HeadsModule(4, 0).temperature(torch.ones(1, 4)))
    grid = np.linspace(0.2, 1.8, 3201)
    for pull in (0.3, 0.8):
        best = grid[np.argmax(0.75 / (1 + np.exp(-1 / grid)) - pull * (grid - t0) ** 2)]
        assert 0.25 < best < t0 - 0.05
        found = [toy("correct", 4, Limits(pull, (0.1, 1.9), (0.0, 1.0)), n) for n in (90, 105, 120)]
        assert np.mean(found) == pytest.approx(best, abs=0.08)
