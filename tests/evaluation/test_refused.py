"""What an evaluation refuses: error types, and what they say they are about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_engine import TASKS, FakeEngine, without

from autodeco_gguf.answers.items import GradedTasks, make_item
from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput, ModelFailed
from autodeco_gguf.evaluation.control import evaluate_control
from autodeco_gguf.evaluation.methods import config_of, parse_methods
from autodeco_gguf.evaluation.runner import evaluate
from autodeco_gguf.evaluation.settings import EvalSettings, Shard
from autodeco_gguf.evaluation.shards import join
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.tasks.problems import Problem


def too_long() -> None:
    engine: Any = FakeEngine()
    make_item(engine, "t", 0, Problem("x" * 50, "a", 4, "t.jsonl"), None)


def shard_of_nothing() -> None:
    engine: Any = FakeEngine()
    methods = parse_methods(["greedy"], engine.heads, {})
    with GradedTasks([without(TASKS[0], 2)]) as tasks:
        evaluate(engine, tasks, Path("nowhere"), methods, EvalSettings(), shard=Shard(2, 2))


def control_without_heads() -> None:
    engine: Any = FakeEngine(frozenset())
    evaluate_control(engine, TASKS, Path("nowhere"), Commands(("a",), ("b",)), EvalSettings())


def control_of_nothing() -> None:
    engine: Any = FakeEngine()
    engine.finish = {1: "error"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autodeco_gguf.evaluation.control.Journal", NoJournal)
        evaluate_control(engine, TASKS, Path(), Commands(("a",), ("b",)), EvalSettings())


class NoJournal:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> NoJournal:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def lines(self) -> list[Any]:
        return []


ERRORS: dict[str, tuple[Any, type[AutoDecoError], dict[str, Any]]] = {
    "k": (EvalSettings(k=0).check, InvalidInput, {"key": "k", "found": 0, "expected": "at least 1"}),
    "seed": (EvalSettings(seed=-1).check, InvalidInput, {"key": "seed", "found": -1}),
    "tasks": (EvalSettings(tasks=("a", "a")).check, InvalidInput, {"key": "tasks", "found": "a"}),
    "shard": (lambda: Shard.parse("3/2"), InvalidInput, {"key": "shard", "found": "'3/2'"}),
    "method": (lambda: parse_methods(["best"], (), {}), InvalidInput, {"key": "method", "found": "best"}),
    "pair": (lambda: parse_methods(["static:9,9"], (), {}), InvalidInput, {"key": "P", "found": "9"}),
    "no heads": (lambda: parse_methods(["autodeco"], (), {}), BadFile, {"key": "autodeco"}),
    "metadata": (
        lambda: config_of("model").sampling({"general.sampling.temp": "warm"}),
        BadFile,
        {"key": "general.sampling.temp", "found": "warm", "expected": "a number"},
    ),
    "config": (lambda: config_of("hot:1").sampling({}), InvalidInput, {"key": "config", "found": "hot:1"}),
    "prompt": (too_long, BadFile, {"file": "t.jsonl"}),
    "no problem left": (shard_of_nothing, InvalidInput, {"key": "shard"}),
    "control": (control_without_heads, BadFile, {}),
    "an error": (control_of_nothing, ModelFailed, {}),
    "no directory": (lambda: join([Path("nowhere")], Path("out")), BadFile, {"file": "nowhere/evaluation.jsonl"}),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_have_types_and_say_what_they_are_about(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    act, kind, attributes = ERRORS[case]
    with pytest.raises(AutoDecoError) as info:
        act()
    assert type(info.value) is kind
    assert {name: getattr(info.value, name) for name in attributes} == attributes
