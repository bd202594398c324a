"""A second stage: heads that are there already, from wherever, trained on for every objective."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from broken import load_raw
from conftest import Case, load_case
from training_helpers import SMALL, constant_losses, jsonl, log_of, module_of

from autodeco_gguf import Heads
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.heads.checkpoint import read_checkpoint
from autodeco_gguf.heads.export import export
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.training.module import HeadKind
from autodeco_gguf.training.recipes import RECIPES
from autodeco_gguf.training.settings import Objective, TrainingSettings
from autodeco_gguf.training.start import read_start, start_files
from autodeco_gguf.training.train import Trained, TrainingOptions, TrainingWatch, train

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_THREAD = Machine(n_threads=1)
EXAMPLES = [{"prompt": f"One {i}", "completion": f" and {i} more of them"} for i in range(16)]


def second(
    base: Path, directory: Path, start: object, settings: TrainingSettings = SMALL, name: str = "out", **how: Any
) -> Trained:
    data = jsonl(directory / "data.jsonl", *EXAMPLES)
    options = TrainingOptions(start=start, **how)  # type: ignore[arg-type]
    return train(base, [data], directory / name, settings, options=options, machine=ONE_THREAD)


@pytest.fixture(scope="module")
def sources(qwen2: Case, merged_of: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("sources")
    adapter = export(qwen2.base, qwen2.heads, directory / "a.gguf", adapter=True).path
    return {"checkpoint": qwen2.heads, "adapter": adapter, "merged": merged_of(qwen2)}


@pytest.mark.parametrize("kind", ["checkpoint", "adapter", "merged"])
def test_it_begins_with_these_very_heads(kind: str, sources: dict[str, Path], qwen2: Case, tmp_path: Path) -> None:
    """A rate of 0 leaves them as they are."""
    done = second(qwen2.base, tmp_path, sources[kind], replace(SMALL, lr=0.0, steps=1, evaluations=1))
    theirs, ours = (load_raw(path / "model.safetensors") for path in (qwen2.heads, done.checkpoint))
    assert ours.keys() == theirs.keys()
    assert all((ours[key] == theirs[key]).all() for key in theirs)


def test_it_goes_on_from_there(sources: dict[str, Path], qwen2: Case, tmp_path: Path) -> None:
    logs = []
    for name, start in (("on", sources["checkpoint"]), ("new", "new")):
        logs.append(log_of(second(qwen2.base, tmp_path, start, name=name).checkpoint))
    assert logs[0][0]["train"]["mean_top_p"] != pytest.approx(logs[1][0]["train"]["mean_top_p"], abs=1e-3)
    theirs, ours = (load_raw(p / "model.safetensors") for p in (qwen2.heads, tmp_path / "on"))
    assert any((ours[key] != theirs[key]).any() for key in theirs)


def test_the_start_is_kept_where_no_step_is_better(
    sources: dict[str, Path], qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant_losses(monkeypatch, [1.0, 2.0, 1.5, 1.1])
    done = second(qwen2.base, tmp_path, sources["checkpoint"], replace(SMALL, steps=3, evaluations=3))
    assert (done.steps, done.kept) == (3, 0)
    theirs, ours = (load_raw(p / "model.safetensors") for p in (qwen2.heads, done.checkpoint))
    assert all((ours[key] == theirs[key]).all() for key in theirs)


def test_control_for_a_few_steps(sources: dict[str, Path], qwen2: Case, tmp_path: Path) -> None:
    """Of heads that were trained without; nothing warns of few steps."""
    commands = Commands(low=("Be plain.",), high=("Go wild!",), share=0.5)
    settings = replace(SMALL, objective=Objective(control_weight=30.0), batch=8, steps=30, lr=3e-3, evaluations=3)
    warnings: list[str] = []
    data = jsonl(tmp_path / "data.jsonl", *EXAMPLES)
    watch = TrainingWatch(warning=warnings.append)
    options = TrainingOptions(start=sources["adapter"], commands=commands)
    done = train(qwen2.base, [data], tmp_path / "o", settings, options=options, machine=ONE_THREAD, watch=watch)
    rankings = [r["validation"]["ranking"] for r in log_of(done.checkpoint) if "validation" in r]
    assert rankings[-1] < 0.5 * log_of(done.checkpoint)[0]["train"]["ranking"]
    assert not [w for w in warnings if "hardly learn" in w]


KINDS = {"deep": HeadKind((32, 16, 8)), "plain": HeadKind(enhanced=False), "deep and plain": HeadKind((16, 8), False)}


@pytest.mark.parametrize("name", KINDS)
def test_other_kinds_of_heads_from_training_to_running(name: str, qwen2: Case, tmp_path: Path) -> None:
    settings = replace(SMALL, kind=KINDS[name], steps=2, evaluations=1)
    first = second(qwen2.base, tmp_path, "new", settings)
    weights = read_checkpoint(first.checkpoint).weights
    for mlp in weights.mlps.values():
        assert [w.shape[0] for w in mlp.weights] == [*KINDS[name].widths, 1]
        assert mlp.activation == ("relu" if len(KINDS[name].widths) == 1 else "gelu")
    assert len(weights.features) == (5 if KINDS[name].enhanced else 1)
    assert Heads.load(first.adapter).names == {"temperature", "top_p"}
    for i, start in enumerate((first.checkpoint, first.adapter)):  # the settings' own kind does not matter then
        again = second(qwen2.base, tmp_path, start, replace(SMALL, lr=0.0, steps=1, evaluations=1), name=f"{i}")
        assert read_checkpoint(again.checkpoint).weights.fingerprint() == weights.fingerprint()


def test_a_deep_head_of_another_activation_survives(qwen2: Case, tmp_path: Path) -> None:
    """What a checkpoint cannot say by its depth, it says in its config."""
    adapter = export(qwen2.base, qwen2.heads, tmp_path / "a.gguf", adapter=True, activation="gelu").path
    done = second(qwen2.base, tmp_path, adapter, replace(SMALL, lr=0.0, steps=1, evaluations=1))
    config = json.loads((done.checkpoint / "config.json").read_text())
    assert (config["temp_head_activation"], config["top_p_head_activation"]) == ("gelu", "gelu")
    mlps = read_checkpoint(done.checkpoint).weights.mlps.values()
    assert {mlp.activation for mlp in mlps} == {"gelu"}
    (done.checkpoint / "config.json").write_text(json.dumps({**config, "temp_head_activation": "tanh"}))
    with pytest.raises(BadFile, match=r"temp_head_activation is 'tanh', expected one of relu, gelu$"):
        read_checkpoint(done.checkpoint)


@pytest.mark.parametrize("case", ["../more_fixtures/gelu4", "qwen2_plain"])
def test_published_heads_of_other_kinds_are_trained_on(case: str, tmp_path: Path) -> None:
    given = load_case(case)
    done = second(given.base, tmp_path, given.heads, replace(SMALL, lr=1e-4))
    before, after = (read_checkpoint(path).weights for path in (given.heads, done.checkpoint))
    assert {k: v.shape for k, v in before.tensors.items()} == {k: v.shape for k, v in after.tensors.items()}
    assert before.features == after.features
    assert (done.kept == 0) == (before.fingerprint() == after.fingerprint())


def test_one_head_beside_the_other_as_it_is(sources: dict[str, Path], qwen2: Case, tmp_path: Path) -> None:
    """Frozen it stays, takes part, and is in what comes out; absent it is off there."""
    for frozen, enabled in ((("temperature",), {"temperature", "top_p"}), ((), {"top_p"})):
        objective = Objective(heads=("top_p",), frozen=frozen)
        done = second(
            qwen2.base, tmp_path, sources["adapter"], replace(SMALL, objective=objective), name=f"{len(frozen)}"
        )
        assert Heads.load(done.adapter).names == enabled
        means = {r["train"]["mean_temperature"] for r in log_of(done.checkpoint)}
        assert (means == {1.0}) == (not frozen)
        if frozen:
            theirs, ours = (load_raw(p / "model.safetensors") for p in (qwen2.heads, done.checkpoint))
            assert all((ours[key] == theirs[key]).all() for key in theirs if key.startswith("temp_head"))


def test_what_cannot_be_started_from(sources: dict[str, Path], qwen2: Case, tmp_path: Path) -> None:
    base = BaseModel.open(qwen2.base)
    alone = read_start(base, sources["checkpoint"], Objective(), 0)
    assert all(torch.equal(x, y) for x, y in zip(alone.parameters(), module_of(qwen2).parameters(), strict=True))
    refused: list[tuple[object, Objective, str]] = [
        (tmp_path / "none", Objective(), "none: no such directory"),
        (tmp_path / "none.gguf", Objective(), r"none\.gguf: "),
        (qwen2.base, Objective(), "no AutoDeco heads in it"),
        (load_case("llama").heads, Objective(), "architecture|hidden size|vocabulary"),
    ]
    for path, objective, message in refused:
        with pytest.raises(BadFile, match=message):
            read_start(base, path, objective, 0)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"^frozen top_p head: there is none; give heads to start from$"):
        read_start(base, "new", Objective(heads=("temperature",), frozen=("top_p",)), 0)


def test_the_start_is_not_written_over(qwen2: Case, tmp_path: Path) -> None:
    shutil.copytree(qwen2.heads, tmp_path / "out")
    assert start_files(tmp_path / "out") == sorted((tmp_path / "out").iterdir())
    data = jsonl(tmp_path / "data.jsonl", *EXAMPLES)
    options = TrainingOptions(start=tmp_path / "out")
    with pytest.raises(BadFile, match=r"out/(config\.json|model\.safetensors): is an input and would be written"):
        train(qwen2.base, [data], tmp_path / "out", SMALL, options=options, machine=ONE_THREAD, force=True)


# ---- interruptions ----

SETTINGS = {
    "nemo, deep": replace(RECIPES["nemo"], batch=4, lr=1e-3, warmup=2, kind=HeadKind((16, 8), False)),
    "paper, from heads": replace(RECIPES["paper"], batch=4, lr=1e-3, validation=0.25),
}
SCRIPT = """
import pickle, sys
from pathlib import Path
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training import trainer
from autodeco_gguf.training.train import TrainingOptions, train

trainer.SAVE_S = 0.0
base, data, out, start, settings = sys.argv[1:]
train(base, [data], out, pickle.loads(bytes.fromhex(settings)), options=TrainingOptions(start=start),
      machine=Machine(n_threads=1))
"""


@pytest.mark.parametrize("name", SETTINGS)
def test_killed_it_ends_the_same(name: str, sources: dict[str, Path], qwen2: Case, tmp_path: Path) -> None:
    """To the bit, whatever the settings."""
    data = jsonl(tmp_path / "d.jsonl", *EXAMPLES)
    start = sources["checkpoint"] if "from heads" in name else "new"
    settings = pickle.dumps(replace(SETTINGS[name], epochs=None, steps=12)).hex()

    def begin(out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SCRIPT, qwen2.base, data, tmp_path / out, start, settings]
        return subprocess.Popen(list(map(str, command)))

    whole = begin("whole")
    log = tmp_path / "killed" / "log.jsonl"
    killed = begin("killed")
    until = time.monotonic() + 60
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3) and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    again = begin("killed")
    for process in (whole, again):
        assert process.wait(60) == 0
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
