"""Random schedules of joins and cancels: every answer is the one that the request gets alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from engine_helpers import make
from llama_cpp import LlamaGrammar

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.engine.scheduler import Batching

SCHEDULES = 500
SHARED = [7, 300, 12, 99, 41, 205, 33, 18] * 5

GRAMMARS = [LlamaGrammar.from_string(g, verbose=False) for g in ('root ::= "a" [0-9]+', "root ::= [a-f ]{3,9}")]
WAYS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 1.3, "top_p": 1.0},
    {"top_p": 0.6, "top_k": 30},
    {"temperature": 0.0, "repeat_penalty": 1.4},
    {"frequency_penalty": 0.5, "penalty_last_n": 5},
    {"grammar": GRAMMARS[0]},
    {"temperature": 0.0, "grammar": GRAMMARS[1]},
    {"mirostat_mode": 2},
    {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05, "order": "llama.cpp"},
    {"stop": ["e", "zz"]},
]
ASKED: list[dict[str, Any]] = [
    {},
    {},
    {"top": 2},
    {"prompt_logprobs": True},
    {"prompt_logprobs": True, "top": 3, "max_tokens": 0},
]


def requests() -> list[Request]:
    """Prompts of 1 to 60 tokens, many of them with a common beginning."""
    rng = random.Random("requests")
    prompts = [SHARED[: rng.randrange(41)] + rng.choices(range(3, 380), k=rng.randrange(1, 20)) for _ in range(12)]
    return [
        Request(
            rng.choice(prompts),
            seed=i,
            **{"max_tokens": rng.choice((1, 2, 5, 11, 23)), **WAYS[i % len(WAYS)], **ASKED[i % len(ASKED)]},
        )
        for i in range(66)
    ]


@pytest.fixture(scope="module")
def engines(merged: Path) -> Iterator[list[Engine]]:
    made = [
        make(merged, n_parallel=n, batching=Batching(prompt_chunk=chunk))
        for n, chunk in ((2, 5), (3, 128), (6, 17), (9, 1))
    ]
    yield made
    for engine in made:
        engine.close()


def play(engine: Engine, rng: random.Random, pool: list[Request]) -> list[tuple[Request, Result]]:
    """Submit, let the engine go a few steps, cancel, and again; then wait for all of them."""
    handles: list[Generation] = []
    for _ in range(rng.randrange(1, 8)):
        handles += [engine.submit(request) for request in rng.choices(pool, k=rng.randrange(1, 5))]
        looks = iter([*[False] * 3 * rng.randrange(6), True])  # three of them a step
        engine.run_until(lambda looks=looks: next(looks))  # type: ignore[misc]
        if rng.random() < 0.4:
            rng.choice(handles).cancel()
    rng.shuffle(handles)
    return [(handle.request, handle.result()) for handle in handles]


def logprobs(result: Result) -> list[float]:
    """All that a result has of them."""
    prompt, drawn = result.prompt_logprobs or (), [token for token in result.trace if token.alternatives]
    found = [token.logprob for token in prompt if token.logprob is not None] + [token.logprob for token in drawn]
    return found + [other.logprob for token in (*prompt, *drawn) for other in token.alternatives]


def test_every_answer_is_the_one_it_gets_alone(engines: list[Engine], merged: Path) -> None:
    alone, pool = make(merged, n_parallel=1), requests()

    @cache
    def expected(i: int) -> Result:
        return alone.generate([pool[i]])[0]

    finished = 0
    for schedule in range(SCHEDULES):
        rng = random.Random(schedule)
        for request, result in play(rng.choice(engines), rng, pool):
            want = expected(request.seed or 0)
            n = len(result.tokens)
            assert result.tokens == want.tokens[:n], (schedule, request)
            if result.finish_reason != "cancelled":
                assert (n, result.finish_reason, result.text) == (len(want.tokens), want.finish_reason, want.text)
                assert result.temperature == pytest.approx(want.temperature, abs=1e-5)
                assert logprobs(result) == pytest.approx(logprobs(want), abs=1e-4, nan_ok=True)
                finished += 1
    assert finished > 3000
    alone.close()
