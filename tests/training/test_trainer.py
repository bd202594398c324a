"""The loop, and the state that it resumes from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import load_case
from training_helpers import SMALL, constant_losses, dataset, log_of, no_room, predicted, random_sequences, trainer

from autodeco_gguf.errors import AutoDecoError, BadFile, ModelFailed
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.features import Features, stream
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training import trainer as trainer_module
from autodeco_gguf.training.data import Dataset
from autodeco_gguf.training.objective import collect
from autodeco_gguf.training.settings import Objective, TrainingSettings
from autodeco_gguf.training.trainer import Step, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_known_temperature_is_recovered(tmp_path: Path) -> None:
    """Text drawn at T*, a function of the hidden state: the head must find it where it has not been shown."""
    context = Context(load_case("llama").base, n_ctx=128, n_seq=64, machine=Machine(n_threads=1))
    rng = np.random.default_rng(0)
    direction = rng.normal(size=context.hidden_size) / np.sqrt(context.hidden_size)

    def true(hidden: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.asarray(0.3 + 1.4 / (1 + np.exp(-1.5 * hidden @ direction)))

    sequences = []
    for _ in range(2):
        context.clear()
        rows = [[int(x)] for x in rng.integers(100, 500, 64)]
        for i in range(40):
            logits, hidden = context.decode([r[-1] for r in rows], [i] * 64, range(64), hidden=True)
            assert hidden is not None
            scaled = logits / true(hidden)[:, None] + rng.gumbel(size=logits.shape)
            for row, token in zip(rows, scaled.argmax(1), strict=True):
                row.append(int(token))
        sequences += [predicted(*row) for row in rows]
    objective = Objective(heads=("temperature",), easy_mask=0.0, dynamic_fine_tuning=False)
    settings = replace(SMALL, objective=objective, steps=60, batch=32, lr=5e-3, validation=0.1)
    it = trainer(context, dataset(tmp_path / "d", [[s] for s in sequences]), settings, tmp_path / "out")
    it.run()
    found, truth = [], []
    for part in it.validation_features():
        found.append(it.heads.temperature(torch.from_numpy(part.hidden.copy())).detach().numpy())
        truth.append(true(part.hidden))
    found, truth = np.concatenate(found), np.concatenate(truth)
    error, constant = np.abs(found - truth).mean(), np.abs(truth - np.median(truth)).mean()
    assert error <= 0.1, (error, constant)
    assert error < 0.5 * constant, (error, constant)
    context.close()


def test_the_learning_rate(context: Context, data: Dataset, tmp_path: Path) -> None:
    for warmup, steps, rates in (
        (0.25, 8, [0.5, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (0.0, 4, [1.0, 0.75, 0.5, 0.25]),
        (1.0, 4, [0.25, 0.5, 0.75, 1.0]),
        (0.03, 1, [1.0]),
    ):
        it = trainer(context, data, replace(SMALL, warmup=warmup, steps=steps), tmp_path / f"{warmup}")
        it.run()
        assert [r["lr"] for r in log_of(tmp_path / f"{warmup}")] == pytest.approx([1e-3 * r for r in rates])


def test_answers_to_one_prompt_are_on_one_side_and_one_example(context: Context, tmp_path: Path) -> None:
    """Unless there is one prompt alone, whose answers then count each."""
    answers = {n: [[predicted(1, 5 + i % n, 7, 8, 9, after=2)] for i in range(12)] for n in (3, 1)}
    for n, expected in ((3, [4]), (1, [1, 1, 1])):
        it = trainer(
            context,
            dataset(tmp_path / f"d{n}", answers[n], prompts=[i % n for i in range(12)]),
            replace(SMALL, validation=0.25),
            tmp_path / f"{n}",
        )
        numbers = np.concatenate([part.sequence for part in it.validation_features()])
        assert [len(row) // 3 for row in (numbers[numbers == x] for x in np.unique(numbers))] == expected
        assert len(it.validation_ids) == sum(expected)


def test_the_learning_rate_by_default_goes_with_the_width(context: Context, data: Dataset, tmp_path: Path) -> None:
    trainer(context, data, replace(SMALL, lr=None, warmup=0.0, steps=1), tmp_path / "out").run()
    assert [r["lr"] for r in log_of(tmp_path / "out")] == pytest.approx([0.1 / context.hidden_size])


def test_what_is_logged(context: Context, data: Dataset, tmp_path: Path) -> None:
    steps: list[Step] = []
    trainer(context, data, SMALL, tmp_path / "out").run(steps.append)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in lines] == [1, 2, 3, 4, 5, 6]
    assert [r["epoch"] for r in lines] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    assert ["validation" in r for r in lines] == [False, True, False, True, False, True]
    assert [r["train"] for r in lines] == [asdict(s.train) for s in steps]
    assert [r.get("validation") for r in lines] == [s.validation and asdict(s.validation) for s in steps]
    assert all(r["tok_s"] > 0 and r["grad_norm"] > 0 for r in lines)
    assert {s.steps for s in steps} == {6}


def test_every_example_once_an_epoch(
    context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[int]] = []
    original = Trainer.batch_ids
    monkeypatch.setattr(Trainer, "batch_ids", lambda self, n: batches.append((x := original(self, n)).tolist()) or x)
    it = trainer(context, data, replace(SMALL, steps=None, epochs=2.0), tmp_path / "out")
    it.run()
    assert [len(b) for b in batches] == [4, 4, 4, 3] * 2
    epochs = [[i for batch in half for i in batch] for half in (batches[:4], batches[4:])]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) | set(it.validation_ids.tolist()) == set(range(20))
    assert not set(epochs[0]) & set(it.validation_ids.tolist())


SIZES: list[tuple[int, dict[str, Any], int, int]] = [
    (1, {}, 0, 60),
    (61, {"batch": 1, "validation": 0.0}, 0, 61),
    (1, {"epochs": 1.0}, 0, 1),
    (2, {"epochs": 1.0}, 1, 1),
    (2, {"epochs": 1.0, "validation": 0.5}, 1, 1),
    (5, {"epochs": 1.0, "validation": 0.0}, 0, 2),
    (5, {"epochs": 1.0, "validation": 0.01}, 1, 1),
    (5, {"epochs": 1.0, "batch": 100}, 1, 1),
    (5, {"epochs": 0.01}, 1, 1),
    (5, {"epochs": 2.5}, 1, 2),
    (20, {"steps": 9, "epochs": 100.0}, 5, 9),
]


@pytest.mark.parametrize(
    ("examples", "batch", "steps"),
    [(1, 8, 60), (480, 8, 60), (500, 8, 63), (600, 10, 60), (1919, 31, 62), (1920, 32, 60), (32_000, 32, 1000)],
)
def test_a_training_of_unset_length(examples: int, batch: int, steps: int) -> None:
    """Few examples make small batches first, and then more epochs."""
    assert TrainingSettings().resolved(examples, 64) == (batch, steps, 0.1 / 64)
    given = TrainingSettings(batch=5, steps=7, lr=1e-3)
    assert given.resolved(examples, 64) == (5, 7, 1e-3)


@pytest.mark.parametrize(("n", "changes", "n_validation", "steps"), SIZES)
def test_sizes(
    n: int, changes: dict[str, Any], n_validation: int, steps: int, context: Context, tmp_path: Path
) -> None:
    sequences = random_sequences(np.random.default_rng(0), [6] * n)
    settings = replace(SMALL, **{"steps": None, **changes})
    it = trainer(context, dataset(tmp_path / "d", [[s] for s in sequences]), settings, tmp_path / "out")
    assert (len(it.validation_ids), it.steps) == (n_validation, steps)
    it.run()
    assert it.step == steps


def test_the_seed_is_of_everything(context: Context, data: Dataset, tmp_path: Path) -> None:
    """The order, the weights and the mask: each differs with it, and all are the same without."""
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        it = trainer(context, data, replace(SMALL, seed=seed), tmp_path / name)
        it.run()
        runs[name] = (log_of(tmp_path / name), it.heads.state_dict(), it.validation_ids.tolist())
    assert runs["a"][0] == runs["b"][0] != runs["c"][0]
    assert all(torch.equal(runs["a"][1][key], runs["b"][1][key]) for key in runs["a"][1])
    assert runs["a"][2] != runs["c"][2]


def test_the_mask_is_drawn_anew_with_seed_and_step(
    context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = []

    def spy(heads: Any, features: Any, n: int, objective: Any, generator: Any, triples: Any) -> Any:
        if generator is not None:
            draws.append(torch.rand(4, generator=generator.clone_state()).tolist())
        return collect(heads, features, n, objective, generator, triples)

    monkeypatch.setattr(trainer_module, "collect", spy)
    for seed in (0, 1, 2**32 - 1):
        trainer(context, data, replace(SMALL, seed=seed, steps=2), tmp_path / f"{seed}").run()
    assert len({tuple(d) for d in draws}) == 6


def best_loss(directory: Path) -> float:
    """What the state that is kept says of the best validation."""
    return float(torch.load(directory / "state.pt", weights_only=True)["best_loss"])


def test_early_stopping_keeps_the_best(
    context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant_losses(monkeypatch, [3.0, 2.0, 2.5, 2.0, 1.0])
    states = []
    it = trainer(context, data, replace(SMALL, steps=10, evaluations=10, patience=2), tmp_path / "out")
    it.run(lambda step: states.append({k: v.clone() for k, v in it.heads.state_dict().items()}))
    assert (it.step, it.kept) == (4, 2)  # an equal loss is no gain
    assert best_loss(tmp_path / "out") == 2.0
    assert all(torch.equal(v, states[1][k]) for k, v in it.heads.state_dict().items())
    assert not torch.equal(states[1]["temp_head.mlp.0.weight"], states[3]["temp_head.mlp.0.weight"])
    again = trainer(context, data, replace(SMALL, steps=10, evaluations=10, patience=2), tmp_path / "out")
    again.run(lambda step: pytest.fail("it has stopped"))
    assert (again.step, again.kept) == (4, 2)
    assert all(torch.equal(v, states[1][k]) for k, v in again.heads.state_dict().items())
    assert len(log_of(tmp_path / "out")) == 4


def test_patience_zero_never_stops(
    context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant_losses(monkeypatch, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    it = trainer(context, data, replace(SMALL, evaluations=6, patience=0), tmp_path / "out")
    it.run()
    assert (it.step, it.kept, best_loss(tmp_path / "out")) == (6, 1, 1.0)


def test_without_validation_the_last_step_is_kept(context: Context, data: Dataset, tmp_path: Path) -> None:
    it = trainer(context, data, replace(SMALL, validation=0.0), tmp_path / "out")
    it.run()
    assert (it.step, it.kept) == (6, 6)


@pytest.mark.parametrize("heads", [("temperature",), ("top_p",)])
def test_the_other_head_stays_as_it_was_drawn(
    heads: tuple[str, ...], context: Context, data: Dataset, tmp_path: Path
) -> None:
    it = trainer(context, data, replace(SMALL, objective=Objective(heads=heads), weight_decay=0.5), tmp_path / "out")
    before = {k: v.clone() for k, v in it.heads.state_dict().items()}
    it.run()
    trained = {"temperature": "temp_head", "top_p": "top_p_head"}[heads[0]]
    for key, value in it.heads.state_dict().items():
        assert torch.equal(value, before[key]) != key.startswith(trained), key


def test_the_gradient_is_clipped(context: Context, data: Dataset, tmp_path: Path) -> None:
    it = trainer(context, data, replace(SMALL, clip=1e-3, steps=1), tmp_path / "out")
    it.run()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in it.heads.parameters()))
    assert norm == pytest.approx(1e-3, rel=1e-2)
    assert log_of(tmp_path / "out")[0]["grad_norm"] > 1e-2


def test_a_gradient_that_is_not_finite(context: Context, data: Dataset, tmp_path: Path) -> None:
    it = trainer(context, data, SMALL, tmp_path / "out")
    with torch.no_grad():
        it.heads.temp_head.mlp[0].weight.fill_(math.nan)
    with pytest.raises(ModelFailed, match=r"^step 1: the gradient is not finite; lower --lr$"):
        it.run()


@pytest.mark.parametrize(("name", "value"), [("hidden", math.nan), ("logits", math.nan), ("logits", math.inf)])
def test_a_model_that_is_not_finite(
    name: str, value: float, context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the second example of a batch; -inf is of a token that the model never draws."""
    it = trainer(context, data, SMALL, tmp_path / "out")

    def spoilt(*given: Any) -> Iterator[Features]:
        for part in stream(*given):
            part = part.copy()
            part.logits[0, 0] = -math.inf
            getattr(part, name)[part.sequence == 1, 3] = value
            yield part

    monkeypatch.setattr(trainer_module, "stream", spoilt)
    found = (
        rf"^the model's hidden state or logits are not finite for example {it.batch_ids(0)[1] + 1} of the data; leave"
    )
    with pytest.raises(ModelFailed, match=found):
        it.train_step()


# ---- the state ----


def interrupted(context: Context, data: Dataset, settings: TrainingSettings, directory: Path, step: int) -> None:
    """Train, and be interrupted after a step."""

    def stop(done: Step) -> None:
        if done.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(context, data, settings, directory).run(stop)


@pytest.mark.parametrize("save_s", [0.0, 60.0])
@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_resumed_after_an_interrupt(
    step: int, save_s: float, context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "SAVE_S", save_s)
    whole = trainer(context, data, SMALL, tmp_path / "whole")
    whole.run()
    interrupted(context, data, SMALL, tmp_path / "out", step)
    resumed = trainer(context, data, SMALL, tmp_path / "out")
    assert resumed.step == (step - 1 if save_s == 0.0 else (step - 1) // 2 * 2)
    resumed.run()
    assert log_of(tmp_path / "out") == log_of(tmp_path / "whole")
    assert all(torch.equal(v, whole.heads.state_dict()[k]) for k, v in resumed.heads.state_dict().items())
    assert best_loss(tmp_path / "out") == best_loss(tmp_path / "whole")


def test_a_validation_loss_that_is_no_number(
    context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant_losses(monkeypatch, [1.0, math.nan])
    it = trainer(context, data, SMALL, tmp_path / "out")
    with pytest.raises(ModelFailed, match=r"^step 4: the loss on validation data is not a number; lower --lr$"):
        it.run()
    assert trainer(context, data, SMALL, tmp_path / "out").step == 2


def test_a_clock_that_stands_still(
    context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: 1.0)
    assert trainer(context, data, SMALL, tmp_path).train_step().tok_s > 0


def test_another_limit_that_cuts_the_same_is_resumed(context: Context, data: Dataset, tmp_path: Path) -> None:
    """By default it goes with the memory of the machine."""
    interrupted(context, data, replace(SMALL, max_tokens=2048), tmp_path, 3)
    assert trainer(context, data, replace(SMALL, max_tokens=4096), tmp_path).step == 2


DIFFERENT: dict[str, tuple[Callable[[TrainingSettings], TrainingSettings], str]] = {
    "lr": (lambda s: replace(s, lr=0.5), "lr 0.001, now 0.5"),
    "batch": (lambda s: replace(s, batch=5), "batch 4, now 5"),
    "steps": (lambda s: replace(s, steps=7), "steps 6, now 7"),
    "seed": (lambda s: replace(s, seed=3), "seed 0, now 3"),
    "heads": (lambda s: replace(s, objective=Objective(heads=("top_p",))), r"heads .*, now \['top_p'\]"),
    "mask": (lambda s: replace(s, objective=Objective(easy_mask=0.1)), "easy_mask 0.6, now 0.1"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_setting_is_not_resumed(name: str, context: Context, data: Dataset, tmp_path: Path) -> None:
    interrupted(context, data, SMALL, tmp_path, 3)
    change, message = DIFFERENT[name]
    with pytest.raises(BadFile, match=rf"state\.pt: of a training with {message}; start anew with --force") as refused:
        trainer(context, data, change(SMALL), tmp_path)
    assert (refused.value.file, refused.value.key) == (str(tmp_path / "state.pt"), message.partition(" ")[0])
    assert str(refused.value.expected) in message.replace("\\", "")


def test_other_data_or_another_base_is_not_resumed(context: Context, data: Dataset, tmp_path: Path) -> None:
    interrupted(context, data, SMALL, tmp_path / "out", 3)
    with pytest.raises(AutoDecoError, match=r"state\.pt: of a training with other base; start anew with --force"):
        trainer(context, data, SMALL, tmp_path / "out", "y")
    other = dataset(tmp_path / "data", [data[i] for i in range(20)], "z")
    with pytest.raises(AutoDecoError, match=r"state\.pt: of a training with other data; start anew with --force"):
        trainer(context, other, SMALL, tmp_path / "out")


STATES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "half": lambda b: b[: len(b) // 2],
    "text": lambda b: b"hello",
    "zeros": lambda b: bytes(len(b)),
    "a short pickle": lambda b: b"\x80\x02}q\x00.",
    "no zip": lambda b: b"x" + b,
}


@pytest.mark.parametrize("name", STATES)
def test_a_broken_state(name: str, context: Context, data: Dataset, tmp_path: Path) -> None:
    interrupted(context, data, SMALL, tmp_path, 3)
    path = tmp_path / "state.pt"
    path.write_bytes(STATES[name](path.read_bytes()))
    with pytest.raises(BadFile, match=r"state\.pt: cannot be read; start anew with --force$"):
        trainer(context, data, SMALL, tmp_path)


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda s: [s],
    "no progress": lambda s: {key: value for key, value in s.items() if key != "bad"},
    "a step that is none": lambda s: {**s, "step": "3"},
    "before the first step": lambda s: {**s, "step": -1},
    "no identity": lambda s: {**s, "identity": 5},
    "other weights": lambda s: {**s, "heads": {key: value[:1] for key, value in s["heads"].items()}},
    "no weights": lambda s: {**s, "heads": {}},
    "no best": lambda s: {**s, "best": {}},
    "no optimizer": lambda s: {**s, "optimizer": {}},
    "an optimizer of something else": lambda s: {**s, "optimizer": {"state": {}, "param_groups": [1]}},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_state_of_something_else(name: str, context: Context, data: Dataset, tmp_path: Path) -> None:
    interrupted(context, data, SMALL, tmp_path, 3)
    path = tmp_path / "state.pt"
    torch.save(WRONG[name](torch.load(path, weights_only=True)), path)
    with pytest.raises(BadFile, match=r"state\.pt: cannot be read; start anew with --force$"):
        trainer(context, data, SMALL, tmp_path)


# ---- a full disk ----


@pytest.mark.parametrize(("nbytes", "name"), [(20_000, "state.pt"), (10, "log.jsonl")])
def test_a_full_disk_costs_no_more_than_a_kill(
    nbytes: int, name: str, context: Context, data: Dataset, tmp_path: Path
) -> None:
    whole = trainer(context, data, SMALL, tmp_path / "whole")
    whole.run()
    out = tmp_path / "out"
    interrupted(context, data, SMALL, out, 4)
    before = (out / "state.pt").read_bytes()
    it = trainer(context, data, SMALL, out)
    with no_room(nbytes), pytest.raises(BadFile, match=rf"{name}: cannot be written: File too large$"):
        it.run()
    assert (out / "state.pt").read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["log.jsonl", "state.pt"]
    resumed = trainer(context, data, SMALL, out)
    resumed.run()
    assert log_of(out) == log_of(tmp_path / "whole")
    assert all(torch.equal(v, whole.heads.state_dict()[k]) for k, v in resumed.heads.state_dict().items())


def test_a_log_that_lost_something(context: Context, data: Dataset, tmp_path: Path) -> None:
    interrupted(context, data, SMALL, tmp_path, 3)
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes()[:50])
    with pytest.raises(AutoDecoError, match=r"log\.jsonl: shorter than when .*state\.pt was written; start anew"):
        trainer(context, data, SMALL, tmp_path)
    log.unlink()
    with pytest.raises(AutoDecoError, match=r"log\.jsonl: shorter than when"):
        trainer(context, data, SMALL, tmp_path)
