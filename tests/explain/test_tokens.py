"""The figures of a token against PyTorch's derivatives, a fine grid of T, and the sampler's own cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autodeco_gguf._native import core
from autodeco_gguf.explain.tokens import Centred, Ordered, best, local, value

RNG = np.random.default_rng(5)
LOGITS = (RNG.normal(size=(60, 50)) * RNG.uniform(0.5, 6, (60, 1))).astype(np.float32)
TARGET = np.take_along_axis(np.argsort(-LOGITS, 1), RNG.choice([0, 1, 2, 3, 30], (60, 1)), 1)[:, 0]
AT = Centred.of(LOGITS, TARGET)


def likelihood(b: torch.Tensor) -> torch.Tensor:
    """What is differentiated: log softmax(b l) of the right tokens."""
    scaled = torch.log_softmax(torch.tensor(LOGITS, dtype=torch.float64) * b[:, None], -1)
    return scaled.gather(1, torch.tensor(TARGET)[:, None]).squeeze(1)


def test_value_gradient_and_curvature_are_those_of_autograd() -> None:
    b = torch.tensor(RNG.uniform(0.4, 12, 60), requires_grad=True)
    expected = likelihood(b)
    (first,) = torch.autograd.grad(expected.sum(), b, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), b)
    found = local(AT, b.detach().numpy())
    np.testing.assert_allclose(found.value, expected.detach(), atol=1e-10)
    np.testing.assert_allclose(found.gradient, first.detach(), atol=1e-10)
    np.testing.assert_allclose(found.curvature, -second, atol=1e-10)
    np.testing.assert_allclose(value(AT, 1.7), likelihood(torch.full((60,), 1.7, dtype=torch.float64)), atol=1e-10)


def test_the_best_is_not_beaten_by_any_of_a_grid() -> None:
    """Nor by a neighbour: what Newton finds is a maximum to the last digits."""
    low, high = 0.5, 10.0
    found = best(AT, low, high)
    assert ((found >= low) & (found <= high)).all()
    reached = local(AT, found).value
    for b in (*np.geomspace(low, high, 2000), *(np.clip(found * f, low, high) for f in (0.999, 1.001))):
        assert (local(AT, np.broadcast_to(b, 60)).value <= reached + 1e-12).all()
    inside = (found > low) & (found < high)
    assert 5 < inside.sum() < 55, "the example has ends and inner points"
    assert np.abs(local(AT, found).gradient[inside]).max() < 1e-7


@pytest.mark.parametrize(
    ("logits", "target", "expected"),
    [
        ([3.0, 1.0, 0.0], 0, 10.0),  # the likeliest is right: as sharp as can be
        ([3.0, 1.0, 0.0], 2, 0.5),  # the least likely one: as flat as can be
        ([0.0, 0.0, 0.0], 1, 10.0),  # no T matters; the end is as good as any
        ([2.0, 0.0, -np.inf], 0, 10.0),
        ([200.0, 0.0, 0.0], 1, 0.5),  # where the gradient has no curvature left
    ],
)
def test_the_ends(logits: list[float], target: int, expected: float) -> None:
    at = Centred.of(np.array([logits], np.float32), np.array([target]))
    assert best(at, 0.5, 10).tolist() == [expected]
    assert np.isfinite(local(at, np.array([expected])).value).all()


def test_two_tokens_in_closed_form() -> None:
    """Of [a, 0, -c] the second: no gradient where a e^{ab} = c e^{-cb}, that is b = ln(c/a) / (a + c)."""
    a, c = 0.3, 6.0
    at = Centred.of(np.array([[a, 0, -c]], np.float32), np.array([1]))
    assert best(at, 0.1, 10)[0] == pytest.approx(np.log(c / a) / (a + c), rel=1e-6)


@pytest.mark.parametrize("top_p", [0.0, 0.05, 0.5, 0.9, 0.999, 1.0])
def test_the_cut_is_the_samplers(top_p: float) -> None:
    """The tokens that a thousand draws give are those of the nucleus, where each is likely enough to be drawn."""
    b = RNG.uniform(0.5, 2, 60)
    ordered = Ordered.of(AT, TARGET, b)
    cut = ordered.cut(np.full(60, top_p))
    for i in range(60):
        probs = np.exp(AT.logits[i] * b[i])
        probs /= probs.sum()
        order = np.argsort(-probs, kind="stable")
        size = 50 if top_p == 1 else next(k for k in range(1, 51) if probs[order[:k]].sum() >= top_p - 1e-12)
        nucleus = order[:size].tolist()
        assert (cut.size[i], cut.keeps[i]) == (size, TARGET[i] in nucleus)
        assert cut.mass[i] == pytest.approx(probs[nucleus].sum())
        drawn = set(core.draw(LOGITS[i], float(1 / b[i]), top_p, 300, i).tolist())
        assert drawn <= set(nucleus)
        assert {t for t in nucleus if probs[t] > 0.05 * probs[nucleus].sum()} <= drawn
        assert ordered.mass_to_right[i] == pytest.approx(probs[order[: order.tolist().index(TARGET[i]) + 1]].sum())


def test_equal_tokens_stand_in_the_order_of_their_ids() -> None:
    """A thousand, which a sort that is not stable leaves in any order."""
    logits, target = np.zeros((3, 1000), np.float32), np.array([0, 499, 999])
    logits[:, 500] = 1.0
    assert Ordered.of(Centred.of(logits, target), target, np.ones(3)).place.tolist() == [1, 500, 999]


def test_equal_tokens_at_the_cut_in_the_order_of_their_ids() -> None:
    logits = np.zeros((1, 4), np.float32)
    for target, keeps in ((1, True), (2, False)):
        target_ = np.array([target])
        cut = Ordered.of(Centred.of(logits, target_), target_, np.ones(1)).cut(np.array([0.5]))
        assert (cut.size[0], bool(cut.keeps[0])) == (2, keeps)
