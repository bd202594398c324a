"""The server beside the bare engine: throughput, time to first token, /health under load, and clients that hang up.

python benchmarks/serving.py                                     # the demo model, small counts
python benchmarks/serving.py --requests 512 --storm 10000 --connections 1000 -o benchmarks/serving_demo.json
python benchmarks/serving.py smollm2 --stock --connections 1000 -o benchmarks/serving.json

With --stock the time to first token is that of llama_cpp.server too, on the model without heads, its clients not
cutting each other off (pip install "llama-cpp-python[server]").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import autodeco_gguf as ad
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.model.shipped import DEMO_MODEL

NAMES = ("Mia", "Hugo", "Hanna", "Malik", "Ada", "Noor", "Ben", "Lea")
CHAT = "/v1/chat/completions"


def message(i: int) -> str:
    return f"Tell a story about {NAMES[i % len(NAMES)]} with {11 + i % 80} and {13 + i % 70}."


def body(i: int, max_tokens: int, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": message(i)}]
    return {"messages": messages, "seed": i, "max_tokens": max_tokens, **fields}


def bare_engine(model: str, n: int, parallel: int, max_tokens: int) -> dict[str, Any]:
    """Tokens/s of an engine that answers the same requests, and the answers."""
    with Engine(model, n_parallel=parallel, n_ctx=512) as engine:
        requests = [Request(engine.prompt(message(i)), seed=i, max_tokens=max_tokens) for i in range(n)]
        engine.generate(requests[:parallel])
        begun = time.perf_counter()
        results = engine.generate(requests)
        seconds = time.perf_counter() - begun
    tokens_s = sum(len(result.trace) for result in results) / seconds
    return {"tokens_s": tokens_s, "texts": [result.text for result in results]}


@contextmanager
def serving(module: str, *arguments: str) -> Iterator[str]:
    """A server in a process of its own; its URL."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        for line in child.stderr:
            url = re.search(r" on (http://[^ ]+)", line)
            if url is not None:
                threading.Thread(target=child.stderr.read, daemon=True).start()
                yield url[1].strip()
                break
        child.terminate()


@contextmanager
def stock(model: str) -> Iterator[str]:
    """llama_cpp.server with the base of a model."""
    file = ad.ModelFile.open(Path(model))
    with tempfile.TemporaryDirectory() as directory:
        base = file.base().path
        if file.heads_source.head_tensors and file.known is None:
            base = Path(directory) / "base.gguf"
            ad.extract(file.path, base=base)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        flags = ["--model", str(base), "--port", port, "--n_ctx", "512", "--n_threads", str(os.cpu_count())]
        with serving("llama_cpp.server", *flags, "--interrupt_requests", "false") as url:
            yield url


async def pool(n: int, clients: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Do ``work(i)`` for i below n, so many at a time."""
    numbers = iter(range(n))

    async def client() -> None:
        for i in numbers:
            await work(i)

    await asyncio.gather(*(client() for _ in range(clients)))


async def throughput(http: httpx.AsyncClient, n: int, parallel: int, max_tokens: int, expected: list[str]) -> float:
    """Tokens/s of answers that are not streamed, as many at a time as the engine answers and some that wait."""
    n_tokens = 0

    async def ask(i: int) -> None:
        nonlocal n_tokens
        answer = (await http.post(CHAT, json=body(i, max_tokens))).json()
        n_tokens += answer["usage"]["completion_tokens"]
        assert answer["choices"][0]["message"]["content"] == expected[i], f"answer {i} differs from the engine's"

    await pool(parallel, parallel, ask)
    n_tokens, begun = 0, time.perf_counter()
    await pool(n, parallel + 4, ask)
    return n_tokens / (time.perf_counter() - begun)


async def first_tokens(http: httpx.AsyncClient, n: int, clients: int, max_tokens: int) -> list[float]:
    """Seconds to the first text of each of so many streams."""
    first = []

    async def ask(i: int) -> None:
        begun, waiting = time.perf_counter(), True
        async with http.stream("POST", CHAT, json=body(i, max_tokens, stream=True)) as response:
            async for line in response.aiter_lines():
                if waiting and "content" in line and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    first.append(time.perf_counter() - begun)
                    waiting = False

    await pool(n, clients, ask)
    return first


async def under_load(http: httpx.AsyncClient, n: int, clients: int, max_tokens: int) -> dict[str, float]:
    """Seconds to the first token of streams, and of /health meanwhile."""
    health, busy = [], True

    async def look() -> None:
        while busy:
            begun = time.perf_counter()
            await http.get("/health")
            health.append(time.perf_counter() - begun)
            await asyncio.sleep(0.01)

    looking = asyncio.ensure_future(look())
    first = await first_tokens(http, n, clients, max_tokens)
    busy = False
    await looking
    return {
        "first_token_median_s": statistics.median(first),
        "first_token_p99_s": quantile(first, 0.99),
        "health_median_s": statistics.median(health),
        "health_p99_s": quantile(health, 0.99),
    }


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


async def storm(http: httpx.AsyncClient, n: int, clients: int, max_tokens: int, share: float) -> dict[str, int]:
    """Streams of which a share hangs up after some tokens; what comes of the others must be what it is alone."""
    alone, found = {}, {"completed": 0, "hung_up": 0, "wrong": 0, "refused": 0, "cut": 0}
    kinds = 64  # different requests

    async def text(i: int, hang_up_after: int | None = None) -> str | None:
        parts, done = [], False
        async with http.stream("POST", CHAT, json=body(i, max_tokens, stream=True)) as response:
            if response.status_code == 503:
                found["refused"] += 1
                return None
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: "):
                    parts.append(json.loads(line[6:])["choices"][0]["delta"].get("content", ""))
                if hang_up_after is not None and len(parts) > hang_up_after:
                    found["hung_up"] += 1
                    return None
        found["cut"] += not done
        return "".join(parts)

    for i in range(kinds):
        alone[i] = await text(i)
    draw = random.Random(1)

    async def ask(i: int) -> None:
        given = await text(i % kinds, draw.randrange(20) if draw.random() < share else None)
        if given is not None:
            found["completed"] += 1
            found["wrong"] += given != alone[i % kinds]

    await pool(n, clients, ask)
    health = (await http.get("/health")).json()
    assert (health["running"], health["waiting"]) == (0, 0), health
    return found


async def at_once(url: str, n: int) -> dict[str, int]:
    """Statuses of so many connections at the same time."""
    found: dict[str, int] = {}
    limits = httpx.Limits(max_connections=n)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as http:

        async def ask(i: int) -> None:
            try:
                status = str((await http.post(CHAT, json=body(i, 4))).status_code)
            except httpx.TransportError as e:
                status = type(e).__name__
            found[status] = found.get(status, 0) + 1

        await asyncio.gather(*(ask(i) for i in range(n)))
    return found


def rounds(options: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    """Tokens/s of the bare engine and of the server in turn, and the median of their ratios.

    Each time in a process of its own: what one gets of the machine differs by ten percent from the next.
    """
    found = []
    for _ in range(options.rounds):
        values = options.model, options.requests, options.parallel, options.tokens
        alone = f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import serving"
        alone += f"; print(json.dumps(serving.bare_engine{values!r}))"
        bare = json.loads(subprocess.check_output([sys.executable, "-c", alone]))
        with serving("autodeco_gguf", *flags) as url:
            found.append((bare["tokens_s"], asyncio.run(measure_throughput(options, url, bare["texts"]))))
    ratios = [served / bare for bare, served in found]
    return {
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "bare_tok_s": [bare for bare, _ in found],
        "served_tok_s": [served for _, served in found],
    }


async def measure_throughput(options: argparse.Namespace, url: str, expected: list[str]) -> float:
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http:
        return await throughput(http, options.requests, options.parallel, options.tokens, expected)


async def measure(options: argparse.Namespace, url: str) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=options.clients + options.parallel + 8)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as http:
        found = {
            "under_load": await under_load(http, options.requests, options.clients, options.tokens),
            "storm": await storm(http, options.storm, options.clients, options.tokens, 0.3),
        }
    return {**found, "at_once": await at_once(url, options.connections)}


async def measure_stock(options: argparse.Namespace, url: str) -> dict[str, float]:
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as http:
        await first_tokens(http, 1, 1, options.tokens)
        first = await first_tokens(http, 2 * options.parallel, options.parallel, options.tokens)
        return {"median_s": statistics.median(first), "p99_s": quantile(first, 0.99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(DEMO_MODEL))
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--storm", type=int, default=200)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    flags = ["serve", options.model, "--port", "0", "--ctx", "512"]
    flags += ["--parallel", str(options.parallel), "--queue", str(max(64, options.clients))]
    found = rounds(options, flags)
    with serving("autodeco_gguf", *flags) as url:
        found |= asyncio.run(measure(options, url))
        beside = asyncio.run(measure_stock(options, url)) if options.stock else {}
    if options.stock:
        with stock(options.model) as url:
            found["first_token_as_many_clients"] = {
                "ours": beside,
                "llama_cpp.server": asyncio.run(measure_stock(options, url)),
            }
    given = {name: str(value) for name, value in vars(options).items()} | {"model": Path(options.model).name}
    found |= {
        "options": given,
        "version": ad.__version__,
        "machine": platform.platform(),
        "python": platform.python_version(),
    }
    text = json.dumps(found, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
