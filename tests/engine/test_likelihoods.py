"""Log-probabilities that requests ask for: of what is drawn, and of their prompts."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import reference
from conftest import Case
from engine_helpers import PROMPTS, answers, make, no_end
from llama_cpp import LlamaGrammar

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL

TOLERANCE = 1e-4
"""What another order of the sums in float32 makes of a logit, as large as some tens."""

Logits = Callable[[Sequence[int]], np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def logits_of(qwen2: Case) -> Logits:
    """[n, n_vocab] after each token of a text, as llama_cpp has them."""
    kwargs = {"n_ctx": 1024, "n_batch": 1024, "n_threads": 1, "logits_all": True, "verbose": False}
    llama = llama_cpp.Llama(str(qwen2.base), type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, **kwargs)

    def find(tokens: Sequence[int]) -> np.ndarray[Any, Any]:
        llama.reset()
        llama.eval(list(tokens))
        return np.array(llama.scores[: len(tokens)], np.float32)

    return find


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x = np.asarray(logits, np.float64)
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


def check_prompt(result: Result, prompt: Sequence[int], logits_of: Logits, top: int = 0) -> None:
    found = result.prompt_logprobs
    assert found is not None
    assert [token.id for token in found] == list(prompt)
    assert (found[0].logprob, found[0].alternatives) == (None, ())
    expected = log_softmax(logits_of(prompt)[:-1])
    for token, row in zip(found[1:], expected, strict=True):
        assert token.logprob == pytest.approx(row[token.id], abs=TOLERANCE)
        assert len(token.alternatives) == top
        for n, other in enumerate(token.alternatives):
            assert other.logprob == pytest.approx(np.sort(row)[-1 - n], abs=TOLERANCE)
            assert other.logprob == pytest.approx(row[other.id], abs=TOLERANCE)
            assert math.isnan(other.prob)
            assert other.id != token.id or other.logprob == token.logprob


GRAMMAR = LlamaGrammar.from_string("root ::= [a-z ]+", verbose=False)
WAYS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 0.0},
    {"top_k": 3},
    {"repeat_penalty": 1.5, "presence_penalty": 1.0},
    {"grammar": GRAMMAR},
    {"mirostat_mode": 2},
    {"order": "llama.cpp", "temperature": 0.8, "min_p": 0.05},
]


@pytest.mark.parametrize("n_parallel", [1, 3])
def test_of_what_is_drawn_by_several_at_once(n_parallel: int, merged: Path, logits_of: Logits) -> None:
    engine = make(merged, n_parallel=n_parallel)
    asked = [Request(PROMPTS[i % 5], seed=i, max_tokens=12, **way) for i, way in enumerate(WAYS)]
    plain = answers(engine, asked)
    results = answers(engine, [Request(**(vars(request) | {"top": i % 7})) for i, request in enumerate(asked)])
    for i, (request, result) in enumerate(zip(asked, results, strict=True)):
        prompt = list(request.prompt)  # type: ignore[arg-type]
        rows = log_softmax(logits_of([*prompt, *result.trace.ids])[len(prompt) - 1 : -1])
        for token, row in zip(result.trace, rows, strict=True):
            assert token.logprob == pytest.approx(row[token.id], abs=TOLERANCE)
            assert len(token.alternatives) == i % 7
            for n, other in enumerate(token.alternatives):
                assert other.logprob == pytest.approx(np.sort(row)[-1 - n], abs=TOLERANCE)
                assert other.logprob == pytest.approx(row[other.id], abs=TOLERANCE)
                assert other.text == engine.context.token_bytes(other.id)
                if other.id == token.id:
                    assert (other.logprob, other.prob) == (token.logprob, token.prob)
        assert result.trace.ids == plain[i].trace.ids  # asking changes nothing
        assert all(math.isnan(token.logprob) and token.alternatives == () for token in plain[i].trace)
    engine.close()


def test_probabilities_are_those_of_the_draw(engine: Engine, logits_of: Logits) -> None:
    ends = no_end(engine)
    requests = [Request(PROMPTS[0], seed=i, max_tokens=10, top=64, logit_bias=ends) for i in range(8)]
    for result in answers(engine, requests):
        rows = logits_of([*PROMPTS[0], *result.trace.ids])[len(PROMPTS[0]) - 1 : -1]
        rows[:, list(ends)] = -np.inf
        for token, row in zip(result.trace, rows, strict=True):
            assert sum(other.prob > 0 for other in token.alternatives) == min(token.nucleus, 64) or token.nucleus > 32
            exact = reference.distribution(row, token.temperature, token.top_p)
            slack = reference.distribution(row, token.temperature, min(1.0, token.top_p + 1e-4))
            if (exact == slack).all():
                found = [other.prob for other in token.alternatives]
                np.testing.assert_allclose(
                    found, [exact[other.id] for other in token.alternatives], rtol=0.01, atol=1e-4
                )


def test_a_grammar_cuts_what_is_likely(engine: Engine) -> None:
    only = LlamaGrammar.from_string('root ::= "qq"', verbose=False)
    free, bound = answers(
        engine, [Request(PROMPTS[0], temperature=0.0, max_tokens=1, top=5, grammar=g) for g in (None, only)]
    )
    (token,), (other,) = bound.trace, free.trace
    assert other.id == other.alternatives[0].id
    assert token.logprob < other.logprob
    assert [(x.id, x.logprob) for x in token.alternatives] == [(x.id, x.logprob) for x in other.alternatives]
    assert [x.prob for x in token.alternatives] == [0.0] * 5
    assert token.prob == 1.0


# ---- prompts ----


@pytest.mark.parametrize("n_parallel", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 33, 34, 65, 513, 514, 600])
def test_of_a_prompt(n: int, n_parallel: int, merged: Path, logits_of: Logits) -> None:
    """Of one piece and of more, alone or beside others, with nothing drawn and with something."""
    engine = make(merged, n_parallel=n_parallel, n_ctx=640)
    prompt = np.random.default_rng(n).integers(3, 300, n).tolist()
    requests = [
        Request(prompt, max_tokens=0, prompt_logprobs=True),
        Request(PROMPTS[0], seed=1, max_tokens=9),
        Request(prompt, seed=1, max_tokens=2, prompt_logprobs=True, top=3),
    ]
    nothing, other, some = answers(engine, requests)
    assert (nothing.finish_reason, nothing.tokens, nothing.text, len(nothing.trace)) == ("length", [], "", 0)
    check_prompt(nothing, prompt, logits_of)
    check_prompt(some, prompt, logits_of, 3)
    assert len(some.trace) == 2 or some.finish_reason == "stop"
    assert all(len(token.alternatives) == 3 for token in some.trace)
    assert other.prompt_logprobs is None
    plain = answers(engine, [Request(prompt, seed=1, max_tokens=2), requests[1]])
    assert [r.trace.ids for r in plain] == [some.trace.ids, other.trace.ids]
    engine.close()


def test_of_prompts_beside_those_that_draw(merged: Path, logits_of: Logits) -> None:
    """In pieces of any length, the last one with the tokens that others draw, T and P predicted meanwhile."""
    engine = make(merged, n_parallel=4, batching=Batching(prompt_chunk=5))
    running = engine.submit(Request(PROMPTS[0], seed=1, max_tokens=60, logit_bias=no_end(engine), top=0))
    next(iter(running))
    prompts = [np.random.default_rng(n).integers(3, 300, n).tolist() for n in (7, 22, 48, 3, 12, 31)]
    results = answers(engine, [Request(p, max_tokens=i % 2, prompt_logprobs=True) for i, p in enumerate(prompts)])
    assert running.finish_reason is None
    for result, prompt in zip(results, prompts, strict=True):
        check_prompt(result, prompt, logits_of)
    alone = make(merged, n_parallel=1)
    (expected,) = answers(alone, [Request(PROMPTS[0], seed=1, max_tokens=60, logit_bias=no_end(engine), top=0)])
    assert running.result().trace.ids == expected.trace.ids
    found = [token.logprob for token in running.result().trace]
    np.testing.assert_allclose(found, [token.logprob for token in expected.trace], atol=TOLERANCE)


@pytest.mark.parametrize("n_parallel", [1, 4])
def test_what_a_sequence_holds_already_is_computed_again(n_parallel: int, merged: Path, logits_of: Logits) -> None:
    engine = make(merged, n_parallel=n_parallel)
    prompt = list(range(3, 80))
    answers(engine, [Request(prompt, seed=1, max_tokens=2)])
    scored = Request([*prompt, 5], max_tokens=0, prompt_logprobs=True, top=1)
    for result in answers(engine, [scored] * 5):
        check_prompt(result, [*prompt, 5], logits_of, 1)
    engine.close()


def test_what_was_computed_for_it_serves_others(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(merged, n_parallel=2)
    prompt = list(range(3, 80))
    answers(engine, [Request(prompt, max_tokens=0, prompt_logprobs=True)])
    monkeypatch.setattr(engine.context, "fill", None)  # not needed
    (result,) = answers(engine, [Request(prompt, seed=1, max_tokens=3)])
    (expected,) = answers(make(merged, n_parallel=1), [Request(prompt, seed=1, max_tokens=3)])
    assert result.trace.ids == expected.trace.ids


def test_a_prompt_as_long_as_the_context(merged: Path, logits_of: Logits) -> None:
    engine = make(merged, n_parallel=2)
    prompt = np.random.default_rng(1).integers(3, 300, 128).tolist()
    (result,) = answers(engine, [Request(prompt, max_tokens=0, prompt_logprobs=True)])
    check_prompt(result, prompt, logits_of)


def test_they_are_there_before_the_first_token(engine: Engine) -> None:
    handle = engine.submit(Request(PROMPTS[3], seed=1, max_tokens=3, prompt_logprobs=True))
    assert handle.prompt_logprobs is None
    found = None
    for piece in handle:
        found = found or handle.prompt_logprobs
        assert found, piece
    assert handle.result().prompt_logprobs == found
    assert [token.text for token in found or ()] == [engine.context.token_bytes(token) for token in PROMPTS[3]]


def test_one_that_is_cancelled_has_none(engine: Engine) -> None:
    handle = engine.submit(Request(PROMPTS[3], max_tokens=0, prompt_logprobs=True))
    handle.cancel()
    assert (handle.result().finish_reason, handle.result().prompt_logprobs) == ("cancelled", None)


def test_the_pieces_have_no_say(merged: Path) -> None:
    """With batch_invariant to the last bit, whatever runs beside it."""
    prompts = [np.random.default_rng(n).integers(3, 300, n).tolist() for n in (33, 34, 65, 66)]
    requests = [Request(prompt, seed=1, max_tokens=5, prompt_logprobs=True, top=2) for prompt in prompts]
    engine = make(merged, n_parallel=3, batching=Batching(batch_invariant=True), machine=Machine(n_threads=1))
    alone = [answers(engine, [request])[0] for request in requests]
    for one, other in zip(answers(engine, requests), alone, strict=True):
        assert [vars(t)["alternatives"] for t in one.trace] == [vars(t)["alternatives"] for t in other.trace]
        assert [t.logprob for t in one.prompt_logprobs or ()] == [t.logprob for t in other.prompt_logprobs or ()]


# ---- as values ----


def test_a_part_of_a_character() -> None:
    """Its bytes as they are; in JSON the text that became certain with it, and U+FFFD for an alternative."""
    engine = Engine(DEMO_MODEL, n_parallel=2, n_ctx=64)
    first, second = engine.context.tokenize("é")
    both = {first: 1e4, second: 1e4}
    request = Request([first, second], max_tokens=2, temperature=0, logit_bias=both, top=64, prompt_logprobs=True)
    (result,) = engine.generate([request])
    assert [token.text for token in result.prompt_logprobs or ()] == [b"\xc3", b"\xa9"]
    assert {token.id for token in result.trace} <= {first, second}
    for token in result.trace:
        found = json.loads(json.dumps(token.to_dict("é"), allow_nan=False))
        assert found["text"] == "é"
        assert len(found["alternatives"]) == 64
    engine.close()


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_results_are_values(copied: Callable[[Result], Result], engine: Engine) -> None:
    request = Request(PROMPTS[0], seed=1, max_tokens=4, top=3, entropy=True, prompt_logprobs=True)
    (result,) = answers(engine, [request])
    other = copied(result)
    assert list(other.trace) == list(result.trace)
    assert [token.logprob for token in other.trace] == [token.logprob for token in result.trace]
    assert [len(token.alternatives) for token in other.trace] == [3] * len(result.trace)
    assert all(other.text for token in other.trace for other in token.alternatives if other.id > 2)
    assert [(t.id, t.text, t.logprob) for t in other.prompt_logprobs or ()] == [
        (t.id, t.text, t.logprob) for t in result.prompt_logprobs or ()
    ]
