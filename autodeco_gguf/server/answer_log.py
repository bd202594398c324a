"""The answers of a server in a file: a line of JSON for each, with its prompt and its tokens."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from autodeco_gguf.errors import AutoDecoError, BadFile
from autodeco_gguf.files.atomic import bad_file, check_name
from autodeco_gguf.files.jsonl import dump_line
from autodeco_gguf.files.lock import lock
from autodeco_gguf.files.system import open_bytes, read_at, set_mode
from autodeco_gguf.server.choice import Choice, Words
from autodeco_gguf.server.decide import Decision
from autodeco_gguf.server.trace_json import trace

_log = logging.getLogger("autodeco_gguf.server")

_WAITING = 1000
"""Answers that may wait for the disk; more are left out."""

_END_SECONDS = 10.0
"""How long the end of a server waits for the disk."""

Line = Callable[[], dict[str, Any]]
"""Makes the value of a line."""


class AnswerLog:
    """Appends lines to a file, by a thread of its own: nobody waits for a disk. A context manager.

    A line is written whole or not at all. Where that cannot be, a warning says so once, and the answer is left out.
    """

    def __init__(self, path: Path) -> None:
        """Open a file, for its owner alone from now on.

        Raises:
            BadFile: it cannot be written, is no regular file, or begins with something else than a line of JSON.
            Busy: another server writes to it.
        """
        self._path, self._warned = path, False
        check_name(path)
        with bad_file(path, "cannot be written"):
            if path.exists() and not path.is_file():
                raise BadFile.of(path, "is no regular file")
            self._fd = open_bytes(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            if read_at(self._fd, 1, 0) not in (b"", b"{"):  # a model, say
                raise BadFile.of(path, "is no log of answers; give another file")
            lock(self._fd, path)
            if os.fstat(self._fd).st_mode & 0o077:
                set_mode(self._fd, 0o600)
        self._lines: queue.Queue[Line | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="autodeco-log", daemon=True)

    def __enter__(self) -> AnswerLog:
        """Begin to write."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits; lines that are put afterwards are left out."""
        try:
            self._lines.put(None, timeout=_END_SECONDS)
            self._thread.join(_END_SECONDS)
        except queue.Full:
            self._warn("the disk does not answer")

    def put(self, line: Line) -> None:
        """Have a line written. From any thread; returns at once."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._warn("the disk does not keep up")

    def _run(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                try:
                    self._write(dump_line(line()))
                except (OSError, AutoDecoError) as e:
                    self._warn(getattr(e, "strerror", None) or str(e))
        finally:
            os.close(self._fd)

    def _write(self, line: bytes) -> None:
        end = os.fstat(self._fd).st_size
        if end and read_at(self._fd, 1, end - 1) != b"\n":  # by a process that was killed
            line = b"\n" + line
        left = line
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:  # of a line the disk has taken a part, behind which another server may have written
            if os.fstat(self._fd).st_size == end + len(line) - len(left):
                os.ftruncate(self._fd, end)
            raise

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("%s: cannot be written: %s; answers are missing there", self._path, reason)


def answer_line(model: str, prompt: Sequence[int], choice: Choice, decision: Decision, seed: int, words: Words) -> Line:
    """The line of an answer: prompt as it was rendered, tokens and summary as ``run --json`` has them, and who decided.

    What was cut off, as by a client that has gone, ends by "interrupt".
    """
    tokens, date = list(choice.tokens), datetime.now(timezone.utc).isoformat(timespec="seconds")
    reason = "interrupt" if choice.result is None else choice.finish_reason

    def value() -> dict[str, Any]:
        summary = {
            "tokens": len(tokens),
            "prompt_tokens": len(prompt),
            "finish_reason": reason,
            "seed": seed,
            "model": model,
            "source": decision.source,
            "date": date,
        }
        text = b"".join(map(words.piece, prompt)).decode("utf-8", "replace")
        return {"prompt": text, "tokens": [trace(said) for said in tokens], "summary": summary}

    return value
