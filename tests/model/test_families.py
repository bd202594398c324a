"""Other families of models (family_helpers): against torch; those that cannot go back against fresh ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import reference
from conftest import load
from family_helpers import NAMES, Family

import autodeco_gguf as ad

TOLERANCE = {"gemma2": 2e-3, "granitemoehybrid": 5e-3, "mamba2": 1e-4}
"""Of gemma2 the activation is a table of F16, of the others the scan has another order."""

STATEFUL = ["mamba2", "granitemoehybrid", "lfm2"]


@pytest.fixture(params=[name for name in NAMES if name != "lfm2"])
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
    if stateful.name == "lfm2" and way:
        return
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


def test_an_architecture_without_logits_beside_hidden_states(tmp_path: Path) -> None:
    """What it draws with is what torch gives, by its hidden states; what would read stale logits is refused."""
    family = Family("lfm2", tmp_path)
    expected = np.array(reference.predict(family.heads, family.hidden, family.raw))
    llama = load(family.merged, f32_cache=True)
    for n in (1, 7, len(family.tokens)):
        llama.create_completion(family.tokens[:n], max_tokens=1, seed=1)
        np.testing.assert_allclose(drawn(llama.trace)[1][0], expected[:, n - 1], rtol=0, atol=1e-5)
    with pytest.raises(ad.ModelFailed, match=r"lfm2: llama\.cpp computes no logits of this architecture"):
        llama.predict(family.tokens)
    with pytest.raises(ad.ModelFailed, match="nor with predict, logits_all"):
        load(family.merged, logits_all=True).create_completion(family.tokens, max_tokens=1)
