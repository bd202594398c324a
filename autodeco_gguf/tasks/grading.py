"""Grade responses with a checker that may hang or crash."""

from __future__ import annotations

import functools
import json
import os
import reprlib
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.tasks.checkers import CHECKERS, Checker, get_checker, read_answer
from autodeco_gguf.tasks.problems import Problem

IN_PROCESS = frozenset({"choice", "exact", "member", "number", "story"})
"""Checkers that neither hang nor crash, whatever the response; ``ast.literal_eval``, behind literal, can crash."""

START_LIMIT_S = 120.0
"""For a worker to import its checker, which may be a large package on a slow disk."""

_POLL_S = 0.05
"""How often to see whether a process has ended whose pipe somebody keeps open."""

_MAX_ERROR = 500
"""Characters of an error that are kept."""


@dataclass(frozen=True)
class Grade:
    """Whether a response is right.

    Attributes:
        correct: None where a checker of the user's own failed, or cannot read the answer, which says nothing about the
            response; one of ours that fails on a response takes it for wrong.
        error: how it failed; also given for a response that is wrong because checking it took too long.
    """

    correct: bool | None
    error: str | None = None


def judge(checker: Checker, text: str, answer: str) -> Grade:
    """The grade by a checker called here and now; whatever it raises is the error."""
    try:
        value: Any = checker(text, answer)
        value = value.item() if hasattr(value, "item") else value  # a scalar of NumPy or torch
    except Exception as e:  # it may be the user's code: anything may come out of it
        return failure(e)
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        return Grade(None, f"the checker returned {reprlib.repr(value)}, expected a bool, 0 or 1")
    return Grade(bool(value))


def failure(error: BaseException) -> Grade:
    """The grade by a checker that raised."""
    message = str(error) if isinstance(error, AutoDecoError) else f"{type(error).__name__}: {error}"
    return Grade(None, " ".join(message.split()).removesuffix(":")[:_MAX_ERROR])


class Grader:
    """Calls a checker, most of them in a process of its own that is replaced when it hangs or dies.

    A context manager; use it from one thread at a time.

    Args:
        checker: as :func:`autodeco_gguf.tasks.checkers.get_checker` takes it.
        time_limit: seconds that one call may take.

    Raises:
        InvalidInput: no such checker, or it cannot be imported; a time limit that is none.
    """

    def __init__(self, checker: str, time_limit: float = 10.0) -> None:
        if not 0 < time_limit < float("inf"):
            raise InvalidInput.of("time limit", f"{time_limit:g}", "a number of seconds above 0")
        self._name = checker
        self._time_limit = time_limit
        self._checker = get_checker(checker) if checker in IN_PROCESS else None
        self._workers = None if self._checker else Workers(checker, time_limit)

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self._workers is not None:
            self._workers.close()

    def validate(self, problems: Iterable[Problem]) -> None:
        """Call the checker with an empty response for every answer.

        Raises:
            BadFile: it raises or takes too long: an answer that it cannot use, named as file:line.
        """
        for problem in problems:
            grade = self.grade("", problem.answer)
            if grade.error is not None:
                raise BadFile(f"{problem.where}: {grade.error}", file=problem.file, key="answer", found=problem.answer)

    def grade(self, text: str, answer: str) -> Grade:
        """Grade one response.

        Raises:
            InvalidInput: a new process, in place of one that hung or died, cannot import the checker any more.
        """
        grade = judge(self._checker, text, answer) if self._checker else self._ask(text, answer)
        if grade.correct is None and self._name in CHECKERS:
            with suppress(AutoDecoError):  # one of ours that fails although it can read the answer: for the response
                read_answer(self._name, answer)
                return Grade(False, grade.error)
        return grade

    def _ask(self, text: str, answer: str) -> Grade:
        assert self._workers is not None
        try:
            return Grade(*self._workers.ask(text, answer))
        except TimeoutError:
            return Grade(False, f"the checker took longer than {self._time_limit:g} s")
        except EOFError as e:
            return Grade(None, f"the checker ended its process ({e})")


# ---- the process ----


Kind = Literal["checker", "reward"]
"""What a function of the user's own is for."""


def worker_command(function: str, time_limit: float, kind: Kind = "checker") -> list[str]:
    """The command that starts ``autodeco_gguf.tasks.grading_worker`` on the modules that this process has.

    It is this package that is imported, whatever stands in the working directory: ``python -m`` would look there first,
    and what ``sys.path`` begins with may have changed since.
    """
    path = [str(Path(__file__).parents[2]), *sys.path]
    main = "from autodeco_gguf.tasks.grading_worker import main; del sys.path[0]; main()"
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path!a}; {main}", function, str(time_limit), kind]


class Workers:
    """A worker, and another in its place when it hangs or dies, or its answer was not waited for."""

    def __init__(self, function: str, time_limit: float, kind: Kind = "checker") -> None:
        """Start the first; InvalidInput where it cannot import the function."""
        self._start = functools.partial(Worker, function, time_limit, kind)
        self._time_limit = time_limit
        self._worker: Worker | None = self._start()

    def ask(self, *arguments: str) -> Any:
        """As :meth:`Worker.ask`; InvalidInput where a new one cannot import the function any more."""
        worker = self._worker or self._start()
        self._worker = None  # until it has answered: after an interruption, its answer would be taken for the next
        try:
            reply = worker.ask(self._time_limit, *arguments)
            self._worker = worker
            return reply
        finally:
            if self._worker is None:
                worker.kill()

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class Worker:
    """The process, which has imported its function and answers every line of JSON with one.

    Nothing here waits for a pipe: a checker may leave it to a process of its own that neither reads nor closes it.
    """

    def __init__(self, function: str, time_limit: float, kind: Kind = "checker") -> None:
        """Start it; InvalidInput where it cannot import the function."""
        # a session of its own: Ctrl-C is ours to handle, and what the checker starts can be killed with it
        self._process = subprocess.Popen(
            worker_command(function, time_limit, kind),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self._received = b""
        self._asked = 0
        error: str | None = "interrupted"
        try:
            for pipe in (self._requests, self._replies):
                os.set_blocking(pipe.fileno(), False)
            (error,) = self._reply(time.monotonic() + START_LIMIT_S)
        except TimeoutError:
            error = f"{kind} {function!r}: importing it took longer than {START_LIMIT_S:g} s"
        except EOFError as e:
            error = f"{kind} {function!r}: importing it ended the process ({e})"
        finally:
            if error is not None:
                self.kill()
        if error is not None:
            raise InvalidInput(error, key=kind, found=function)

    def ask(self, seconds: float, *arguments: str) -> Any:
        """What it makes of them, and its error; TimeoutError, or EOFError where the process has ended, and how."""
        end = time.monotonic() + seconds
        self._asked += 1
        rest = memoryview(json.dumps([self._asked, *arguments]).encode() + b"\n")
        with suppress(BrokenPipeError):  # it has died: what follows tells how
            while rest:
                self._wait_for(self._requests, selectors.EVENT_WRITE, end)
                rest = rest[self._requests.write(rest) or 0 :]
        return self._reply(end)

    def _reply(self, end: float) -> list[Any]:
        """What follows the number of the request; replies to others are passed over."""
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if not newline:
                self._wait_for(self._replies, selectors.EVENT_READ, end)
                data = self._replies.read(1 << 16)
                if data == b"":
                    raise EOFError(self._fate())
                self._received += data or b""
                continue
            self._received = rest
            try:
                number, *reply = json.loads(line)
            except (ValueError, TypeError) as e:
                raise EOFError("it wrote to our pipe") from e
            if number == self._asked:
                return list(reply)

    def _wait_for(self, pipe: IO[bytes], event: int, end: float) -> None:
        """Until there is something to read, or room to write; raises as ``ask``."""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, event)
            while not selector.select(max(0.0, min(_POLL_S, end - time.monotonic()))):
                if self._process.poll() is not None:
                    raise EOFError(self._fate())
                if time.monotonic() >= end:
                    raise TimeoutError

    def _fate(self) -> str:
        """How the process ended; it is about to, or has given away its pipe."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it closed our pipe"
        return f"exit status {code}" if code >= 0 else str(signal.strsignal(-code)).lower()

    def close(self) -> None:
        """Let the process end, for a second."""
        self._requests.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self.kill()

    def kill(self) -> None:
        """End the process and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._requests, self._replies):
            pipe.close()
