"""What the tokens come to: numbers that a person can check, and the identities that docs/explain.md states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from explain_helpers import made_up

from autodeco_gguf.explain.findings import (
    Estimate,
    Spread,
    estimate,
    spread,
    temperature_findings,
    top_p_findings,
)
from autodeco_gguf.explain.reading import CONSTANTS


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], Spread(0.5, 0.9)),
        ([0, 0, 10, 0, 0, 0, 0, 0, 0, 0], Spread(0.1, 0.1)),
        ([6, 3, 1, 0], Spread(0.25, 0.5)),
        ([0, 0], Spread(None, None)),
        ([-1e-18, 2], Spread(0.5, 0.5)),  # what rounding makes negative
    ],
)
def test_spread(values: list[float], expected: Spread) -> None:
    assert spread(np.array(values, float)) == expected


def test_rounding_has_no_sign() -> None:
    assert [Estimate(value, 0.0, 5).sign for value in (1e-9, -1e-9, 2e-6, -2e-6)] == [0, 0, 1, -1]


def test_a_sign_where_there_is_none_and_problems_differ_in_length() -> None:
    """In 20 % of the cases without the jackknife."""
    rng, signs = np.random.default_rng(0), 0
    for _ in range(600):
        lengths = np.maximum(1, (40 * rng.lognormal(0, 1.5, 10)).astype(int))
        problem = np.repeat(np.arange(10), lengths)
        values = np.repeat(rng.normal(0, 1, 10), lengths) + rng.normal(0, 1, len(problem))
        signs += abs(estimate(values, problem).sign)
    assert 12 < signs < 84  # 2 and 14 %


def test_an_estimate_takes_the_tokens_of_a_problem_together() -> None:
    values, problem = np.array([1.0, 3.0, 5.0, 7.0]), np.array([0, 0, 1, 1])
    found = estimate(values, problem)
    assert found.value == 4
    assert found.se == pytest.approx(np.sqrt((4**2 + 4**2) * 2) / 4)  # sums of deviations -4 and 4
    assert (found.problems, estimate(values, np.zeros(4, int))) == (2, Estimate(4.0, None, 1))
    signs = [Estimate(v, s, 20).sign for v, s in ((1.0, 0.4), (1.0, 0.6), (-1.0, 0.4), (1.0, None))]
    assert signs == [1, 0, -1, 0]
    least = ((2, 12.71), (3, 4.31), (6, 2.58), (39, 2.03), (1000, 1.97))  # the tables of Student's t
    assert [[Estimate(t - x, 1.0, n).sign for x in (0.02, 0)] for n, t in least] == [[0, 1]] * 5


@pytest.mark.parametrize("problems", [2, 3, 5, 10])
def test_nothing_has_a_sign_in_a_case_of_twenty(problems: int) -> None:
    rng = np.random.default_rng(0)
    problem = np.repeat(np.arange(problems), 20)
    drawn = (rng.normal(0, 1, problems)[problem] + rng.normal(0, 1, len(problem)) for _ in range(2000))
    assert np.mean([estimate(values, problem).sign != 0 for values in drawn]) == pytest.approx(0.05, abs=0.015)


def test_the_parts_add_up() -> None:
    at = made_up()
    t = temperature_findings(at)
    assert t.first_order - t.penalty + t.remainder == pytest.approx(t.gain.value)
    assert t.correlation is not None
    assert t.first_order == pytest.approx(t.correlation * t.deviation * t.gradient_sd)
    b = 1 / at.temperature
    assert t.correlation == pytest.approx(np.corrcoef(b, at.gradient)[0, 1])
    assert t.constant == pytest.approx(1 / b.mean())
    assert t.gain.value == pytest.approx((at.value - at.mean_value).mean())
    assert t.share == pytest.approx(t.gain.value / t.oracle_gain)
    assert t.heads + (t.oracle_gain - t.gain.value) == pytest.approx(t.oracle)
    best = dict(t.constants)[t.best_constant]
    assert best == max(y for _, y in t.constants)
    assert t.gain_over_best.value == pytest.approx(t.heads - best)
    assert t.share_over_best == pytest.approx((t.heads - best) / (t.oracle - best))
    assert t.gain_over_mean.value == pytest.approx((at.value - at.shift_value).mean())


def test_the_best_size_is_that_of_the_second_order() -> None:
    at = made_up()
    t = temperature_findings(at)
    assert t.best_scale is not None
    assert t.scaled_gain is not None
    deviation = 1 / at.temperature - (1 / at.temperature).mean()
    sizes = np.linspace(0, 3 * t.best_scale, 3001)
    gains = [(at.gradient * s * deviation - at.curvature * (s * deviation) ** 2 / 2).mean() for s in sizes]
    assert sizes[int(np.argmax(gains))] == pytest.approx(t.best_scale, abs=2e-3)
    assert max(gains) == pytest.approx(t.scaled_gain, rel=1e-5)


def test_small_deviations_have_no_remainder() -> None:
    whole, tenth = (temperature_findings(made_up(size=size)) for size in (0.1, 0.01))
    assert abs(tenth.remainder) < 2e-3 * abs(whole.remainder), "of third order"
    assert tenth.first_order == pytest.approx(whole.first_order / 10, rel=0.05)
    assert tenth.penalty == pytest.approx(whole.penalty / 100, rel=0.1)


@pytest.mark.parametrize(("skill", "sign"), [(1.0, 1), (0.0, -1), (-1.0, -1)])
def test_who_knows_where_it_helps_gains(skill: float, sign: int) -> None:
    t = temperature_findings(made_up(skill=skill))
    assert t.gain.sign == sign
    assert t.correlation is not None
    assert abs(t.correlation - 0.8 * skill) < 0.25


def test_the_best_t_at_every_token_is_all_there_is_to_gain() -> None:
    at = made_up()
    t = temperature_findings(replace(at, value=at.best_value, temperature=at.best))
    assert t.gain.value == t.oracle_gain
    assert t.share == t.share_over_best == 1


def test_heads_that_never_change() -> None:
    at = made_up()
    flat = replace(at, temperature=np.full(400, 0.7), value=at.mean_value, shift_value=at.mean_value)
    t = temperature_findings(flat)
    assert (t.gain.value, t.deviation, t.correlation, t.cosine, t.best_scale) == (0, 0, None, None, None)


def test_the_same_t_everywhere_is_no_better_than_a_single_one() -> None:
    """Though better than all that are tried but itself, and up to rounding."""
    at = made_up()
    flat = replace(at, temperature=np.full(400, 0.85), mean_value=at.best_value, shift_value=at.best_value)
    t = temperature_findings(replace(flat, value=at.best_value + 1e-9))
    assert t.best_constant == pytest.approx(0.85)
    assert (t.gain.sign, t.gain_over_mean.sign, t.gain_over_best.sign) == (0, 0, 0)
    assert [single for single, _ in t.constants] == sorted([*CONSTANTS, t.constant, t.mean])


def test_top_p_by_hand() -> None:
    at = made_up(4)
    at = replace(
        at,
        problem=np.array([0, 0, 1, 1]),
        top_p=np.array([0.2, 0.4, 0.6, 0.8]),
        size=np.array([1, 1, 3, 9]),
        keeps=np.array([True, False, True, True]),
        mass=np.array([0.5, 0.5, 0.7, 0.8]),
        mean_size=np.array([1, 2, 3, 4]),
        mean_keeps=np.array([True, True, True, False]),
        mean_mass=np.array([0.5, 0.6, 0.7, 0.6]),
        breakpoints=np.array([0, 1, 0, 7]),
        mass_to_right=np.array([0.5, 0.6, 0.4, 0.8]),
    )
    p = top_p_findings(at)
    assert (p.constant, p.low, p.high) == pytest.approx((0.5, 0.23, 0.77))
    assert (p.breakpoints, p.without_breakpoint, p.single) == (2, 0.5, 0.5)
    assert (p.changed, p.smaller, p.larger, p.lost, p.constant_lost) == (0.5, 0.25, 0.25, 0.25, 0.25)
    assert p.lost_less.value == 0
    assert p.gain is not None
    assert p.gain.value == 0  # both keep it at two tokens, with equal nuclei
    assert p.over_no_cut is not None
    assert p.over_no_cut.value == pytest.approx(-np.log([0.5, 0.7, 0.8]).mean())
    assert p.oracle_over_no_cut == pytest.approx(-np.log([0.5, 0.4, 0.8]).mean())
    assert p.share == pytest.approx(p.over_no_cut.value / p.oracle_over_no_cut)


def test_which_way_top_p_is_counted() -> None:
    """Who is smaller, who loses less, and who gains, where they are not equal."""
    at = replace(
        made_up(4),
        problem=np.array([0, 0, 1, 1]),
        size=np.array([1, 1, 1, 9]),
        keeps=np.array([True, True, True, False]),
        mass=np.array([0.5, 0.5, 0.5, 0.5]),
        mean_size=np.array([2, 2, 3, 4]),
        mean_keeps=np.array([True, False, True, False]),
        mean_mass=np.array([0.8, 0.9, 0.8, 0.9]),
    )
    p = top_p_findings(at)
    assert (p.changed, p.smaller, p.larger, p.lost, p.constant_lost) == (1, 0.75, 0.25, 0.25, 0.5)
    assert p.lost_less.value == 0.25
    assert p.gain is not None
    assert p.gain.value == pytest.approx(np.log(0.8 / 0.5))  # the smaller nucleus gives the right token more
    assert (p.gain.problems, p.gain.se) == (2, pytest.approx(0))


def test_a_cut_that_keeps_nothing_right() -> None:
    at = made_up()
    p = top_p_findings(replace(at, keeps=np.zeros(400, bool)))
    assert (p.lost, p.gain, p.over_no_cut, p.share) == (1, None, None, None)
