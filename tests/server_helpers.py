"""A served demo model for the tests of server/: as an application in a loop of its own, and on a socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import pytest

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.server.app import create_app
from autodeco_gguf.server.running import Server, bind
from autodeco_gguf.server.service import Service, load
from autodeco_gguf.server.settings import ServerSettings

T = TypeVar("T")

U: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
"""A chat's body."""

STORY: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell a story about Mia with 47 and 38."}]}


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 30) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Api:
    """An application, asked without a socket. What the application raises is raised here."""

    def __init__(self, service: Service, loop: Loop) -> None:
        self.service, self._loop = service, loop
        self._app = create_app(service)

    def request(self, method: str, path: str, *, raise_app_exceptions: bool = True, **kwargs: Any) -> httpx.Response:
        async def work() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client:
                return await client.request(method, f"http://localhost:8080{path}", **kwargs)

        return self._loop.run(work())

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **kwargs)

    def raw(self, path: str, content: bytes, **kwargs: Any) -> httpx.Response:
        return self.request("POST", path, content=content, **kwargs)

    def chat(self, body: dict[str, Any] = U, **fields: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", {**body, **fields})

    def compl(self, **fields: Any) -> httpx.Response:
        return self.post("/v1/completions", fields)

    def resp(self, **fields: Any) -> httpx.Response:
        return self.post("/v1/responses", fields)


def ok(response: httpx.Response) -> Any:
    """The JSON of an answer that is right."""
    assert response.status_code == 200, response.text
    return response.json()


def text_of(response: httpx.Response) -> str:
    """The text of the first choice."""
    choice = ok(response)["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def refused(response: httpx.Response, param: str | None = None, status: int = 400, *, says: str = "") -> dict[str, Any]:
    """The error of an answer, in OpenAI's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert says in error["message"]
    assert "\n" not in error["message"]
    if param is not None:
        assert error["param"] == param, error
    return dict(error)


def events(response: httpx.Response) -> list[Any]:
    """What a stream of server-sent events says, as JSON; "[DONE]" as it stands."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream"
    lines = [line for line in response.text.split("\n\n") if line]
    datas = [line.split("data: ", 1)[1] for line in lines]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def lines(response: httpx.Response) -> list[Any]:
    """What a stream of JSON lines says."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def demo_engine(n_parallel: int = 4) -> Engine:
    return load(DEMO_MODEL, None, n_parallel, None)


@contextmanager
def served(service: Service) -> Iterator[str]:
    """A service on a socket of this machine; gives its URL."""
    sockets = bind("127.0.0.1", 0)
    server, started = Server(service, sockets, drain_s=5, access_log=False), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(started.set)), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


def serving(engine: Engine, **settings: Any) -> Service:
    return Service(engine, ServerSettings(**{"model_id": "demo", **settings}))


def wait_until(ready: Callable[[], bool], seconds: float = 5) -> None:
    """Wait; AssertionError when it takes too long."""
    done = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if ready():
            return
        done.wait(0.005)
    raise AssertionError("waited in vain")


def failing(service: Service, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the engine fail for the whole batch after so many steps."""
    scheduler = service.engine._scheduler
    draw, n = scheduler._draw, 0

    def step() -> None:
        nonlocal n
        n += 1
        if n > after:
            raise RuntimeError("the device is gone")
        draw()

    monkeypatch.setattr(scheduler, "_draw", step)
