"""The recipes against the published formulas, written down here a second time, over whole batches, in doubles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_helpers import NO_TRIPLES, random_features

from autodeco_gguf.model.features import Features
from autodeco_gguf.training.module import HeadKind, HeadsModule
from autodeco_gguf.training.objective import backward, batch_losses, collect
from autodeco_gguf.training.recipes import RECIPES
from autodeco_gguf.training.settings import Objective

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Batch:
    """What the published code has of some positions [n] of a batch: of which example, what is next, whether dropped."""

    example: Tensor
    hidden: Tensor
    logits: Tensor
    target: Tensor
    easy_dropped: Tensor

    def of_target(self, temperature: Tensor | float) -> Tensor:
        probs = (self.logits / temperature).softmax(-1)
        return probs[torch.arange(len(self.target)), self.target]


def predictions(heads: HeadsModule, at: Batch, *, detached: bool, epsilon: float) -> tuple[Tensor, Tensor]:
    """T = 2 sigmoid(mlp(h)) and P = sigmoid(mlp([h, T, max, entropy, variance, top 5])), [n, 1] each."""
    t = 2 * heads.temp_head.mlp[:-1](at.hidden).sigmoid()
    seen = t.detach() if detached else t
    p = (at.logits / (seen + 1e-8)).softmax(-1)
    entropy = -(p * (p + epsilon).log()).sum(-1, keepdim=True)
    five = p.topk(5, -1).values.sum(-1, keepdim=True)
    inputs = [at.hidden, seen, p.max(-1, keepdim=True).values, entropy, p.var(-1, keepdim=True), five]
    return t, heads.top_p_head.mlp[:-1](torch.cat(inputs, -1)).sigmoid()


def cut_nll(at: Batch, t: Tensor, top_p: Tensor) -> Tensor:
    """-log of the target's share of p * exp(-30 relu(c - P)), where c is the mass down to each token."""
    p = (at.logits / t).softmax(-1)
    down_to = (p[:, None, :] * (p[:, None, :] >= p[:, :, None])).sum(-1)
    kept = p * torch.exp(-30.0 * torch.relu(down_to - top_p))
    mine = kept[torch.arange(len(at.target)), at.target]
    return -torch.log(mine / (kept.sum(-1) + 1e-9) + 1e-9)


def trl(heads: HeadsModule, at: Batch, t: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """One example a device: the mean over its tokens; gradients are averaged over devices and accumulated steps."""
    prior = at.of_target(1.0).detach()
    of_t = prior * -torch.log(at.of_target(t))
    of_p = prior * cut_nll(at, t, p)
    losses = []
    for i in at.example.unique():
        here = at.example == i
        left = here & ~at.easy_dropped
        losses.append((of_t[left].mean() if left.any() else of_t.sum() * 0, of_p[here].mean()))
    first, second = zip(*losses, strict=True)
    return torch.stack(first).mean(), torch.stack(second).mean()


def nemo(heads: HeadsModule, at: Batch, t: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the tokens of the global batch that are left, over how many these are."""
    mine = at.of_target(t)
    of_t = mine.detach() * -torch.log(mine)
    of_p = at.of_target(1.0).detach() * cut_nll(at, t, p)
    left = ~at.easy_dropped
    return of_t[left].sum() / left.sum(), of_p[left].sum() / left.sum()


def paper(heads: HeadsModule, at: Batch, t: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the cut distribution alone, easy positions dropped, weighted by the model's prior."""
    left = ~at.easy_dropped
    loss = (at.of_target(1.0).detach() * cut_nll(at, t, p))[left].mean()
    return torch.zeros((), dtype=loss.dtype), loss


PUBLISHED = {"trl": (trl, True, 1e-8), "nemo": (nemo, False, 0.0), "paper": (paper, True, 1e-8)}


def doubles(seed: int) -> list[Features]:
    """Random features with examples of uneven lengths, one of which has nothing but easy positions."""
    parts, _ = random_features()
    rng = np.random.default_rng(seed)
    result = []
    for part in parts:
        logits = part.logits + rng.normal(size=part.logits.shape)
        sequence = np.minimum(part.sequence, rng.integers(0, 7, len(part)))
        target = np.where(sequence == 0, logits.argmax(1), part.target)
        result.append(Features(sequence, target, part.hidden.astype(np.float64), logits))  # type: ignore[arg-type]
    return result


def batch_of(parts: list[Features], share: float, seed: int) -> Batch:
    example, hidden, logits, target = (
        torch.from_numpy(np.concatenate([getattr(part, name) for part in parts]))
        for name in ("sequence", "hidden", "logits", "target")
    )
    generator = torch.Generator().manual_seed(seed)
    draws = torch.cat([torch.rand(len(part), generator=generator) for part in parts])
    return Batch(example, hidden, logits, target, (logits.argmax(-1) == target) & (draws < share))


@pytest.mark.parametrize("easy_mask", [0.6, 1.0])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", PUBLISHED)
def test_losses_and_gradients_are_the_published_ones(name: str, seed: int, easy_mask: float) -> None:
    objective = replace(RECIPES[name].objective, sort_tolerance=0.0, easy_mask=easy_mask)
    heads, parts = HeadsModule(12, seed, HeadKind(initial_top_p=0.7)).double(), doubles(seed)
    at = collect(heads, parts, sum(map(len, parts)), objective, torch.Generator().manual_seed(seed), NO_TRIPLES)
    found = batch_losses(at, NO_TRIPLES, objective)
    backward(heads, at, NO_TRIPLES, objective)
    ours = {key: x.grad.clone() for key, x in heads.named_parameters() if x.grad is not None}

    heads.zero_grad()
    formula, detached, epsilon = PUBLISHED[name]
    batch = batch_of(parts, easy_mask, seed)
    assert batch.easy_dropped.any()
    t, p = predictions(heads, batch, detached=detached, epsilon=epsilon)
    expected = formula(heads, batch, t, p)
    sum(expected).backward()  # type: ignore[union-attr]
    assert (found.temperature, found.top_p) == pytest.approx([x.item() for x in expected], abs=1e-6)
    for key, x in heads.named_parameters():
        assert x.grad is not None
        torch.testing.assert_close(ours[key], x.grad, rtol=1e-6, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")
        assert float(x.grad.abs().max()) > 1e-4, key


def test_the_recipes_differ() -> None:
    """So that one cannot pass for another: each pair in some loss or gradient, by a hundred times the tolerance."""
    heads, parts = HeadsModule(12, 0).double(), doubles(0)
    found = {}
    for name, settings in RECIPES.items():
        heads.zero_grad()
        at = collect(
            heads, parts, sum(map(len, parts)), settings.objective, torch.Generator().manual_seed(0), NO_TRIPLES
        )
        backward(heads, at, NO_TRIPLES, settings.objective)
        found[name] = torch.cat([x.grad.flatten() for x in heads.parameters() if x.grad is not None])
    for one, other in (("trl", "nemo"), ("trl", "paper"), ("nemo", "paper")):
        assert float((found[one] - found[other]).abs().max()) > 1e-4, (one, other)


@pytest.mark.parametrize(
    ("objective", "differs"),
    [
        (Objective(feature_gradient=True), "temp_head"),  # the smallest: 2e-5
        (Objective(average="example"), "temp_head"),
        (Objective(easy_in="both"), "top_p_head"),
        (Objective(weight_at="T"), "temp_head"),
        (Objective(losses="one"), "temp_head"),
    ],
)
def test_each_setting_has_an_effect(objective: Objective, differs: str) -> None:
    heads, parts = HeadsModule(12, 0).double(), doubles(0)
    found = []
    for o in (Objective(), objective):
        heads.zero_grad()
        at = collect(heads, parts, sum(map(len, parts)), o, torch.Generator().manual_seed(0), NO_TRIPLES)
        backward(heads, at, NO_TRIPLES, o)
        found.append({key: x.grad.clone() for key, x in heads.named_parameters() if x.grad is not None})
    key = f"{differs}.mlp.0.weight"
    assert float((found[0][key] - found[1][key]).abs().max()) > 1e-5


@pytest.mark.parametrize("head", ["temperature", "top_p"])
def test_a_frozen_head_takes_part_and_stays(head: str) -> None:
    """The official trainer with one head trained: the other one's T is what the cut distribution is made with."""
    frozen = "top_p" if head == "temperature" else "temperature"
    objective = replace(RECIPES["trl"].objective, heads=(head,), frozen=(frozen,), sort_tolerance=0.0)
    heads, parts = HeadsModule(12, 1, HeadKind(initial_top_p=0.7)).double(), doubles(1)
    at = collect(heads, parts, sum(map(len, parts)), objective, torch.Generator().manual_seed(1), NO_TRIPLES)
    found = batch_losses(at, NO_TRIPLES, objective)
    batch = batch_of(parts, 0.6, 1)
    t, p = predictions(heads, batch, detached=True, epsilon=1e-8)
    of_t, of_p = trl(heads, batch, t, p)
    expected = (of_t.item(), 0.0) if head == "temperature" else (0.0, of_p.item())
    assert (found.temperature, found.top_p) == pytest.approx(expected, abs=1e-6)
    assert found.mean_temperature == pytest.approx(t.mean().item(), abs=1e-6)
    assert found.mean_top_p == pytest.approx(p.mean().item(), abs=1e-6)
    backward(heads, at, NO_TRIPLES, objective)
    prefix = {"temperature": "temp_head", "top_p": "top_p_head"}[head]
    for key, x in heads.named_parameters():
        assert (x.grad is not None and bool(x.grad.any())) == key.startswith(prefix), key


def test_an_absent_head_is_1() -> None:
    objective = Objective(heads=("top_p",))
    heads, parts = HeadsModule(12, 1).double(), doubles(1)
    at = collect(heads, parts, sum(map(len, parts)), objective, None, NO_TRIPLES)
    assert at.temperature.tolist() == [1.0] * len(at.temperature)
    assert at.features[:, 0].tolist() == [1.0] * len(at.temperature)


SETTINGS: dict[str, dict[str, Any]] = {
    "trl": {"lr": 5e-6, "epochs": 1.0, "batch": 32, "clip": 1.0, "weight_decay": 0.0, "max_tokens": 12000,
            "too_long": "cut", "schedule": "linear", "warmup": 0.0, "validation": 0.0, "patience": 0},
    "nemo": {"lr": 5e-6, "epochs": 1.0, "batch": 32, "clip": 1.0, "weight_decay": 0.0, "max_tokens": 6143,
             "too_long": "leave-out", "schedule": "cosine", "warmup": 20, "validation": 0.0, "patience": 0},
}  # fmt: skip


def test_the_other_settings_are_the_published_ones() -> None:
    """trl_train.sh with its accelerate config, SFTConfig's defaults; nemo_trainer.py with its scripts."""
    for name, settings in RECIPES.items():
        expected = SETTINGS.get(name, SETTINGS["trl"])
        assert {key: getattr(settings, key) for key in expected} == expected, name
        assert settings.kind == HeadKind(widths=(256,), enhanced=True, initial_top_p=0.5), name
        assert (settings.objective.alpha, settings.objective.easy_mask) == (30.0, 0.6), name
        settings.check()


def test_published_heads_begin_as_torch_draws_them() -> None:
    torch.manual_seed(5)
    linear = [torch.nn.Linear(*shape) for shape in ((8, 256), (256, 1), (13, 256), (256, 1))]
    heads = HeadsModule(8, 5, RECIPES["trl"].kind)
    drawn = [x for layer in linear for x in (layer.weight, layer.bias)]
    assert all(torch.equal(x, y) for x, y in zip(heads.parameters(), drawn, strict=True))
