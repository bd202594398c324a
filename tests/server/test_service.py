"""A plan, and what answers it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from server_helpers import STORY, Api, Loop, demo_engine, events, failing, ok, refused, serving, text_of

from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import Busy, InvalidInput, ModelFailed
from autodeco_gguf.model.context import Context, Drawn
from autodeco_gguf.server.chat import ChatVoice
from autodeco_gguf.server.decide import Decision
from autodeco_gguf.server.driver import Driver, Event, Job
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.service import Plan, load


def test_a_plan_s_order_and_seeds() -> None:
    plan = Plan([[1], [2]], Decision({}, {"temperature": 0.5}, 2**32 - 2), n=2, options={"max_tokens": 3})
    asks = plan.asks()
    assert [(ask.prompt, ask.seed) for ask in asks] == [([1], 2**32 - 2), ([1], 0), ([2], 2**32 - 2), ([2], 0)]
    assert {(ask.temperature, ask.max_tokens) for ask in asks} == {(0.5, 3)}
    assert [plan.seed(i) for i in range(4)] == [ask.seed for ask in asks]


TOLD: dict[str, Any] = {"autodeco": {"tokens": True, "top": 63}, "seed": 1}


@pytest.mark.parametrize(
    ("n", "more", "told"),
    [
        (33, {}, 33 * 510 * 64),
        (60, {"max_tokens": 300}, 60 * 300 * 64),
        (16, {"best_of": 128, "max_tokens": 200, "logprobs": 0}, 128 * 200 * 64),
        (2, {"prompt": [[5] * 300] * 28, "max_tokens": 0, "echo": True, "logprobs": 2}, 2 * 28 * 300 * 64),
    ],
)
def test_what_answers_may_tell_of_in_all(n: int, more: dict[str, Any], told: int, api: Api) -> None:
    param = "prompt" if "prompt" in more else "best_of" if "best_of" in more else "n"
    fields = {"prompt": [[5, 6]], "n": n, **TOLD, **more}
    says = f"{told} in all, at most 1048576; lower"
    for stream in (False, "best_of" not in more and "echo" not in more):
        refused(api.compl(**fields, stream=stream), param, says=says)


def test_texts_alone_are_not_bounded() -> None:
    plan = Plan([[5]], Decision({}), n=4096, options={"max_tokens": 510, "top": 64})
    plan.check_told(512, "n")
    plan.pieces = True
    with pytest.raises(ApiError, match="n: 4096 answers, each of up to 510 tokens with 64 alternatives"):
        plan.check_told(512, "n")
    Plan([[5]], plan.decision, options={"max_tokens": None, "top": 64}, pieces=True).check_told(1 << 20, "n")
    Plan([[5]], plan.decision, n=64, options={"max_tokens": 256, "top": 63}, pieces=True).check_told(512, "n")  # 2**20


def test_many_at_once_are_each_the_same_alone(api: Api) -> None:
    def ask(seed: int) -> str:
        if seed % 2:
            chunks = events(api.chat(STORY, seed=seed, stream=True))[:-1]
            return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        return text_of(api.chat(STORY, seed=seed))

    alone = [ask(seed) for seed in range(24)]
    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(ask, range(24))) == alone


def test_grammars_at_once(api: Api) -> None:
    def schema(i: int) -> Any:
        properties = {f"k{i}": {"const": i}}
        return {"type": "object", "properties": properties, "required": [f"k{i}"], "additionalProperties": False}

    def ask(i: int) -> Any:
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema(i)}}
        return text_of(api.chat(response_format=form)).replace(" ", "").replace("\n", "")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [f'{{"k{i}":{i}}}' for i in range(8)]


def test_a_model_without_a_name_has_its_file_s(loop: Loop) -> None:
    with demo_engine(1) as engine:
        service = serving(engine, model_id=None)
        assert ok(Api(service, loop).get("/v1/models"))["data"][0]["id"] == "demo"
        service.driver.close()


def test_a_known_model_has_its_own(tiny: Any, loop: Loop) -> None:
    with load(Path("tiny"), None, 1, 64) as engine:
        service = serving(engine, model_id=None)
        assert ok(Api(service, loop).get("/v1/models"))["data"][0]["id"] == "tiny"
        service.driver.close()


def test_load_bounds_nothing_that_the_driver_bounds() -> None:
    from autodeco_gguf.model.shipped import DEMO_MODEL

    with load(DEMO_MODEL, None, 1, 64) as engine:
        assert engine.n_ctx == 64
        generations = [engine.submit(Request([1], max_tokens=1)) for _ in range(5000)]
        assert len(generations) == 5000


def test_a_request_that_is_cancelled_in_its_loop(api: Api, loop: Loop) -> None:
    import httpx

    async def work() -> None:
        transport = httpx.ASGITransport(api._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = {**STORY, "logit_bias": {"0": -100, "2": -100}, "n": 20}
            task = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    loop.run(work())
    assert api.service.driver.counts == (0, 0)


def test_a_stream_keeps_no_token_that_was_sent(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    done = ChatVoice.done
    monkeypatch.setattr(ChatVoice, "done", lambda *a: kept.extend(len(c.tokens) for c in a[1]) or done(*a))
    *_, usage, _end = events(api.chat(STORY, n=2, stream=True, logprobs=True, stream_options={"include_usage": True}))
    assert usage["usage"]["completion_tokens"] > 20
    assert kept == [0, 0]


def test_many_tokens_do_not_stop_the_loop(api: Api, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    whole = ChatVoice.whole

    def told(*arguments: Any) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return whole(*arguments)

    monkeypatch.setattr(ChatVoice, "whole", told)
    for fields in ({}, {"logprobs": True}):
        assert ok(api.chat(STORY, max_tokens=2, n=2, **fields))["choices"][1]["index"] == 1
    assert [thread is loop._thread for thread in threads] == [True, False]


@pytest.mark.parametrize("part", ["begin", "end"])
def test_a_bug_in_a_stream_is_its_last_event(part: str, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise KeyError("bug")

    monkeypatch.setattr(ChatVoice, part, broken)
    last = events(api.chat(STORY, stream=True, max_tokens=2))[-1]
    assert last["error"]["message"] == "an error of the server, see its log"


def test_a_name_that_is_no_text(loop: Loop) -> None:
    service = serving(demo_engine(), model_id="caf\udce9")
    assert ok(Api(service, loop).get("/v1/models"))["data"][0]["id"] == "caf\ufffd"
    assert text_of(Api(service, loop).chat(STORY, max_tokens=2)) is not None
    service.driver.close()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": "a " * 40_000}, "prompt"),
        ("/v1/responses", {"input": "a " * 40_000}, "input"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a " * 40_000}]}, "messages"),
        ("/v1/completions", {"prompt": ["a"] * 1024, "n": 100}, "prompt"),
    ],
)
def test_the_field_that_is_too_long(path: str, body: dict[str, Any], param: str, api: Api) -> None:
    refused(api.post(path, body), param)


def test_a_failure_is_not_the_grammar_s(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another answer has come to its end before the event loop hears of it."""
    with monkeypatch.context() as patch:
        patch.setattr(Driver, "failure", property(lambda _: None, lambda *_: None), raising=False)
        failing(api.service, patch, after=0)
        error = refused(api.chat(grammar='root ::= "a"+'), status=500, says="the model failed: the device is gone")
    assert error["code"] == "model_failed"


def test_a_logit_is_not_the_grammar_s(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nan(*_: object, **__: object) -> Drawn:
        return Drawn([-1], [False], {0: "a logit is NaN or +inf; no token was drawn"})

    monkeypatch.setattr(Context, "draw", nan)
    refused(api.chat(grammar='root ::= "a"+'), status=500, says="the model failed: a logit is NaN or +inf")
    assert caplog.messages == ["a request failed: a logit is NaN or +inf; no token was drawn"]


def test_who_runs_the_server_is_told_of_what_fails_and_no_more(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise errors.pop()

    errors = [Busy("full"), InvalidInput("wrong"), ModelFailed("no memory")]
    monkeypatch.setattr(api.service.engine, "submit", fails)
    assert [api.chat().status_code for _ in range(3)] == [500, 400, 503]
    assert caplog.messages == ["no memory"]


def test_what_came_at_once_with_a_failure_is_told_before_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    coming = Job.events

    async def at_once(job: Job) -> AsyncIterator[list[Event]]:
        yield [event async for found in coming(job) for event in found]

    monkeypatch.setattr(Job, "events", at_once)
    failing(api.service, monkeypatch, after=5)
    monkeypatch.setattr(api.service.driver, "failure", None)  # nor afterwards
    *chunks, last = events(api.chat(STORY, seed=1, stream=True))
    assert last["error"]["message"] == "the model failed: the device is gone"
    assert sum(bool(chunk["choices"][0]["delta"]["content"]) for chunk in chunks) == 5


def test_an_answer_that_is_cut_off_by_the_end_of_the_engine(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = api.service.engine.submit(Request([1], max_tokens=5))
    generation.cancel()

    async def ended(job: Job) -> AsyncIterator[list[Event]]:
        yield [(0, generation.result())]

    monkeypatch.setattr(Job, "events", ended)
    assert refused(api.chat(STORY), status=503, says="shutting down")["code"] == "shutting_down"


WIDE = {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(5100)}}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (
            "/v1/chat/completions",
            {**STORY, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": WIDE}}},
            "response_format",
        ),
        (
            "/v1/responses",
            {"input": "hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": WIDE}}},
            "text.format",
        ),
        (
            "/v1/completions",
            {"prompt": "hi", "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": WIDE}}},
            "response_format",
        ),
    ],
)
def test_the_field_that_cannot_be_followed(path: str, body: dict[str, Any], param: str, api: Api) -> None:
    """What llguidance gives up on in the midst of an answer."""
    refused(api.post(path, {**body, "seed": 1}), param, says=f"nothing that follows {param} can be drawn")
