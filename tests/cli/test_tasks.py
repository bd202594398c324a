"""The options that say what is asked."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from training_helpers import jsonl

from autodeco_gguf.cli._tasks import read_tasks, task_options
from autodeco_gguf.errors import InvalidInput


def options(*args: str) -> dict[str, object]:
    command = task_options(click.command()(lambda **values: None))
    return command.make_context("x", list(args)).params


def test_tasks_are_read_and_their_files_known(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", {"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d"})
    tasks = read_tasks(options("--task", str(path), "--problems", "demo", "--limit", "1", "--time-limit", "3"))
    assert [(task.name, task.checker, len(task.problems)) for task in tasks.tasks] == [
        ("p", "boxed", 1),
        ("demo", "story", 1),
    ]
    assert tasks.time_limit == 3
    assert tasks.files == [path]
    tasks = read_tasks(options("--task", str(path), "--checker", "exact"))
    assert tasks.tasks[0].checker == "exact"


def test_none_and_no_checker() -> None:
    with pytest.raises(click.UsageError, match="Missing option '--task'"):
        read_tasks(options())
    with pytest.raises(InvalidInput, match="checker 'rhyme', expected one of"):
        read_tasks(options("--task", "nowhere.jsonl", "--checker", "rhyme"))
