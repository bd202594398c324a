"""Other families of models: tiny random ones of transformers, made by llama.cpp's converter, against what torch computed.

``families/NAME.npz`` has tokens [n], and for each the hidden state after the final norm and ``lm_head`` of it, which is
what upstream's heads read: of gemma2, cohere and granite before the soft cap or the scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from conftest import load

import autodeco_gguf as ad
from autodeco_gguf.heads.checkpoint_writer import write_checkpoint
from autodeco_gguf.heads.weights import HeadWeights, Mlp
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine

FAMILIES = Path(__file__).parent.parent / "families"
TOLERANCE = {"gemma2": 2e-3, "granitemoehybrid": 5e-3, "mamba2": 1e-4}
"""Of gemma2 the activation is a table of F16, of the others the scan has another order."""

CHANGED = ["cohere", "gemma2", "granite", "granitemoehybrid"]
STATEFUL = ["mamba2", "granitemoehybrid"]
NAMES = sorted(path.stem for path in FAMILIES.glob("*.gguf"))


def random_heads(hidden_size: int, vocab_size: int) -> HeadWeights:
    rng = np.random.default_rng(0)

    def mlp(n_more: int) -> Mlp:
        first = rng.standard_normal((16, hidden_size + n_more)) / np.sqrt(hidden_size)
        first[:, hidden_size:] *= 1.5  # the features matter
        layers = first.astype(np.float32), rng.standard_normal((1, 16)).astype(np.float32)
        return Mlp(layers, (np.zeros(16, np.float32), np.zeros(1, np.float32)), "relu")

    return HeadWeights(hidden_size, vocab_size, "tiny", mlp(0), mlp(5))


class Family:
    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        with np.load(FAMILIES / f"{name}.npz") as golden:
            self.tokens: list[int] = golden["tokens"].tolist()
            self.hidden, self.raw = golden["hidden"], golden["raw"]
        self.heads = random_heads(self.hidden.shape[1], self.raw.shape[1])
        (directory / "heads").mkdir()
        both = ("temperature", "top_p")
        write_checkpoint(directory / "heads", self.heads, enabled=both, base_model_type="", base_config={})
        self.base = FAMILIES / f"{name}.gguf"
        self.merged = ad.export(self.base, directory / "heads", directory / "m.gguf").path

    def engine(self, n_parallel: int, **kwargs: Any) -> ad.Engine:
        machine = Machine(n_threads=1, cache_type="f32")
        return ad.Engine(self.merged, n_parallel=n_parallel, n_ctx=256, machine=machine, **kwargs)


@pytest.fixture(params=NAMES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Family:
    return Family(request.param, tmp_path)


@pytest.fixture(params=STATEFUL)
def stateful(request: pytest.FixtureRequest, tmp_path: Path) -> Family:
    return Family(request.param, tmp_path)


def drawn(trace: Any) -> tuple[list[int], Any]:
    return [t.id for t in trace], np.array([[t.temperature, t.top_p] for t in trace])


def assert_same(found: tuple[list[int], Any], expected: tuple[list[int], Any]) -> None:
    assert found[0] == expected[0]
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-5)


def test_the_heads_read_what_torch_gives_them(family: Family) -> None:
    """In the graph and on the host, one at a time and many, of a text and of what is drawn."""
    llama = load(family.merged, f32_cache=True)
    found = np.array(llama.predict(family.tokens))
    if family.name != "deepseek_v3":  # whose experts llama.cpp chooses otherwise here and there
        expected = np.array(reference.predict(family.heads, family.hidden, family.raw))
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE.get(family.name, 1e-5))
    llama.create_completion(family.tokens, max_tokens=12, seed=1)
    one = drawn(llama.trace)
    text = family.tokens + one[0][:-1]
    after = np.array(llama.predict(text))[:, len(family.tokens) - 1 :].T
    np.testing.assert_allclose(one[1], after, rtol=0, atol=1e-5)
    host = load(family.merged, f32_cache=True, logits_all=True)
    host.create_completion(family.tokens, max_tokens=12, seed=1)
    assert_same(drawn(host.trace), one)
    with family.engine(3) as engine:
        for result in engine.generate([ad.Request(family.tokens, seed=1, max_tokens=12)] * 4):
            assert_same(drawn(result.trace), one)


@pytest.mark.parametrize("name", CHANGED)
def test_outputs_of_several_sequences_keep_their_raw_logits(name: str, tmp_path: Path) -> None:
    """As a training reads them, where llama.cpp computes them in another order; the logits drawn from are others."""
    family = Family(name, tmp_path)
    n = len(family.tokens)
    with_features = np.array(reference.predict(family.heads, family.hidden, family.raw))[1]
    context = Context(family.base, n_ctx=64, n_seq=2, n_outputs=2 * n, machine=Machine(n_threads=1, cache_type="f32"))
    order = [(seq, i) for i in range(n) for seq in (0, 1)]
    seqs, places = zip(*order, strict=True)
    logits, hidden = context.decode([family.tokens[i] for i in places], places, seqs, hidden=True)
    assert hidden is not None
    raw = context.raw(logits)
    np.testing.assert_allclose(raw, family.raw[list(places)], rtol=0, atol=0.05)
    assert np.abs(reference.predict(family.heads, hidden, logits)[1] - with_features[list(places)]).max() > 0.01
    np.testing.assert_allclose(
        reference.predict(family.heads, hidden, raw)[1], with_features[list(places)], rtol=0, atol=5e-3
    )
    context.close()


def test_a_context_that_kept_none_is_refused(tmp_path: Path) -> None:
    family = Family("gemma2", tmp_path)
    context = Context(family.base, n_ctx=64, machine=Machine(n_threads=1))
    context.decode([5], [0], [0], hidden=True)
    context._raw.keep(False)
    sampler = ad.Sampler(ad.Heads(family.heads), seed=1)
    with pytest.raises(
        ad.ModelFailed, match="gemma2.final_logit_softcapping changes the logits after the output layer"
    ):
        sampler.sample(context.address)
    context.close()


def test_what_an_engine_shares_is_what_a_fresh_one_computes(stateful: Family) -> None:
    """Shared prompts and beginnings, sequences that move when others end, and what finished ones leave behind."""
    a = family_text(stateful, 40)
    prompts = [a, a[:36], [*a, 7], [5], a, [*a[:33], 8, 9], a + a, [*a[:20], 4]] * 2
    limits = [12, 3, 9, 1, 5, 12, 4, 8] * 2

    def requests() -> list[ad.Request]:
        return [ad.Request(p, seed=i, max_tokens=n) for i, (p, n) in enumerate(zip(prompts, limits, strict=True))]

    fresh = []
    for request in requests():
        with stateful.engine(1) as engine:
            fresh += [drawn(result.trace) for result in engine.generate([request])]
    for n_parallel in (1, 4, 16):
        with stateful.engine(n_parallel) as engine:
            for _ in range(2):
                for result, expected in zip(engine.generate(requests()), fresh, strict=True):
                    assert_same(drawn(result.trace), expected)


def family_text(family: Family, n: int) -> list[int]:
    return (family.tokens * 3)[:n]


@pytest.mark.parametrize("way", [{}, {"logits_all": True}], ids=["graph", "host"])
def test_a_llama_that_goes_on_is_as_a_fresh_one(stateful: Family, way: dict[str, Any]) -> None:
    """The same prompt again, a longer and a shorter one, another, an answer that goes on."""
    a = family_text(stateful, 30)
    llama = load(stateful.merged, f32_cache=True, **way)
    said = list(a)
    for prompt in (a, a, [*a, 5, 6], a[:12], a, [9, 8, 7], said):
        llama.create_completion(prompt, max_tokens=6, seed=3)
        found = drawn(llama.trace)
        if prompt == a:
            said[len(a) :] = found[0]
        fresh = load(stateful.merged, f32_cache=True, **way)
        fresh.create_completion(prompt, max_tokens=6, seed=3)
        assert_same(found, drawn(fresh.trace))


def test_a_llama_with_a_cache_of_states(stateful: Family) -> None:
    import llama_cpp

    a = family_text(stateful, 30)
    llama = load(stateful.merged, f32_cache=True)
    llama.set_cache(llama_cpp.LlamaRAMCache())
    for prompt in (a, [3, 4, 5], a, [*a, 5], a[:12], a):
        llama.create_completion(prompt, max_tokens=6, seed=3)
        fresh = load(stateful.merged, f32_cache=True)
        fresh.create_completion(prompt, max_tokens=6, seed=3)
        assert_same(drawn(llama.trace), drawn(fresh.trace))


def test_a_chat_is_as_a_fresh_one(stateful: Family) -> None:
    """Asked again, and cleared; the model completes, having no template."""

    def ask(conversation: ad.Conversation, text: str) -> tuple[list[int], Any]:
        answer = conversation.ask(ad.Request(text, max_tokens=8))
        pieces = [piece.token for piece in answer]
        conversation.keep(answer)
        return drawn(pieces)

    with stateful.engine(1) as engine, stateful.engine(1) as other:
        conversation = ad.Conversation(engine, seed=5)
        first = ask(conversation, "abc abc abc abc")
        conversation.reseed(5)
        assert_same(ask(conversation, conversation.reopen()), first)
        conversation.clear()
        conversation.reseed(5)
        assert_same(ask(conversation, "abc"), ask(ad.Conversation(other, seed=5), "abc"))
        with pytest.raises(ad.InvalidInput, match="no context shift"):
            engine.check(ad.Request([5, 6], n_keep=1))
