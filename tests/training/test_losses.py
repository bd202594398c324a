"""The training losses: against the official formulas, finite differences, limits, and literal numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from training_helpers import plain_temperature_loss, plain_top_p_loss

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.training import losses

Case = tuple[Tensor, Tensor, Tensor, Tensor]


def case(n: int, n_vocab: int, scale: float, seed: int, *, likely: bool = True, dtype: torch.dtype) -> Case:
    """Logits, targets (drawn from them, or from anywhere), T in (0.1, 2), P in (0, 1)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, n_vocab)) * scale
    drawn = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    targets = drawn if likely else rng.integers(0, n_vocab, n)
    t, p = rng.uniform(0.1, 2.0, n), rng.uniform(0.01, 0.99, n)
    return (
        torch.tensor(logits, dtype=dtype),
        torch.tensor(targets),
        torch.tensor(t, dtype=dtype, requires_grad=True),
        torch.tensor(p, dtype=dtype, requires_grad=True),
    )


SHAPES = {
    "n": st.integers(1, 8),
    "n_vocab": st.integers(2, 700),
    "scale": st.floats(0.01, 12.0),
    "seed": st.integers(0, 2**32 - 1),
    "likely": st.booleans(),
}


# ---- against the official formulas ----


@settings(max_examples=60, deadline=None)
@given(**SHAPES)
def test_temperature_loss_is_the_official_one(n: int, n_vocab: int, scale: float, seed: int, likely: bool) -> None:
    logits, targets, t, _ = case(n, n_vocab, scale, seed, likely=likely, dtype=torch.float64)
    ours, theirs = losses.temperature_loss(logits, targets, t), plain_temperature_loss(logits, targets, t)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(**SHAPES, alpha=st.sampled_from([1.0, 30.0, 300.0]))
def test_top_p_loss_is_the_official_one(
    n: int, n_vocab: int, scale: float, seed: int, likely: bool, alpha: float
) -> None:
    logits, targets, t, p = case(n, n_vocab, scale, seed, likely=likely, dtype=torch.float64)
    ours = losses.top_p_loss(logits, targets, t, p, alpha=alpha, tolerance=0.0)
    theirs = plain_top_p_loss(logits, targets, t, p, alpha)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for a, b in zip(*(torch.autograd.grad(x.sum(), (t, p)) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scale", [0.3, 3.0, 8.0])
@pytest.mark.parametrize("likely", [True, False])
@pytest.mark.parametrize("n_vocab", [1500, 9000])
def test_a_large_vocabulary_in_float32(n_vocab: int, likely: bool, scale: float) -> None:
    """At the default depth and tolerance: rows of which the end is integrated, and rows that are sorted."""
    logits, targets, t, p = case(24, n_vocab, scale, 5, likely=likely, dtype=torch.float32)
    ours = losses.top_p_loss(logits, targets, t, p)
    theirs = plain_top_p_loss(logits.double(), targets, t.double(), p.double())
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=2e-5 * max(1.0, scale))
    for a, b in zip(*(torch.autograd.grad(x.sum(), (t, p)) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


# ---- what need not be sorted ----


@settings(max_examples=80, deadline=None)
@given(
    scale=st.floats(0.01, 8.0),
    seed=st.integers(0, 2**32 - 1),
    depth=st.sampled_from([8, 40, 150, 299]),
    alpha=st.sampled_from([1.0, 30.0, 1000.0]),
)
def test_the_error_bound_holds(scale: float, seed: int, depth: int, alpha: float) -> None:
    """The integral is too much, by at most what is stated, also for a target beyond the depth."""
    logits, targets, t, p = case(16, 300, scale, seed, dtype=torch.float64)
    ordered = logits.sort(-1, descending=True).values
    rough, bound = losses.bounded_top_p_loss(logits, targets, t, p, alpha, ordered[:, :depth])
    exact = plain_top_p_loss(logits, targets, t, p, alpha)
    error, allowed = rough - exact, -torch.log1p(-bound.clamp_max(1.0 - 1e-12))
    assert (error > -1e-6).all()
    assert (error < allowed + 1e-6).all()
    lax = losses.sorted_top_p_loss(logits, targets, t, p, alpha=alpha, depth=depth, tolerance=math.inf)
    torch.testing.assert_close(lax, rough)
    for tolerance in (1e-3, 1e-6, 0.0):
        ours = losses.sorted_top_p_loss(logits, targets, t, p, alpha=alpha, depth=depth, tolerance=tolerance)
        assert ((ours - exact).abs() < 1.01 * tolerance + 1e-6).all()


def test_a_target_beyond_the_depth_needs_no_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, _, t, _ = case(4, 300, 1.0, 1, dtype=torch.float64)
    targets = logits.argsort(-1, descending=True)[torch.arange(4), torch.tensor([0, 49, 50, 299])]
    depths = []
    original = losses.largest
    monkeypatch.setattr(losses, "largest", lambda x, k: depths.append((len(x), k)) or original(x, k))
    high = torch.full((4,), 0.999, dtype=torch.float64, requires_grad=True)  # the rest is far from negligible
    ours = losses.sorted_top_p_loss(logits, targets, t, high, depth=50, tolerance=1e3)
    theirs = plain_top_p_loss(logits, targets, t, high)
    assert depths == [(4, 50)]
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-2)
    for a, b in zip(*(torch.autograd.grad(x.sum(), (t, high)) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_only_the_rows_that_need_it_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peaked row is done after the largest; a flat one, a quarter of whose mass they are, is not."""
    logits = torch.stack([torch.arange(400.0) * -0.5, torch.arange(400.0) * -1e-3])
    sizes = []
    original = losses.largest
    monkeypatch.setattr(losses, "largest", lambda x, k: sizes.append((*x.shape, k)) or original(x, k))
    targets, t, p = torch.tensor([1, 1]), torch.ones(2), torch.full((2,), 0.9)
    ours = losses.sorted_top_p_loss(logits, targets, t, p, depth=100)
    assert sizes == [(2, 400, 100), (1, 400, 400)]
    torch.testing.assert_close(ours, plain_top_p_loss(logits, targets, t, p), rtol=1e-5, atol=1e-6)


# ---- in the core ----


def compare(logits: Tensor, targets: Tensor, t: Tensor, p: Tensor, alpha: float, tolerance: float) -> None:
    """The core's loss and derivatives in float32, each in its own unit, with torch's in float64 of every row sorted."""

    def losses_of(loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> Tensor:
        leaves = [x.detach().to(dtype).requires_grad_() for x in (t.clone(), p.clone())]
        values = loss(*leaves)
        by_t, by_p = torch.autograd.grad(values.sum(), leaves)
        return torch.stack([values.detach(), by_t * t.detach(), by_p / alpha]).double()

    assert losses.in_core(logits)
    ours = losses_of(
        lambda t, p: losses.top_p_loss(logits, targets, t, p, alpha=alpha, tolerance=tolerance), torch.float32
    )
    rows = logits.double().clamp(min=losses.NEVER)  # which stands for what is masked in all that torch works on
    theirs = losses_of(
        lambda t, p: losses.sorted_top_p_loss(rows, targets, t, p, alpha=alpha, depth=rows.shape[1]), torch.float64
    )
    allowed = max(1e-6, tolerance) * max(2.0, alpha / 3.0)  # the mask makes alpha of an error of the mass
    torch.testing.assert_close(ours, theirs, rtol=allowed, atol=allowed)


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 8),
    n_vocab=st.sampled_from([1, 2, 5, 511, 512, 513, 3000]),
    scale=st.floats(0.01, 12.0),
    seed=st.integers(0, 2**32 - 1),
    likely=st.booleans(),
    alpha=st.sampled_from([1.0, 30.0, 300.0]),
    tolerance=st.sampled_from([0.0, 1e-6, 1e-3]),
)
# P is within a token that may be integrated
@example(n=5, n_vocab=5, scale=7.5, seed=410518298, likely=True, alpha=1.0, tolerance=1e-3)
def test_the_core_has_the_loss_and_derivatives_of_torch(
    n: int, n_vocab: int, scale: float, seed: int, likely: bool, alpha: float, tolerance: float
) -> None:
    logits, targets, t, p = case(n, n_vocab, scale, seed, likely=likely, dtype=torch.float32)
    compare(logits, targets, t, p, alpha, tolerance)


@pytest.mark.parametrize("scale", [0.01, 2.0, 8.0])
def test_the_core_at_a_real_vocabulary(scale: float) -> None:
    """Flat rows, nearly all of which is put in order, by digits, and peaked ones."""
    compare(*case(3, 151_936, scale, 6, dtype=torch.float32), losses.ALPHA, losses.SORT_TOLERANCE)


ROWS = {
    "all mass at one": [0.0, *[-200.0] * 99],
    "nearly": [0.0, *[-12.0] * 99],
    "all equal": [1.5] * 100,
    "ties": [2.0, 2.0, 2.0, 1.0, 1.0, *[0.0] * 95],
    "masked": [0.5, -math.inf, 1.0, losses.NEVER, *[-math.inf] * 96],
    "masked but for one": [-math.inf, 3.0, *[-math.inf] * 98],
    "far apart": [1e4, -1e4, 3e4, 2e4, *[0.0] * 96],
    "one step of a float apart": [1.0, float(np.nextafter(np.float32(1), np.float32(2))), *[0.9] * 98],
}


@pytest.mark.parametrize("name", ROWS)
def test_the_core_at_rows_on_the_edge(name: str) -> None:
    """At every target of three, T from 0 to 100 and P from 0 to nearly 1."""
    temperatures = (0.0, 1e-9, 1e-3, 0.3, 1.0, 2.0, 100.0)
    grid = list(itertools.product((0, 2, 50), temperatures, (0.0, 1e-6, 0.1234, 0.55, 0.987, 1.0 - 1e-6)))
    targets, t, p = (torch.tensor(column) for column in zip(*grid, strict=True))
    compare(torch.tensor(ROWS[name]).expand(len(grid), -1).contiguous(), targets, t, p, losses.ALPHA, 0.0)


@pytest.mark.parametrize("name", ROWS)
def test_the_cores_temperature_loss_at_rows_on_the_edge(name: str) -> None:
    """T is at least 0.01, below which it has no derivative."""
    grid = list(itertools.product((0, 2, 50), (0.0, 0.005, 0.02, 0.3, 1.0, 2.0, 100.0)))
    targets, values = (torch.tensor(column) for column in zip(*grid, strict=True))
    logits = torch.tensor(ROWS[name]).expand(len(grid), -1).contiguous()
    found = []
    for rows in (logits, logits.double().clamp(min=losses.NEVER)):
        t = values.to(rows.dtype).requires_grad_()
        loss = losses.temperature_loss(rows, targets, t)
        (by_t,) = torch.autograd.grad(loss.sum(), t)
        found.append(torch.stack([loss.detach(), by_t * values]).double())
    torch.testing.assert_close(*found, rtol=2e-6, atol=2e-6)
    assert not found[0][1][values < 0.01].any()


@pytest.mark.parametrize("name", ROWS)
def test_the_core_cuts_nothing_at_a_p_of_1(name: str) -> None:
    """There torch's derivative by P depends on whether rounding carries the mass of all tokens beyond 1."""
    logits = torch.tensor([ROWS[name]] * 9).clamp(min=-100.0)
    targets, t = torch.tensor([0, 2, 50] * 3), torch.tensor([0.3, 1.0, 2.0]).repeat_interleave(3).requires_grad_()
    p = torch.ones(9, requires_grad=True)
    for tolerance in (0.0, 1e-6):
        loss = losses.top_p_loss(logits, targets, t, p, tolerance=tolerance)
        by_t, by_p = torch.autograd.grad(loss.sum(), (t, p))
        shown = torch.exp(-loss.detach()) > 1e-3  # beside the 1e-9 within the logarithm
        expected = losses.temperature_loss(logits.double(), targets, t.double())
        torch.testing.assert_close(loss[shown].double(), expected[shown], rtol=1e-5, atol=1e-6)
        (expected_by_t,) = torch.autograd.grad(expected.sum(), t)
        torch.testing.assert_close(by_t[shown], expected_by_t[shown], rtol=2e-3, atol=1e-5)
        assert by_p.tolist() == [0.0] * 9


@pytest.mark.parametrize("n", [500, 4094, 16_000])
def test_small_weights_are_not_rounded_to_a_large_one(n: int) -> None:
    """The target comes behind all of them, so that the mask makes alpha of an error of their sum, as of that of all."""
    logits = torch.tensor([[0.0, *[-12.0] * n, -12.5]])
    targets, t = torch.tensor([n + 1]), torch.ones(1)
    for p in (0.9, 1.0):
        loss = losses.top_p_loss(logits, targets, t, torch.tensor([p]))
        rows, *at = (x.double() for x in (logits, t, torch.tensor([p])))
        expected = losses.sorted_top_p_loss(rows, targets, *at, depth=n + 2)
        torch.testing.assert_close(loss.double(), expected, rtol=0.0, atol=5e-6)
    compare(logits, targets, t, torch.tensor([0.9]), losses.ALPHA, 0.0)


def test_the_core_says_that_logits_are_no_numbers() -> None:
    """Row by row: NaN, infinity, nothing but masks, and a T that is NaN; the row between them is as ever."""
    logits = torch.zeros(5, 20)
    logits[0, 7], logits[1, 7], logits[2] = math.nan, math.inf, -math.inf
    t, p = torch.tensor([1.0, 1.0, 1.0, 1.0, math.nan], requires_grad=True), torch.full((5,), 0.9, requires_grad=True)
    loss = losses.top_p_loss(logits, torch.zeros(5, dtype=torch.long), t, p)
    by_t, by_p = torch.autograd.grad(loss.sum(), (t, p))
    plain = losses.temperature_loss(logits, torch.zeros(5, dtype=torch.long), t)
    for values in (loss, by_t, by_p, plain):
        assert values.isfinite().tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("targets", "n", "match"),
    [
        ([0, 20], 2, "losses: target 20, the vocabulary has 20"),
        ([-1, 0], 2, "target -1"),
        ([0], 2, "1 targets for 2 rows"),
        ([0, 0, 0], 3, r"logits are \[2, 20\], expected \[3, n_vocab\]"),
    ],
)
def test_the_core_refuses_what_does_not_fit(targets: list[int], n: int, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        losses.top_p_loss(torch.zeros(2, 20), torch.tensor(targets), torch.ones(n), torch.ones(n))
    with pytest.raises(InvalidInput, match=match):
        losses.temperature_loss(torch.zeros(2, 20), torch.tensor(targets), torch.ones(n))


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough rows that they are shared."""
    inputs = case(16, 30_000, 2.0, 7, dtype=torch.float32)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        loss = losses.top_p_loss(*inputs)
        results.append(torch.stack([loss.detach(), *torch.autograd.grad(loss.sum(), inputs[2:])]))
    assert torch.equal(*results)


# ---- gradients ----

GRADIENTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "temperature": lambda logits, y, t, p: losses.temperature_loss(logits, y, t),
    "top-p": losses.top_p_loss,
    "top-p, flat mask": lambda *a: losses.top_p_loss(*a, alpha=1.0),
    "top-p, integrated": lambda *a: losses.sorted_top_p_loss(*a, depth=20, tolerance=math.inf),
    "top-p, some rows sorted": lambda *a: losses.sorted_top_p_loss(*a, depth=20, tolerance=1e-2),
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_gradients_by_finite_differences(name: str, scale: float) -> None:
    logits, targets, t, p = case(12, 60, scale, 3, dtype=torch.float64)

    def loss(t: Tensor, p: Tensor) -> Tensor:
        return GRADIENTS[name](logits, targets, t, p)

    by_t, by_p = torch.autograd.grad(loss(t, p).sum(), (t, p), allow_unused=True)
    for i, (ours, other) in enumerate(((by_t, p), (by_p, t))):
        if name == "temperature" and i == 1:
            assert ours is None
            continue
        x, h = (t, p)[i].detach(), 1e-6
        around = [loss(*((x + d, other.detach()) if i == 0 else (other.detach(), x + d))) for d in (h, -h)]
        torch.testing.assert_close(ours, (around[0] - around[1]) / (2 * h), rtol=1e-4, atol=1e-5)
        assert float(ours.abs().max()) > 1e-3


def test_gradients_of_the_ranking_loss() -> None:
    values = torch.tensor([[0.4, 0.5, 0.52], [0.6, 0.5, 0.9], [0.1, 0.5, 0.9]], dtype=torch.float64)
    low, plain, high = (values[:, i].clone().requires_grad_() for i in range(3))
    assert torch.autograd.gradcheck(lambda a, b, c: losses.ranking_loss(a, b, c, 0.15), (low, plain, high))


# ---- limits ----


def test_a_steep_mask_is_the_hard_cut() -> None:
    """But for the token that crosses P, which the hard cut keeps: P stands just above a step here."""
    logits, _, t, _ = case(6, 50, 2.0, 9, dtype=torch.float64)
    for i in range(6):
        scaled = logits[i].numpy() / t[i].item()
        steps = np.sort(reference.softmax(scaled))[::-1].cumsum()
        for size in (1, 3, 10):
            p = float(steps[size - 1]) + 1e-9
            kept = np.argsort(-scaled)[:size]
            nll = -np.log(reference.softmax(scaled[kept]))
            row = logits[i : i + 1].expand(size, -1)
            ours = losses.top_p_loss(
                row, torch.tensor(kept), t[i].expand(size), torch.full((size,), p, dtype=torch.float64), alpha=1e5
            )
            np.testing.assert_allclose(ours.detach(), nll, rtol=1e-4, atol=1e-4)
            assert set(np.flatnonzero(reference.nucleus(scaled, 1.0, p - 1e-6))) == set(kept.tolist())


def test_the_mask_approaches_the_cut_as_alpha_grows() -> None:
    cumulative, p = torch.tensor([[0.5, 0.8, 0.95, 1.0]]), torch.tensor([0.8])
    masks = [losses.soft_mask(cumulative, p, alpha)[0].tolist() for alpha in (1.0, 30.0, 1e4)]
    assert [m[:2] for m in masks] == [[1.0, 1.0]] * 3
    assert masks[0][2:] == pytest.approx([math.exp(-0.15), math.exp(-0.2)])
    assert masks[1][2:] == pytest.approx([math.exp(-4.5), math.exp(-6.0)])
    assert masks[2][2:] == [0.0, 0.0]
    assert losses.ALPHA == 30.0


def test_temperature_is_bounded_below() -> None:
    logits, targets = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    at = [float(losses.temperature_loss(logits, targets, torch.tensor([t]))) for t in (1e-2, 1e-3, 0.0)]
    assert at == pytest.approx([100.0] * 3)


def test_hostile_logits_give_finite_losses_and_gradients() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4] * 3, [0.0, -1e30, 1.0]])
    for y in (0, 2):
        t, p = (torch.tensor(v, requires_grad=True) for v in ([0.3, 1e-3, 1.0], [0.5, 0.999, 1e-3]))
        targets = torch.full((3,), y)
        total = (losses.top_p_loss(logits, targets, t, p) + losses.temperature_loss(logits, targets, t)).sum()
        grads = torch.autograd.grad(total, (t, p))
        assert total.isfinite()
        assert all(g.isfinite().all() for g in grads)


# ---- masks, weights, ranking ----


def test_easy_token_mask() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]] * 6)
    targets = torch.tensor([0, 0, 0, 1, 2, 1])
    draws = torch.tensor([0.0, 0.599, 0.601, 0.0, 0.3, 0.99])
    assert losses.easy_token_mask(logits, targets, draws).tolist() == [False, False, True, True, True, True]
    assert losses.easy_token_mask(logits, targets, draws, 0.0).all()
    assert losses.easy_token_mask(logits, targets, draws, 1.0).tolist() == [False] * 3 + [True] * 3


def test_six_in_ten_easy_tokens_are_dropped() -> None:
    n = 20000
    draws = torch.rand(n, generator=torch.Generator().manual_seed(0))
    easy = losses.easy_token_mask(torch.eye(2).expand(n, 2, 2)[:, 0], torch.zeros(n).long(), draws)
    assert abs(float((~easy).float().mean()) - 0.6) < 4 * math.sqrt(0.24 / n)


def test_target_weights_are_the_models_probabilities() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])).requires_grad_()
    weights = losses.target_weights(logits + 5.0, torch.tensor([1, 2]))
    assert weights.tolist() == pytest.approx([0.25, 0.7])
    assert not weights.requires_grad


@pytest.mark.parametrize(
    ("low", "plain", "high", "margin", "loss"),
    [
        (0.4, 0.6, 0.8, 0.1, 0.0),
        (0.5, 0.6, 0.7, 0.1, 0.0),
        (0.6, 0.6, 0.6, 0.1, 0.2),
        (0.55, 0.6, 0.9, 0.1, 0.05),
        (0.2, 0.6, 0.63, 0.1, 0.07),
        (0.9, 0.6, 0.2, 0.1, 0.9),
        (0.6, 0.6, 0.6, 0.0, 0.0),
        (0.7, 0.6, 0.6, 0.0, 0.1),
    ],
)
def test_ranking_loss(low: float, plain: float, high: float, margin: float, loss: float) -> None:
    got = losses.ranking_loss(*(torch.tensor([x], dtype=torch.float64) for x in (low, plain, high)), margin)
    assert got.tolist() == pytest.approx([loss], abs=1e-12)


def test_top_p_loss_by_hand() -> None:
    """0.5, 0.3, 0.2 cut at 0.6: masks 1, exp(-6), exp(-12)."""
    logits = torch.log(torch.tensor([[0.3, 0.5, 0.2]], dtype=torch.float64)).expand(3, 3)
    one = torch.ones(3, dtype=torch.float64)
    kept = np.array([0.3 * math.exp(-6.0), 0.5, 0.2 * math.exp(-12.0)])
    got = losses.top_p_loss(logits, torch.tensor([0, 1, 2]), one, 0.6 * one)
    assert got.tolist() == pytest.approx((-np.log(kept / kept.sum() + 1e-9)).tolist(), abs=1e-6)
