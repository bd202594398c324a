"""A whole training: what it leaves, what it refuses, what a kill costs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from broken import load_raw, rewrite, shards
from conftest import Case, load
from rpc_helpers import addresses, kill, needs_rpc, restarted, running
from training_helpers import SMALL, jsonl, log_of, no_room

import autodeco_gguf as ad
from autodeco_gguf import Heads
from autodeco_gguf.errors import AutoDecoError, BadFile, Busy, ModelFailed
from autodeco_gguf.files import gguf as gguf_module
from autodeco_gguf.heads.checkpoint import read_checkpoint
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.training import output as output_module
from autodeco_gguf.training.settings import Objective, TrainingSettings
from autodeco_gguf.training.train import TrainingOptions, TrainingWatch, n_together, train
from autodeco_gguf.training.trainer import Step

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_THREAD = Machine(n_threads=1)
FILES = ["config.json", "log.jsonl", "model.safetensors", "report.json", "training.png"]
EXAMPLES = [{"prompt": f"One {i}", "completion": f" and {i} more of them"} for i in range(16)]


def trained(
    base: Path, directory: Path, settings: TrainingSettings = SMALL, *, name: str = "out", **kwargs: Any
) -> tuple[Path, Path]:
    data = jsonl(directory / "data.jsonl", *EXAMPLES)
    done = train(base, [data], directory / name, settings, **{"machine": ONE_THREAD, **kwargs})
    return done.checkpoint, done.adapter


def test_outputs(qwen2: Case, tmp_path: Path) -> None:
    before = hashlib.sha256(qwen2.base.read_bytes()).digest()
    output, adapter = trained(qwen2.base, tmp_path, options=TrainingOptions(base_name="org/Tiny"))
    assert sorted(p.name for p in output.iterdir()) == FILES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.jsonl", "out", "out.gguf"]
    assert hashlib.sha256(qwen2.base.read_bytes()).digest() == before
    config = json.loads((output / "config.json").read_text())
    official = json.loads((qwen2.heads / "config.json").read_text())
    for key in ("architectures", "model_type", "base_model_type", "enable_temperature_head", "enable_top_p_head"):
        assert config[key] == official[key], key
    assert config["base_model_name_or_path"] == "org/Tiny"
    assert (config["hidden_size"], config["temperature_hidden_size"], config["vocab_size"]) == (64, 64, 384)
    theirs, ours = (load_raw(p / "model.safetensors") for p in (qwen2.heads, output))
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {k: (v.shape, v.dtype) for k, v in theirs.items()}
    png = (output / "training.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert png.endswith(b"IEND\xaeB`\x82")
    assert json.loads((output / "report.json").read_text())["examples"] == 4

    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(9, 64)).astype(np.float32)
    logits = rng.normal(size=(9, 384)).astype(np.float32)
    checkpoint, heads = Heads(read_checkpoint(output).weights), Heads.load(adapter)
    np.testing.assert_array_equal(checkpoint.evaluate(hidden, logits), heads.evaluate(hidden, logits))
    assert heads.base_model == "org/Tiny"
    llama = load(qwen2.base, heads=adapter)
    llama.create_completion("Hello", max_tokens=4, seed=1)
    llama.close()


@pytest.mark.parametrize("head", ["temperature", "top_p"])
def test_one_head_alone(head: str, qwen2: Case, tmp_path: Path) -> None:
    output, adapter = trained(qwen2.base, tmp_path, replace(SMALL, objective=Objective(heads=(head,))))
    config = json.loads((output / "config.json").read_text())
    flags = {name: config[f"enable_{name}_head"] for name in ("temperature", "top_p")}
    assert flags == {"temperature": head == "temperature", "top_p": head == "top_p"}
    assert load_raw(output / "model.safetensors").keys() == load_raw(qwen2.heads / "model.safetensors").keys()
    assert Heads.load(adapter).names == {head}


def test_without_validation_there_is_no_report(qwen2: Case, tmp_path: Path) -> None:
    output, _ = trained(qwen2.base, tmp_path, replace(SMALL, validation=0.0))
    assert sorted(p.name for p in output.iterdir()) == [name for name in FILES if name != "report.json"]


def test_a_quantized_base(qwen2: Case, tmp_path: Path) -> None:
    """As quantized as it is, and untouched. One token at a time where llama.cpp cannot do more (docs/design.md)."""
    base = tmp_path / "base-q8_0.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    assert llama_cpp.llama_model_quantize(str(qwen2.base).encode(), str(base).encode(), params) == 0
    before = base.read_bytes()
    output, adapter = trained(base, tmp_path)
    assert base.read_bytes() == before
    assert Heads.load(adapter).names == {"temperature", "top_p"}
    log = log_of(output)
    other, _ = trained(qwen2.base, tmp_path, name="f32")
    assert log[0]["train"]["top_p"] == pytest.approx(log_of(other)[0]["train"]["top_p"], rel=0.02)
    assert log[0]["train"] != log_of(other)[0]["train"]


def test_a_merged_base_is_trained_anew(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    output, adapter = trained(merged, tmp_path)
    other, other_adapter = trained(qwen2.base, tmp_path, name="plain")
    assert (output / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert adapter.read_bytes() == other_adapter.read_bytes()


def test_finished_is_not_replaced_without_force(qwen2: Case, tmp_path: Path) -> None:
    output, _ = trained(qwen2.base, tmp_path)
    before = (output / "model.safetensors").read_bytes()
    with pytest.raises(BadFile, match=r"out/config\.json: exists; use --force to replace it$"):
        trained(qwen2.base, tmp_path)
    trained(qwen2.base, tmp_path, replace(SMALL, lr=5e-3), force=True)
    assert (output / "model.safetensors").read_bytes() != before
    adapter_only = tmp_path / "new.gguf"
    adapter_only.write_bytes(b"x")
    with pytest.raises(AutoDecoError, match=r"new\.gguf: exists; use --force to replace it$"):
        trained(qwen2.base, tmp_path, name="new")
    assert not (tmp_path / "new").exists()


def test_force_with_bad_data_leaves_what_is_there(qwen2: Case, tmp_path: Path) -> None:
    output, adapter = trained(qwen2.base, tmp_path)
    before = {p: p.read_bytes() for p in (*output.iterdir(), adapter)}
    bad = jsonl(tmp_path / "bad.jsonl", {"text": "Hello"}, 1)
    for path in (bad, tmp_path / "missing.jsonl"):
        with pytest.raises(AutoDecoError, match=r"bad\.jsonl:2: is a number|missing\.jsonl: cannot be read"):
            train(qwen2.base, [path], output, SMALL, machine=ONE_THREAD, force=True)
    assert {p: p.read_bytes() for p in (*output.iterdir(), adapter)} == before
    with pytest.raises(AutoDecoError, match="exists; use --force"):
        train(qwen2.base, [bad], output, SMALL, machine=ONE_THREAD)


def interrupted_training(base: Path, tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(base, tmp_path, watch=TrainingWatch(step=stop))


def test_it_goes_on_where_it_was(qwen2: Case, tmp_path: Path) -> None:
    output, _ = trained(qwen2.base, tmp_path, name="whole")
    interrupted_training(qwen2.base, tmp_path)
    steps: list[int] = []
    resumed, _ = trained(qwen2.base, tmp_path, watch=TrainingWatch(step=lambda s: steps.append(s.step)))
    assert steps == [5, 6]
    assert sorted(p.name for p in resumed.iterdir()) == FILES
    assert (resumed / "model.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()


@needs_rpc
def test_it_goes_on_after_a_worker_was_lost(qwen2: Case, tmp_path: Path) -> None:
    with running() as (worker,):
        machine = replace(ONE_THREAD, device=("none",), rpc=addresses([worker]))
        output, _ = trained(qwen2.base, tmp_path, name="whole", machine=machine)
        watch = TrainingWatch(step=lambda s: kill(worker) if s.step == 5 else None)
        with pytest.raises(ModelFailed, match=rf"^worker {worker.address}: lost: "):
            trained(qwen2.base, tmp_path, watch=watch, machine=machine)
        again, steps = restarted(worker), list[int]()
        watch = TrainingWatch(step=lambda s: steps.append(s.step))
        resumed, _ = trained(qwen2.base, tmp_path, watch=watch, machine=machine)
        again.close()
    assert steps[-1] == 6
    assert len(steps) < 6
    assert (resumed / "model.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()


def test_two_in_one_directory(qwen2: Case, tmp_path: Path) -> None:
    """The second is told so before it touches anything, with or without force."""
    undisturbed, _ = trained(qwen2.base, tmp_path, name="undisturbed")

    def second(step: Step) -> None:
        before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
        for force in (False, True):
            with pytest.raises(Busy, match=r"out: in use by another run; wait for its end, or choose") as e:
                trained(qwen2.base, tmp_path, force=force)
            assert str(e.value).count("\n") == 0
        assert {path: path.read_bytes() for path in before} == before

    output, adapter = trained(qwen2.base, tmp_path, watch=TrainingWatch(step=second))
    assert sorted(p.name for p in output.iterdir()) == FILES
    assert log_of(output) == log_of(undisturbed)
    assert (output / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert Heads.load(adapter).names == {"temperature", "top_p"}


def test_one_that_ends_just_before_is_not_replaced(
    qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the output between the first look at it and the lock."""
    locked, others = output_module.locked, list[int]()

    def late(path: Path) -> AbstractContextManager[None]:
        if not others:
            others.append(1)
            trained(qwen2.base, tmp_path)
        return locked(path)

    monkeypatch.setattr(output_module, "locked", late)
    with pytest.raises(BadFile, match=r"exists; use --force to replace it$"):
        trained(qwen2.base, tmp_path)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES


def test_what_a_killed_training_left_is_removed_first(qwen2: Case, tmp_path: Path) -> None:
    """Before anything new is written: there may be no room for both."""
    interrupted_training(qwen2.base, tmp_path)
    leftover = tmp_path / "out" / ".training" / ".state.pt.01234567.tmp"
    leftover.write_bytes(b"half")
    seen: list[bool] = []
    trained(qwen2.base, tmp_path, watch=TrainingWatch(lines=lambda _: seen.append(leftover.exists())))
    assert not any(seen)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES


def test_a_killed_one_that_had_not_begun_hides_nothing(qwen2: Case, tmp_path: Path) -> None:
    """A directory of the state that is empty does not make what is finished look unfinished."""
    output, _ = trained(qwen2.base, tmp_path)
    (output / ".training").mkdir()
    with pytest.raises(BadFile, match=r"exists; use --force to replace it$"):
        trained(qwen2.base, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="shows what is mapped")
@pytest.mark.parametrize("fails", [False, True])
def test_no_file_is_open_that_is_removed(
    fails: bool, qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS and Windows would not remove it."""
    removed, mapped = list[str](), list[bool]()

    def remove(self: output_module.Output) -> None:
        removed.extend(sorted(path.name for path in self.state.iterdir()))
        mapped.append(str(self.state) in Path("/proc/self/maps").read_text())
        shutil.rmtree(self.state)

    monkeypatch.setattr(output_module.Output, "remove_state", remove)
    commands = Commands(low=("Be plain.",), high=("Go wild!",))
    data = jsonl(tmp_path / "data.jsonl", *([{"text": "One and two"}] if fails else EXAMPLES))
    with pytest.raises(BadFile, match="no example got a command") if fails else nullcontext():
        options = TrainingOptions(commands=commands)
        train(qwen2.base, [data], tmp_path / "out", replace(SMALL, steps=1), options=options, machine=ONE_THREAD)
    assert mapped == [False]
    assert removed == ["ends", "firsts", "prompts", *([] if fails else ["state.pt"]), "tokens"]


@pytest.mark.parametrize("nbytes", [0, 30, 20_000])
def test_a_full_disk(nbytes: int, qwen2: Case, tmp_path: Path) -> None:
    """Of the tokens, of the log, of the state: one line that names a file, and it goes on when there is room."""
    data = jsonl(tmp_path / "data.jsonl", *EXAMPLES * 4)
    words = r"out/\.training(/state\.pt)?: cannot be written: File too large$"
    with no_room(nbytes), pytest.raises(BadFile, match=words):
        train(qwen2.base, [data], tmp_path / "out", SMALL, machine=ONE_THREAD)
    left = sorted(p.name for p in (tmp_path / "out").rglob("*"))
    assert left == ([".training", "ends", "firsts", "log.jsonl", "prompts", "tokens"] if nbytes == 20_000 else [])
    train(qwen2.base, [data], tmp_path / "out", SMALL, machine=ONE_THREAD)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES


STEPS = "only 2 steps of up to 32 examples: heads hardly learn in less than 60; give more data, --epochs or --steps"
HELD = "only {} to validate on: too few for a verdict at the end; give more data, or a larger --validation"
FEW, MANY = TrainingSettings(epochs=1.0, batch=32), TrainingSettings(steps=60, batch=1)
SIZES: dict[str, tuple[int, TrainingSettings, list[str]]] = {
    "small": (46, FEW, [STEPS, HELD.format("8 tokens of 2 examples")]),
    "one step": (2, replace(FEW, validation=0.0), [STEPS.replace("2 steps", "1 step")]),
    "little to validate on": (46, replace(MANY, validation=0.02), [HELD.format("4 tokens of 1 example")]),
    "as many steps as it takes": (46, TrainingSettings(validation=0.0), []),
    "enough": (120, replace(MANY, validation=0.5), []),
    "nothing held out": (46, replace(MANY, validation=0.0), []),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_small_training_warns_before_it_begins(name: str, qwen2: Case, tmp_path: Path) -> None:
    n, settings, expected = SIZES[name]
    data = jsonl(tmp_path / "data.jsonl", *({"prompt": f"One {i:03}", "completion": " more"} for i in range(n)))
    warnings: list[str] = []

    def stop(step: Step) -> None:
        raise KeyboardInterrupt

    watch = TrainingWatch(warning=warnings.append, step=stop)
    with pytest.raises(KeyboardInterrupt):
        train(qwen2.base, [data], tmp_path / "out", settings, machine=ONE_THREAD, watch=watch)
    assert warnings == expected


def test_run_in_another_way_it_is_not_resumed(qwen2: Case, tmp_path: Path) -> None:
    interrupted_training(qwen2.base, tmp_path)
    data = jsonl(tmp_path / "data.jsonl", *EXAMPLES)
    for machine, words in (
        (Machine(n_threads=1, cache_type="f32"), "cache_type f16, now f32"),
        (Machine(n_threads=1, flash_attn=True), "flash_attn False, now True"),
    ):
        with pytest.raises(BadFile, match=rf"state\.pt: of a training with {words}; start anew with --force"):
            train(qwen2.base, [data], tmp_path / "out", SMALL, machine=machine)


def test_the_start_of_a_reward_training_is_not_lost_to_another(qwen2: Case, tmp_path: Path) -> None:
    """Which has answers, and no state yet."""
    begun = tmp_path / "out" / ".training" / "begun.jsonl"
    begun.parent.mkdir(parents=True)
    begun.write_text('{"reward": 1}\n')
    with pytest.raises(
        BadFile, match=r"begun\.jsonl: of a training with --reward, now --data; start anew with --force"
    ):
        trained(qwen2.base, tmp_path)
    assert begun.exists()
    trained(qwen2.base, tmp_path, force=True)
    assert not begun.parent.exists()


def test_another_base_of_the_same_shape_is_noticed(qwen2: Case, tmp_path: Path) -> None:
    interrupted_training(qwen2.base, tmp_path)
    other = rewrite(
        qwen2.base, tmp_path / "b.gguf", edit=lambda ts: [(name, data * 1.01, kind) for name, data, kind in ts]
    )
    with pytest.raises(AutoDecoError, match="of a training with other base"):
        trained(other, tmp_path)
    steps: list[int] = []
    trained(other, tmp_path, force=True, watch=TrainingWatch(step=lambda s: steps.append(s.step)))
    assert steps == [1, 2, 3, 4, 5, 6]


def test_killed_while_the_results_are_written(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained again then."""
    import autodeco_gguf.training.train as module

    for validation in (0.25, 0.0):
        settings = replace(SMALL, validation=validation)
        with monkeypatch.context() as patch:
            patch.setattr(module, "plot_log", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                trained(qwen2.base, tmp_path, settings, name=f"{validation}")
        watch = TrainingWatch(step=lambda s: pytest.fail("again"))
        output, _ = trained(qwen2.base, tmp_path, settings, name=f"{validation}", watch=watch)
        assert (output / "training.png").exists()


def test_inputs_are_not_written(qwen2: Case, tmp_path: Path) -> None:
    base = tmp_path / "heads.gguf"
    base.write_bytes(qwen2.base.read_bytes())
    with pytest.raises(BadFile, match=r"heads\.gguf: is an input and would be written; choose another output$"):
        trained(base, tmp_path, name="heads", force=True)
    (tmp_path / "out").mkdir()
    data = jsonl(tmp_path / "out" / "log.jsonl", *EXAMPLES)
    with pytest.raises(AutoDecoError, match=r"log\.jsonl: is an input and would be written"):
        train(qwen2.base, [data], tmp_path / "out", SMALL, machine=ONE_THREAD, force=True)
    assert base.read_bytes() == qwen2.base.read_bytes()


@pytest.mark.parametrize(
    ("output", "adapter"),
    [
        ("out/", "out.gguf"),
        ("./a.b", "a.b.gguf"),
        (".", "../cwd.gguf"),
        ("sub/..", "../cwd.gguf"),
        ("sub/x", "sub/x.gguf"),
    ],
)
def test_odd_names(output: str, adapter: str, qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    data = jsonl(tmp_path / "data.jsonl", *EXAMPLES)
    done = train(qwen2.base, [data], output, replace(SMALL, steps=1), machine=ONE_THREAD)
    assert done.adapter.resolve() == Path(adapter).resolve()
    assert Path(adapter).is_file()
    assert (Path(output) / "model.safetensors").is_file()


def test_foreign_files_stay(qwen2: Case, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mine = ["notes.txt", "._model-1.safetensors"]
    for name in mine:
        (tmp_path / "out" / name).write_text("mine")
    output, _ = trained(qwen2.base, tmp_path, replace(SMALL, steps=1))
    assert sorted(p.name for p in output.iterdir()) == sorted([*FILES, *mine])


def test_other_weights_in_the_output_are_refused_at_once(qwen2: Case, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model-00001-of-00002.safetensors").write_bytes(
        (qwen2.heads / "model.safetensors").read_bytes()
    )
    with pytest.raises(BadFile, match=r"00002\.safetensors: other weights in the output; choose another dir"):
        trained(qwen2.base, tmp_path, force=True)
    (tmp_path / "x.gguf").mkdir()
    with pytest.raises(AutoDecoError, match=r"x\.gguf cannot be the adapter; choose another output"):
        trained(qwen2.base, tmp_path, name="x", force=True)


def test_examples_are_cut_to_what_the_model_was_trained_for(qwen2: Case, tmp_path: Path) -> None:
    data = jsonl(tmp_path / "d.jsonl", {"text": "cat " * 400}, {"text": "Hello"}, {"text": "Hello world"})
    for max_tokens, tokens in ((2048, 256), (256, 256), (17, 17)):
        counts = []
        train(
            qwen2.base,
            [data],
            tmp_path / f"{max_tokens}",
            replace(SMALL, steps=1, max_tokens=max_tokens),
            machine=ONE_THREAD,
            watch=TrainingWatch(data=counts.append),
        )
        assert (counts[0].cut, counts[0].tokens) == (1, tokens + 6 + 10)
        assert counts[0].predicted == counts[0].tokens - 3


@pytest.mark.parametrize("pairs", [1, 3])
def test_control(pairs: int, qwen2: Case, tmp_path: Path) -> None:
    """Under a strong ranking loss T and P come to follow the command, on prompts that were not trained on."""
    commands = Commands(low=("Be plain.",), high=("Go wild!",), share=0.5, pairs=pairs)
    objective = Objective(control_weight=30.0)
    settings = replace(SMALL, objective=objective, batch=8, steps=40, lr=3e-3, evaluations=2)
    counts = []
    options, watch = TrainingOptions(commands=commands), TrainingWatch(data=counts.append)
    output, _ = trained(qwen2.base, tmp_path, settings, options=options, watch=watch)
    assert 0 < counts[0].controlled < 16
    log = log_of(output)
    assert log[0]["train"]["ranking"] > 4.0
    assert (
        log[-1]["validation"]["ranking"] < 0.5 * log[19]["validation"]["ranking"]
        or log[-1]["validation"]["ranking"] < 1
    )


@pytest.mark.parametrize(
    ("longest", "pairs", "n"), [(88, 0, 8), (88, 1, 6), (88, 3, 7), (88, 8, 17), (900, 1, 2), (3000, 3, 1)]
)
def test_examples_are_decoded_whole_with_their_variants(longest: int, pairs: int, n: int) -> None:
    assert n_together(longest, Commands(("a",), ("b",), pairs=pairs) if pairs else None) == n


def test_the_base_is_parsed_once(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is read again to verify it, and that is another file."""
    parsed: list[Path] = []
    original = gguf_module.GgufFile.__init__

    def spy(self: gguf_module.GgufFile, path: Path, start: int = 0) -> None:
        parsed.append(Path(path))
        original(self, path, start)

    monkeypatch.setattr(gguf_module.GgufFile, "__init__", spy)
    trained(qwen2.base, tmp_path, replace(SMALL, steps=1))
    assert parsed.count(qwen2.base) == 1


def test_two_shards_are_one_base(qwen2: Case, tmp_path: Path) -> None:

    output, adapter = trained(shards(qwen2.base, tmp_path, [10]), tmp_path)
    other, other_adapter = trained(qwen2.base, tmp_path, name="plain")
    assert (output / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert ad.Heads.load(adapter).names == ad.Heads.load(other_adapter).names


# ---- kills and memory ----

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training import trainer
from autodeco_gguf.training.settings import TrainingSettings
from autodeco_gguf.training.train import train

base, data, out = sys.argv[1:4]
trainer.SAVE_S = 0.0
settings = TrainingSettings(batch=4, steps=16, lr=1e-3, evaluations=4, patience=0, validation=0.2)

def start(name):
    child = os.fork()
    if child == 0:
        train(base, [data], f"{out}/{name}", settings, machine=Machine(n_threads=1))
        os._exit(0)
    return child

assert os.waitpid(start("whole"), 0)[1] == 0
rng, kills, log = random.Random(1), 0, Path(out, "killed", "log.jsonl")
for lines in (0, 4, 9, 14):
    child = start("killed")
    until = time.monotonic() + 20
    while (log.read_bytes().count(b"\\n") if log.exists() else -1) < lines and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(rng.uniform(0.0, 0.02))
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
if Path(out, "killed", ".training").exists():
    Path(out, "killed", ".training", ".state.pt.0123.tmp").touch()  # what a kill may leave
    assert os.waitpid(start("killed"), 0)[1] == 0
print(kills)
"""


def run_script(script: str, *args: object) -> str:
    command = [sys.executable, "-c", script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_again_and_again_it_ends_the_same(qwen2: Case, tmp_path: Path) -> None:
    data = jsonl(tmp_path / "d.jsonl", *EXAMPLES)
    assert int(run_script(KILLS, qwen2.base, data, tmp_path)) >= 3
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert log_of(killed) == log_of(whole)
    for name in ("model.safetensors", "config.json", "report.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert (tmp_path / "killed.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert not (killed / ".training").exists()


MEMORY = """
import os, re, sys
from pathlib import Path
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training import trainer
from autodeco_gguf.training.settings import TrainingSettings
from autodeco_gguf.training.train import train

base, directory = sys.argv[1:3]
settings = TrainingSettings(batch=4, steps=4, evaluations=1, validation=0.2, patience=0)
trainer.MAX_VALIDATION = 4  # as many held out of either
for n in (20, 500):
    data = Path(directory, f"{n}.jsonl")
    data.write_text('{"text": "' + "The cat sat on the mat. " * 20 + '"}\\n')
    with data.open("a") as f:
        for i in range(n - 1):
            f.write('{"text": "' + f"{i} cats sat on the mats. " * 20 + '"}\\n')
    child = os.fork()
    if child == 0:
        train(base, [data], f"{directory}/{n}", settings, machine=Machine(n_threads=1))
        print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_memory_does_not_grow_with_the_data(qwen2: Case, tmp_path: Path) -> None:
    """Twenty-five times the examples; their hidden states alone would be 30 MB."""
    small, large = (int(kb) for kb in run_script(MEMORY, qwen2.base, tmp_path).split())
    assert large - small < 20_000
