"""Plans: never over the time there is, never less of anything for more time, and refusals that say what is enough."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tuning.plan import (
    FEWEST_ROUNDS,
    FEWEST_TEST,
    MOST_PASSES,
    MOST_ROUNDS,
    RESERVE,
    TRAININGS,
    Plan,
    Speed,
    Work,
    grid,
    make_plan,
)
from autodeco_gguf.tuning.report import needed

SPEEDS = st.builds(
    lambda tokens, tokens_s: Speed(tokens / tokens_s, tokens, tokens_s), st.floats(1, 2000), st.floats(10, 20_000)
)
WORKS = st.builds(
    Work,
    search_problems=st.integers(12, 2000),
    test_problems=st.integers(8, 1000),
    group=st.sampled_from([1, 4, 16]),
    methods=st.integers(2, 4),
    at_once=st.sampled_from([1, 8, 32]),
    trains=st.booleans(),
    validation_problems=st.integers(0, 32),
    likelihood=st.booleans(),
    start_s=st.floats(0, 30),
    fewest_test=st.integers(FEWEST_TEST, 40),
)


def planned(seconds: float, speed: Speed, work: Work) -> Plan | None:
    try:
        return make_plan(seconds, speed, work)
    except InvalidInput:
        return None


def test_by_hand() -> None:
    work = Work(search_problems=60, test_problems=40, at_once=8, validation_problems=20, start_s=20)
    plan = make_plan(1000, Speed(0.1, 30, 300), work)  # 900 s to use: 225 to search, 450 to train, 225 for the test
    assert [r.candidates for r in plan.rungs] == [31, 10, 4]
    # 75 s a round of search are 750 answers: 24 of 31 candidates, less half a batch of 8
    assert [r.problems for r in plan.rungs] == [20, 71, 183]
    assert plan.search_s == pytest.approx(0.1 * (31 * 24 + 10 * 75 + 4 * 187))
    # 450 s are 4500 answers, 200 of them for start_s; of the smallest training 3 validations of 20 problems are 480,
    # the start 4 x 64 drawn and 40 x 32 learnt from at 0.8 of the price 1280, a round 8 x 8 x 1.8 is 115.2
    assert plan.training == TRAININGS[2]
    assert plan.rounds == int((4500 - 200 - 480 - 1280) / 115.2) == 22
    assert plan.training_s == pytest.approx(0.1 * (200 + 480 + 1280 + 22 * 115.2))
    # 2250 answers, less 6 half batches: 40 problems, 1 greedy answer and 5 others; 10 times
    assert (plan.test_problems, plan.test_times) == (40, 10)
    assert plan.test_s == pytest.approx(0.1 * (40 * (1 + 10 * 5) + 6 * 4))
    assert plan.heads_s is None


def test_the_test_goes_on_more_problems_first() -> None:
    work = Work(search_problems=60, test_problems=400, at_once=1)
    plan = make_plan(100, Speed(0.1, 30, 300), work)  # 22.5 s, 223 answers, 4 a problem
    assert (plan.test_problems, plan.test_times) == (55, 1)


def test_more_time_is_for_larger_trainings() -> None:
    work, speed = Work(search_problems=60, test_problems=40, validation_problems=20), Speed(0.1, 30, 300)
    found = [make_plan(seconds, speed, work) for seconds in (500, 1000, 2500, 5000, 50_000)]
    assert [plan.training for plan in found] == [None, TRAININGS[2], TRAININGS[1], TRAININGS[0], TRAININGS[0]]
    assert found[-1].rounds == MOST_ROUNDS
    assert make_plan(50_000, speed, replace(work, trains=False)).rounds == 0


def test_heads_that_are_there_need_no_start() -> None:
    work, speed = Work(search_problems=60, test_problems=40), Speed(0.1, 30, 300)
    with_start, without = make_plan(100, speed, work), make_plan(100, speed, replace(work, likelihood=False))
    assert with_start.heads_s is not None
    assert without.heads_s == pytest.approx(with_start.heads_s - 0.1 * 1280 / 0.5 / 0.9)


def test_too_few_minutes_for_heads() -> None:
    work, speed = Work(search_problems=60, test_problems=40), Speed(2.0, 256, 128)
    plan = make_plan(1800, speed, work)
    assert (plan.training, plan.rounds, plan.training_s) == (None, 0, 0.0)
    assert plan.heads_s == pytest.approx(2 * (1280 + 15 * 115.2) / 0.5 / 0.9, rel=1e-6)
    assert make_plan(plan.heads_s, speed, work).rounds == FEWEST_ROUNDS
    assert make_plan(plan.heads_s * 0.99, speed, work).rounds == 0


def test_heads_are_not_trained_where_no_time_is_left_to_compare_them() -> None:
    """A training of one's own heads is short beside a test of 16 answers to each problem with five methods and more."""
    work = Work(60, 40, group=16, methods=5, validation_problems=5, likelihood=False)
    plan = make_plan(4200 / (1 - RESERVE), Speed(1.0, 30, 30), work)
    assert (plan.training, plan.rounds, plan.training_s) == (None, 0, 0.0)
    assert plan.heads_s == pytest.approx((10 * (1 + 7 * 16) + 8 * 8) / 0.25 / (1 - RESERVE))
    assert plan.heads_s > (3 * 5 * 8 + 15 * 8 * 8 * 1.8) / 0.5 / (1 - RESERVE)  # which is enough for the training


def test_too_few_minutes_for_anything() -> None:
    some = r"^minutes 1: an answer of 500 tokens \(75% had not ended and count as long as they may get\) takes 5\.0 s; "
    with pytest.raises(InvalidInput, match=some):
        make_plan(60, Speed(5.0, 500, 100, 0.75), Work(search_problems=60, test_problems=40))
    with pytest.raises(InvalidInput, match=r"^minutes 1: an answer of 500 tokens takes 5\.0 s") as e:
        make_plan(60, Speed(5.0, 500, 100), Work(search_problems=60, test_problems=40))
    match = re.search(r"expected at least ([0-9.]+),", str(e.value))
    assert match is not None
    assert make_plan(60 * float(match[1]), Speed(5.0, 500, 100), Work(search_problems=60, test_problems=40)).coarse


@given(
    st.builds(
        Work,
        search_problems=st.integers(8, 80),
        test_problems=st.integers(8, 60),
        group=st.sampled_from([1, 4, 16]),
        at_once=st.sampled_from([1, 16, 64, 128]),
        trains=st.booleans(),
        validation_problems=st.integers(0, 12),
        likelihood=st.booleans(),
        start_s=st.sampled_from([0.0, 10.0]),
    ),
    st.floats(0.1, 5.0),
    st.floats(1.0, 4.0),
)
def test_the_minutes_that_are_said_are_enough(work: Work, answer_s: float, more: float) -> None:
    speed = Speed(answer_s, 100, 100)
    with pytest.raises(InvalidInput) as e:
        make_plan(1.0, speed, work, used_s=10)
    minutes: Any = e.value.expected
    plan = make_plan(60 * minutes * more, speed, work, used_s=10)
    if plan.heads_s is not None:
        assert make_plan(60 * needed(plan), speed, work, used_s=10).training is not None


def test_seconds_that_are_used_are_no_more_there() -> None:
    work, speed = Work(search_problems=60, test_problems=40), Speed(0.1, 30, 300)
    late, early = make_plan(1000, speed, work, used_s=400), make_plan(600, speed, work)
    assert (late.rungs, late.rounds, late.seconds) == (early.rungs, early.rounds, 1000)
    late, early = make_plan(500, speed, work, used_s=400), make_plan(100, speed, work)
    assert late.heads_s == pytest.approx((early.heads_s or 0.0) + 400)
    with pytest.raises(InvalidInput, match=r"^minutes 5: .* expected at least [67]"):
        make_plan(300, speed, work, used_s=350)


def test_grids_begin_with_greedy_and_hold_the_default() -> None:
    for coarse in (True, False):
        pairs = grid(coarse=coarse)
        assert pairs[0] == (0.0, 1.0)
        assert (1.0, 1.0) in pairs
        assert len(set(pairs)) == len(pairs)
    assert len(grid(coarse=False)) == 31


@given(SPEEDS, WORKS, st.floats(1, 100_000))
def test_a_plan_is_never_over_the_time(speed: Speed, work: Work, seconds: float) -> None:
    plan = planned(seconds, speed, work)
    if plan is None:
        return
    assert plan.search_s + plan.training_s + plan.test_s <= seconds * (1 - RESERVE) * (1 + 1e-9)
    assert min(work.test_problems, work.fewest_test) <= plan.test_problems <= work.test_problems
    assert 1 <= plan.test_times <= MOST_PASSES
    assert (plan.rounds == 0) == (plan.training is None)
    assert plan.rounds == 0 or FEWEST_ROUNDS <= plan.rounds <= MOST_ROUNDS
    assert all(rung.problems >= 1 for rung in plan.rungs)
    assert sum(rung.problems for rung in plan.rungs) <= MOST_PASSES * work.search_problems
    assert [r.candidates for r in plan.rungs] == sorted((r.candidates for r in plan.rungs), reverse=True)
    assert (plan.heads_s is None) == bool(plan.rounds or not work.trains)


@given(SPEEDS, WORKS, st.floats(1, 100_000), st.floats(1, 4))
def test_more_time_is_never_for_less(speed: Speed, work: Work, seconds: float, more: float) -> None:
    less, plan = planned(seconds, speed, work), planned(seconds * more, speed, work)
    if less is None:
        return
    assert plan is not None
    if less.training is not None:
        assert plan.training is not None
        assert TRAININGS.index(plan.training) <= TRAININGS.index(less.training)
        assert plan.training != less.training or plan.rounds >= less.rounds
    if bool(plan.rounds) == bool(less.rounds):  # or one method more is compared, and the search has its own share only
        assert plan.test_problems * plan.test_times >= less.test_problems * less.test_times
        assert plan.coarse <= less.coarse
        if plan.coarse == less.coarse:
            assert sum(r.problems for r in plan.rungs) >= sum(r.problems for r in less.rungs)


@given(SPEEDS, WORKS)
def test_what_heads_are_said_to_take_is_enough(speed: Speed, work: Work) -> None:
    plan = planned(30, speed, work)
    if plan is not None and plan.heads_s is not None:
        assert make_plan(plan.heads_s, speed, work).rounds >= FEWEST_ROUNDS
