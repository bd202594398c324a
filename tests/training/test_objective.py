"""The objective over a batch: its losses and gradients, against one expression over all positions."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_helpers import NO_TRIPLES, plain_features, plain_temperature_loss, plain_top_p_loss, random_features

from autodeco_gguf.model.features import Features
from autodeco_gguf.training import objective as objective_module
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.objective import Losses, backward, batch_losses, collect
from autodeco_gguf.training.settings import Objective

pytestmark = pytest.mark.usefixtures("one_thread")


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
    own = ~torch.isin(sequence, triples[:, 1:].flatten())
    easy = logits.argmax(-1) == target
    if seed is None:
        kept = torch.where(easy, 1.0 - o.easy_mask, 1.0)
    else:
        generator = torch.Generator().manual_seed(seed)
        n_own = [int((~np.isin(f.sequence, triples[:, 1:])).sum()) for f in parts]
        draws = torch.ones(n)
        draws[own] = torch.cat([torch.rand(k, generator=generator) for k in n_own])
        kept = (~(easy & (draws < o.easy_mask))).float()
    probability = torch.softmax(logits, -1)[torch.arange(n), target]
    weight = probability if o.dynamic_fine_tuning else torch.ones(n)
    result = {"temperature": torch.zeros(()), "top_p": torch.zeros(()), "ranking": torch.zeros(())}
    if o.temperature:
        loss = weight * plain_temperature_loss(logits, target, t)
        result["temperature"] = (loss * kept)[own].sum() / kept[own].sum().clamp(min=1.0)
    if o.top_p:
        result["top_p"] = (weight * plain_top_p_loss(logits, target, t, p, o.alpha))[own].mean()
    for on, x in ((o.temperature, t), (o.top_p, p)):
        for plain, low, high in triples if on else ():
            length = int((sequence == plain).sum())
            for k in range(1, length + 1):
                means = [x[sequence == i][:k].mean() for i in (low, plain, high)]
                gaps = (means[1] - means[0], means[2] - means[1])
                hinge = sum(torch.relu(o.control_margin - gap) for gap in gaps)
                result["ranking"] = result["ranking"] + o.control_weight * hinge / length / len(triples)
    return {**result, "mean_temperature": t[own].mean(), "mean_top_p": p[own].mean()}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("control", [False, True], ids=["", "control"])
def test_gradients_are_those_of_the_whole_objective(name: str, control: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective_module, "CHUNK_ROWS", 7)
    o = OBJECTIVES[name]
    heads = HeadsModule(12, 3)
    parts, triples = random_features()
    triples = triples if control else NO_TRIPLES
    at = collect(heads, parts, sum(map(len, parts)), o, torch.Generator().manual_seed(5), triples)
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
    assert losses.positions == (sum((~np.isin(f.sequence, triples[:, 1:])).sum() for f in parts) if control else 60)
    for key, x in heads.named_parameters():
        if x.grad is None:
            assert ours[key] is None or not ours[key].any(), key
            continue
        scale = float(x.grad.abs().max())
        torch.testing.assert_close(
            ours[key], x.grad, rtol=2e-3, atol=1e-4 * scale + 1e-9, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_heads_see_the_logits_before_a_scale_of_the_models_and_losses_those_after() -> None:
    heads, o = HeadsModule(12, 3), Objective(easy_mask=0.0, feature_gradient=True)
    parts, _ = random_features()
    halved = [replace(part, logits=part.logits / 2) for part in parts]
    scaled = [replace(half, raw=part.logits) for half, part in zip(halved, parts, strict=True)]
    plain, half, both = (
        collect(heads, each, sum(map(len, parts)), o, torch.Generator(), NO_TRIPLES) for each in (parts, halved, scaled)
    )
    for name in ("top_p", "features", "slopes"):
        torch.testing.assert_close(getattr(both, name), getattr(plain, name))
        assert not torch.equal(getattr(half, name), getattr(plain, name))
    torch.testing.assert_close(both.temperature_loss, half.temperature_loss)
    assert not torch.equal(half.temperature_loss, plain.temperature_loss)


def test_the_top_p_loss_teaches_the_temperature_head_too() -> None:
    heads = HeadsModule(12, 3)
    parts, _ = random_features()
    at = collect(heads, parts, sum(map(len, parts)), Objective(), torch.Generator().manual_seed(0), NO_TRIPLES)
    assert float(at.gradients[:, 1].abs().max()) > 1e-4


def test_validation_takes_the_masks_expectation() -> None:
    heads = HeadsModule(12, 3)
    parts, triples = random_features()
    for o in (Objective(), Objective(easy_mask=0.25), Objective(easy_mask=1.0)):
        at = collect(heads, parts, sum(map(len, parts)), o, None, triples)
        expected = plain_objective(heads, parts, triples, o, None)
        losses = batch_losses(at, triples, o)
        assert losses.temperature == pytest.approx(expected["temperature"].item(), rel=1e-4)
        assert losses.top_p == pytest.approx(expected["top_p"].item(), rel=1e-4)
        assert not at.gradients.any()
        assert losses == batch_losses(collect(heads, parts, sum(map(len, parts)), o, None, triples), triples, o)


def test_the_work_is_cut_into_pieces_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, o = HeadsModule(12, 3), Objective(easy_mask=0.0)
    parts, triples = random_features()
    whole = collect(heads, parts, sum(map(len, parts)), o, torch.Generator(), triples)
    monkeypatch.setattr(objective_module, "CHUNK_FLOATS", 7 * 70)
    pieces = collect(heads, parts, sum(map(len, parts)), o, torch.Generator(), triples)
    for name in whole.__dataclass_fields__:
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name))


def test_what_is_kept_does_not_lie_in_llama_cpps_buffers() -> None:
    heads, o = HeadsModule(12, 3), Objective(easy_mask=0.0)
    parts, triples = random_features()
    first = collect(heads, parts, sum(map(len, parts)), o, torch.Generator(), triples)

    def overwritten() -> Iterator[Features]:
        for part in random_features()[0]:
            yield part
            part.hidden[:] = part.logits[:] = np.nan

    again = collect(heads, overwritten(), sum(map(len, parts)), o, torch.Generator(), triples)
    for name in first.__dataclass_fields__:
        torch.testing.assert_close(getattr(again, name), getattr(first, name))


def test_positions_are_in_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one piece are let go of when the next one comes."""
    pieces = list[weakref.ref[Tensor]]()
    original = objective_module._positions

    def spy(*given: Any) -> Any:
        assert sum(piece() is not None for piece in pieces) <= 1
        found = original(*given)
        pieces.append(weakref.ref(found.hidden))
        return found

    monkeypatch.setattr(objective_module, "_positions", spy)
    parts, triples = random_features(parts=6)
    collect(HeadsModule(12, 3), parts, sum(map(len, parts)), Objective(), torch.Generator(), triples)
    assert len(pieces) == 6


def test_the_mean_of_losses_goes_by_positions() -> None:
    parts = [Losses(1.0, 2.0, 0.0, 0.5, 0.25, 1, 3), Losses(4.0, 5.0, 3.0, 1.5, 0.75, 2, 1)]
    assert Losses.mean(parts) == Losses(3.0, 4.0, 2.0, pytest.approx(3.5 / 3), pytest.approx(1.75 / 3), 3, 4)
    assert parts[1].total == 12.0
    by_example = Losses.mean(parts, "example")  # T and P by the positions all the same
    assert by_example == Losses(1.75, 2.75, 0.75, pytest.approx(3.5 / 3), pytest.approx(1.75 / 3), 3, 4)
