"""Training: the module, streamed features, the objective's gradients, the loop, its state, and what it leaves."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import torch
from broken import load_raw, rewrite
from conftest import Case, load, load_case
from torch import Tensor
from training_helpers import (
    dataset,
    jsonl,
    plain_features,
    plain_temperature_loss,
    plain_top_p_loss,
    predicted,
    random_sequences,
)

import autodeco_gguf as ad
from autodeco_gguf import Heads
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.heads.checkpoint import read_checkpoint
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training import features as features_module
from autodeco_gguf.training import objective as objective_module
from autodeco_gguf.training import trainer as trainer_module
from autodeco_gguf.training.data import Dataset, Tokens
from autodeco_gguf.training.features import Features, stream
from autodeco_gguf.training.module import HeadsModule, probability_features
from autodeco_gguf.training.objective import Losses, backward, batch_losses, collect
from autodeco_gguf.training.report import GRID, Method, report, verdict
from autodeco_gguf.training.settings import Objective, Settings
from autodeco_gguf.training.train import Watch, train
from autodeco_gguf.training.trainer import Step, Trainer

NO_TRIPLES = torch.zeros(0, 3, dtype=torch.long)
SMALL = Settings(batch=4, steps=6, lr=1e-3, evaluations=3, patience=0, validation=0.25)
EXAMPLES = [{"prompt": f"One {i}", "completion": f" and {i} more of them"} for i in range(16)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def context(qwen2: Case) -> Iterator[Context]:
    context = Context(qwen2.base, n_ctx=256, n_seq=8, machine=Machine(n_threads=1))
    yield context
    context.close()


def module_of(case: Case) -> HeadsModule:
    """The module with a fixture's weights."""
    arrays = load_raw(case.heads / "model.safetensors")
    hidden = arrays["temp_head.mlp.0.weight"].shape[1]
    module = HeadsModule(hidden, 0)
    module.load_state_dict({key: torch.tensor(value) for key, value in arrays.items()})
    return module


# ---- module ----


def test_parameters_are_those_of_official_checkpoints(qwen2: Case) -> None:
    arrays = load_raw(qwen2.heads / "model.safetensors")
    ours = {key: tuple(value.shape) for key, value in HeadsModule(64, 0).state_dict().items()}
    assert ours == {key: value.shape for key, value in arrays.items()}


@pytest.mark.parametrize("name", ["qwen2", "llama", "qwen3_moe"])
def test_predictions_are_those_of_the_core(name: str) -> None:
    case = load_case(name)
    module, checkpoint = module_of(case), read_checkpoint(case.heads)
    rng = np.random.default_rng(0)
    n_vocab = checkpoint.vocab_size or 384
    hidden = rng.normal(size=(40, module.hidden_size)).astype(np.float32)
    logits = (rng.normal(size=(40, n_vocab)) * rng.uniform(0.1, 10, (40, 1))).astype(np.float32)
    t, p = Heads(checkpoint.weights).evaluate(hidden, logits)
    with torch.no_grad():
        ours = module.temperature(torch.from_numpy(hidden))
        ours_p = module.top_p(torch.from_numpy(hidden), probability_features(torch.from_numpy(logits), ours))
    np.testing.assert_allclose(ours, t, atol=1e-5)
    np.testing.assert_allclose(ours_p, p, atol=1e-5)
    back = Heads(module.weights(vocab_size=n_vocab, base_model="x")).evaluate(hidden, logits)
    np.testing.assert_array_equal(back, (t, p))


def test_features_take_no_gradient_and_are_the_official_ones() -> None:
    logits, t = torch.randn(9, 50, generator=torch.Generator().manual_seed(0)) * 3, torch.linspace(0.1, 1.9, 9)
    ours = probability_features(logits, t.requires_grad_())
    assert not ours.requires_grad
    torch.testing.assert_close(ours, plain_features(logits, t.detach()), rtol=1e-4, atol=1e-6)
    few = probability_features(torch.tensor([[0.0, 0.0]]), torch.ones(1))
    assert few[0].tolist() == pytest.approx([1.0, 0.5, math.log(2), 0.0, 1.0], abs=1e-6)


def test_initialization_follows_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = HeadsModule(8, 7).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    two, other = HeadsModule(8, 7).state_dict(), HeadsModule(8, 8).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


# ---- features ----

LENGTHS: dict[str, list[int]] = {
    "one": [7],
    "the shortest": [2, 2, 3],
    "mixed": [5, 40, 2, 17, 33],
    "more than n_seq": [6] * 11,
    "more than n_ctx": [200, 150, 90, 250, 30, 256, 256],
    "just n_ctx": [256],
    "more than n_outputs": [120, 60],
}


def masked(rng: np.random.Generator, n: int, turns: bool) -> Tokens:
    """A sequence of which several stretches are predicted, or all but a beginning."""
    tokens = rng.integers(3, 380, n).astype(np.int32)
    if not turns:
        return predicted(*tokens.tolist(), after=int(rng.integers(1, n)))
    mask = np.repeat(rng.random(n) < 0.5, rng.integers(1, 6, n))[:n]
    mask[0] = False
    mask[-1] |= not mask.any()
    return np.where(mask, ~tokens, tokens)


@pytest.mark.parametrize("turns", [False, True], ids=["answers", "turns"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3_moe"])
def test_features_are_those_of_each_sequence_alone(name: str, lengths: str, turns: bool) -> None:
    base = load_case(name).base
    rng = np.random.default_rng(len(lengths))
    batch = [masked(rng, n, turns) for n in LENGTHS[lengths]]
    together = Context(base, n_ctx=256, n_seq=4, machine=Machine(machine=Machine(n_threads=1), cache_type="f32"))
    together.n_outputs = 50 if lengths == "more than n_outputs" else 512
    rows: list[list[tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]]] = [[] for _ in batch]
    for part in stream(together, batch):
        assert 0 < len(part.target) <= together.n_outputs
        for s, target, hidden, logits in zip(part.sequence, part.target, part.hidden, part.logits, strict=True):
            rows[s].append((int(target), hidden.copy(), logits.copy()))
    together.close()
    alone = Context(base, n_ctx=256, machine=Machine(machine=Machine(n_threads=1), cache_type="f32"))
    for tokens, got in zip(batch, rows, strict=True):
        ids = np.where(tokens < 0, ~tokens, tokens)
        alone.clear()
        alone_logits, alone_hidden = alone.decode(ids, range(len(ids)), [0] * len(ids), hidden=True)
        assert alone_hidden is not None
        places = np.flatnonzero(tokens[1:] < 0)
        assert [target for target, _, _ in got] == ids[places + 1].tolist()
        np.testing.assert_allclose([h for _, h, _ in got], alone_hidden[places], atol=1e-4)
        np.testing.assert_allclose([x for _, _, x in got], alone_logits[places], atol=1e-4)
    alone.close()


def test_only_what_is_predicted_is_an_output(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    original = Context.decode
    monkeypatch.setattr(
        Context, "decode", lambda self, tokens, *a, **k: outputs.append(len(tokens)) or original(self, tokens, *a, **k)
    )
    batch = [predicted(*range(3, 103), after=90), predicted(*range(3, 53), after=49)]
    assert sum(len(part.target) for part in stream(context, batch)) == 11
    assert outputs == [11]


def test_segments() -> None:
    for tokens, segments in (
        ([5, ~6], [(0, 0), (0, 1)]),
        ([5, 6, ~7, ~8], [(0, 1), (1, 3)]),
        ([5, ~6, 7, 8, ~9], [(0, 0), (0, 1), (1, 3), (3, 4)]),
        ([5, ~6, 7], [(0, 0), (0, 1), (1, 2)]),
    ):
        assert features_module._segments(np.array(tokens, np.int32)) == segments


# ---- objective ----


def random_features(n: int = 60, n_vocab: int = 70, hidden: int = 12, parts: int = 3) -> tuple[list[Features], Tensor]:
    """Features of seven sequences: four plain ones, and variants of the first."""
    rng = np.random.default_rng(4)
    logits = (rng.normal(size=(n, n_vocab)) * 3).astype(np.float32)
    targets = np.where(rng.random(n) < 0.4, logits.argmax(1), rng.integers(0, n_vocab, n))
    whole = Features(
        rng.integers(0, 7, n),
        targets,
        rng.normal(size=(n, hidden)).astype(np.float32),
        logits,
    )
    cuts = np.array_split(np.arange(n), parts)
    columns = ("sequence", "target", "hidden", "logits")
    return [Features(*(getattr(whole, name)[c] for name in columns)) for c in cuts], torch.tensor([[0, 4, 5]])


OBJECTIVES: dict[str, Objective] = {
    "the paper's": Objective(),
    "temperature alone": Objective(heads=("temperature",)),
    "top-p alone": Objective(heads=("top_p",)),
    "no mask": Objective(easy_mask=0.0),
    "all easy ones masked": Objective(easy_mask=1.0),
    "no dynamic fine-tuning": Objective(dynamic_fine_tuning=False),
    "alpha": Objective(alpha=5.0),
    "strong ranking": Objective(control_weight=7.0, control_margin=0.5),
    "no ranking": Objective(control_weight=0.0),
}


def plain_objective(
    heads: HeadsModule, parts: list[Features], triples: Tensor, o: Objective, seed: int | None
) -> dict[str, Tensor]:
    """The whole objective as one expression over all positions."""
    sequence, target, hidden, logits = (
        torch.from_numpy(np.concatenate([getattr(f, name) for f in parts]))
        for name in ("sequence", "target", "hidden", "logits")
    )
    n = len(target)
    t = 2.0 * torch.sigmoid(heads.temp_head.mlp[:3](hidden))[:, 0] if o.temperature else torch.ones(n)
    inputs = torch.cat([hidden, plain_features(logits, t).detach()], -1)
    p = torch.sigmoid(heads.top_p_head.mlp[:3](inputs))[:, 0] if o.top_p else torch.ones(n)
    easy = logits.argmax(-1) == target
    if seed is None:
        kept = torch.where(easy, 1.0 - o.easy_mask, 1.0)
    else:
        generator = torch.Generator().manual_seed(seed)
        draws = torch.cat([torch.rand(len(f.target), generator=generator) for f in parts])
        kept = (~(easy & (draws < o.easy_mask))).float()
    probability = torch.softmax(logits, -1)[torch.arange(n), target]
    weight = probability if o.dynamic_fine_tuning else torch.ones(n)
    own = ~torch.isin(sequence, triples[:, 1:])
    result = {"temperature": torch.zeros(()), "top_p": torch.zeros(()), "ranking": torch.zeros(())}
    if o.temperature:
        loss = weight * plain_temperature_loss(logits, target, t)
        result["temperature"] = (loss * kept)[own].sum() / kept[own].sum().clamp(min=1.0)
    if o.top_p:
        result["top_p"] = (weight * plain_top_p_loss(logits, target, t, p, o.alpha))[own].mean()
    for on, x in ((o.temperature, t), (o.top_p, p)):
        for plain, low, high in triples if on else ():
            means = [x[sequence == i].mean() for i in (low, plain, high)]
            gaps = (means[1] - means[0], means[2] - means[1])
            hinge = sum(torch.relu(o.control_margin - gap) for gap in gaps)
            result["ranking"] = result["ranking"] + o.control_weight * hinge / len(triples)
    return {**result, "mean_temperature": t[own].mean(), "mean_top_p": p[own].mean()}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("control", [False, True], ids=["", "control"])
def test_gradients_are_those_of_the_whole_objective(name: str, control: bool) -> None:
    o = OBJECTIVES[name]
    heads = HeadsModule(12, 3)
    parts, triples = random_features()
    triples = triples if control else NO_TRIPLES
    at = collect(heads, parts, o, torch.Generator().manual_seed(5), triples)
    losses = batch_losses(at, triples, o)
    backward(heads, at, triples, o)
    ours = {key: x.grad for key, x in heads.named_parameters()}
    heads.zero_grad()
    whole = plain_objective(heads, parts, triples, o, 5)
    total = whole["temperature"] + whole["top_p"] + whole["ranking"]
    total.backward()
    assert losses.total == pytest.approx(total.item(), rel=1e-4, abs=1e-6)
    for key, value in whole.items():
        assert getattr(losses, key) == pytest.approx(value.item(), rel=1e-4, abs=1e-6), key
    assert losses.positions == (sum((~np.isin(f.sequence, [4, 5])).sum() for f in parts) if control else 60)
    for key, x in heads.named_parameters():
        if x.grad is None:
            assert ours[key] is None or not ours[key].any(), key
            continue
        scale = float(x.grad.abs().max())
        torch.testing.assert_close(
            ours[key], x.grad, rtol=2e-3, atol=1e-4 * scale + 1e-9, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_the_top_p_loss_teaches_the_temperature_head_too() -> None:
    heads = HeadsModule(12, 3)
    parts, _ = random_features()
    at = collect(heads, parts, Objective(), torch.Generator().manual_seed(0), NO_TRIPLES)
    assert float(at.gradients[:, 1].abs().max()) > 1e-4


def test_validation_takes_the_masks_expectation() -> None:
    heads = HeadsModule(12, 3)
    parts, triples = random_features()
    for o in (Objective(), Objective(easy_mask=0.25), Objective(easy_mask=1.0)):
        at = collect(heads, parts, o, None, triples)
        expected = plain_objective(heads, parts, triples, o, None)
        losses = batch_losses(at, triples, o)
        assert losses.temperature == pytest.approx(expected["temperature"].item(), rel=1e-4)
        assert losses.top_p == pytest.approx(expected["top_p"].item(), rel=1e-4)
        assert not at.gradients.any()
        assert losses == batch_losses(collect(heads, parts, o, None, triples), triples, o)


def test_the_work_is_cut_into_pieces_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, o = HeadsModule(12, 3), Objective(easy_mask=0.0)
    parts, triples = random_features()
    whole = collect(heads, parts, o, torch.Generator(), triples)
    monkeypatch.setattr(objective_module, "_CHUNK_FLOATS", 7 * 70)
    pieces = collect(heads, parts, o, torch.Generator(), triples)
    for name in whole.__dataclass_fields__:
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name))


def test_what_is_kept_does_not_lie_in_llama_cpps_buffers() -> None:
    heads, o = HeadsModule(12, 3), Objective(easy_mask=0.0)
    parts, triples = random_features()
    first = collect(heads, parts, o, torch.Generator(), triples)

    def overwritten() -> Iterator[Features]:
        for part in random_features()[0]:
            yield part
            part.hidden[:] = part.logits[:] = np.nan

    for name in first.__dataclass_fields__:
        torch.testing.assert_close(
            getattr(collect(heads, overwritten(), o, torch.Generator(), triples), name), getattr(first, name)
        )


def test_the_mean_of_losses_goes_by_positions() -> None:
    parts = [Losses(1.0, 2.0, 0.0, 0.5, 0.25, 1), Losses(4.0, 5.0, 3.0, 1.5, 0.75, 2)]
    assert Losses.mean(parts) == Losses(3.0, 4.0, 2.0, pytest.approx(3.5 / 3), pytest.approx(1.75 / 3), 3)
    assert parts[1].total == 12.0


# ---- the loop ----


def trainer(context: Context, data: Dataset, settings: Settings, directory: Path, identity: str = "x") -> Trainer:
    directory.mkdir(parents=True, exist_ok=True)
    return Trainer(context, data, settings, directory, directory, identity)


def log_of(directory: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in r.items() if key != "tok_s"} for r in records]


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(1)
    return dataset(tmp_path / "data", [[s] for s in random_sequences(rng, rng.integers(4, 20, 20).tolist())])


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
    settings = Settings(objective=objective, steps=60, batch=32, lr=5e-3, patience=0, validation=0.1, evaluations=3)
    it = trainer(context, dataset(tmp_path / "d", [[s] for s in sequences]), settings, tmp_path / "out")
    it.run()
    found, truth = [], []
    for batch in it.validation_plain():
        for part in stream(context, batch):
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
        (0.0, 4, [1.0, 1.0, 2 / 3, 1 / 3]),
        (1.0, 4, [0.25, 0.5, 0.75, 1.0]),
        (0.03, 1, [1.0]),
    ):
        it = trainer(context, data, replace(SMALL, warmup=warmup, steps=steps), tmp_path / f"{warmup}")
        it.run()
        assert [r["lr"] for r in log_of(tmp_path / f"{warmup}")] == pytest.approx([1e-3 * r for r in rates])


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
    assert [r["train"] for r in lines] == [asdict(s.losses) for s in steps]
    assert [r.get("validation") for r in lines] == [s.validation and asdict(s.validation) for s in steps]
    assert all(r["tok_s"] > 0 and r["grad_norm"] > 0 for r in lines)
    assert {s.steps for s in steps} == {6}


def test_every_example_once_an_epoch(
    context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[int]] = []
    original = Trainer._batch_ids
    monkeypatch.setattr(Trainer, "_batch_ids", lambda self: batches.append((x := original(self)).tolist()) or x)
    it = trainer(context, data, replace(SMALL, steps=None, epochs=2.0), tmp_path / "out")
    it.run()
    assert [len(b) for b in batches] == [4, 4, 4, 3] * 2
    epochs = [[i for batch in half for i in batch] for half in (batches[:4], batches[4:])]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) | set(it.validation_ids.tolist()) == set(range(20))
    assert not set(epochs[0]) & set(it.validation_ids.tolist())


SIZES: list[tuple[int, dict[str, Any], int, int]] = [
    (1, {}, 0, 1),
    (2, {}, 1, 1),
    (2, {"validation": 0.5}, 1, 1),
    (5, {"validation": 0.0}, 0, 2),
    (5, {"validation": 0.01}, 1, 1),
    (5, {"batch": 100}, 1, 1),
    (5, {"epochs": 0.01}, 1, 1),
    (5, {"epochs": 2.5}, 1, 2),
    (20, {"steps": 9, "epochs": 100.0}, 5, 9),
]


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

    def spy(heads: Any, features: Any, objective: Any, generator: Any, triples: Any) -> Any:
        if generator is not None:
            draws.append(torch.rand(4, generator=generator.clone_state()).tolist())
        return collect(heads, features, objective, generator, triples)

    monkeypatch.setattr(trainer_module, "collect", spy)
    for seed in (0, 1, 2**32 - 1):
        trainer(context, data, replace(SMALL, seed=seed, steps=2), tmp_path / f"{seed}").run()
    assert len({tuple(d) for d in draws}) == 6


def constant_losses(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let validations give these losses."""
    left = iter(values)
    original = Losses.mean
    monkeypatch.setattr(
        Losses, "mean", classmethod(lambda cls, parts: replace(original(parts), temperature=next(left), top_p=0.0))
    )


def test_early_stopping_keeps_the_best(
    context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant_losses(monkeypatch, [3.0, 2.0, 2.5, 2.0, 1.0])
    states = []
    it = trainer(context, data, replace(SMALL, steps=10, evaluations=10, patience=2), tmp_path / "out")
    it.run(lambda step: states.append({k: v.clone() for k, v in it.heads.state_dict().items()}))
    assert it.step == 4  # an equal loss is no gain
    assert it.best_loss == 2.0
    assert all(torch.equal(v, states[1][k]) for k, v in it.heads.state_dict().items())
    assert not torch.equal(states[1]["temp_head.mlp.0.weight"], states[3]["temp_head.mlp.0.weight"])
    again = trainer(context, data, replace(SMALL, steps=10, evaluations=10, patience=2), tmp_path / "out")
    again.run(lambda step: pytest.fail("it has stopped"))
    assert all(torch.equal(v, states[1][k]) for k, v in again.heads.state_dict().items())
    assert len(log_of(tmp_path / "out")) == 4


def test_patience_zero_never_stops(
    context: Context, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant_losses(monkeypatch, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    it = trainer(context, data, replace(SMALL, evaluations=6, patience=0), tmp_path / "out")
    it.run()
    assert (it.step, it.best_loss) == (6, 1.0)


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
    norm = math.sqrt(sum(float((p.grad**2).sum()) for g in it._optimizer.param_groups for p in g["params"]))
    assert norm == pytest.approx(1e-3, rel=1e-2)
    assert log_of(tmp_path / "out")[0]["grad_norm"] > 1e-2


def test_a_gradient_that_is_not_finite(context: Context, data: Dataset, tmp_path: Path) -> None:
    it = trainer(context, data, SMALL, tmp_path / "out")
    with torch.no_grad():
        it.heads.temp_head.mlp[0].weight.fill_(math.nan)
    with pytest.raises(AutoDecoError, match=r"^step 1: the gradient is not finite; lower --lr$"):
        it.run()


# ---- the state ----


def interrupted(context: Context, data: Dataset, settings: Settings, directory: Path, step: int) -> None:
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
    monkeypatch.setattr(trainer_module, "_SAVE_S", save_s)
    whole = trainer(context, data, SMALL, tmp_path / "whole")
    whole.run()
    interrupted(context, data, SMALL, tmp_path / "out", step)
    resumed = trainer(context, data, SMALL, tmp_path / "out")
    assert resumed.step == (step - 1 if save_s == 0.0 else (step - 1) // 2 * 2)
    resumed.run()
    assert log_of(tmp_path / "out") == log_of(tmp_path / "whole")
    assert all(torch.equal(v, whole.heads.state_dict()[k]) for k, v in resumed.heads.state_dict().items())
    assert resumed.best_loss == whole.best_loss


DIFFERENT: dict[str, tuple[Callable[[Settings], Settings], str]] = {
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
    with pytest.raises(AutoDecoError, match=rf"state\.pt: of a training with {message}; start anew with --force"):
        trainer(context, data, change(SMALL), tmp_path)


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
    with pytest.raises(AutoDecoError, match=r"state\.pt: cannot be read; start anew with --force$"):
        trainer(context, data, SMALL, tmp_path)


def test_a_log_that_lost_something(context: Context, data: Dataset, tmp_path: Path) -> None:
    interrupted(context, data, SMALL, tmp_path, 3)
    log = tmp_path / "log.jsonl"
    log.write_bytes(log.read_bytes()[:50])
    with pytest.raises(AutoDecoError, match=r"log\.jsonl: shorter than when .*state\.pt was written; start anew"):
        trainer(context, data, SMALL, tmp_path)
    log.unlink()
    with pytest.raises(AutoDecoError, match=r"log\.jsonl: shorter than when"):
        trainer(context, data, SMALL, tmp_path)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from autodeco_gguf.training import trainer
from autodeco_gguf.training.settings import Settings
from autodeco_gguf.training.train import train

base, data, out = sys.argv[1:4]
trainer._SAVE_S = 0.0
settings = Settings(batch=4, steps=16, lr=1e-3, evaluations=4, patience=0, validation=0.2)

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
from autodeco_gguf.training import trainer
from autodeco_gguf.training.settings import Settings
from autodeco_gguf.training.train import train

base, directory = sys.argv[1:3]
settings = Settings(batch=4, steps=4, evaluations=1, validation=0.2, patience=0)
trainer.MAX_VALIDATION = 4  # as many held out of either
for n in (20, 1000):
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
    """Fifty times the examples, a quarter of a million tokens; their hidden states alone would be 60 MB."""
    small, large = (int(kb) for kb in run_script(MEMORY, qwen2.base, tmp_path).split())
    assert large - small < 20_000


# ---- the report ----


def softly_cut(logits: np.ndarray[Any, Any], target: np.ndarray[Any, Any], t: Any, p: Any) -> np.ndarray[Any, Any]:
    """Negative log-likelihoods in float64 NumPy."""
    n = len(target)
    t, p = np.broadcast_to(t, n).astype(np.float64), np.broadcast_to(p, n).astype(np.float64)
    scaled = logits.astype(np.float64) / t[:, None]
    probs = np.exp(scaled - scaled.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    order = np.argsort(-probs, 1)
    mask = np.exp(-30.0 * np.maximum(np.take_along_axis(probs, order, 1).cumsum(1) - p[:, None], 0.0))
    kept = np.take_along_axis(probs, order, 1) * mask
    floor = 1e-9 if (p < 2.0).all() else 0.0  # as in training, where there is a cut
    kept /= kept.sum(1, keepdims=True) + floor
    return np.asarray(-np.log(kept[order == target[:, None]] + floor))


def test_the_report_by_numpy(qwen2: Case) -> None:
    parts, _ = random_features(n=90, hidden=64, n_vocab=384)
    heads = module_of(qwen2)
    got = report(heads, Objective(), lambda: iter(parts))
    hidden, logits, target, example = (
        np.concatenate([getattr(f, name) for f in parts]) for name in ("hidden", "logits", "target", "sequence")
    )
    t, p = Heads(read_checkpoint(qwen2.heads).weights).evaluate(hidden, logits)
    single = [softly_cut(logits, target, x, 2.0) for x in GRID]
    best = int(np.argmin([s.mean() for s in single]))
    columns = {
        "T = 1": (1.0, 1.0, single[GRID.index(1.0)]),
        "best single T": (GRID[best], 1.0, single[best]),
        "mean-shift": (t.mean(), p.mean(), softly_cut(logits, target, t.mean(), p.mean())),
        "heads, T alone": (t.mean(), 1.0, softly_cut(logits, target, t, 2.0)),
        "heads": (t.mean(), p.mean(), softly_cut(logits, target, t, p)),
    }
    assert [m.name for m in got.methods] == list(columns)
    assert (got.examples, got.tokens) == (7, 90)
    for method, (mean_t, mean_p, nll) in zip(got.methods, columns.values(), strict=True):
        difference = nll - columns["heads"][2]
        sums = np.array([(difference - difference.mean())[example == i].sum() for i in range(7)])
        assert (method.temperature, method.top_p) == pytest.approx((mean_t, mean_p), rel=1e-5)
        assert method.nll == pytest.approx(nll.mean(), rel=1e-4)
        assert method.difference == pytest.approx(difference.mean(), abs=1e-4)
        assert method.standard_error == pytest.approx(math.sqrt((sums**2).sum() * 7 / 6) / 90, rel=1e-3, abs=1e-6)
    assert got.verdict == verdict(got.methods)
    assert json.loads(json.dumps(got.as_dict()))["methods"][4]["name"] == "heads"


def test_the_report_of_one_head(qwen2: Case) -> None:
    """The other head's constant is 1; a mean-shift of T alone is no cut."""
    parts, _ = random_features(n=30, hidden=64, n_vocab=384)
    got = report(module_of(qwen2), Objective(heads=("temperature",)), lambda: iter(parts))
    logits, target = (np.concatenate([getattr(f, name) for f in parts]) for name in ("logits", "target"))
    shift = got.methods[2]
    assert [m.top_p for m in got.methods] == [1.0] * 4
    assert shift.nll == pytest.approx(softly_cut(logits, target, shift.temperature, 2.0).mean(), rel=1e-4)


def test_one_example_gives_no_verdict(qwen2: Case) -> None:
    (part,), _ = random_features(n=30, hidden=64, n_vocab=384, parts=1)
    got = report(module_of(qwen2), Objective(), lambda: iter([replace(part, sequence=part.sequence * 0)]))
    assert (got.examples, got.verdict) == (1, "One validation example is too few to tell.")


def test_the_reports_cut_is_as_steep_as_that_of_the_training(qwen2: Case) -> None:
    parts, _ = random_features(n=30, hidden=64, n_vocab=384)
    steep, flat = (report(module_of(qwen2), Objective(alpha=a), lambda: iter(parts)).methods for a in (30.0, 1.0))
    assert [a.nll == b.nll for a, b in zip(steep, flat, strict=True)] == [True, True, False, True, False]


VERDICTS: dict[str, tuple[tuple[float, float], tuple[float, float], str]] = {
    "better": (
        (0.05, 0.01),
        (0.021, 0.01),
        "The heads predict better than constants (best single T 1.0500 and mean-shift 1.0210), "
        "by at least 0.0210 +- 0.0100 nats a token: it is the tokens they look at.",
    ),
    "no different": (
        (0.05, 0.01),
        (0.019, 0.01),
        "Constants do as well as the heads (mean-shift: 0.0190 +- 0.0100 nats a token apart): "
        "what they learnt is a better mean, not token-level control.",
    ),
    "a single T does as well": (
        (0.01, 0.01),
        (0.3, 0.01),
        "Constants do as well as the heads (best single T: 0.0100 +- 0.0100 nats a token apart). "
        "Their own means as constants do worse, by 0.3000 +- 0.0100.",
    ),
    "worse": (
        (-0.05, 0.01),
        (0.019, 0.01),
        "A constant predicts better than the heads: best single T, by 0.0500 +- 0.0100 nats a token.",
    ),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name: str) -> None:
    single, shift, words = VERDICTS[name]
    methods = (
        Method("T = 1", 1.0, 1.0, 1.5, 0.5, 0.01),
        Method("best single T", 0.9, 1.0, 1.0 + single[0], *single),
        Method("mean-shift", 0.8, 0.9, 1.0 + shift[0], *shift),
        Method("heads", 0.8, 0.9, 1.0, 0.0, 0.0),
    )
    assert verdict(methods) == words
    useless, useful = (Method("heads, T alone", 0.8, 1.0, nll, 0.0, 0.01) for nll in (1.2, 0.9))
    assert verdict((*methods, useless)) == words
    told = verdict((*methods, useful))
    ending = " Their T alone does better than the constants (0.9000); the cut at P costs the rest."
    assert told == (words if name == "better" else words + ending)


# ---- what it leaves ----

FILES = ["config.json", "log.jsonl", "model.safetensors", "report.json", "training.png"]


def trained(
    base: Path, directory: Path, settings: Settings = SMALL, *, name: str = "out", **kwargs: Any
) -> tuple[Path, Path]:
    data = jsonl(directory / "data.jsonl", *EXAMPLES)
    done = train(base, [data], directory / name, settings, machine=Machine(n_threads=1), **kwargs)
    return done.checkpoint, done.adapter


def test_outputs(qwen2: Case, tmp_path: Path) -> None:
    before = hashlib.sha256(qwen2.base.read_bytes()).digest()
    output, adapter = trained(qwen2.base, tmp_path, base_name="org/Tiny")
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
    with pytest.raises(AutoDecoError, match=r"out/config\.json: exists; use --force to replace it$"):
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
            train(qwen2.base, [path], output, SMALL, machine=Machine(n_threads=1), force=True)
    assert {p: p.read_bytes() for p in (*output.iterdir(), adapter)} == before
    with pytest.raises(AutoDecoError, match="exists; use --force"):
        train(qwen2.base, [bad], output, SMALL, machine=Machine(n_threads=1))


def interrupted_training(base: Path, tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(base, tmp_path, watch=Watch(step=stop))


def test_it_goes_on_where_it_was(qwen2: Case, tmp_path: Path) -> None:
    output, _ = trained(qwen2.base, tmp_path, name="whole")
    interrupted_training(qwen2.base, tmp_path)
    steps: list[int] = []
    resumed, _ = trained(qwen2.base, tmp_path, watch=Watch(step=lambda s: steps.append(s.step)))
    assert steps == [5, 6]
    assert sorted(p.name for p in resumed.iterdir()) == FILES
    assert (resumed / "model.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()


def test_another_base_of_the_same_shape_is_noticed(qwen2: Case, tmp_path: Path) -> None:
    interrupted_training(qwen2.base, tmp_path)
    other = rewrite(
        qwen2.base, tmp_path / "b.gguf", edit=lambda ts: [(name, data * 1.01, kind) for name, data, kind in ts]
    )
    with pytest.raises(AutoDecoError, match="of a training with other base"):
        trained(other, tmp_path)
    steps: list[int] = []
    trained(other, tmp_path, force=True, watch=Watch(step=lambda s: steps.append(s.step)))
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
        output, _ = trained(
            qwen2.base, tmp_path, settings, name=f"{validation}", watch=Watch(step=lambda s: pytest.fail("again"))
        )
        assert (output / "training.png").exists()


def test_inputs_are_not_written(qwen2: Case, tmp_path: Path) -> None:
    base = tmp_path / "heads.gguf"
    base.write_bytes(qwen2.base.read_bytes())
    with pytest.raises(AutoDecoError, match=r"heads\.gguf: is an input and would be written; choose another output$"):
        trained(base, tmp_path, name="heads", force=True)
    (tmp_path / "out").mkdir()
    data = jsonl(tmp_path / "out" / "log.jsonl", *EXAMPLES)
    with pytest.raises(AutoDecoError, match=r"log\.jsonl: is an input and would be written"):
        train(qwen2.base, [data], tmp_path / "out", SMALL, machine=Machine(n_threads=1), force=True)
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
    done = train(qwen2.base, [data], output, replace(SMALL, steps=1), machine=Machine(n_threads=1))
    assert done.adapter.resolve() == Path(adapter).resolve()
    assert Path(adapter).is_file()
    assert (Path(output) / "model.safetensors").is_file()


def test_foreign_files_stay(qwen2: Case, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    output, _ = trained(qwen2.base, tmp_path, replace(SMALL, steps=1))
    assert sorted(p.name for p in output.iterdir()) == sorted([*FILES, "notes.txt"])


def test_other_weights_in_the_output_are_refused_at_once(qwen2: Case, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model-00001-of-00002.safetensors").write_bytes(
        (qwen2.heads / "model.safetensors").read_bytes()
    )
    with pytest.raises(AutoDecoError, match=r"00002\.safetensors: other weights in the output; choose another dir"):
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
            machine=Machine(n_threads=1),
            watch=Watch(data=counts.append),
        )
        assert (counts[0].cut, counts[0].tokens) == (1, tokens + 6 + 10)
        assert counts[0].predicted == counts[0].tokens - 3


def test_control(qwen2: Case, tmp_path: Path) -> None:
    """Under a strong ranking loss T and P come to follow the command, on prompts that were not trained on."""
    from autodeco_gguf.tasks.commands import Commands

    commands = Commands(low=("Be plain.",), high=("Go wild!",), share=0.5)
    objective = Objective(control_weight=30.0)
    settings = Settings(objective=objective, batch=8, steps=40, lr=3e-3, evaluations=2, patience=0, validation=0.25)
    counts = []
    output, _ = trained(qwen2.base, tmp_path, settings, commands=commands, watch=Watch(data=counts.append))
    assert 0 < counts[0].controlled < 16
    log = log_of(output)
    assert log[0]["train"]["ranking"] > 4.0
    assert (
        log[-1]["validation"]["ranking"] < 0.5 * log[19]["validation"]["ranking"]
        or log[-1]["validation"]["ranking"] < 1
    )


def test_settings_out_of_range() -> None:
    for changes, message in (
        ({"steps": 0}, "steps 0, expected 1 to "),
        ({"batch": 0}, "batch 0, expected 1 to 65536"),
        ({"lr": math.nan}, "lr nan, expected 0 to 10"),
        ({"validation": 0.6}, "validation 0.6, expected 0 to 0.5"),
        ({"objective": Objective(heads=())}, r"heads \[\], expected some of"),
        ({"objective": Objective(heads=("x",))}, r"heads \['x'\], expected some of \['temperature', 'top_p'\]"),
    ):
        with pytest.raises(AutoDecoError, match=f"^{message}"):
            Settings(**changes).check()
    Settings().check()
    assert re.match(r"Objective\(heads=\('temperature', 'top_p'\), easy_mask=0.6, dyn", repr(Objective()))


def test_two_shards_are_one_base(qwen2: Case, tmp_path: Path) -> None:
    from broken import shards

    output, adapter = trained(shards(qwen2.base, tmp_path, [10]), tmp_path)
    other, other_adapter = trained(qwen2.base, tmp_path, name="plain")
    assert (output / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert ad.Heads.load(adapter).names == ad.Heads.load(other_adapter).names
