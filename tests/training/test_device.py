"""Where torch works, and that the results do not ask where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from training_helpers import random_features

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.training import losses, module
from autodeco_gguf.training.device import torch_device
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.objective import backward, batch_losses, collect
from autodeco_gguf.training.optimizer import HeadsOptimizer
from autodeco_gguf.training.policy import Limits, accumulate
from autodeco_gguf.training.report import report
from autodeco_gguf.training.settings import Objective
from autodeco_gguf.training.state import State

pytestmark = pytest.mark.usefixtures("one_thread")

OBJECTIVES = {
    "the paper's": Objective(),
    "one loss, by example": Objective(losses="one", average="example", feature_gradient=True),
    "unmasked": Objective(dynamic_fine_tuning=False, easy_mask=0.0, sort_tolerance=0.0),
    "temperature alone": Objective(heads=("temperature",)),
}


@pytest.mark.parametrize(
    ("cuda", "mps", "name"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, False, "cuda")]
)
def test_auto_takes_the_first_there_is(cuda: bool, mps: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert torch_device().type == torch_device("auto").type == name
    assert torch_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda", "^torch_device 'cuda', which torch .* does not have here, expected auto, cpu$"),
        ("mps", "^torch_device 'mps', which torch .* does not have here, expected auto, cpu$"),
        ("tpu", "^torch_device 'tpu', expected auto, cpu$"),
    ],
)
def test_a_device_that_torch_does_not_have(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InvalidInput, match=words):
        torch_device(name)


def gradients(heads: HeadsModule) -> list[np.ndarray]:
    """Of all its parameters; zeros where there is none."""
    return [(torch.zeros(p.shape) if p.grad is None else p.grad.cpu()).numpy() for p in heads.parameters()]


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU as elsewhere; test_losses.py compares it with the core."""
    for where in (losses, module):
        monkeypatch.setattr(where, "in_core", lambda _: False)


def both(work: Callable[[HeadsModule], object]) -> None:
    """The same on the CPU and on another device, on which no tensor of the CPU may be met."""
    here, there = HeadsModule(12, 0), HeadsModule(12, 0)
    expected = work(here)
    with Elsewhere():
        there.to(DEVICE)
        assert there.device == DEVICE != here.device
        assert work(there) == expected
        found = gradients(there)
    for a, b in zip(gradients(here), found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("validation", [False, True])
def test_losses_and_gradients(name: str, validation: bool) -> None:
    parts, triples = random_features()
    objective = OBJECTIVES[name]

    def work(heads: HeadsModule) -> object:
        draws = None if validation else torch.Generator().manual_seed(5)
        positions = collect(heads, parts, sum(map(len, parts)), objective, draws, triples)
        if not validation:
            backward(heads, positions, triples, objective)
        return batch_losses(positions, triples, objective)

    both(work)


def test_on_reward() -> None:
    parts, _ = random_features()
    start = HeadsModule(12, 1)
    n = 1 + max(int(part.sequence.max()) for part in parts)
    weights = torch.linspace(-1.0, 1.0, n)

    def work(heads: HeadsModule) -> object:
        start.to(heads.device)
        accumulate(heads, start, parts, weights, 60, Objective(), Limits())
        return None

    both(work)


def test_the_report() -> None:
    parts, _ = random_features()
    both(lambda heads: report(heads, Objective(), lambda: parts))


def test_what_is_left_needs_no_such_device(tmp_path: Path) -> None:
    """Heads and a state that were elsewhere are read on the CPU."""
    there, here = HeadsModule(12, 0), HeadsModule(12, 1)

    def optimizer(heads: HeadsModule) -> HeadsOptimizer:
        return HeadsOptimizer(heads, ("temperature",), lr=0.1, weight_decay=0.0, clip=1.0)

    with Elsewhere():
        trained = optimizer(there.to(DEVICE))
        trained.step("step 1", 0.1, lambda: there.temperature(torch.ones(2, 12).to(DEVICE)).sum().backward())
        weights = there.weights(vocab_size=4, base_model="")
        state = State(tmp_path / "state.pt", tmp_path / "log", {})
        state.open_log()
        state.save({"heads": there.state_dict(), "optimizer": trained.state_dict()})
    again = optimizer(here)

    def take(kept: Mapping[str, Any]) -> None:
        here.load_state_dict(kept["heads"])
        again.load_state_dict(kept["optimizer"])

    assert State(tmp_path / "state.pt", tmp_path / "log", {}).load(take)
    again.step("step 2", 0.1, lambda: here.temperature(torch.ones(2, 12)).sum().backward())
    assert weights.temperature is not None
    assert not np.array_equal(weights.temperature.weights[0], HeadsModule(12, 0).temp_head.linear[0].weight.detach())
