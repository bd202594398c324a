"""autodeco-gguf tune: what it prints, how it goes on, and a line for every bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken import Outcome, assert_refused, invoke
from tuning_helpers import TuneEngine, prepare

from autodeco_gguf import extract
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks import stories
from autodeco_gguf.tuning import tune as module
from autodeco_gguf.tuning.plan import Training

Tune = Callable[..., Outcome]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a task."""
    lines = (json.dumps({"prompt": f"sums {i}", "answer": f"sums{i}"}) for i in range(60))
    (tmp_path / "sums.jsonl").write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tune(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Tune:
    """tune m.gguf on the task, with an engine that is made up."""
    prepare(monkeypatch)

    def run(*args: object, minutes: object = 1) -> Outcome:
        required = ("tune", "m.gguf", "--task", "sums.jsonl", "--checker", "exact", "--minutes", minutes)
        return invoke(capfd, *required, "--no-train", "--parallel", 4, *args)

    return run


def test_report_and_plan(tune: Tune, place: Path) -> None:
    outcome = tune()
    assert outcome.status == 0
    assert outcome.out.startswith(
        "# How to decode with m.gguf on sums\n\nTake T = 0.7, P = 0.85.\n\n    autodeco-gguf run "
    )
    assert outcome.out == (place / "tuned" / "report.md").read_text()
    first, second, third, last = outcome.err.splitlines()
    assert first == "an answer: 4 tokens, 30 ms (133 tokens/s)"
    assert second.startswith("search: 31 pairs, ")
    assert third.startswith("test: 24 problems, ")
    assert last == "tuned: report.md, result.json"


def test_every_option_has_an_effect(tune: Tune, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def record(model: Path, tasks: Any, output: Path, settings: Any, *, heads: Any, watch: Any) -> Any:
        calls.append((model, tasks, output, settings, heads))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "tune", record)
    outcome = tune(
        "-o", "there", "--reward", "distinct", "-k", 8, "--seed", 3, "--heads", "h.gguf", "-n", 50, "-c", 300,
        "--time-limit", 2, "--limit", 30, "-t", 1, "--chat-template-kwargs", '{"a": 1}', "--allow-code", minutes=0.5,
    )  # fmt: skip
    assert outcome.status == 130
    ((model, tasks, output, settings, heads),) = calls
    assert (model, output, heads) == (Path("m.gguf"), Path("there"), Path("h.gguf"))
    assert [len(task.problems) for task in tasks] == [30]
    assert (settings.minutes, settings.reward, settings.k, settings.seed) == (0.5, "distinct", 8, 3)
    assert (settings.max_tokens, settings.n_ctx, settings.n_parallel, settings.time_limit) == (50, 300, 4, 2.0)
    assert (settings.train, settings.machine.n_threads) == (False, 1)
    assert settings.chat_template_kwargs == {"a": 1}
    assert settings.allow_code == "isolated"
    tune("--allow-code-unisolated")
    tune()
    assert [call[3].allow_code for call in calls[1:]] == ["unisolated", None]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-k", 1, "--reward", "any"), "error: k 1, expected at least 2 for reward any: it looks at several answers"),
        (("--reward", "best"), "error: reward 'best', expected"),
        (("--minutes", 0), "error: Invalid value for '--minutes'"),
        (("--minutes", "nan"), "error: "),
        (("--task", "none.jsonl"), "error: none.jsonl: no such file"),
        (("--limit", 10), "error: sums.jsonl: 10 different problems, expected at least 25"),
        (("--minutes", 0.001), "error: minutes 0.001: an answer of 4 tokens takes 30 ms; expected at least"),
        (("--task", "sums.jsonl"), "error: two tasks are called 'sums'"),
        (("-o", "sums.jsonl"), "error: sums.jsonl: "),
    ],
)  # fmt: skip
def test_bad_input(tune: Tune, args: tuple[object, ...], message: str) -> None:
    outcome = tune(*args)
    assert outcome.status in (1, 2)
    assert outcome.out == ""
    assert outcome.err.splitlines()[-1].startswith(message)
    assert "Traceback" not in outcome.err
    assert TuneEngine.total == 0


def test_no_task_and_no_model(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(invoke(capfd, "tune", "m.gguf"), "error: Missing option '--task'.", status=2)
    args = ("tune", "m.gguf", "--task", "sums.jsonl", "--checker", "exact")
    assert_refused(invoke(capfd, *args), "error: m.gguf: ")
    assert not (place / "tuned").exists()


def test_ctrl_c(tune: Tune, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TuneEngine, "stop_at", 500)
    outcome = tune()
    assert outcome.status == 130
    assert "\ntuned: what is finished is kept; the same command goes on from there\n" in outcome.err
    assert outcome.err.endswith("\ninterrupted\n")
    assert tune().status == 0
    assert (
        tune(minutes=2).err.splitlines()[-1].startswith("error: tuned/tune.jsonl: begun with minutes 1.0, this run has")
    )


# ---- as a process ----


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model without its heads."""
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    extract(DEMO_MODEL, base=path)
    return path


def command(small: Path, output: Path, *args: object) -> list[str]:
    """What takes a few seconds on the demo's task: does an answer of 6 tokens at most have three times an e?"""
    problems = output.with_name("problems.jsonl")
    asked = stories.problems(40, seed="tune", held_out=True)
    problems.write_text("".join(json.dumps({"prompt": p.prompt, "answer": "e.*e.*e"}) + "\n" for p in asked))
    options = ("--task", problems, "--checker", "regex", "--minutes", 2, "-n", 6, "-t", 1, "--parallel", 4)
    return [sys.executable, "-m", "autodeco_gguf", "tune", *map(str, (small, *options, "-o", output, *args))]


def finished(directory: Path) -> Any:
    values = json.loads((directory / "result.json").read_text())
    return {key: value for key, value in values.items() if key != "seconds"}


def kill(command: list[str], when: Callable[[], bool]) -> None:
    """Start it, and kill it as soon as something is so."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not when() and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)


def planned(directory: Path) -> bool:
    path = directory / "tune.jsonl"
    return path.exists() and '"plan"' in path.read_text()


def test_killed_it_comes_to_the_same_end(small: Path, tmp_path: Path) -> None:
    """One is killed in the search and in the training, the other one begins with the same plan and is left alone."""
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    kill(command(small, cut), lambda: planned(cut))
    plan_little(cut / "tune.jsonl")
    shutil.rmtree(cut / "search", ignore_errors=True)  # which may have begun by the plan that there was
    whole.mkdir()
    shutil.copy(cut / "tune.jsonl", whole)
    kill(command(small, cut), lambda: (cut / "search" / "2" / "samples.jsonl").exists())
    kill(command(small, cut), lambda: (cut / "heads" / ".training" / "state.pt").exists())
    assert not (cut / "heads.gguf").exists()
    for directory in (cut, whole):
        done = subprocess.run(command(small, directory), capture_output=True, text=True, check=True)
        assert done.stdout.startswith("# How to decode with small.gguf on problems\n\nTake ")
        assert (directory / "heads.gguf").exists()
    assert finished(cut) == finished(whole)
    assert set(finished(whole)["rows"]) >= {"greedy", "default", "llama.cpp", "heads"}
    assert (cut / "heads.gguf").read_bytes() == (whole / "heads.gguf").read_bytes()


def plan_little(path: Path) -> None:
    """As if there were no time, but for all parts."""
    lines = path.read_text().splitlines()
    i = next(i for i, text in enumerate(lines) if '"plan"' in text)
    line = json.loads(lines[i])
    training = Training(problems=6, k=4, validations=2, start_rounds=2, start_steps=4)
    line["plan"] |= {"training": vars(training), "rounds": 4, "heads_s": None, "test_problems": 16, "test_times": 1}
    line["plan"] |= {"coarse": True, "rungs": [{"candidates": 7, "problems": 6}, {"candidates": 4, "problems": 30}]}
    path.write_text("".join(f"{text}\n" for text in (*lines[:i], json.dumps(line), *lines[i + 1 :])))
