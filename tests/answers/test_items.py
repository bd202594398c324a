"""Problems as prompts, and graders that are opened once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import TASKS, FakeEngine, FakeGrader

from autodeco_gguf.answers.items import GradedTasks, Item, digest, make_request, render
from autodeco_gguf.errors import BadFile, InvalidInput, ModelFailed
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.tasks.problems import Problem


def test_tasks_of_one_checker_share_a_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, float]] = []
    monkeypatch.setattr(FakeGrader, "__init__", lambda self, checker, limit, leave: opened.append((checker, limit)))
    tasks = (*TASKS, replace(TASKS[0], name="more", checker="choice"))
    with GradedTasks(tasks, 3.0) as graded:
        assert graded.tasks == tasks
        assert graded.grade(Item("words", 1, TASKS[1].problems[1], [1]), "words1!").correct is True
        assert graded.grade(Item("more", 1, TASKS[0].problems[1], [1]), "words1").correct is False
    assert opened == [("exact", 3.0), ("choice", 3.0)]


def test_the_files_that_there_are(tmp_path: Path) -> None:
    (path := tmp_path / "t.jsonl").touch()
    task = replace(TASKS[0], name="more", problems=(Problem("x", "a", 1, str(path)), Problem("y", "b", 2, str(path))))
    assert GradedTasks([*TASKS, task]).files == [path]


def test_two_tasks_of_one_name() -> None:
    with pytest.raises(InvalidInput, match=r"^two tasks are called 'sums'; rename a file$") as info:
        GradedTasks([TASKS[0], TASKS[0]])
    assert (info.value.key, info.value.found) == ("tasks", "sums")


def test_prompts_and_requests() -> None:
    engine: Any = FakeEngine()
    items = render(engine, TASKS, 7)
    assert [item.key for item in items] == [("sums", 0), ("sums", 1), ("sums", 2), ("words", 0), ("words", 1)]
    assert [bytes(item.tokens).decode() for item in items[2:4]] == ["<sums 2>", "<words 0>"]
    request = make_request(items[0], Sampling(temperature=0.5, top_k=3), 9, 7)
    assert (request.prompt, request.seed, request.max_tokens) == (items[0].tokens, 9, 7)
    assert (request.temperature, request.top_p, request.top_k) == (0.5, None, 3)


def test_a_problem_that_does_not_fit_is_named() -> None:
    engine: Any = FakeEngine()
    task = replace(TASKS[0], problems=(*TASKS[0].problems, Problem("x" * 50, "a", 4, "t.jsonl")))
    with pytest.raises(BadFile, match=r"^t\.jsonl:4: the prompt has 52 tokens"):
        render(engine, [task], None)


def test_what_fails_at_a_problem_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise ModelFailed("the worker is lost")
        yield

    monkeypatch.setattr(FakeEngine, "prompts", failing)
    with pytest.raises(ModelFailed, match=rf"^{TASKS[0].problems[0].where}: the worker is lost$"):
        render(FakeEngine(), TASKS, None)  # type: ignore[arg-type]


def test_a_digest_tells_problems_apart_by_all_that_they_are() -> None:
    item = Item("words", 1, TASKS[1].problems[1], [1])
    others = [
        replace(item, task="sums"),
        replace(item, tokens=[2]),
        *(replace(item, problem=replace(item.problem, **change)) for change in ({"line": 9}, {"answer": "another"})),
    ]
    assert len({digest([one]) for one in (item, *others)}) == 5
    assert digest([item, others[0]]) != digest([others[0], item])
