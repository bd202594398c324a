"""Steps of the heads that are trained, and of no others."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.optimizer import HeadsOptimizer


def gradients(module: HeadsModule, value: float) -> None:
    """Add the same to the gradient by each parameter."""
    for parameter in module.parameters():
        more = torch.full_like(parameter, value)
        parameter.grad = more if parameter.grad is None else parameter.grad + more


def changed(module: HeadsModule, before: dict[str, torch.Tensor]) -> set[str]:
    return {name.partition(".")[0] for name, value in module.state_dict().items() if not value.equal(before[name])}


@pytest.mark.parametrize(
    ("heads", "moved"),
    [(("temperature",), {"temp_head"}), (("top_p", "temperature"), {"temp_head", "top_p_head"})],
)
def test_heads_that_are_trained_move(heads: tuple[str, ...], moved: set[str]) -> None:
    module = HeadsModule(8, 0)
    before = copy.deepcopy(module.state_dict())
    optimizer = HeadsOptimizer(module, heads, lr=1.0, weight_decay=0.0, clip=1e9)
    norms = [optimizer.step("step", 1e-3, lambda: gradients(module, -0.5)) for _ in range(2)]
    assert changed(module, before) == moved
    n = sum(p.numel() for name, p in module.named_parameters() if name.partition(".")[0] in moved)
    assert norms == pytest.approx([0.5 * math.sqrt(n)] * 2)  # the gradient of a step is its own
    bias = "temp_head.mlp.2.bias"
    assert (module.state_dict()[bias] - before[bias]).item() == pytest.approx(2e-3, rel=1e-3)


def test_nothing_moves_along_what_is_not_finite() -> None:
    module = HeadsModule(8, 0)
    before = copy.deepcopy(module.state_dict())
    optimizer = HeadsOptimizer(module, ("top_p",), lr=1.0, weight_decay=0.0, clip=1.0)
    with pytest.raises(ModelFailed, match=r"^round 3: the gradient is not finite; lower --lr$"):
        optimizer.step("round 3", 1e-3, lambda: gradients(module, math.nan))
    assert changed(module, before) == set()


def test_it_goes_on_from_its_state() -> None:
    whole, cut = HeadsModule(8, 0), HeadsModule(8, 0)
    optimizers = [HeadsOptimizer(m, ("temperature",), lr=1.0, weight_decay=0.1, clip=1.0) for m in (whole, cut)]
    for value in (0.5, -0.1):
        optimizers[0].step("x", 1e-2, lambda value=value: gradients(whole, value))  # type: ignore[misc]
    optimizers[1].step("x", 1e-2, lambda: gradients(cut, 0.5))
    again = HeadsOptimizer(cut, ("temperature",), lr=1.0, weight_decay=0.1, clip=1.0)
    again.load_state_dict(optimizers[1].state_dict())
    again.step("x", 1e-2, lambda: gradients(cut, -0.1))
    assert changed(cut, whole.state_dict()) == set()
