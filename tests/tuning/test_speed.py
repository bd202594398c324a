"""Speed and length are measured on the demo model."""

from __future__ import annotations

import itertools
import time

import pytest

from autodeco_gguf.answers.items import GradedTasks, Item, render
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks.grading import Grade
from autodeco_gguf.tasks.tasks import read_task
from autodeco_gguf.tuning.speed import measure_speed


class Graded(GradedTasks):
    """Grades in no time, and counts."""

    graded = 0

    def grade(self, item: Item, text: str) -> Grade:
        self.graded += 1
        return Grade(True, None)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(DEMO_MODEL, n_parallel=4, n_ctx=160, heads_enabled=(), machine=Machine(n_threads=1))


def test_all_answers(engine: Engine) -> None:
    tasks = Graded([read_task("demo")])
    items = render(engine, tasks.tasks, None)
    start = time.monotonic()
    speed = measure_speed(engine, tasks.grade, items, max_tokens=None, limit_s=60)
    seconds = time.monotonic() - start
    assert tasks.graded == 8
    assert speed.unended == 0.0
    assert 30 < speed.tokens < 100  # a story
    assert 0.5 < speed.answer_s * 8 / seconds <= 1
    assert speed.tokens_s == pytest.approx(speed.tokens / speed.answer_s, rel=0.1)


def test_the_length_is_bounded(engine: Engine) -> None:
    tasks = Graded([read_task("demo", limit=3)])
    assert measure_speed(engine, tasks.grade, render(engine, tasks.tasks, 5), max_tokens=5, limit_s=60).tokens == 5


def test_a_limit_of_time(engine: Engine) -> None:
    """What has not ended counts as long as it may get; what has not begun not at all."""
    tasks, ticks = Graded([read_task("demo")]), itertools.count()
    items = render(engine, tasks.tasks, None)
    speed = measure_speed(engine, tasks.grade, items, max_tokens=None, limit_s=5, clock=lambda: next(ticks))
    engine.forget()  # nothing is under way any more
    assert tasks.graded == 0
    room = [160 - len(item.tokens) for item in items[:4]]
    assert speed.tokens == pytest.approx(sum(room) / 4)
    assert speed.unended == 1.0
    ticks = itertools.count()
    more = measure_speed(engine, tasks.grade, items, max_tokens=1000, limit_s=5, clock=lambda: next(ticks))
    assert more.tokens == speed.tokens  # than there is room for
    ticks = itertools.count(0, 10)
    with pytest.raises(InvalidInput, match="minutes 5 s for a first look, expected enough for one token"):
        measure_speed(engine, tasks.grade, items, max_tokens=None, limit_s=5, clock=lambda: next(ticks))


def test_answers_to_a_problem_that_comes_again_are_others(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    items, seeds, submit = render(engine, [read_task("demo", limit=3)], 5), list[int | None](), Engine.submit

    def noted(self: Engine, request: Request) -> Generation:
        seeds.append(request.seed)
        return submit(self, request)

    monkeypatch.setattr(Engine, "submit", noted)
    measure_speed(engine, lambda *_: None, items, max_tokens=5, limit_s=60)
    assert len(set(seeds)) == 8


def test_the_time_that_grading_takes_counts(engine: Engine) -> None:
    graded: list[str] = []
    items = render(engine, [read_task("demo", limit=3)], 5)
    speed = measure_speed(
        engine,
        lambda _, text: graded.append(text),
        items,
        max_tokens=5,
        limit_s=600,
        clock=lambda: time.monotonic() + 100.0 * len(graded),
    )
    assert len(graded) == 8
    assert speed.answer_s - speed.tokens / speed.tokens_s == pytest.approx(100, rel=0.01)
