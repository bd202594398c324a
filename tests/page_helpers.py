"""A small server that serves the page and says what a test wants; pages that are watched."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CSP = "default-src 'self'"
TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


def token(text: str, temperature: float = 0.5, top_p: float = 0.9, **more: Any) -> dict[str, Any]:
    """Trace JSON."""
    values = {"entropy": 1.25, "nucleus": 7, "prob": 0.625}
    return {"id": len(text), "text": text, "temperature": temperature, "top_p": top_p, **values, **more}


def chunk(*tokens: dict[str, Any], finish: str | None = None, content: str | None = None) -> bytes:
    """An event of a stream; ``content``: where it is not the text of its tokens."""
    text = "".join(t["text"] for t in tokens) if content is None else content
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    choice["autodeco"] = {"tokens": list(tokens), "source": "heads"}
    return b"data: " + json.dumps({"choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
OTHERS = [
    {"id": 594, "text": "Near", "logprob": -0.5, "prob": 0.625},
    {"id": 7, "text": " Lena", "logprob": -1.5, "prob": 0.375},
    {"id": 8, "text": "\n", "logprob": -4.0, "prob": 0.0},
]
STORY = [
    token("Near", 0.297, 0.823, id=594, logprob=-0.5, alternatives=OTHERS),
    token(" the", 1.9, 0.2),
    token(" café", 1.0, 1.0),
    token(" 🙂", 0.03, 0.5),
    token(".", 0.6, 0.55),
]


@dataclass
class Reply:
    """What the server says: pieces, with a pause after each; it may wait for ``go`` before piece ``gate``."""

    pieces: Iterable[bytes]
    pause: float = 0.0
    status: int = 200
    kind: str = "text/event-stream"
    gate: int | None = None
    go: threading.Event = field(default_factory=threading.Event)


def story(*tokens: dict[str, Any]) -> Reply:
    """A whole answer, a token a chunk."""
    return Reply([*map(chunk, tokens or STORY), chunk(finish="stop"), DONE])


class Fake:
    """Serves the static files and, to a question, what ``reply`` makes of its body."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.props: dict[str, Any] = {"model": "demo", "heads": ["temperature", "top_p"]}
        self.key: str | None = None
        self.cut = threading.Event()  # a client has gone
        self.reply: Callable[[dict[str, Any]], Reply] = lambda body: story()


class Handler(BaseHTTPRequestHandler):
    fake: Fake

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, content: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", CSP)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        name = self.path.strip("/") or "index.html"
        if name == "props":
            is_known = self.fake.key is None or self.headers["Authorization"] == f"Bearer {self.fake.key}"
            props = self.fake.props if is_known else {"error": {"message": "no API key"}}
            return self._send(json.dumps(props).encode(), "application/json", 200 if is_known else 401)
        path = Path(str(files("autodeco_gguf.view") / "static" / name))
        if not path.is_file():
            return self._send(b"", "text/plain", 404)
        return self._send(path.read_bytes(), TYPES[path.suffix[1:]])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.bodies.append(body)
        self.fake.keys.append(self.headers["Authorization"])
        reply = self.fake.reply(body)
        self._send(b"", reply.kind, reply.status)
        try:
            for number, piece in enumerate(reply.pieces):
                if number == reply.gate:
                    reply.go.wait(10)
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(reply.pause)
        except OSError:
            self.fake.cut.set()


# ---- a page ----


class Watched:
    """Pages of which nothing may be said on the console, and which may ask nobody but their own server."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.said: list[str] = []
        self.asked: list[str] = []

    def open(self, url: str, **options: Any) -> Page:
        context = self._browser.new_context(**options)
        context.set_default_timeout(10_000)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: self.said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.said.append(str(e)))
        page.on("request", lambda r: self.asked.append(r.url))
        page.goto(url)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


def ask(page: Page, text: str = "Tell a story") -> None:
    """Ask, and wait for the end of the answer."""
    before = page.locator(".turn.assistant").count()
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    page.locator(".turn.assistant").nth(before).locator(".again").wait_for()


def text_of(page: Page) -> str:
    return "".join(page.locator(".turn.assistant").last.locator(".tok").all_text_contents())


def seed_of(page: Page) -> str:
    return page.locator(".turn.assistant").last.locator(".buttons button").first.inner_text().removeprefix("seed ")
