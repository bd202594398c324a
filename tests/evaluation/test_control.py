"""Commands in the prompt, on an engine that is made up: what moves, and what is asked again."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import (
    BOTH,
    SETTINGS,
    TASKS,
    FakeEngine,
)

from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import AutoDecoError, BadFile
from autodeco_gguf.evaluation.as_json import from_json, to_json
from autodeco_gguf.evaluation.control import WRITTEN, ControlResult, control_table, evaluate_control
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.tasks.problems import Problem

pytestmark = pytest.mark.usefixtures("made_up_states")

COMMANDS = Commands(("be plain", "be exact"), ("surprise me",))


class Controlled(FakeEngine):
    """Commands move T; P moves the wrong way for one task."""

    def _result(self, index: int, request: Request) -> Any:
        result = super()._result(index, request)
        message = bytes(request.prompt).decode()  # type: ignore[arg-type]
        shift = 0.1 * (("surprise" in message) - ("be " in message))
        result.temperature = np.full(4, 1 + shift, np.float32)
        result.top_p = np.full(4, 0.5 + (shift if "sums" in message else -shift), np.float32)
        return result


def control(directory: Path, engine: FakeEngine, **kwargs: Any) -> Any:
    """What stands in control.json."""
    values = {"tasks": TASKS, "commands": COMMANDS, "settings": SETTINGS, **kwargs}
    tasks, commands, settings = (values.pop(key) for key in ("tasks", "commands", "settings"))
    result = evaluate_control(engine, tasks, directory, commands, settings, **values)  # type: ignore[arg-type]
    assert from_json(ControlResult, to_json(result)) == result
    return to_json(result)


def plain_answers(directory: Path) -> list[list[int]]:
    lines = [json.loads(line) for line in (directory / "control.jsonl").read_text().splitlines()[1:]]
    return [line["ids"] for line in lines if line["kind"] == "plain"]


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_there_without_one_is_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        BadFile, match=rf"/{name}: is there without the control\.jsonl that it would be of; use the same"
    ):
        control(tmp_path, Controlled())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_control(tmp_path: Path) -> None:
    engine = Controlled()
    seen: list[tuple[int, int]] = []
    result = control(tmp_path, engine, watch=lambda done, total: seen.append((done, total)))
    assert json.loads((tmp_path / "control.json").read_text()) == result
    moved = result["forced"]["moved"]
    for kind, sign in (("low", -1), ("high", 1)):
        tokens = [len(request_tokens) for request_tokens in plain_answers(tmp_path)]
        by = [0.1 * sign * (n - 2) / n for n in tokens]
        assert moved[kind]["temperature"]["difference"] == pytest.approx(np.mean(by))
        assert moved[kind]["temperature"]["share"] == pytest.approx(np.mean([(n - 1) / n for n in tokens]))
        assert (moved[kind]["top_p"]["difference"], moved[kind]["top_p"]["share"]) == (0, 0)
    page = (tmp_path / "control.md").read_text()
    assert page.startswith("# Decoding control of ")
    assert page.endswith(f"\n\n{control_table(from_json(ControlResult, result))}\n")
    assert (result["problems"], result["k"], result["left_out"]) == (5, 1, 0)
    assert result["mean"]["plain"] == pytest.approx({"temperature": 1.0, "top_p": 0.5})
    assert result["difference"]["low"] == pytest.approx({"temperature": -0.1, "top_p": (3 * -0.1 + 2 * 0.1) / 5})
    assert result["difference"]["high"] == pytest.approx({"temperature": 0.1, "top_p": (3 * 0.1 + 2 * -0.1) / 5})
    assert result["consistency"] == {kind: {"temperature": 1.0, "top_p": 0.6} for kind in ("low", "high")}
    assert seen == [(i, 15) for i in range(16)]
    messages = Counter(bytes(r.prompt).decode()[1:-1] for r in engine.drawn)  # type: ignore[arg-type]
    plain = [problem.text for task in TASKS for problem in task.problems]
    assert all(messages[text] == messages[f"{text} surprise me"] == 1 for text in plain)
    assert all(messages[f"{text} be plain"] + messages[f"{text} be exact"] == 1 for text in plain)
    assert {r.temperature for r in engine.drawn} == {r.top_p for r in engine.drawn} == {None}
    by_problem: dict[str, set[int | None]] = {}
    for r in engine.drawn:
        by_problem.setdefault(bytes(r.prompt).decode().strip("<>")[:8].strip(), set()).add(r.seed)  # type: ignore[arg-type]
    assert {len(seeds) for seeds in by_problem.values()} == {1}
    (tmp_path / "control.png").write_bytes(b"older")
    assert control(tmp_path, Controlled()) == result
    assert not (tmp_path / "control.png").exists()


def test_wordings_that_are_held_out_are_told_apart(tmp_path: Path) -> None:
    commands = replace(COMMANDS, held_out=Commands(("be careful",), ("something wild",)))
    result = control(tmp_path, Controlled(), commands=commands)
    kinds = ["low", "high", "low, held out", "high, held out"]
    assert list(result["mean"]) == ["plain", *kinds]
    assert [result["consistency"][kind]["temperature"] for kind in kinds] == [1.0, 1.0, 1.0, 0.0]
    assert result["difference"]["high, held out"]["temperature"] == 0
    assert list(result["forced"]["moved"]) == kinds
    assert "| low, held out | 0.900 | -0.100 |" in (tmp_path / "control.md").read_text()


def test_the_commands_of_a_problem_are_drawn_by_the_seed(tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 2)):
        engine = Controlled()
        control(tmp_path / name, engine, settings=replace(SETTINGS, seed=seed))
        drawn.append({bytes(r.prompt).decode() for r in engine.drawn})  # type: ignore[arg-type]
    assert drawn[0] == drawn[1]
    assert len(set(map(frozenset, drawn))) > 1
    assert {m.split(" ", 2)[2] for m in drawn[0] if m.count(" ") > 1} >= {"surprise me>"}


def test_control_goes_on_where_it_was(tmp_path: Path) -> None:
    expected = control(tmp_path / "at once", Controlled(), k=2)
    for n in (4, 5):
        with pytest.raises(KeyboardInterrupt):
            control(tmp_path / "d", Controlled(stop_after=n), k=2)
    engine = Controlled()
    assert control(tmp_path / "d", engine, k=2) == expected
    assert len(engine.drawn) == 30 - 9
    with pytest.raises(
        AutoDecoError, match=r"control\.jsonl: begun with other problems or prompts in tasks.sums; use the"
    ):
        control(tmp_path / "d", engine, commands=Commands(("be brief",), ("surprise me",)))
    lines = (tmp_path / "d" / "control.jsonl").read_text()
    older = re.sub(r', "ids": \[[\d, ]*\]', "", lines, count=3)
    (tmp_path / "d" / "control.jsonl").write_text(older)
    engine = Controlled()
    assert control(tmp_path / "d", engine, k=2) == expected
    assert len(engine.drawn) == 3, "plain answers whose tokens an older version has not kept"
    (tmp_path / "d" / "control.jsonl").write_text(lines)
    for ids in ("[2]", "[-1]", "[0.5]", "7"):
        (tmp_path / "d" / "control.jsonl").write_text(re.sub(r'"ids": \[[\d, ]*\]', f'"ids": {ids}', lines, count=1))
        with pytest.raises(AutoDecoError, match=r"control\.jsonl:\d+: damaged: no answer; use"):
            control(tmp_path / "d", engine, k=2)
    (tmp_path / "d" / "control.jsonl").write_text(lines)
    with (tmp_path / "d" / "control.jsonl").open("a") as f:
        f.write("{}\n")
    with pytest.raises(AutoDecoError, match=r"control\.jsonl:32: damaged: no answer; use"):
        control(tmp_path / "d", engine, k=2)


def test_problems_with_a_command_are_left_out(tmp_path: Path) -> None:
    problems = (*TASKS[0].problems, Problem("surprise me", "x", 9, "sums.jsonl"))
    result = control(tmp_path, Controlled(), tasks=[replace(TASKS[0], problems=problems)])
    assert (result["problems"], result["left_out"]) == (3, 1)
    with pytest.raises(AutoDecoError, match="control: every problem has a command in it already"):
        control(tmp_path, Controlled(), tasks=[replace(TASKS[0], problems=problems[3:])])


def test_control_table() -> None:
    result = {
        "problems": 12, "k": 1, "left_out": 2,
        "mean": {"plain": {"temperature": 0.71, "top_p": 0.9}, "low": {"temperature": 0.6, "top_p": 0.8},
                 "high": {"temperature": 0.8, "top_p": 0.91}},
        "difference": {"low": {"temperature": -0.11, "top_p": -0.1}, "high": {"temperature": 0.09, "top_p": 0.01}},
        "consistency": {"low": {"temperature": 0.95, "top_p": 1.0}, "high": {"temperature": 0.5, "top_p": 0.25}},
    }  # fmt: skip
    assert control_table(from_json(ControlResult, result)).splitlines() == [
        "| command | mean T | to plain | moved so | mean P | to plain | moved so |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| none | 0.710 |  |  | 0.900 |  |  |",
        "| low | 0.600 | -0.110 | 95 % | 0.800 | -0.100 | 100 % |",
        "| high | 0.800 | +0.090 | 50 % | 0.910 | +0.010 | 25 % |",
        "",
        "- 12 problems, 1 answer to each of every kind; 2 with a command in them already left out. moved so: share of "
        "problems whose mean the command moves its way.",
    ]


def test_control_with_one_head(tmp_path: Path) -> None:
    result = control(tmp_path, Controlled(frozenset(["temperature"])))
    assert result["mean"].keys() == {"plain", "low", "high"}
    assert all(values.keys() == {"temperature"} for values in result["mean"].values())
    assert control_table(from_json(ControlResult, result)).count("mean P") == 0


@pytest.mark.parametrize(
    ("heads", "kwargs", "words"),
    [
        ((), {}, "control: the model has no heads"),
        (BOTH, {"k": 0}, "control: k 0, expected at least 1"),
        (BOTH, {"settings": EvalSettings(seed=-1)}, "seed -1, expected"),
        (
            BOTH,
            {"commands": Commands(("x" * 50,), ("y",))},
            r"sums.jsonl:1: the prompt has 5\d tokens, the context holds 48",
        ),
    ],
)
def test_control_refuses(heads: Any, kwargs: dict[str, Any], words: str, tmp_path: Path) -> None:
    engine = Controlled(frozenset(heads))
    with pytest.raises(AutoDecoError, match=words):
        control(tmp_path / "d", engine, **kwargs)
    assert engine.drawn == []
    assert not (tmp_path / "d").exists()


def test_control_stops_at_an_error(tmp_path: Path) -> None:
    engine = Controlled()
    engine.finish = {3: "error"}
    with pytest.raises(AutoDecoError, match=r"control: (sums|words)\.jsonl:\d: out of memory"):
        control(tmp_path, engine)
