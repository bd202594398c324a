"""A server on a socket: clients that hang up, old protocols, its end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest
from broken import MAIN
from server_helpers import STORY, U, demo_engine, served, serving, wait_until

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.model.grammar import SchemaGrammar
from autodeco_gguf.server import formats
from autodeco_gguf.server.running import Protocol, Server, _OutOfFiles, address_of, bind
from autodeco_gguf.server.service import Service

ENDLESS = {**STORY, "seed": 1, "logit_bias": {"0": -100, "2": -100}}
"""An answer that fills the context: some hundred tokens."""


@pytest.fixture(scope="module")
def slow() -> Iterator[tuple[Service, str]]:
    """A server of 2 sequences, in which every token takes 20 ms."""
    with demo_engine(2) as engine:
        draw = engine._scheduler._draw

        def slowly() -> None:
            time.sleep(0.02)
            draw()

        engine._scheduler._draw = slowly  # type: ignore[method-assign]
        service = serving(engine, max_queue=2)
        with served(service) as url:
            yield service, url


def raw_request(body: dict[str, Any], version: str = "1.1", path: str = "/v1/chat/completions") -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while part := connection.recv(65536):
        found += part
    return found


def running(service: Service) -> int:
    return service.driver.counts[0]


# ---- hang-ups ----


def test_a_stream_that_is_killed(slow: tuple[Service, str]) -> None:
    service, url = slow
    with connected(url) as connection:
        connection.sendall(raw_request({**ENDLESS, "stream": True}))
        got = b""
        while got.count(b"data:") < 3:
            got += connection.recv(4096)
        assert running(service) == 1
    wait_until(lambda: running(service) == 0, 0.5)


def test_an_answer_that_nobody_waits_for(slow: tuple[Service, str]) -> None:
    service, url = slow
    with connected(url) as connection:
        connection.sendall(raw_request(ENDLESS))
        wait_until(lambda: running(service) == 1)
    wait_until(lambda: running(service) == 0, 0.5)
    told = b'{method="POST",path="/v1/chat/completions",status="499"}'  # it counts as no error of the server
    wait_until(lambda: told in service.metrics.text())


@pytest.mark.parametrize("stream", [True, False])
def test_killed_while_the_prompt_is_read(slow: tuple[Service, str], stream: bool) -> None:
    service, url = slow
    body = {"messages": [{"role": "user", "content": "1" * 480}], "stream": stream, "logprobs": True}
    with connected(url) as connection:
        connection.sendall(raw_request(body))
        wait_until(lambda: running(service) == 1)
    wait_until(lambda: running(service) == 0, 0.5)


def test_a_half_closed_socket_is_answered(slow: tuple[Service, str]) -> None:
    _, url = slow
    for version in ("1.1", "1.0"):
        for stream in (False, True):
            with connected(url) as connection:
                connection.sendall(raw_request({**STORY, "seed": 1, "stream": stream}, version))
                connection.shutdown(socket.SHUT_WR)
                answer = read_all(connection)
            assert b" 200 OK" in answer
            assert b" day" in answer
            assert answer.count(b"100 Continue") <= (version == "1.1")


def test_others_are_not_hurt(slow: tuple[Service, str]) -> None:
    _, url = slow
    found: list[str] = []

    def ask() -> None:
        answer = httpx.post(f"{url}/v1/chat/completions", json={**STORY, "seed": 3}, timeout=30, trust_env=False)
        found.append(answer.json()["choices"][0]["message"]["content"])

    ask()
    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(5):
        with connected(url) as connection:
            connection.sendall(raw_request({**ENDLESS, "stream": True}))
            connection.recv(100)
    thread.join(30)
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_a_stream_of_which_nothing_comes_while_its_client_goes(slow: tuple[Service, str], path: str) -> None:
    """It waits in the queue: nothing is written that would tell."""
    service, url = slow
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connected(url)).sendall(raw_request({**ENDLESS, "stream": True}))
        wait_until(lambda: running(service) == 2)
        with connected(url) as connection:
            connection.sendall(raw_request({**STORY, "stream": True, "model": "demo"}, path=path))
            wait_until(lambda: service.driver.counts[1] == 1)
            if path.startswith("/v1"):
                connection.recv(4096)  # a client that leaves something unread is seen at once
        wait_until(lambda: service.driver.counts[1] == 0, 3)
        assert running(service) == 2
    wait_until(lambda: running(service) == 0, 3)


@pytest.mark.parametrize(("path", "nothing"), [("/v1/chat/completions", b":\n\n"), ("/api/chat", b" ")])
def test_what_stands_between_parts_says_nothing(
    slow: tuple[Service, str], path: str, nothing: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a client that has closed its sending side, and reads on."""
    _, url = slow
    monkeypatch.setattr("autodeco_gguf.server.running._LOOKS_A_BEAT", 1)
    asked = {"seed": 1} if path.startswith("/v1") else {"options": {"seed": 1}}
    body = {**STORY, **asked, "stream": True, "model": "demo"}
    found = []
    for closes in (False, True):
        with connected(url) as connection:
            connection.sendall(raw_request(body, path=path).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            if closes:
                connection.shutdown(socket.SHUT_WR)
            chunks = read_all(connection).partition(b" 200 OK")[2].partition(b"\r\n\r\n")[2]
        assert chunks.count(b"\r\n%b\r\n" % nothing) >= 5 * closes
        content = b""
        while size := int(chunks.partition(b"\r\n")[0], 16):
            chunks = chunks.partition(b"\r\n")[2]
            content, chunks = content + chunks[:size], chunks[size + 2 :]
        lines = [line.removeprefix("data: ") for line in content.decode().split("\n") if line.strip() not in ("", ":")]
        found.append([json.loads(line) for line in lines if line != "[DONE]"])
    texts = ["".join(str(c.get("message") or c["choices"][0]["delta"]) for c in parts) for parts in found]
    assert texts[0] == texts[1]


def test_who_takes_nothing(slow: tuple[Service, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests in a row, no answer of which is read: what is to be written must not stay for ever."""
    _, url = slow
    monkeypatch.setattr("autodeco_gguf.server.running.WRITE_SECONDS", 0.3)
    closed, lost = [], Protocol.connection_lost
    monkeypatch.setattr(Protocol, "connection_lost", lambda p, e: closed.append(p.client) or lost(p, e))
    with connected(url) as connection:
        connection.sendall(b"GET /tokens.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000)  # 20 MB of answers
        wait_until(lambda: connection.getsockname() in closed, 20)
        assert read_all(connection).count(b"HTTP/1.1 200") < 2000


# ---- the queue ----


def test_a_full_queue(slow: tuple[Service, str]) -> None:
    service, url = slow
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        streams = []
        for n in range(4):
            request = client.build_request("POST", "/v1/chat/completions", json={**ENDLESS, "stream": True})
            streams.append(client.send(request, stream=True))
            wait_until(lambda n=n: sum(service.driver.counts) == n + 1)  # type: ignore[misc]
        assert client.get("/health").json() == {"status": "ok", "running": 2, "waiting": 2}
        refused = client.post("/v1/chat/completions", json=U)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "queue_full"
        long = {"messages": [{"role": "user", "content": "1" * 600}]}
        for stream in (False, True):  # which could not be answered either way
            assert client.post("/v1/chat/completions", json={**long, "stream": stream}).status_code == 400
        for stream in streams:
            stream.close()
        wait_until(lambda: sum(service.driver.counts) == 0, 1)
        assert client.post("/v1/chat/completions", json={**U, "max_tokens": 1}).status_code == 200


def test_grammars_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are compiled at a time, however many want that; and none of a client that has gone."""
    go, compiled = threading.Event(), list[object]()

    def slow(schema: object) -> SchemaGrammar:
        compiled.append(schema)
        assert go.wait(20)
        return SchemaGrammar({"const": 1})

    monkeypatch.setattr(formats, "SchemaGrammar", slow)
    asked = [
        ("/v1/chat/completions", {**U, "response_format": {"type": "json_object"}}),
        ("/v1/responses", {"input": "hi", "text": {"format": {"type": "json_object"}}}),
        ("/api/chat", {**U, "model": "demo", "format": "json", "stream": False}),
    ]
    with ExitStack() as stack:
        url = stack.enter_context(served(serving(stack.enter_context(demo_engine()))))
        stack.callback(go.set)
        stay = [stack.enter_context(connected(url)) for _ in asked]
        for connection, (path, body) in zip(stay, asked, strict=True):
            connection.sendall(raw_request(body, path=path).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            time.sleep(0.05)
        for _ in range(42):
            with connected(url) as connection:
                connection.sendall(raw_request({**asked[0][1], "user": "x" * 200_000}))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                time.sleep(0.01)
        assert httpx.post(f"{url}/v1/chat/completions", json={**U, "max_tokens": 1}, timeout=10).status_code == 200
        for path, body in asked[:2]:  # where nothing is compiled they need not wait
            text = json.loads(json.dumps(body).replace("json_object", "text"))
            assert httpx.post(url + path, json=text, timeout=10).status_code == 200
        assert len(compiled) == 2
        go.set()
        assert all(b" 200 OK" in read_all(connection) for connection in stay)
    assert len(compiled) == 3


# ---- old protocols, odd requests ----


def test_http_1_0(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(raw_request({**STORY, "seed": 1, "stream": True}, "1.0"))
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    for line in (b"content-type: text/event-stream", b"cache-control: no-cache", b"x-accel-buffering: no"):
        assert line in head.lower()
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")
    with connected(url) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in read_all(connection)


def test_events_come_one_by_one(slow: tuple[Service, str]) -> None:
    _, url = slow
    times = []
    with connected(url) as connection:
        connection.sendall(raw_request({**STORY, "seed": 1, "stream": True, "max_tokens": 10}, "1.0"))
        while connection.recv(65536):
            times.append(time.monotonic())
    assert len(times) >= 8
    assert times[-1] - times[0] > 0.1


def test_what_is_too_large(url: str) -> None:
    def ask(request: bytes) -> bytes:
        with connected(url) as connection, suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
            return connection.recv(4096)
        return b""

    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    assert b" 413 " in ask(head + b"Content-Length: 2147483648\r\n\r\n" + b"x" * 1000)
    assert b" 400 " in ask(head + b"X: " + b"x" * 65_536)[:20]
    assert ask(head + b"X: " + b"x" * 1_000_000)[8:13] in (b" 400 ", b"")  # or cut off
    chat = b'{"messages":[{"role":"user","content":"'
    for body in (chat + b"\\n" * (4 << 20) + b'"}]}', b"[" * 100_000, b'{"n":' + b"9" * 1_000_000 + b"}"):
        begun = time.monotonic()
        answer = ask(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert b" 400 " in answer or b" 413 " in answer
        assert time.monotonic() - begun < 5
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),  # https:// to a port without TLS
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http(url: str, request_: bytes) -> None:
    with connected(url) as connection:
        connection.sendall(request_)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert b" 400 " in head
    assert b"application/json" in head
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_a_body_that_turns_out_to_be_no_http(url: str, host: str, caplog: pytest.LogCaptureFixture) -> None:
    """What would have answered the request is not to write a traceback because it cannot."""
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    with connected(url) as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        assert b" 400 " in read_all(connection)[:20]
    assert httpx.get(f"{url}/health").status_code == 200
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert {*caplog.messages} == {"Invalid HTTP request received."}


def test_a_target_that_is_a_url(url: str) -> None:
    hosts = ("http://localhost:1", b" 200 "), ("http://evil.example", b" 403 "), ("HTTP://evil.example", b" 403 ")
    for host, status in hosts:
        with connected(url) as connection:
            connection.sendall(f"GET {host}/health HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            assert status in read_all(connection)[:20]


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_another_protocol_that_is_offered(url: str, protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """As Java's HttpClient does with every request."""
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "AAEAAEAA"}
    assert httpx.get(f"{url}/health", headers=headers).status_code == 200
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert caplog.messages == []


def test_a_connection_goes_on_after_errors(url: str) -> None:
    wrong = raw_request({}) + b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(url) as connection:
        connection.sendall(wrong + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = read_all(connection)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"400", b"404", b"200"]


def test_who_sends_too_slowly(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autodeco_gguf.server.running.HEAD_SECONDS", 0.2)
    monkeypatch.setattr("autodeco_gguf.server.guard.BODY_SECONDS", 0.2)
    for begun in (b"", b"GET /hea"):
        with connected(url) as connection:
            connection.sendall(begun)
            assert read_all(connection) == b""
    with connected(url) as connection:  # a second head
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET")
        assert read_all(connection).count(b"HTTP/1.1") == 1
    with connected(url) as connection:
        connection.sendall(raw_request(U)[:-5])
        answer = read_all(connection)
        assert b" 408 " in answer[:20]
        assert b"\r\nconnection: close\r\n" in answer
    for head in ("POST /nowhere", "GET /health"):  # answered before its body came, which nobody waits for
        with connected(url) as connection:
            connection.sendall(f"{head} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 100\r\n\r\n".encode())
            assert b" 403 " in connection.recv(20)
            connection.sendall(b"x")
            read_all(connection)
    with connected(url) as connection:  # an answer may take longer
        connection.sendall(raw_request({**ENDLESS, "n": 4}, "1.0"))
        assert b" 200 " in read_all(connection)[:20]


def test_8_megabytes_of_newlines(url: str) -> None:
    body = {"messages": [{"role": "user", "content": "\n" * (4_100_000)}]}
    begun = time.monotonic()
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=20, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert time.monotonic() - begun < 5


# ---- addresses ----


def test_an_address_in_use() -> None:
    (first,) = bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(AutoDecoError, match=rf"127\.0\.0\.1:{port}: cannot listen"):
        bind("127.0.0.1", port)
    first.close()


def test_addresses_of_version_6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    for host in ("::1", "[::1]"):
        (listening,) = bind(host, 0)
        assert address_of(listening).startswith("http://[::1]:")
        listening.close()


def test_a_name_of_which_one_address_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers localhost is often ::1 too, where there is no IPv6."""
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("192.0.2.1", "127.0.0.1", "198.51.100.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    (listening,) = bind("localhost", 0)
    assert address_of(listening).startswith("http://127.0.0.1:")
    listening.close()
    del found[1]
    with pytest.raises(AutoDecoError, match=r"^localhost:0: cannot listen: "):
        bind("localhost", 0)


def test_an_address_of_others() -> None:
    for host in ("192.0.2.1", "no.such.host.invalid", "a..b", "a" * 70):
        with pytest.raises(AutoDecoError, match=host):
            bind(host, 0)


# ---- the end ----


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", MAIN, "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stderr is not None
            lines: list[str] = []
            while not lines or " on http" not in lines[-1]:
                lines.append(child.stderr.readline())
                assert lines[-1], lines
            yield child, lines[-1].split()[-1]
        finally:
            child.kill()


def test_a_line_for_each_request_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with process("--log-requests") as (child, url):
        httpx.get(f"{url}/health?a=b", trust_env=False)
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
        assert child.stderr is not None
        assert child.stderr.read().count('"GET /health?a=b HTTP/1.1" 200 OK\n') == 1
    assert capfd.readouterr().out == ""


def test_standard_output_may_be_closed(slow: tuple[Service, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    Server(slow[0], [], drain_s=1, access_log=False)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
def test_a_signal_drains(number: int, status: int) -> None:
    with process() as (child, url), httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        body = {**STORY, "seed": 1, "stream": True, "n": 40}
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            os.kill(child.pid, number)
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""]
        assert sum('"finish_reason":"stop"' in line for line in rest) == 40
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health", trust_env=False)
        assert child.wait(10) == status
        assert child.stderr is not None
        assert "Traceback" not in child.stderr.read()


def test_answers_that_do_not_end_in_time_are_told() -> None:
    with process("--drain", "1", "--queue", "500") as (child, url), ThreadPoolExecutor() as pool:

        def ask(stream: bool) -> httpx.Response:
            body = {**ENDLESS, "n": 128, "stream": stream}
            return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30, trust_env=False)

        def waiting() -> float:
            found = re.search(
                r"^autodeco_waiting (\S+)", httpx.get(f"{url}/metrics", trust_env=False).text, re.MULTILINE
            )
            return float(found[1]) if found else 0

        answers = [pool.submit(ask, stream) for stream in (True, False)]
        wait_until(lambda: waiting() > 128)
        child.send_signal(signal.SIGTERM)
        streamed, whole = (answer.result() for answer in answers)
        assert child.wait(10) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "shutting_down")
    assert streamed.status_code == 200
    last = [line for line in streamed.text.splitlines() if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"


def test_a_second_ctrl_c_cuts() -> None:
    with process() as (child, url), connected(url) as connection:
        connection.sendall(raw_request({**ENDLESS, "n": 128, "stream": True}))
        connection.recv(100)
        begun = time.monotonic()
        child.send_signal(signal.SIGINT)
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
        assert time.monotonic() - begun < 8
        assert child.stderr is not None
        assert "Traceback" not in child.stderr.read()


def test_files_that_are_used_up_are_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async def many() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_OutOfFiles())
        for message in ["socket.accept() out of system resource"] * 50 + ["another", "another"]:
            loop.call_exception_handler({"message": message})

    asyncio.run(many())
    told = [record.getMessage() for record in caplog.records]
    assert told == ["socket.accept() out of system resource", "another", "another"]
