"""Models that ask for more: sliding windows and sinks, a deep GELU head, a top-p head alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import load

import autodeco_gguf as ad

DIRECTORY = Path(__file__).parent / "more_fixtures"
HEADS = {
    "gpt_oss": {"temperature", "top_p"},
    "gelu4": {"temperature", "top_p"},
    "top_p_only": {"top_p"},
}


@pytest.mark.parametrize(("f32_cache", "tolerance"), [(True, 1e-5), (False, 2e-3)], ids=["F32 cache", "F16 cache"])
@pytest.mark.parametrize("name", HEADS)
def test_predictions_agree_with_the_official_code(name: str, f32_cache: bool, tolerance: float, tmp_path: Path) -> None:
    directory = DIRECTORY / name
    merged = ad.export(directory / "base.gguf", directory / "heads", tmp_path / "merged.gguf").path
    with np.load(directory / "golden.npz") as golden:
        tokens = golden["tokens"].tolist()
        expected = [np.nan_to_num(golden[head], nan=1.0) for head in ("temperature", "top_p")]
        alone = ad.Heads.load(merged).evaluate(golden["hidden"], golden["logits"])
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-5)

    llama = load(merged, f32_cache=f32_cache)
    assert llama.heads == HEADS[name]
    np.testing.assert_allclose(llama.predict(tokens), expected, rtol=0, atol=tolerance)

    llama.create_completion(tokens, max_tokens=16, seed=1)
    trace = list(llama.trace)
    text = tokens + [t.id for t in trace[:-1]]
    drawn = [[t.temperature for t in trace], [t.top_p for t in trace]]
    after = [values[len(tokens) - 1 :] for values in llama.predict(text)]
    np.testing.assert_allclose(drawn, after, rtol=0, atol=tolerance)
