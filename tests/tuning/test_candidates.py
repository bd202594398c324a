"""Which problems are asked when, and what comes of the answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fake_engine import samples_of
from hypothesis import given
from hypothesis import strategies as st
from tuning_helpers import MODEL, SETTINGS, TASKS, TuneEngine, task

from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.evaluation.methods import Config, Method
from autodeco_gguf.tuning.candidates import Trial, chosen, passes, until_different
from autodeco_gguf.tuning.plan import Plan
from autodeco_gguf.tuning.scores import measuring
from autodeco_gguf.tuning.search import Rung

PLAN = Plan(60.0, True, (Rung(4, 20), Rung(2, 70)), None, 0, 8, 1, 1.0, 0.0, 1.0)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 50))
def test_passes_are_a_stretch_of_problems_that_repeat(start: int, count: int, n: int) -> None:
    found = [(again, place) for again, first, last in passes(start, count, n) for place in range(first, last)]
    assert found == [divmod(at, n) for at in range(start, start + count)]


def test_tasks_take_turns() -> None:
    tasks = (task("a", 6), task("b", 3))
    parts = [chosen(tasks, first, first + 3) for first in (0, 3, 6)]
    assert [[len(t.problems) for t in part] for part in parts] == [[2, 1]] * 3
    assert sorted(p.text for part in parts for t in part for p in t.problems) == sorted(
        p.text for t in tasks for p in t.problems
    )
    assert [t.name for t in chosen(tasks, 0, 1)] == ["a"]  # a task without a problem is none
    assert [len(t.problems) for t in chosen(tasks, 0, 100)] == [6, 3]


def test_a_problem_of_two_tasks_is_one_of_the_fewest() -> None:
    a = task("a", 12)
    again, other = replace(a, name="again"), task("b", 12)
    assert [until_different((a,), n) for n in (1, 10, 12, 13)] == [1, 10, 12, 12]
    assert [until_different((a, again), n) for n in (1, 10, 12, 13)] == [1, 19, 23, 24]
    assert until_different((a, again, other), 10) == 15


@pytest.mark.usefixtures("made_up")
def test_a_search(tmp_path: Path) -> None:
    engine = TuneEngine(MODEL, heads=None, n_parallel=4)
    pairs = [Config.static(0, 1), Config.static(0.7, 0.85), Config.static(1, 1), Config.static(0.3, 1)]
    said = []
    with GradedTasks(TASKS) as graded, measuring("correct", 10.0) as measure:
        trial = Trial(engine, graded, SETTINGS, measure, lambda *args: said.append(args))  # type: ignore[arg-type]
        found = trial.search(TASKS, tmp_path, pairs, PLAN)
        drawn = TuneEngine.total
        again = trial.search(TASKS, tmp_path, pairs, PLAN)
    assert found[0].candidate == Config.static(0.7, 0.85)
    assert [one.problems for one in found] == [60, 60, 20, 20]  # 30 of them twice
    assert found[0].mean == pytest.approx(0.9, abs=0.1)
    assert again == found
    assert TuneEngine.total == drawn == 4 * 20 + 2 * 70
    # 60 problems: the second round asks the other 40, then 30 of them again with other seeds
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "2.2"]
    assert [len(samples_of(tmp_path / name)) for name in ("1", "2", "2.2")] == [80, 80, 60]
    assert Counter(s["config"] for s in samples_of(tmp_path / "1")).most_common(1)[0][1] == 20
    assert {stage for stage, _ in said} == {"search, round 1 of 2", "search, round 2 of 2"}
    asked = {(bytes(r.prompt), r.seed, r.temperature, r.top_p) for r in engine.drawn}  # type: ignore[arg-type]
    assert len(asked) == drawn  # nothing twice


@pytest.mark.usefixtures("made_up")
def test_another_seed_draws_other_answers(tmp_path: Path) -> None:
    seeds = []
    for seed in (0, 5):
        engine, settings = TuneEngine(MODEL, heads=None, n_parallel=4), replace(SETTINGS, seed=seed)
        with GradedTasks(TASKS) as graded, measuring("correct", 10.0) as measure:
            trial = Trial(engine, graded, settings, measure, lambda *args: None)  # type: ignore[arg-type]
            trial.search(TASKS, tmp_path / str(seed), [Config.static(1, 1)], PLAN)
        seeds.append({request.seed for request in engine.drawn})
    assert not seeds[0] & seeds[1]


@pytest.mark.usefixtures("made_up")
def test_answers_are_as_long_as_they_may_be(tmp_path: Path) -> None:
    engine = TuneEngine(MODEL, heads=None, n_parallel=4)
    with GradedTasks(TASKS) as graded, measuring("correct", 10.0) as measure:
        settings = replace(SETTINGS, max_tokens=7)
        trial = Trial(engine, graded, settings, measure, lambda *args: None)  # type: ignore[arg-type]
        trial.run(TASKS, tmp_path, [Method("one", "constant", Config.static(1, 1))], "test")
    assert {request.max_tokens for request in engine.drawn} == {7}


@pytest.mark.usefixtures("made_up")
def test_groups_of_answers(tmp_path: Path) -> None:
    engine = TuneEngine(MODEL, heads=None, n_parallel=4)
    settings = replace(SETTINGS, reward="distinct", k=4)
    with GradedTasks(TASKS) as graded, measuring("distinct", 10.0) as measure:
        trial = Trial(engine, graded, settings, measure, lambda *args: None)  # type: ignore[arg-type]
        methods = [Config.static(0, 1), Config.static(1, 1)]
        rows = trial.run(TASKS, tmp_path, [Method(str(c), "constant", c) for c in methods], "test", times=2)
    counts = Counter(s["config"] for s in samples_of(tmp_path))
    assert counts == {"static:0,1": 60, "static:1,1": 60 * 4 * 2}
    assert rows[0].values.max() <= 1
    assert 1 < rows[1].values.max() <= 4
