"""A start by likelihood: on right answers to problems of the training alone, as many as wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Case

from autodeco_gguf.answers.items import GradedTasks, render
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import BadFile
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task
from autodeco_gguf.training import likelihood_start as module
from autodeco_gguf.training.likelihood_start import likelihood_start
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.reward_settings import RewardSettings

pytestmark = pytest.mark.usefixtures("tamed", "one_thread")

SETTINGS = RewardSettings(k=4, problems=3, start_rounds=5, start_steps=2, max_tokens=6)
TASKS = [
    Task(name, tuple(Problem(f"{name} {i}", "1", i + 1, f"{name}.jsonl") for i in range(4)), "even")
    for name in ("one", "two")
]


@pytest.fixture(scope="module")
def engine(qwen2: Case) -> Iterator[Engine]:
    with Engine(qwen2.base, n_parallel=4, n_ctx=64, machine=Machine(n_threads=1)) as engine:
        yield engine


def equal(a: HeadsModule, b: HeadsModule) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_few_problems_are_asked_the_more_often(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 8)
    with GradedTasks(TASKS) as tasks:
        items = [item for item in render(engine, TASKS, 6) if item.key not in {("one", 1), ("two", 3)}]
        heads, n = likelihood_start(engine, tasks, items, SETTINGS, tmp_path / "start")
        again, _ = likelihood_start(engine, tasks, items, SETTINGS, tmp_path / "start")
    lines = [json.loads(line) for line in (tmp_path / "start" / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 6 * 10  # 5 rounds of 3 problems and 4 answers, and 6 problems
    asked = {(line["task"], line["problem"] - 1) for line in lines}
    assert asked == {item.key for item in items}
    assert n == sum(line["correct"] and line["completion"] != "" for line in lines)
    assert not equal(heads, HeadsModule(64, 0))
    assert equal(heads, again)


def test_with_too_few_they_stay_new(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = HeadsModule(64, 0)
    with GradedTasks([replace(task, checker="never") for task in TASKS]) as tasks:
        items = render(engine, tasks.tasks, 6)
        heads, n = likelihood_start(engine, tasks, items, SETTINGS, tmp_path / "none")
        assert (n, equal(heads, new)) == (0, True)
    monkeypatch.setattr(module, "LEAST", 10_000)
    with GradedTasks(TASKS) as tasks:
        heads, n = likelihood_start(engine, tasks, items, SETTINGS, tmp_path / "few")
    assert (n > 0, equal(heads, new)) == (True, True)


def test_answers_that_cannot_be_read_are_no_reason_to_stay_new(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").mkdir()
    with GradedTasks(TASKS) as tasks, pytest.raises(BadFile, match=r"answers\.jsonl: "):
        likelihood_start(engine, tasks, render(engine, TASKS, 6), SETTINGS, tmp_path)
