"""What runs on a node, in this process: several calls at a time on one model."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from autodeco_gguf.cluster.actor import VERSIONS, About, Actor, Spec
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput, ModelFailed
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL

SPEC = Spec(model=None, n_parallel=3, n_ctx=160, machine=Machine(n_threads=1))
BOTH = frozenset(("temperature", "top_p"))
MESSAGES = [f"Tell a story about Mia with {i} and 5." for i in range(4)]


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an actor sets is undone."""
    for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


@pytest.fixture
def actor() -> Actor:
    actor = Actor(1)
    assert isinstance(actor.load(SPEC), About)
    return actor


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(
        DEMO_MODEL, n_parallel=3, n_ctx=160, machine=Machine(n_threads=1), batching=Batching(batch_invariant=True)
    ) as engine:
        yield engine


def requests(engine: Engine, n: int = 12, **kwargs: Any) -> list[tuple[int, Request]]:
    prompts = [engine.prompt(message) for message in MESSAGES]
    return [(i, Request(prompts[i % 4], seed=i, max_tokens=20, **kwargs)) for i in range(n)]


def value(result: Result) -> tuple[Any, ...]:
    return result.index, result.text, result.finish_reason, result.tokens, result.temperature.tolist()


def alone(engine: Engine, asked: list[tuple[int, Request]]) -> list[tuple[Any, ...]]:
    return [value(result) for result in engine.generate(request for _, request in asked)]


def all_of(actor: Actor, job: int, asked: list[tuple[int, Request]], heads: frozenset[str] = BOTH) -> list[Result]:
    found = actor.draw((job, heads), asked)
    while (more := actor.draw((job, heads), [])) != []:
        assert isinstance(found, list)
        assert isinstance(more, list)
        found += more
    assert isinstance(found, list)
    return sorted(found, key=lambda result: result.index)


def test_what_it_says_of_itself(engine: Engine) -> None:
    actor = Actor(2)
    assert actor.hello() == os.getpid()
    about = actor.load(replace(SPEC, machine=Machine(), offline=True))
    assert isinstance(about, About)
    assert about.fingerprint == engine.fingerprint
    assert (about.versions, about.n_ctx, about.heads, about.model_name) == (VERSIONS, 160, BOTH, DEMO_MODEL.name)
    assert (about.metadata, about.n_vocab) == (engine.metadata, engine.context.n_vocab)
    assert (about.threads, about.omp_threads, about.devices) == (1, "2", ())  # a small model has one thread
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert pickle.loads(pickle.dumps(about)) == about
    assert about.identity == replace(about, threads=9, omp_threads=None, devices=("CUDA0",)).identity
    assert about.identity != replace(about, fingerprint="other").identity


def test_what_cannot_be_loaded_is_returned() -> None:
    for spec, kind, message in (
        (replace(SPEC, model="no.gguf"), BadFile, "no.gguf: "),
        (replace(SPEC, n_parallel=0), InvalidInput, "n_parallel 0, expected"),
        (replace(SPEC, machine=Machine(device=("CUDA7",))), InvalidInput, "no device 'CUDA7'"),
    ):
        error = Actor(1).load(spec)
        assert type(error) is kind
        assert str(error).startswith(message)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), vars(again)) == (str(error), vars(error))


def test_it_draws_what_an_engine_draws(actor: Actor, engine: Engine) -> None:
    asked = requests(engine)
    results = all_of(actor, 0, asked)
    assert [value(result) for result in results] == alone(engine, asked)
    assert {len(result.trace) for result in results} == {0}  # which is not sent
    actor.load(replace(SPEC, traces=True))
    (result,) = all_of(actor, 1, asked[:1])
    assert [token.id for token in result.trace][:20] == result.tokens


def test_several_calls_share_the_results(actor: Actor, engine: Engine) -> None:
    asked, found, lock = requests(engine, 40), list[Result](), threading.Lock()
    parts = [asked[i::4] for i in range(4)]

    def work(part: list[tuple[int, Request]]) -> None:
        results = actor.draw((5, BOTH), part)
        while True:
            assert isinstance(results, list)
            with lock:
                found.extend(results)
                if len(found) >= 40:
                    return
            results = actor.draw((5, BOTH), [])

    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert [value(result) for result in sorted(found, key=lambda one: one.index)] == alone(engine, asked)


def test_a_new_job_ends_the_one_before(actor: Actor, engine: Engine) -> None:
    long = [(i, replace(request, max_tokens=None)) for i, request in requests(engine, 30)]
    found: list[Any] = []
    assert isinstance(actor.draw((0, BOTH), long), list)
    waiting = threading.Thread(target=lambda: found.append(actor.draw((0, BOTH), [])))
    waiting.start()
    asked = requests(engine, 5)
    results = all_of(actor, 1, asked)
    waiting.join(120)
    assert not waiting.is_alive()
    assert {result.index for result in found[0]} <= set(range(30))
    assert [value(result) for result in results] == alone(engine, asked)
    assert actor.draw((0, BOTH), long[:1]) == []  # late
    assert actor.draw((1, BOTH), []) == []


def test_the_heads_of_a_job(actor: Actor, engine: Engine) -> None:
    asked = requests(engine, 4, top_p=1.0)
    (plain,) = {tuple(r.temperature.tolist()) for r in all_of(actor, 0, asked[:1], frozenset())}
    assert set(plain) == {1.0}
    assert [value(result) for result in all_of(actor, 1, asked)] == alone(engine, asked)


def test_what_is_refused_is_returned(actor: Actor) -> None:
    found, error = actor.prompts([*MESSAGES[:2], "\ud800", MESSAGES[3]])
    assert [len(found), type(error)] == [2, InvalidInput]
    assert found[0][1] == actor._loaded.prompt(MESSAGES[0])
    assert MESSAGES[0] in found[0][0]
    assert actor.prompts(MESSAGES)[1] is None
    assert isinstance(actor.draw((0, BOTH), [(0, Request([]))]), InvalidInput)


def test_what_was_taken_before_one_is_refused_ends_with_the_job(actor: Actor, engine: Engine) -> None:
    request = Request(engine.prompt("sums"), seed=1, max_tokens=3)
    refused = actor.draw((0, BOTH), [(0, request), (1, replace(request, prompt=[10**6]))])
    assert isinstance(refused, InvalidInput)
    assert str(refused) == f"request 1: token 1000000, expected 0 to {engine.context.n_vocab - 1}"
    assert len(all_of(actor, 1, [(0, request)], frozenset(["top_p"]))) == 1


def test_a_model_that_fails_gives_no_results(actor: Actor, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, steps = actor._loaded._scheduler, []
    draw = type(scheduler)._draw

    def failing(self: Any) -> None:
        steps.append(1)
        if len(steps) == 3:
            raise ModelFailed("llama.cpp fails")
        draw(self)

    monkeypatch.setattr(type(scheduler), "_draw", failing)
    outcomes: list[Any] = []
    asked = requests(engine, 3)
    threads = [
        threading.Thread(target=lambda part=part: outcomes.append(actor.draw((0, BOTH), part)))  # type: ignore[misc]
        for part in (asked, [])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert any(isinstance(one, ModelFailed) for one in outcomes)
    assert not any(result for one in outcomes if isinstance(one, list) for result in one)
    assert isinstance(actor.draw((0, BOTH), []), AutoDecoError)
