"""The heads as a torch module: upstream's parameters, the core's predictions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from broken import load_raw
from conftest import Case, load_case
from training_helpers import module_of, plain_features

from autodeco_gguf import Heads
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.checkpoint import read_checkpoint
from autodeco_gguf.training.module import Head, HeadsModule, probability_features

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_new_heads_cut_little() -> None:
    hidden, features = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)), torch.zeros(200, 5)
    heads = HeadsModule(64, 3)
    with torch.no_grad():
        t, p = heads.temperature(hidden), heads.top_p(hidden, features)
        torch.manual_seed(3)  # as upstream draws them
        drawn_temperature, drawn_top_p = Head(64), Head(69)
        assert torch.equal(t, 2 * drawn_temperature(hidden))
        drawn = drawn_top_p(torch.cat([hidden, features], dim=-1))
        odds = [x / (1 - x) for x in (drawn, p)]
        torch.testing.assert_close(odds[1] / odds[0], torch.full((200,), math.exp(2.5)), rtol=1e-3, atol=0.0)
    assert 0.9 < float(t.mean()) < 1.1
    assert 0.8 < float(p.min()) < 0.92 < float(p.max()) < 0.97


def test_arrays_become_parameters_again(qwen2: Case) -> None:
    weights, module = read_checkpoint(qwen2.heads).weights, HeadsModule(64, 0)
    module.take(weights, ("temperature",))
    expected = module_of(qwen2).state_dict()
    ours, new = module.state_dict(), HeadsModule(64, 0).state_dict()
    for name, value in ours.items():
        assert torch.equal(value, (expected if name.startswith("temp_head") else new)[name]), name
    module.take(weights, ("temperature", "top_p"))
    assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())


def test_heads_that_are_no_official_ones(qwen2: Case) -> None:
    weights, module = read_checkpoint(qwen2.heads).weights, HeadsModule(64, 0)
    assert weights.temperature is not None
    gelu = replace(weights, temperature=replace(weights.temperature, activation="gelu"))
    with pytest.raises(InvalidInput, match=r"^temperature head to start from gelu between layers of .*, expected relu"):
        module.take(gelu, ("temperature",))
    with pytest.raises(InvalidInput, match=r"^no top_p head to start from; train the other one alone, with --heads$"):
        module.take(replace(weights, top_p=None), ("top_p",))
    bias = "temp_head.mlp.0.bias"
    assert torch.equal(module.state_dict()[bias], HeadsModule(64, 0).state_dict()[bias])
