"""The logits before a soft cap or a scale: kept in any order of outputs, trained on, refused where not kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference
from broken import rewrite
from conftest import load
from family_helpers import FAMILIES, Family

import autodeco_gguf as ad
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine


@pytest.mark.parametrize("name", ["cohere", "gemma2", "granite", "granitemoehybrid"])
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


def test_outputs_of_several_parts_of_a_batch(tmp_path: Path) -> None:
    family = Family("gemma2", tmp_path)
    expected = np.array(reference.predict(family.heads, family.hidden, family.raw))
    for n_ubatch in (64, 8, 3):
        llama = load(family.merged, f32_cache=True, n_batch=64, n_ubatch=n_ubatch)
        np.testing.assert_allclose(llama.predict(family.tokens), expected, rtol=0, atol=1e-3)
        llama.close()


def test_a_cap_of_which_the_file_says_nothing(tmp_path: Path) -> None:
    path = rewrite(FAMILIES / "gemma2.gguf", tmp_path / "x.gguf", metadata={"gemma2.final_logit_softcapping": None})
    context = Context(path, n_ctx=64, machine=Machine(n_threads=1))
    logits, _ = context.decode([5], [0], [0], hidden=True)
    np.testing.assert_allclose(30 * np.tanh(context.raw(logits) / 30), logits, rtol=1e-4)
    assert np.abs(context.raw(logits) - logits).max() > 1e-4
    context.close()


def test_a_context_that_kept_none_is_refused(tmp_path: Path) -> None:
    family = Family("gemma2", tmp_path)
    context = Context(family.base, n_ctx=64, machine=Machine(n_threads=1))
    context.decode([5], [0], [0], hidden=True)
    context._raw.keep(False)
    sampler = ad.Sampler(ad.Heads(family.heads), seed=1)
    with pytest.raises(
        ad.ModelFailed, match=r"gemma2\.final_logit_softcapping changes the logits after the output layer"
    ):
        sampler.sample(context.address)
    context.close()


def test_others_have_none_of_their_own() -> None:
    context = Context(FAMILIES / "mistral.gguf", n_ctx=64, machine=Machine(n_threads=1))
    logits, _ = context.decode([5], [0], [0], hidden=True)
    assert context.raw(logits) is logits
    context.close()
