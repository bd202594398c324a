"""The learning rate, step by step."""

from __future__ import annotations

import math

import pytest

from autodeco_gguf.training.schedule import HOLD, LAST, rate


def test_linear() -> None:
    for warmup, steps, rates in (
        (0.0, 4, [1.0, 0.75, 0.5, 0.25]),  # as transformers has it
        (0.25, 8, [0.5, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (2, 8, [0.5, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (1.0, 4, [0.25, 0.5, 0.75, 1.0]),
    ):
        assert [rate(i, steps, 1.0, warmup, "linear") for i in range(steps)] == pytest.approx(rates)


def test_cosine_is_nemos() -> None:
    """The official script's: 933 steps, 20 of them warm-up, 50 at the end at 2e-8."""
    rates = [rate(i, 933, 5e-6, 20, "cosine") for i in range(933)]
    assert rates[:3] == pytest.approx([0.0, 5e-6 / 20, 2 * 5e-6 / 20])
    assert rates[20] == 5e-6
    between = 20 + (933 - 20 - 50) // 3
    share = 0.5 * (1 + math.cos(math.pi * (between - 20) / 863))
    assert rates[between] == pytest.approx(LAST + (5e-6 - LAST) * share)
    assert rates[-HOLD:] == pytest.approx([2e-8] * 50)
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_cosine_of_a_short_training() -> None:
    for steps in range(1, 80):
        rates = [rate(i, steps, 1e-3, 20, "cosine") for i in range(steps)]
        assert all(0 <= x <= 1e-3 for x in rates)
        assert max(rates) == 1e-3, steps
    assert rate(5, 10, 1e-9, 2, "cosine") <= 1e-9
