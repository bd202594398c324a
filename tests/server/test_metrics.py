"""Counts."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_helpers import STORY, Api, Loop, demo_engine, events, failing, ok, refused, serving

from autodeco_gguf.server.chat import ChatVoice
from autodeco_gguf.server.driver import Driver


def values(api: Api) -> dict[str, float]:
    families = text_string_to_metric_families(api.get("/metrics").text)
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def test_tokens_are_counted(api: Api) -> None:
    before = values(api)
    ok(api.chat(STORY, seed=1, n=2, max_tokens=4))
    events(api.chat(STORY, seed=1, max_tokens=3, stream=True))
    after = values(api)
    assert after["autodeco_completion_tokens_total"] - before["autodeco_completion_tokens_total"] == 11
    assert after["autodeco_prompt_tokens_total"] - before["autodeco_prompt_tokens_total"] == 44
    assert after["autodeco_first_token_seconds_count"] - before["autodeco_first_token_seconds_count"] == 1
    assert after["autodeco_request_seconds_count"] - before["autodeco_request_seconds_count"] == 2
    assert after["autodeco_cancelled_total"] == before["autodeco_cancelled_total"]
    assert (after["autodeco_running"], after["autodeco_waiting"]) == (0, 0)


def test_running_and_waiting_are_told_apart(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "counts", (2, 3))
    found = values(api)
    assert (found["autodeco_running"], found["autodeco_waiting"]) == (2, 3)


def test_what_is_drawn_for_who_goes_away_is_counted(api: Api, loop: Loop) -> None:
    before = values(api)

    async def work() -> None:
        transport = httpx.ASGITransport(api._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = {**STORY, "logit_bias": {"0": -100, "2": -100}}
            task = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
            while not any(job.n_drawn for job in list(api.service.driver._jobs)):
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    loop.run(work())
    after = values(api)
    assert after["autodeco_completion_tokens_total"] > before["autodeco_completion_tokens_total"]
    assert after["autodeco_cancelled_total"] - before["autodeco_cancelled_total"] == 1


def test_a_failure_is_nobody_who_goes_away(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    with demo_engine() as engine:
        api = Api(serving(engine), loop)
        failing(api.service, monkeypatch, 2)
        refused(api.chat(STORY), status=500)
        assert "error" in events(api.chat(STORY, stream=True))[-1]
        monkeypatch.setattr(ChatVoice, "begin", None)
        assert "error" in events(api.chat(STORY, stream=True))[-1]
        assert values(api)["autodeco_cancelled_total"] == 0
        monkeypatch.undo()
        api.service.driver.close()
