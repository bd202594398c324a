"""A model whose logits or hidden states are NaN or infinite: no token is drawn, by any way of sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import broken
import numpy as np
import pytest
from conftest import Case, load
from llama_cpp import LlamaGrammar

import autodeco_gguf as ad
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput, ModelFailed

Where = tuple[str, float, Any]
"""Tensor, the value that is put into it, and where: of output.weight a row is a token, [384, 64]."""

SPOILT: dict[str, Where] = {
    "one NaN": ("output.weight", math.nan, (200, 3)),
    "the first NaN": ("output.weight", math.nan, 0),
    "the last NaN": ("output.weight", math.nan, 383),
    "all NaN": ("output.weight", math.nan, slice(None)),
    "infinite": ("output.weight", math.inf, (9, slice(None))),
    "hidden state": ("output_norm.weight", math.nan, slice(None)),
    "a part of the hidden state": ("output_norm.weight", math.inf, 5),
}

SAMPLING: dict[str, dict[str, Any]] = {
    "predicted": {},
    "T fixed": {"temperature": 0.7},
    "P fixed": {"top_p": 0.5},
    "both fixed": {"temperature": 0.7, "top_p": 0.5},
    "greedy": {"temperature": 0.0, "top_p": 1.0},
    "top-k": {"top_k": 5},
    "mirostat": {"mirostat_mode": 2},
    "mirostat 1": {"mirostat_mode": 1},
    "grammar": {"grammar": LlamaGrammar.from_string("root ::= [a-z]+", verbose=False)},
}

MATCH = "a logit is NaN or \\+inf; no token was drawn|the heads give no finite value"


@pytest.fixture(scope="module")
def spoil(qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("spoilt")

    def make(name: str) -> Path:
        tensor, value, where = SPOILT[name]
        path = directory / f"{name}.gguf"
        if not path.exists():
            data = next(data for found, data, _ in broken.tensors_of(qwen2.base) if found == tensor).copy()
            data[where] = value
            base = broken.rewrite(qwen2.base, directory / "base.gguf", edit=broken.replaced(tensor, data))
            ad.export(base, qwen2.heads, path)
        return path

    return make


@pytest.mark.parametrize("kwargs", [{}, {"logits_all": True}], ids=["graph", "host"])
@pytest.mark.parametrize("name", SPOILT)
def test_llama(spoil: Callable[[str], Path], qwen2: Case, name: str, kwargs: dict[str, Any]) -> None:
    llm = load(spoil(name), **kwargs)
    for sampling in SAMPLING.values():
        with pytest.raises(ModelFailed, match=MATCH):
            llm(qwen2.tokens[:5], max_tokens=3, seed=1, **sampling)
        assert len(llm.trace) == 0


@pytest.mark.parametrize("heads", ["temperature", "top_p"])
@pytest.mark.parametrize("name", SPOILT)
def test_one_head(spoil: Callable[[str], Path], qwen2: Case, name: str, heads: str) -> None:
    llm = load(spoil(name), heads_enabled=[heads])
    with pytest.raises(ModelFailed, match=MATCH):
        llm(qwen2.tokens[:5], max_tokens=3, seed=1)


@pytest.mark.parametrize("n_parallel", [1, 3])
@pytest.mark.parametrize("name", SPOILT)
def test_engine(spoil: Callable[[str], Path], qwen2: Case, name: str, n_parallel: int) -> None:
    requests = [Request(qwen2.tokens[:5], max_tokens=3, seed=1, **sampling) for sampling in SAMPLING.values()]
    with Engine(spoil(name), n_parallel=n_parallel, n_ctx=32) as engine:
        results = engine.generate(requests)
    for result in results:
        assert (result.finish_reason, result.tokens, len(result.trace)) == ("error", [], 0)
        assert any(text in (result.error or "") for text in ("a logit is NaN", "no finite value"))


@pytest.mark.parametrize("n_parallel", [1, 3])
@pytest.mark.parametrize("name", SPOILT)
def test_log_probabilities_of_a_prompt(spoil: Callable[[str], Path], qwen2: Case, name: str, n_parallel: int) -> None:
    requests = [Request(qwen2.tokens[:n], max_tokens=0, prompt_logprobs=True) for n in (5, 2, 1)]
    with Engine(spoil(name), n_parallel=n_parallel, n_ctx=32) as engine:
        *results, single = engine.generate(requests)
    for result in results:
        assert (result.finish_reason, result.prompt_logprobs) == ("error", None)
        assert result.error == "a logit of the prompt is NaN or +inf, or all of a token are -inf"
    assert (single.finish_reason, len(single.prompt_logprobs or ())) == ("length", 1)  # nothing is computed for it


def test_the_command_line_prints_no_nan(spoil: Callable[[str], Path], capfd: pytest.CaptureFixture[str]) -> None:
    outcome = broken.invoke(capfd, "run", spoil("one NaN"), "--raw", "-p", "hi", "-n", "3", "--json")
    assert (outcome.status, outcome.out.count("\n")) == (1, 1)  # the prompt alone
    assert "NaN" not in outcome.out
    assert outcome.err.endswith("the model's hidden state or logits are not finite\n")


@pytest.mark.parametrize(("name", "what"), [("one NaN", "logits"), ("hidden state", "hidden")])
def test_verify_names_the_model(
    spoil: Callable[[str], Path], qwen2: Case, capfd: pytest.CaptureFixture[str], name: str, what: str
) -> None:
    golden = qwen2.base.with_name("golden.npz")
    outcome = broken.invoke(capfd, "verify", spoil(name), "--golden", golden)
    broken.assert_refused(outcome, spoil(name), f"{what} row 0 holds nan")


def test_where_the_model_is_sound_a_processor_is_not(merged: Path, qwen2: Case) -> None:
    def put(value: float) -> Callable[[Any, Any], Any]:
        return lambda _, logits: np.where(np.arange(logits.size) == 7, value, logits)

    llm = load(merged)
    for value in (math.nan, math.inf):
        with pytest.raises(ModelFailed, match=r"a logit is NaN or \+inf"):
            llm(qwen2.tokens[:5], max_tokens=3, logits_processor=[put(value)])


def test_a_prediction_for_a_whole_text(spoil: Callable[[str], Path], qwen2: Case) -> None:
    with pytest.raises((ModelFailed, InvalidInput), match="holds nan"):
        load(spoil("one NaN")).predict(qwen2.tokens[:5])
