"""Whether memory grows: the demo model answering for hours, or a million requests to a server of a tiny one.

``python tests/hostile/growth.py demo --hours 2 --record demo.jsonl`` takes a tenth of a core; ``... server --requests
1000000 --record server.jsonl`` all of one. Each line of the record is a sample; at the end comes a slope.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import LlamaGrammar

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

import autodeco_gguf as ad
from autodeco_gguf.model.machine import Machine
from hostile.cases import FIXTURES, TEMPLATE
from hostile.gguf_bytes import STRING, Gguf, text
from hostile.worker import memory

NAMES = ("Mia", "Tom", "Zoë", "Ali")
GRAMMAR = 'root ::= [a-z ]+ "."'
Round = Callable[[random.Random], int]
"""Some work; returns how many requests it answered."""


class Halfway(Exception):
    """Raised in a callback."""


# ---- the demo model ----


@contextmanager
def demo() -> Iterator[Round]:
    """All ways to ask a model: in batches, alone, with a grammar, cancelled, dropped, with a callback that raises."""
    from autodeco_gguf.model.shipped import DEMO_MODEL

    with ad.Engine(DEMO_MODEL, n_parallel=4, machine=Machine(n_threads=1)) as engine:
        llm = ad.Llama(DEMO_MODEL, n_ctx=256, n_threads=1, verbose=False)

        def work(rng: random.Random) -> int:
            messages = [f"Tell a story about {rng.choice(NAMES)} with {rng.randrange(99)} and 38." for _ in range(4)]
            grammar = LlamaGrammar.from_string(GRAMMAR, verbose=False)
            ways: list[dict[str, Any]] = [
                {},
                {"temperature": 0.7, "top_p": 0.9},
                {"entropy": True, "top": 3},
                {"grammar": grammar, "stop": "."},
            ]
            asked = [
                ad.Request(engine.prompt(m), seed=rng.randrange(1 << 30), max_tokens=rng.randrange(2, 60), **way)
                for m, way in zip(messages, ways, strict=True)
            ]
            engine.generate(asked)
            dropped = engine.as_completed(asked)
            next(dropped)
            dropped.close()
            chat: list[Any] = [{"role": "user", "content": messages[0]}]
            llm.create_chat_completion(chat, max_tokens=30)
            stream = llm.create_chat_completion(chat, max_tokens=30, stream=True)
            next(stream)
            stream.close()
            _raising(llm, messages[1])
            return len(asked) * 2 + 3

        yield work
        llm.close()


def _raising(llm: ad.Llama, prompt: str) -> None:
    def processor(tokens: Any, logits: Any) -> Any:
        raise Halfway

    try:
        llm(prompt, max_tokens=3, logits_processor=[processor])
    except Halfway:
        return
    raise AssertionError("the exception of a callback is lost")


# ---- a server ----


@contextmanager
def server() -> Iterator[Round]:
    """The whole HTTP application, without a socket, over an engine of a model of a few thousand weights."""
    from autodeco_gguf.server.app import create_app
    from autodeco_gguf.server.service import Service, load
    from autodeco_gguf.server.settings import ServerSettings

    with tempfile.TemporaryDirectory() as directory:
        base = Gguf.read(FIXTURES / "fixtures/qwen2/base.gguf")
        base.set(b"tokenizer.chat_template", STRING, text(TEMPLATE))
        (Path(directory) / "base.gguf").write_bytes(base.bytes())
        model = ad.export(Path(directory) / "base.gguf", FIXTURES / "fixtures/qwen2/heads", Path(directory) / "m.gguf")
        engine = load(model.path, None, 8, 64, Machine(n_threads=1))
        service = Service(engine, ServerSettings(model_id="tiny"))
        app, loop = create_app(service), asyncio.new_event_loop()
        try:
            yield lambda rng: loop.run_until_complete(_ask_all(app, rng))
        finally:
            loop.close()
            service.driver.close()
            engine.close()


async def _ask_all(app: Any, rng: random.Random) -> int:
    bodies = [_body(rng) for _ in range(64)]
    found = await asyncio.gather(*(_ask(app, path, body) for path, body, _ in bodies))
    wrong = [(body, status) for (_, body, wanted), status in zip(bodies, found, strict=True) if status != wanted]
    assert not wrong, wrong[0]
    return len(bodies)


def _body(rng: random.Random) -> tuple[str, dict[str, Any], int]:
    """A path, what is asked there, and the status that is due."""
    seed, n = rng.randrange(1 << 30), rng.randrange(1, 4)
    way = rng.randrange(8)
    if way == 0:
        return "/v1/completions", {"prompt": "a b", "max_tokens": n, "temperature": -1}, 400
    if way == 1:
        return "/v1/completions", {"prompt": "a " * 200, "max_tokens": n}, 400
    if way in (2, 3):
        chat = [{"role": "user", "content": f"a b {seed}"}]
        return "/v1/chat/completions", {"messages": chat, "max_tokens": n, "seed": seed, "stream": way == 3}, 200
    body = {"prompt": f"{seed % 97} b", "max_tokens": n, "seed": seed, "stream": way == 4}
    return "/v1/completions", body | ({"temperature": 0.5, "top_p": 0.9} if way == 5 else {}), 200


async def _ask(app: Any, path: str, body: dict[str, Any]) -> int:
    """The status of an answer that has been read to its end."""
    content, status = json.dumps(body).encode(), 0
    length = b"%d" % len(content)
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", length)]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
             "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers,
             "client": ("127.0.0.1", 1), "server": ("localhost", 8080)}  # fmt: skip
    sent, ended = False, asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await ended.wait()  # the client is there until it has its answer
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif not message.get("more_body"):
            ended.set()

    await app(scope, receive, send)
    return status


# ---- measuring ----


def slope(samples: list[tuple[float, float]]) -> float:
    """Of the line of least squares through (x, y) of the second half: at first the allocator finds its size."""
    last = samples[-1][0]
    late = [s for s in samples if s[0] >= last / 2]
    x, y = np.array(late if len(late) > 1 else samples[-2:]).T  # the last may have taken longer than all others
    return float(np.polyfit(x, y, 1)[0])


def summary(lines: list[dict[str, Any]]) -> str:
    """What grew by how much: of all that is resident, and of what the process has allocated, since pages of files
    come and go as the machine needs memory."""
    hours, requests = ([line[key] for line in lines] for key in ("hours", "requests"))
    text = f"{requests[-1]} requests in {hours[-1]:.2f} hours"
    for name, key in (("resident", "rss_mb"), ("allocated", "anon_mb")):
        found = [line[key] for line in lines]
        by_hour, by_request = (slope(list(zip(x, found, strict=True))) for x in (hours, requests))
        text += f"; {name} {found[0]:.1f} MB at first, {found[-1]:.1f} at last, {by_hour:+.2f} MB an hour, "
        text += f"{by_request * 1e6:+.2f} MB a million requests"
    return text


def watch(work: Round, *, seed: int, hours: float, requests: int, share: float, record: Path, every_s: float) -> str:
    """Work for so long, or so many requests, on a share of a core; one sample every so many seconds."""
    rng, lines, done = random.Random(seed), list[dict[str, Any]](), 0
    done = sum(work(rng) for _ in range(5))  # what is made once
    begin = last = time.monotonic()
    first = done
    with record.open("w") as file:
        while len(lines) < 3 or (time.monotonic() - begin < hours * 3600 and done - first < requests):
            cpu = time.process_time()
            done += work(rng)
            if not lines or time.monotonic() - last >= every_s:
                last = time.monotonic()
                rss, anon = (memory(name) / (1 << 20) for name in ("VmRSS", "RssAnon"))
                sample = {"hours": (last - begin) / 3600, "requests": done - first, "rss_mb": rss, "anon_mb": anon}
                lines.append(sample)
                print(json.dumps(lines[-1]), file=file, flush=True)
            time.sleep((time.process_time() - cpu) * (1 / share - 1))
    return summary(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("demo", "server"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours", type=float, default=2)
    parser.add_argument("--requests", type=int, default=1 << 62)
    parser.add_argument("--share", type=float, help="of a core; default: 0.1 for demo, 1 for server")
    parser.add_argument("--every", type=float, default=15, metavar="SECONDS", help="from one sample to the next")
    parser.add_argument("--record", type=Path, required=True)
    args = parser.parse_args()
    way, share = (demo, 0.1) if args.what == "demo" else (server, 1.0)
    given = {"seed": args.seed, "hours": args.hours, "requests": args.requests, "share": args.share or share}
    with way() as work:
        print(watch(work, **given, record=args.record, every_s=args.every))


if __name__ == "__main__":
    main()
