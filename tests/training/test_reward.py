"""A whole training on reward: what it leaves, where it starts, and what a kill costs."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from broken import load_raw
from conftest import Case

from autodeco_gguf import Heads
from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.errors import AutoDecoError, BadFile
from autodeco_gguf.files.jsonl import write_lines
from autodeco_gguf.heads.checkpoint import read_checkpoint
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks import stories
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task
from autodeco_gguf.training import reward as module
from autodeco_gguf.training.measures import Measures
from autodeco_gguf.training.module import HeadKind
from autodeco_gguf.training.output import Output
from autodeco_gguf.training.reward import RewardOptions, RewardTrained, RewardWatch, flat_warning, train_reward
from autodeco_gguf.training.reward_settings import RewardSettings
from autodeco_gguf.training.settings import Objective

pytestmark = pytest.mark.usefixtures("tamed", "one_thread")

SETTINGS = RewardSettings(
    k=4, rounds=2, problems=3, max_tokens=6, evaluations=2, patience=0, lr=1e-2, start_rounds=16, start_steps=3
)
OPTIONS = RewardOptions(n_ctx=64, n_parallel=4)
PROBLEMS = tuple(Problem(f"Hello {i}", "1", i + 1, "p.jsonl") for i in range(8))
FILES = ["config.json", "log.jsonl", "model.safetensors", "report.json", "training.png"]


def trained(
    base: Path, output: Path, start: str | Path = "likelihood", checker: str = "even", **kwargs: Any
) -> RewardTrained:
    settings = kwargs.pop("settings", SETTINGS)
    with GradedTasks([Task("p", PROBLEMS, checker)]) as tasks:
        options, machine = replace(OPTIONS, start=start), Machine(n_threads=1)
        return train_reward(base, tasks, output, settings, options=options, machine=machine, **kwargs)


@pytest.fixture(scope="module")
def undisturbed(qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(qwen2.base, tmp_path_factory.mktemp("undisturbed") / "out").checkpoint


def test_what_it_leaves(undisturbed: Path) -> None:
    assert sorted(p.name for p in undisturbed.iterdir()) == FILES
    report = json.loads((undisturbed / "report.json").read_text())
    assert (report["reward"], report["k"], report["problems"]) == ("correct", 4, 2)
    assert [number for number, _ in report["validations"]] == [0, 1, 2]
    assert str(report["kept"]) in report["verdict"] or "which is kept" in report["verdict"]
    assert (undisturbed / "training.png").read_bytes().startswith(b"\x89PNG")
    heads = Heads.load(undisturbed.parent / "out.gguf")
    assert (heads.names, heads.hidden_size) == ({"temperature", "top_p"}, 64)


def test_starts_differ_and_a_start_from_a_checkpoint_is_that_checkpoint(
    undisturbed: Path, qwen2: Case, tmp_path: Path
) -> None:
    new = trained(qwen2.base, tmp_path / "new", "new").checkpoint / "model.safetensors"
    assert new.read_bytes() != (undisturbed / "model.safetensors").read_bytes()
    quick = replace(SETTINGS, rounds=1, evaluations=1)
    for start in (undisturbed, undisturbed.parent / "out.gguf"):
        done = trained(qwen2.base, tmp_path / "again", start, "never", settings=quick, force=True)
        assert done.kept == 0
        theirs, ours = (load_raw(path / "model.safetensors") for path in (undisturbed, done.checkpoint))
        assert {name: (theirs[name] == ours[name]).all() for name in theirs} == dict.fromkeys(theirs, True)


def test_deep_heads_and_a_frozen_one(qwen2: Case, tmp_path: Path) -> None:
    """New ones of that kind; then from there one alone, beside the other as it is."""
    quick = replace(SETTINGS, rounds=1, evaluations=1, validation=0.0, kind=HeadKind((16, 8), enhanced=False))
    first = trained(qwen2.base, tmp_path / "first", "new", settings=quick).checkpoint
    assert all(len(mlp.weights) == 3 for mlp in read_checkpoint(first).weights.mlps.values())
    objective = Objective(heads=("top_p",), frozen=("temperature",))
    done = trained(qwen2.base, tmp_path / "second", first, settings=replace(quick, objective=objective))
    theirs, ours = (load_raw(path / "model.safetensors") for path in (first, done.checkpoint))
    assert {name for name in theirs if (theirs[name] == ours[name]).all()} == {
        n for n in theirs if n.startswith("temp")
    }
    assert Heads.load(done.adapter).names == {"temperature", "top_p"}


class Seen(Exception):
    pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What an engine would be made with."""
    arguments: dict[str, Any] = {}

    def engine(*_: object, **given: Any) -> None:
        arguments.update(given)
        raise Seen

    monkeypatch.setattr(module, "Engine", engine)
    return arguments


def test_how_answers_are_drawn(told: dict[str, Any], qwen2: Case, tmp_path: Path) -> None:
    settings = replace(SETTINGS, objective=Objective(heads=("temperature",)))
    options = replace(OPTIONS, start="new", chat_template_kwargs={"a": 1})
    with GradedTasks([Task("p", PROBLEMS, "even")]) as tasks, pytest.raises(Seen):
        train_reward(qwen2.base, tasks, tmp_path / "out", settings, options=options, machine=Machine(n_threads=1))
    del told["heads"]
    assert told == {
        "n_parallel": 4, "n_ctx": 64, "heads_enabled": {"temperature"}, "machine": Machine(n_threads=1),
        "batching": Batching(batch_invariant=True), "chat_template_kwargs": {"a": 1},
    }  # fmt: skip


@pytest.mark.usefixtures("told")
def test_what_is_there_is_not_written_over(
    undisturbed: Path, qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads to begin with, and what another training has finished just before this one has the output."""
    shutil.copy(undisturbed.parent / "out.gguf", tmp_path)
    with pytest.raises(BadFile, match=r"out\.gguf: is an input and would be written; choose another output$"):
        trained(qwen2.base, tmp_path / "out", tmp_path / "out.gguf", force=True)
    held = Output.held

    @contextmanager
    def finished(self: Output) -> Iterator[None]:
        with held(self):
            self.files[0].touch()
            yield

    monkeypatch.setattr(Output, "held", finished)
    with pytest.raises(BadFile, match=r"config\.json: exists; use --force"):
        trained(qwen2.base, tmp_path / "other", "new")


def test_force_begins_anew(undisturbed: Path, qwen2: Case, tmp_path: Path) -> None:
    start = tmp_path / "out" / ".training" / "start"
    start.mkdir(parents=True)
    (start / "answers.jsonl").write_text('{"text": "of another training"}\n' * 100)
    done = trained(qwen2.base, tmp_path / "out", force=True)
    assert (done.checkpoint / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def test_too_few_right_answers_for_a_start_by_likelihood(qwen2: Case, tmp_path: Path) -> None:
    warnings: list[str] = []
    watch = RewardWatch(warning=warnings.append)
    trained(qwen2.base, tmp_path / "out", "likelihood", "never", watch=watch)
    assert warnings[0] == "only 0 right answers at T = 1: too few to start from by likelihood, so the heads are new"
    assert warnings[1].startswith("only 0% of the problems have answers of different reward")


def test_why_nothing_can_be_learnt() -> None:
    of = Measures(0, 0.9, 1, 1, 0.1, 1, 0, 1, 0, 5, 0)
    assert flat_warning(of).endswith("90% of the answers are right; harder problems would tell more")
    assert "; easier problems, a larger -k or" in flat_warning(replace(of, pass_at_1=0.01))


SLOW_BOXES = r"""
from autodeco_gguf.tasks.checkers import boxed

def check(text, answer):
    return len(text) % 2 == 0 or boxed(r"\boxed{9^{9^{9^9}}}", "7")
"""


def test_answers_that_hold_their_grader_are_wrong(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs its time limit and a new process, and the next one is graded as ever."""
    (tmp_path / "slow_boxes.py").write_text(SLOW_BOXES)
    monkeypatch.syspath_prepend(tmp_path)
    settings = replace(SETTINGS, rounds=1, problems=2, validation=0.0)
    with GradedTasks([Task("p", PROBLEMS, "slow_boxes:check")], time_limit=0.3) as tasks:
        options = replace(OPTIONS, start="new")
        done = train_reward(
            qwen2.base, tasks, tmp_path / "out", settings, options=options, machine=Machine(n_threads=1)
        )
    (line,) = map(json.loads, (done.checkpoint / "log.jsonl").read_text().splitlines()[1:])
    assert 0 < line["train"]["pass_at_1"] < 1
    assert line["grad_norm"] > 0


@pytest.mark.parametrize("phase", ["start: problems", "start: steps", "validation: answers", "round 2: answers"])
def test_it_goes_on_to_the_same_result(phase: str, undisturbed: Path, qwen2: Case, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(name: str, done: int, of: int) -> None:
        if name == phase and done > 0:
            raise Killed

    with pytest.raises(Killed):
        trained(qwen2.base, tmp_path / "out", watch=RewardWatch(phase=kill))
    assert (tmp_path / "out" / ".training").is_dir()
    with pytest.raises(
        BadFile, match=r"(begun with (k 4, this run has 5|another start)|of a training with (k 4, now 5|other start))"
    ):
        trained(qwen2.base, tmp_path / "out", settings=replace(SETTINGS, k=5))
    trained(qwen2.base, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
    for name in ("model.safetensors", "report.json"):
        assert (tmp_path / "out" / name).read_bytes() == (undisturbed / name).read_bytes()


def test_finished_and_force(undisturbed: Path, qwen2: Case, tmp_path: Path) -> None:
    quick = replace(SETTINGS, rounds=1, evaluations=1)
    trained(qwen2.base, tmp_path / "out", "new", settings=quick)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(BadFile, match=r"config\.json: exists; use --force to replace it$"):
        trained(qwen2.base, tmp_path / "out", "new", settings=quick)
    trained(qwen2.base, tmp_path / "out", "new", settings=replace(quick, seed=3), force=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != before


def test_heads_that_are_no_start(qwen2: Case, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for start, words in (
        (tmp_path / "empty", "empty"),
        (tmp_path / "none.gguf", "none.gguf: cannot be opened"),
        (qwen2.base, "base.gguf"),
        (DEMO_MODEL, "heads for hidden size 128, the base model .* has 64"),
    ):
        with pytest.raises(AutoDecoError, match=words):
            trained(qwen2.base, tmp_path / "out", start)
        assert not (tmp_path / "out").exists()


def test_a_kill_costs_nothing_but_time(tmp_path: Path) -> None:
    """SIGKILL, at whatever moment it comes."""
    problems = [{"prompt": p.prompt, "answer": p.answer} for p in stories.problems(8, seed=1, held_out=False)]
    write_lines(tmp_path / "p.jsonl", problems)
    how = {"--checker": "story", "-c": 128, "-k": 3, "--batch": 3, "--rounds": 3, "--parallel": 6, "-t": 1}
    options = [str(x) for pair in {**how, "--reward": "distinct", "--from": "new"}.items() for x in pair]
    command = [sys.executable, "-m", "autodeco_gguf", "train", str(DEMO_MODEL), "--task", "p.jsonl", *options, "-o"]
    subprocess.run([*command, "whole"], cwd=tmp_path, check=True, capture_output=True)
    process = subprocess.Popen([*command, "out"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    log = tmp_path / "out" / "log.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out.gguf").exists()
    subprocess.run([*command, "out"], cwd=tmp_path, check=True, capture_output=True)
    for name in ("model.safetensors", "report.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
