"""Graded answers as they come, and in groups."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fake_engine import TASKS, FakeEngine, FakeGrader

from autodeco_gguf.answers.items import GradedTasks, Item, render
from autodeco_gguf.answers.stream import Answer, Wanted, answers, groups
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.tasks.grading import Grade
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task

AT = Sampling(temperature=0.5, top_p=0.9)


def draw(engine: Any, wanted: list[Wanted], sampling: Sampling = AT) -> list[Answer]:
    with GradedTasks(TASKS) as tasks:
        return list(answers(engine, tasks, wanted, sampling, 9))


def wanted_of(engine: Any, k: int) -> list[Wanted]:
    return [Wanted(item, n, 100 + n) for item in render(engine, TASKS, 9) for n in range(k)]


def test_each_is_what_was_asked_for_with_its_grade() -> None:
    engine: Any = FakeEngine()
    wanted = wanted_of(engine, 4)
    drawn = draw(engine, wanted)
    assert sorted(one.result.index for one in drawn) == list(range(20))
    for one in drawn:
        assert (one.item, one.number) == wanted[one.result.index][:2]
        assert one.grade == Grade(one.result.text.rstrip("!") == one.item.problem.answer)
        assert one.seconds >= 0
    assert {one.grade.correct for one in drawn} == {True, False}
    assert [r.seed for r in engine.drawn[:4]] == [103, 102, 101, 100]
    assert {(r.temperature, r.top_p, r.max_tokens) for r in engine.drawn} == {(0.5, 0.9, 9)}


def test_what_failed_in_the_model_is_wrong_and_not_graded() -> None:
    engine: Any = FakeEngine()
    engine.finish = {2: "error"}
    drawn = draw(engine, wanted_of(engine, 2))
    assert [one.grade for one in drawn if one.result.finish_reason == "error"] == [Grade(False, "out of memory")]
    assert FakeGrader.graded == 9


def test_time_for_grading_is_not_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def grade(self: FakeGrader, text: str, answer: str) -> Grade:
        clock[0] += 100
        return Grade(True)

    monkeypatch.setattr(FakeGrader, "grade", grade)
    engine: Any = FakeEngine()
    result = engine._result
    monkeypatch.setattr(engine, "_result", lambda *a: (clock.__setitem__(0, clock[0] + 1), result(*a))[1])
    assert [one.seconds for one in draw(engine, wanted_of(engine, 1))] == [1.0] * 5


def test_closing_cancels_what_is_under_way() -> None:
    engine: Any = FakeEngine()
    closed = []

    def as_completed(requests: Any) -> Any:
        try:
            yield from FakeEngine.as_completed(engine, requests)
        finally:
            closed.append(True)

    engine.as_completed = as_completed
    with GradedTasks(TASKS) as tasks:
        stream = answers(engine, tasks, wanted_of(engine, 2), AT, 9)
        next(stream)
        stream.close()
    assert closed == [True]


def test_groups_are_whole_and_in_order() -> None:
    engine: Any = FakeEngine()
    drawn = draw(engine, wanted_of(engine, 3))
    random.Random(1).shuffle(drawn)
    found = list(groups(drawn, 3))
    assert sorted(group[0].item.key for group in found) == [item.key for item in render(engine, TASKS, 9)]
    for group in found:
        assert [one.number for one in group] == [0, 1, 2]
        assert len({one.item.key for one in group}) == 1
    ends = [max(drawn.index(one) for one in group) for group in found]
    assert ends == sorted(ends)
    assert list(groups(drawn[:2], 3)) == []


def test_answers_that_name_the_same_have_one_key() -> None:
    task = Task("fruits", (Problem("Name a fruit.", '["apple", "pear"]', 1),), "member")
    item = Item("fruits", 0, task.problems[0], [1])
    with GradedTasks([task]) as tasks:
        assert [key(tasks, item, text) for text in ("An apple!", "Apples are one. Pears too.")] == ["apple"] * 2
    with GradedTasks([replace(task, checker="exact")]) as tasks:
        assert key(tasks, item, " Stone ") == "Stone"


def key(tasks: GradedTasks, item: Item, text: str) -> str:
    result: Any = SimpleNamespace(text=text)
    return Answer(item, 0, result, Grade(True), 0.0, tasks.given(item, text, True)).key
