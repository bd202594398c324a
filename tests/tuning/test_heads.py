"""Heads are trained once, on the model itself, from what there is."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autodeco_gguf import extract
from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.heads.base_model import fitting_heads
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks.tasks import read_task
from autodeco_gguf.training import reward
from autodeco_gguf.training.output import Output
from autodeco_gguf.training.reward import RewardOptions
from autodeco_gguf.training.reward_settings import RewardSettings
from autodeco_gguf.training.rewards import MAX_VALIDATION
from autodeco_gguf.training.settings import Objective
from autodeco_gguf.tuning.heads import ADAPTER, CHECKPOINT, Start, obstacle, train_heads, validation_problems
from autodeco_gguf.tuning.plan import Plan, Training
from autodeco_gguf.tuning.search import Rung
from autodeco_gguf.tuning.settings import TuneSettings
from autodeco_gguf.tuning.split import VALIDATION

SETTINGS = TuneSettings(reward="distinct", n_parallel=8, max_tokens=60, machine=Machine(n_threads=1))
TRAINING = Training(problems=6, k=4, validations=1, start_rounds=2, start_steps=4)
PLAN = Plan(60.0, True, (Rung(7, 4), Rung(4, 4)), TRAINING, 2, 8, 1, 10.0, 10.0, 10.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    extract(DEMO_MODEL, base=path)
    return path


def train(model: Path, start: Start | None, output: Path) -> tuple[Path, list[str]]:
    said: list[str] = []
    with GradedTasks([read_task("demo", limit=12)]) as tasks:
        adapter = train_heads(model, start, tasks, output, SETTINGS, PLAN, said.append, said.append)
    return adapter, said


def test_an_adapter_of_somebody_else_is_not_taken_for_the_trained(small: Path, tmp_path: Path) -> None:
    (tmp_path / ADAPTER).write_bytes(b"mine")
    with pytest.raises(BadFile, match=r"heads\.gguf: exists"):
        train(small, None, tmp_path)
    (tmp_path / ADAPTER).rename(tmp_path / "mine")
    (tmp_path / "heads").mkdir(exist_ok=True)
    (tmp_path / "heads" / "config.json").write_text("{}")
    with pytest.raises(
        BadFile, match=r"heads\.gguf: missing beside .*heads, of which it was made; delete that as well$"
    ):
        train(small, None, tmp_path)


@pytest.mark.parametrize("has_adapter", [False, True])
def test_a_training_that_was_killed_while_it_wrote_goes_on(
    has_adapter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output(tmp_path / CHECKPOINT)
    output.state.mkdir(parents=True)
    (output.state / "state.pt").touch()
    (output.directory / "config.json").touch()
    if has_adapter:
        (tmp_path / ADAPTER).touch()
    directories = []

    def train_reward(model: Path, tasks: Any, directory: Path, *args: Any, **kwargs: Any) -> Any:
        directories.append(directory)
        return SimpleNamespace(adapter=tmp_path / ADAPTER)

    monkeypatch.setattr(reward, "train_reward", train_reward)
    assert train(DEMO_MODEL, None, tmp_path)[0] == tmp_path / ADAPTER
    assert directories == [output.directory]


def test_a_training_is_told_what_the_tuning_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def train_reward(
        model: Path, tasks: Any, directory: Path, settings: RewardSettings, *, options: RewardOptions, **how: Any
    ) -> Any:
        told.extend((settings, options, how["machine"]))
        return SimpleNamespace(adapter=tmp_path / ADAPTER)

    monkeypatch.setattr(reward, "train_reward", train_reward)
    kwargs = {"mood": 1}
    s = replace(SETTINGS, seed=7, n_ctx=300, time_limit=2.5, chat_template_kwargs=kwargs)
    for start in (None, Start(DEMO_MODEL, ("temperature",))):
        with GradedTasks([read_task("demo", limit=12)]) as tasks:
            train_heads(DEMO_MODEL, start, tasks, tmp_path, s, PLAN, print, print)
    parts = {"k": 4, "rounds": 2, "problems": 6, "evaluations": 1, "start_rounds": 2, "start_steps": 4}
    settings = RewardSettings("distinct", **parts, max_tokens=60, validation=VALIDATION, seed=7)
    options = RewardOptions("likelihood", 300, 8, 2.5, chat_template_kwargs=kwargs)
    one_head = replace(settings, objective=Objective(heads=("temperature",)))
    assert told[:3] == [settings, options, s.machine]
    assert told[3:] == [one_head, replace(options, start=DEMO_MODEL), s.machine]


def test_from_a_start_by_likelihood(small: Path, tmp_path: Path) -> None:
    adapter, said = train(small, None, tmp_path)
    assert adapter == tmp_path / ADAPTER
    heads = fitting_heads(ModelFile.open(small), adapter)
    assert set(heads.mlps) == {"temperature", "top_p"}
    assert any(text.startswith("training, start: ") for text in said)
    assert any(text.startswith("training, round 2 of 2, reward ") for text in said)
    written = adapter.read_bytes(), adapter.stat().st_mtime_ns
    assert train(small, None, tmp_path) == (adapter, [])  # once
    assert (adapter.read_bytes(), adapter.stat().st_mtime_ns) == written


def test_from_the_models_own(tmp_path: Path) -> None:
    adapter, said = train(DEMO_MODEL, Start(DEMO_MODEL, ("temperature",)), tmp_path)
    assert not any(text.startswith("training, start: ") for text in said)
    assert any(text.startswith("training, round 2 of 2, reward ") for text in said)
    assert set(fitting_heads(ModelFile.open(DEMO_MODEL), adapter).mlps) == {"temperature"}


def test_the_chat_template_reads_what_it_is_told(small: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, chat_template_kwargs={"mood": 1})
    with (
        GradedTasks([read_task("demo", limit=12)]) as tasks,
        pytest.raises(InvalidInput, match=r"^chat template kwargs: "),
    ):
        train_heads(small, None, tasks, tmp_path, settings, PLAN, print, print)


def test_obstacles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert obstacle(SETTINGS) is None
    assert obstacle(replace(SETTINGS, train=False)) == "it was not asked for"
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    assert obstacle(SETTINGS) == 'training needs torch; pip install torch, or in a clone: pip install ".[train]"'


def test_validation_problems() -> None:
    assert validation_problems(12) == 4
    assert validation_problems(10_000) == MAX_VALIDATION
