"""The heads as a torch module: upstream's parameters, the core's predictions."""

from __future__ import annotations

import itertools
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
from autodeco_gguf.heads.format import FEATURES
from autodeco_gguf.training.losses import NEVER, in_core
from autodeco_gguf.training.module import Head, HeadKind, HeadsModule, feature_slopes, probability_features

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


@pytest.mark.parametrize("n_vocab", [1, 3, 513, 5000])
def test_the_core_has_the_features_of_torch(n_vocab: int) -> None:
    """Rows from flat to one token, masks among them, at T from 0 to 2."""
    rng = np.random.default_rng(n_vocab)
    logits = torch.tensor(rng.normal(size=(24, n_vocab)) * np.geomspace(0.01, 50, 24)[:, None], dtype=torch.float32)
    logits[::3, 1::2] = -math.inf
    t = torch.tensor([0.0, 0.01, 0.3, 0.9, 1.0, 2.0] * 4)
    assert [in_core(x) for x in (logits, logits.double())] == [True, False]
    ours, theirs = probability_features(logits, t), probability_features(logits.double().clamp(min=NEVER), t.double())
    torch.testing.assert_close(ours[:, [0, 1, 2, 4]].double(), theirs[:, [0, 1, 2, 4]], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(ours[:, 3].double() * n_vocab, theirs[:, 3].nan_to_num() * n_vocab, rtol=2e-6, atol=2e-6)


def test_initialization_follows_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = HeadsModule(8, 7).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    two, other = HeadsModule(8, 7).state_dict(), HeadsModule(8, 8).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


def test_the_slopes_of_what_the_top_p_head_sees() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20, 50, generator=generator, dtype=torch.float64)
    logits[:, 7] = -1e30  # a token that is never drawn
    t = (0.2 + 1.6 * torch.rand(20, generator=generator)).double()
    step = 1e-5
    above, below = (plain_features(logits, t + sign * step) for sign in (1, -1))
    torch.testing.assert_close(feature_slopes(logits, t), (above - below) / (2 * step), rtol=1e-5, atol=1e-8)
    shifted = (logits[:, :7].float() + 1024).double()
    torch.testing.assert_close(
        feature_slopes(shifted.float(), t.float()), feature_slopes(shifted, t).float(), rtol=1e-4, atol=1e-6
    )
    assert bool(torch.isfinite(feature_slopes(logits.float(), torch.full((20,), 1e-12))).all())


@pytest.mark.parametrize("p", [0.5, 0.924])
def test_what_new_heads_begin_with(p: float) -> None:
    hidden, features = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)), torch.zeros(200, 5)
    heads = HeadsModule(64, 3, HeadKind(initial_top_p=p))
    with torch.no_grad():
        t, found = heads.temperature(hidden), heads.top_p(hidden, features)
        torch.manual_seed(3)  # as upstream draws them
        drawn_temperature, drawn_top_p = Head.new(64, (256,)), Head.new(69, (256,))
        assert torch.equal(t, 2 * drawn_temperature(hidden))
        drawn = drawn_top_p(torch.cat([hidden, features], dim=-1))
        odds = [x / (1 - x) for x in (drawn, found)]
        torch.testing.assert_close(odds[1] / odds[0], torch.full((200,), p / (1 - p)), rtol=1e-3, atol=0.0)
    assert 0.9 < float(t.mean()) < 1.1
    assert abs(float(found.mean()) - p) < 0.05


@pytest.mark.parametrize("kind", [HeadKind((32, 16, 8)), HeadKind(enhanced=False), HeadKind((8, 8), False)])
def test_heads_of_another_kind(kind: HeadKind) -> None:
    heads = HeadsModule(12, 1, kind)
    weights = heads.weights(vocab_size=50, base_model="x")
    weights.check()
    assert weights.features == FEATURES[kind.enhanced]
    for mlp, n_in in ((weights.temperature, 12), (weights.top_p, 17 if kind.enhanced else 13)):
        assert mlp is not None
        sizes = [*kind.widths, 1]
        assert [w.shape for w in mlp.weights] == [(b, a) for a, b in itertools.pairwise([n_in, *sizes])]
        assert mlp.activation == ("relu" if len(sizes) == 2 else "gelu")
    rng = np.random.default_rng(0)
    hidden, logits = rng.normal(size=(9, 12)).astype(np.float32), rng.normal(size=(9, 50)).astype(np.float32)
    t = heads.temperature(torch.from_numpy(hidden))
    p = heads.top_p(torch.from_numpy(hidden), probability_features(torch.from_numpy(logits), t))
    found = Heads(weights).evaluate(hidden, logits)  # what they will be run with
    np.testing.assert_allclose(found, (t.detach().numpy(), p.detach().numpy()), rtol=1e-5)

    other = HeadsModule(12, 2)
    other.take(weights, ("temperature", "top_p"))
    assert all(torch.equal(x, y) for x, y in zip(other.parameters(), heads.parameters(), strict=True))
    assert torch.equal(other.top_p(torch.from_numpy(hidden), probability_features(torch.from_numpy(logits), t)), p)


def test_arrays_become_parameters_again(qwen2: Case) -> None:
    weights, module = read_checkpoint(qwen2.heads).weights, HeadsModule(64, 0)
    module.take(weights, ("temperature",))
    expected = module_of(qwen2).state_dict()
    ours, new = module.state_dict(), HeadsModule(64, 0).state_dict()
    for name, value in ours.items():
        assert torch.equal(value, (expected if name.startswith("temp_head") else new)[name]), name
    module.take(weights, ("temperature", "top_p"))
    assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())


def test_heads_that_nothing_can_start_from(qwen2: Case) -> None:
    weights, module = read_checkpoint(qwen2.heads).weights, HeadsModule(64, 0)
    message = r"^temperature scale to start from 1\.5, expected 2\.0$"
    with pytest.raises(InvalidInput, match=message):
        module.take(replace(weights, temperature_scale=1.5), ("temperature", "top_p"))
    with pytest.raises(InvalidInput, match=r"^no top_p head to start from; train the other one alone, with --heads$"):
        module.take(replace(weights, top_p=None), ("temperature", "top_p"))
    assert all(torch.equal(x, y) for x, y in zip(module.parameters(), HeadsModule(64, 0).parameters(), strict=True))
