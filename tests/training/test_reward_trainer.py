"""The loop of a training on reward: what a round draws and does, and that an interruption leaves no trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Case

from autodeco_gguf.answers.items import GradedTasks, render
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import BadFile
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task
from autodeco_gguf.training.measures import Measures
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.reward_settings import RewardSettings
from autodeco_gguf.training.reward_trainer import BETA_2, RewardTrainer, Round, tokens_of
from autodeco_gguf.training.rewards import Group, Reward

pytestmark = pytest.mark.usefixtures("tamed", "one_thread")

SETTINGS = RewardSettings(k=3, rounds=3, problems=2, max_tokens=6, evaluations=3, patience=0, lr=1e-2)
PROBLEMS = tuple(Problem(f"Hello {i}", "1", i + 1, "p.jsonl") for i in range(7))


@pytest.fixture(scope="module")
def engine(qwen2: Case) -> Iterator[Engine]:
    heads = HeadsModule(64, 0).weights(vocab_size=384, base_model="")
    with Engine(qwen2.base, n_parallel=4, n_ctx=64, heads=heads, machine=Machine(n_threads=1)) as engine:
        yield engine


class Kit:
    """A trainer over a checker, begun from new heads where there is no state."""

    def __init__(self, engine: Engine, directory: Path, checker: str = "even", **settings: Any) -> None:
        directory.mkdir(exist_ok=True)
        self.directory, self.tasks, self.reward = (
            directory,
            GradedTasks([Task("p", PROBLEMS, checker)]),
            Reward("correct"),
        )
        self.tasks.__enter__()
        self.reward.__enter__()
        items = render(engine, self.tasks.tasks, SETTINGS.max_tokens)
        wanted = replace(SETTINGS, **settings)
        self.trainer = RewardTrainer(
            engine, self.tasks, items, self.reward, wanted, (directory, directory), {"base": checker}
        )
        if not self.trainer.resumed:
            self.trainer.begin(HeadsModule(64, 0))

    def log(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.directory / "log.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if not key.endswith("_s")} for line in lines]

    def heads(self) -> dict[str, torch.Tensor]:
        return {key: value.clone() for key, value in self.trainer.heads.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def undisturbed(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    torch.set_num_threads(1)
    kit = Kit(engine, tmp_path_factory.mktemp("undisturbed"))
    kit.trainer.run()
    return kit


def test_a_round_is_what_the_log_says(undisturbed: Kit) -> None:
    log = undisturbed.log()
    assert [line["round"] for line in log] == [0, 1, 2, 3]
    assert all("validation" in line for line in log)
    assert ["train" in line for line in log] == [False, True, True, True]
    assert [round(line["lr"], 6) for line in log] == [0, 0.01, 0.0075, 0.0025]
    for line in log[1:]:
        train = line["train"]
        assert train["reward"] == train["pass_at_1"]
        assert 0 <= train["differing"] <= 1
        assert 0 < train["temperature"] < 2
        assert (line["grad_norm"] > 0) == (train["differing"] > 0)
    assert any(line["grad_norm"] > 0 for line in log)
    rewards = [line["validation"]["reward"] for line in log]
    best = [number for number, reward in enumerate(rewards) if reward == max(rewards)]
    assert undisturbed.trainer.kept == (0 if 0 in best else best[-1])


def test_validation_problems_are_never_trained_on(undisturbed: Kit) -> None:
    trainer = undisturbed.trainer
    held = {item.key for item in trainer.validation}
    assert len(held) == 1
    seen = [item.key for at in range(3) for item in trainer.items_of(at)]
    assert sorted(seen) == sorted({item.key for item in trainer.training})  # an epoch: each once
    assert not held & set(seen)
    assert [item.key for item in trainer.items_of(3)] != seen[:2] or [i.key for i in trainer.items_of(4)] != seen[2:4]


def test_every_round_has_as_many_problems(engine: Engine, tmp_path: Path) -> None:
    """What is left at the end of an epoch is left out: here the seventh."""
    trainer = Kit(engine, tmp_path, validation=0.0).trainer
    rounds = [[item.key for item in trainer.items_of(at)] for at in range(6)]
    assert [len(keys) for keys in rounds] == [2] * 6
    for epoch in (rounds[:3], rounds[3:]):
        assert len({key for keys in epoch for key in keys}) == 6


def test_heads_to_begin_with_are_those_that_it_is_pulled_to(engine: Engine, tmp_path: Path) -> None:
    kit, start = Kit(engine, tmp_path), HeadsModule(64, 5)
    kit.trainer.begin(start)
    assert equal(kit.heads(), start.state_dict())
    assert equal(kit.trainer._start.state_dict(), start.state_dict())
    assert kit.trainer._optimizer.state_dict()["param_groups"][0]["betas"] == (0.9, BETA_2)


def test_equal_problems_are_on_one_side(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = tuple(Problem(f"Hello {i // 2}", "1", i + 1, "p.jsonl") for i in range(12))
    monkeypatch.setitem(globals(), "PROBLEMS", twice)
    trainer = Kit(engine, tmp_path, validation=0.5).trainer
    held, trained = ({tuple(item.tokens) for item in part} for part in (trainer.validation, trainer.training))
    assert (len(held), len(trained)) == (3, 3)
    assert not held & trained


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("moment", ["answers", "saved"])
def test_it_goes_on_to_the_same_result(
    after: int, moment: str, undisturbed: Kit, engine: Engine, tmp_path: Path
) -> None:
    """Ended in the midst of a round's answers, or right after a state was saved."""
    kit = Kit(engine, tmp_path)

    def on_round(done: Round) -> None:
        if moment == "saved" and done.round == after:
            raise Killed

    def drawn(name: str, done: int, of: int) -> None:
        if moment == "answers" and kit.trainer.round == after and name.startswith("round") and 0 < done < of:
            raise Killed

    with pytest.raises(Killed):
        kit.trainer.run(on_round, drawn)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"round": 9')
    again = Kit(engine, tmp_path)
    assert again.trainer.resumed
    assert again.trainer.round == after
    again.trainer.run()
    assert equal(again.heads(), undisturbed.heads())
    assert again.log() == undisturbed.log()


def test_another_seed_another_result(undisturbed: Kit, engine: Engine, tmp_path: Path) -> None:
    kit = Kit(engine, tmp_path, seed=1)
    kit.trainer.run()
    assert not equal(kit.heads(), undisturbed.heads())


@pytest.mark.parametrize("checker", ["never", "always"])
def test_no_step_where_no_group_has_a_difference(
    checker: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autodeco_gguf.tasks import checkers, grading

    monkeypatch.setitem(checkers.CHECKERS, "always", lambda text, answer: True)
    monkeypatch.setattr(grading, "IN_PROCESS", {*grading.IN_PROCESS, "always"})
    kit = Kit(engine, tmp_path, checker, validation=0.0, weight_decay=0.5)
    before = kit.heads()
    kit.trainer.run()
    assert equal(kit.heads(), before)
    assert [(line["grad_norm"], line["train"]["differing"]) for line in kit.log()[1:]] == [(0, 0)] * 3
    assert {line["train"]["reward"] for line in kit.log()[1:]} == {float(checker == "always")}


@pytest.mark.parametrize(
    ("rewards", "kept", "done"),
    [
        ([0.5, 0.6, 0.55, 0.6, 0.7], 3, 3),  # of equal ones the later, which is no gain
        ([0.5, 0.5, 0.4], 0, 2),  # the start gives way to better ones alone
        ([0.2, 0.5, 0.4, 0.3, 0.6], 1, 3),
        ([0.2, 0.5, 0.4, 0.6, 0.6], 4, 4),
    ],
)
def test_which_round_is_kept_and_when_it_stops(
    rewards: list[float], kept: int, done: int, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(rewards)
    measured = Measures.of

    def of(groups: list[Group]) -> Measures:
        found = measured(groups)
        return replace(found, reward=next(left)) if len(groups) == 1 else found

    monkeypatch.setattr(Measures, "of", of)
    kit = Kit(engine, tmp_path, rounds=4, evaluations=4, patience=2)
    heads: dict[int, dict[str, torch.Tensor]] = {}
    kit.trainer.run(lambda done: heads.setdefault(done.round, kit.heads()) and None)
    assert (kit.trainer.round, kit.trainer.kept) == (done, kept)
    assert equal(kit.heads(), heads[kept])


def test_a_state_of_another_training(engine: Engine, tmp_path: Path) -> None:
    Kit(engine, tmp_path)
    with pytest.raises(BadFile, match=r"begun with k 3, this run has 4; start anew with --force, or elsewhere$"):
        Kit(engine, tmp_path, k=4)
    with pytest.raises(BadFile, match=r"begun with another base; start anew"):
        Kit(engine, tmp_path, "never")


@pytest.mark.parametrize("wrong", [{"round": -1}, {"round": "1"}, {"best_round": 0.0}, {"bad": True}, {"heads": {}}])
def test_a_state_of_something_else(wrong: dict[str, Any], undisturbed: Kit, engine: Engine, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.directory, tmp_path, dirs_exist_ok=True)
    assert Kit(engine, tmp_path).trainer.resumed
    path = tmp_path / "state.pt"
    torch.save({**torch.load(path, weights_only=True), **wrong}, path)
    with pytest.raises(BadFile, match=r"state\.pt: cannot be read; start anew with --force$"):
        Kit(engine, tmp_path)


def test_the_very_tokens_that_were_drawn(undisturbed: Kit) -> None:
    item = undisturbed.trainer.training[0]
    assert tokens_of(item, [5, 2]).tolist() == [*item.tokens, ~5, ~2]
