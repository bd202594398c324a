"""The page of the real server, with the demo model."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from page_helpers import Watched, ask, text_of

PROMPT = "Tell a story about Mia with 47 and 38."


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    command = [sys.executable, "-m", "autodeco_gguf", "serve", "--port", "0", "-t", "1"]
    place = tmp_path_factory.mktemp("served")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=place) as server:
        assert server.stderr is not None
        found = next(filter(None, (re.search(r"http://\S+:\d+", line) for line in server.stderr)))
        yield f"{found[0]}/"
        server.terminate()


def direct(url: str, seed: int) -> list[dict[str, Any]]:
    """The tokens of an answer, as the API has them."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "seed": seed, "max_tokens": 12}
    body |= {"autodeco": {"tokens": True, "top": 5}}
    request = urllib.request.Request(f"{url}v1/chat/completions", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
        tokens: list[dict[str, Any]] = json.load(response)["choices"][0]["autodeco"]["tokens"]
    return tokens


def bytewise(url: str) -> tuple[str, socket.socket]:
    """A proxy that passes a server's streams on byte by byte."""
    listening = socket.create_server(("127.0.0.1", 0))
    host, port = url.removeprefix("http://").strip("/").split(":")

    def passes(source: socket.socket, target: socket.socket) -> None:
        streams = False
        try:
            while data := source.recv(65536):
                streams = streams or b"text/event-stream" in data
                for i in range(len(data)) if streams else ():
                    target.sendall(data[i : i + 1])
                    time.sleep(0.0001)
                target.sendall(b"" if streams else data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            source.close()

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=passes, args=(client, server), daemon=True).start()
            threading.Thread(target=passes, args=(server, client), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/", listening


def test_an_answer_has_the_values_of_the_api(url: str, watched: Watched) -> None:
    tokens = direct(url, 5)
    proxied, listening = bytewise(url)
    for address in (url, proxied):
        page = watched.open(address)
        page.click("#settings summary")
        page.fill("#seed", "5")
        page.fill("#max-tokens", "12")
        page.click("#settings summary")
        ask(page, PROMPT)
        assert text_of(page) == "".join(token["text"] for token in tokens)
        assert page.locator(".tok").count() == len(tokens)
        for place in (0, len(tokens) // 2):
            page.locator(".tok").nth(place).hover()
            values = page.locator(".tip dd").all_text_contents()
            assert values[:2] == [f"{tokens[place][name]:.3f}" for name in ("temperature", "top_p")]
            assert page.locator(".tip tbody tr").count() == 5
    listening.close()
