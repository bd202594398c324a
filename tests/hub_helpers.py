"""As much of the Hugging Face hub as a download asks for, on this machine, and what can go wrong with one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from broken import Outcome, spawn
from http_helpers import serving

COMMIT = "0" * 40
BLOCK = 1 << 14


class Hub(ThreadingHTTPServer):
    """A repository u/r.

    Attributes:
        asked: the requests so far, each with its range.
        cut: bytes after which an answer ends, as a lost connection; ``comes_back``: whether there is another answer.
        pause: seconds after every 16 KiB.
        knows_range: whether a part can be had.
        etag: of a content.
        token: without which nothing is to be had; ``tokens``: those that came.
        warning: what it says in every answer.
        storage: where files are, if not here.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files, self.asked, self.tokens, self.commit = files, list[str](), set[str](), COMMIT
        self.cut: int | None = None
        self.comes_back, self.knows_range, self.pause = True, True, 0.0
        self.etag = lambda content: hashlib.sha256(content).hexdigest()
        self.token = self.warning = self.storage = ""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def downloads(self) -> list[str]:
        """The requests for content so far: "m.gguf 0-"; forgets them."""
        found = [match.expand(r"\1\2") for a in self.asked if (match := re.match(r"GET /u/r/resolve/\w+/(\S+)(.*)", a))]
        self.asked.clear()
        return found


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        hub, asked = self.server, self.headers.get("Range", "")
        hub.asked.append(f"{self.command} {self.path} {asked}".strip())
        self.server.tokens.update(self.headers.get_all("Authorization", []))
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.send(401, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if self.path.split("/revision")[0] == "/api/models/u/r":
            siblings = [{"rfilename": name} for name in hub.files]
            return self.send(200, json.dumps({"id": "u/r", "sha": hub.commit, "siblings": siblings}).encode(), {}, body)
        if self.path.startswith("/api/models/u/r/tree/"):
            tree = [{"type": "file", "path": name, "size": len(c), "oid": hub.etag(c)} for name, c in hub.files.items()]
            return self.send(200, json.dumps(tree).encode(), {}, body)
        match = re.fullmatch(r"/u/r/resolve/\w+/(.+)", self.path)
        if match is None or match[1] not in hub.files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound" if match else "RepoNotFound"}, body)
        content = hub.files[match[1]]
        headers = {"X-Repo-Commit": hub.commit, "Accept-Ranges": "bytes"}
        etag, size = f'"{hub.etag(content)}"', str(len(content))
        if hub.storage:
            linked = {"X-Linked-Etag": etag, "X-Linked-Size": size, "Location": f"{hub.storage}{self.path}"}
            return self.send(302, b"", {**headers, **linked}, body)
        if body and asked and not hub.comes_back:
            return self.send(503, b"", headers, body)
        start = int(asked.removeprefix("bytes=").split("-")[0] or 0) if hub.knows_range else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{size}"
        return self.send(206 if start else 200, content[start:], {**headers, "ETag": etag}, body)

    def send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        hub = self.server
        self.send_response(status)
        warning = {"X-HF-Warning": hub.warning} if hub.warning else {}
        for name, value in {**headers, **warning, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        cut = hub.cut if "/resolve/" in self.path else None
        for at in range(0, len(content[:cut]), BLOCK):
            try:
                self.wfile.write(content[:cut][at : at + BLOCK])
            except OSError:
                return
            time.sleep(hub.pause)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def served(files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub with these files."""
    server = Hub(files)
    with serving(server):
        yield server


def environment(server: Hub, home: Path, **more: str) -> dict[str, str]:
    """Variables of a process that is to use this hub."""
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**clean, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **more}


def run(server: Hub, home: Path, *args: object, **variables: str) -> Outcome:
    """autodeco-gguf run with a model of this hub."""
    return spawn("run", "-t", 1, *args, "--raw", "-p", "x", "-n", 2, env=environment(server, home, **variables))
