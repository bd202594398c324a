"""A server lives on when a worker is lost, says so, and works again once the worker is back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from rpc_helpers import addresses, at_command, kill, needs_rpc, restarted, running
from server_helpers import served, wait_until

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.rpc import protocol
from autodeco_gguf.model.rpc.worker import Worker
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.server import revival
from autodeco_gguf.server.service import Service, load
from autodeco_gguf.server.settings import ServerSettings

pytestmark = needs_rpc


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revival, "LOOK_SECONDS", 0.1)


@contextmanager
def server(workers: list[Worker]) -> Iterator[httpx.Client]:
    machine = Machine(n_threads=1, device=("none",), rpc=addresses(workers), rpc_timeout=20.0)
    with (
        load(DEMO_MODEL, None, 4, None, machine) as engine,
        served(Service(engine, ServerSettings(model_id="demo"))) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


BODY = {"model": "demo", "messages": [{"role": "user", "content": "Tell a story about Mia"}], "seed": 1}


def ask(client: httpx.Client, **fields: object) -> httpx.Response:
    return client.post("/v1/chat/completions", json={**BODY, "max_tokens": 8, **fields})


def text(client: httpx.Client) -> str:
    answer = ask(client)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def error(client: httpx.Client, **fields: object) -> tuple[int, str, str]:
    answer = ask(client, **fields)
    found = answer.json()["error"]
    assert answer.headers["retry-after"] == "1"
    return answer.status_code, found["code"], found["message"]


def test_streams_end_and_all_works_again_once_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(2) as workers, server(workers) as client:
        before = text(client)
        assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
        at_command(monkeypatch, [protocol.GET_TENSOR], 30, lambda: kill(workers[1]))
        stream = ask(client, stream=True, max_tokens=150)
        *pieces, last = [line for line in stream.text.split("\n\n") if line]
        assert stream.status_code == 200
        assert len(pieces) > 3
        assert f"worker {workers[1].address}: lost: " in last
        assert '"error"' in last
        name = f"worker {workers[1].address}: lost: "
        status, code, message = error(client)
        assert (status, code) == (503, "worker_lost")
        assert message.startswith(name)
        health = client.get("/health").json()
        assert health["status"] == "degraded"
        assert health["error"].startswith(name)
        again = restarted(workers[1])
        try:
            wait_until(lambda: client.get("/health").json()["status"] == "ok", 20)
            assert text(client) == before
        finally:
            again.close()


def test_lost_between_requests_and_again_and_again() -> None:
    with running(1) as (worker,), server([worker]) as client:
        before = text(client)
        for _ in range(3):
            worker.close()
            wait_until(lambda: client.get("/health").json()["status"] == "degraded", 20)
            assert error(client)[:2] == (503, "worker_lost")
            assert client.get("/v1/models").status_code == 200  # what needs no model goes on
            worker = restarted(worker)
            wait_until(lambda: client.get("/health").json()["status"] == "ok", 20)
            assert text(client) == before
        worker.close()


def test_a_whole_answer_that_was_under_way_is_told_of_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(1) as (worker,), server([worker]) as client:
        at_command(monkeypatch, [protocol.GET_TENSOR], 30, lambda: kill(worker))
        status, code, message = error(client, max_tokens=150)
        assert (status, code) == (503, "worker_lost")
        assert message.startswith(f"the model failed: worker {worker.address}: lost: ")


def test_tokens_while_the_model_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed then."""
    asked = (("/tokenize", {"content": "abc"}), ("/detokenize", {"tokens": [1200 - 1]}))
    with load(DEMO_MODEL, None, 1, None, Machine(n_threads=1)) as engine:
        service = Service(engine, ServerSettings(model_id="demo"))
        with served(service) as url, httpx.Client(base_url=url, timeout=60) as client:
            engine.context.close()
            monkeypatch.setattr(Engine, "lost", property(lambda _: "worker x:1: lost: gone"))
            answers = [client.post(path, json=body) for path, body in asked] + [client.get("/tokenizer_info")]
    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "worker_lost"


def test_a_load_ends_where_nobody_needs_it_any_more() -> None:
    """It may take minutes, and a server that is told to end has seconds."""
    with running(1) as (worker,):
        machine = Machine(n_threads=1, device=("none",), rpc=addresses([worker]), rpc_timeout=20.0)
        with load(DEMO_MODEL, None, 1, None, machine) as engine:
            look = revival.Revival(engine)
            worker.close()
            wait_until(lambda: engine.lost is not None, 20)
            again = restarted(worker)
            try:
                look.ended = True
                assert not look.look()
                assert engine.lost is not None
                look.ended = False
                assert look.look()
                assert engine.lost is None
            finally:
                again.close()


def test_a_loss_leaves_no_connection_behind() -> None:
    """Heads that stayed on the worker kept theirs, with a thread each."""

    def n_serving() -> int:
        return sum(thread.name.startswith("relay") for thread in threading.enumerate())

    with running(1) as (worker,):
        machine = Machine(n_threads=1, device=("none",), rpc=addresses([worker]), rpc_timeout=20.0)
        with load(DEMO_MODEL, None, 1, None, machine) as engine:
            request = Request(engine.prompt("Tell"), max_tokens=2)
            engine.generate([request])
            before = n_serving()
            for n in range(1, 4):
                worker.close()
                wait_until(lambda: engine.lost is not None, 20)
                worker = restarted(worker)
                engine.reload()
                engine.generate([request])
                most = before + n  # a listener holds the port, which ggml remembers
                wait_until(lambda most=most: n_serving() <= most, 20)  # type: ignore[misc]
            worker.close()


def test_what_is_in_the_way_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def reload() -> None:
        raise ModelFailed("nobody listens there")

    engine: Any = SimpleNamespace(lost="worker x:1: lost: gone", machine=Machine(rpc=("x:1",)), reload=reload)
    look = revival.Revival(engine)
    assert [look.look() for _ in range(3)] == [False] * 3
    assert [record.message for record in caplog.records] == [
        "worker x:1: lost: gone; waiting for it, the model is not loaded: nobody listens there"
    ]


def test_without_workers_there_is_nothing_to_look_for() -> None:
    with load(DEMO_MODEL, None, 1, None, Machine(n_threads=1)) as engine:
        look = revival.Revival(engine)
        assert (look.interval, look.look(), look.check()) == (None, False, None)
