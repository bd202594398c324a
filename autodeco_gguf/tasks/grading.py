"""Grade responses with a checker that may hang or crash."""

from __future__ import annotations

import json
import os
import reprlib
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.tasks.checkers import Checker, get_checker
from autodeco_gguf.tasks.problems import Problem

IN_PROCESS = frozenset({"choice", "exact", "story"})
"""Checkers that neither hang nor crash, whatever the response; ``ast.literal_eval``, behind literal, can crash."""

START_LIMIT_S = 120.0
"""For a worker to import its checker, which may be a large package on a slow disk."""

_MAX_ERROR = 500
"""Characters of an error that are kept."""


@dataclass(frozen=True)
class Grade:
    """Whether a response is right.

    Attributes:
        correct: None where the checker failed, which says nothing about the response.
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
        message = str(e) if isinstance(e, AutoDecoError) else f"{type(e).__name__}: {e}"
        return Grade(None, " ".join(message.split())[:_MAX_ERROR])
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        return Grade(None, f"the checker returned {reprlib.repr(value)}, expected a bool, 0 or 1")
    return Grade(bool(value))


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
        self._worker = None if self._checker else _Worker(checker, time_limit)

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

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
        if self._checker is not None:
            return judge(self._checker, text, answer)
        worker = self._worker or _Worker(self._name, self._time_limit)
        self._worker = None  # until it has answered: after an interruption, its answer would be taken for the next
        try:
            grade = Grade(*worker.ask([text, answer], self._time_limit))
            self._worker = worker
        except TimeoutError:
            grade = Grade(False, f"the checker took longer than {self._time_limit:g} s")
        except EOFError as e:
            grade = Grade(None, f"the checker ended its process ({e})")
        finally:
            if self._worker is None:
                worker.kill()
        return grade


# ---- the process ----


def worker_command(checker: str, time_limit: float) -> list[str]:
    """The command that starts ``autodeco_gguf.tasks.grading_worker`` on the modules that this process has.

    It is this package that is imported, whatever stands in the working directory: ``python -m`` would look there first,
    and what ``sys.path`` begins with may have changed since.
    """
    path = [str(Path(__file__).parents[2]), *sys.path]
    main = "from autodeco_gguf.tasks.grading_worker import main; del sys.path[0]; main()"
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path!a}; {main}", checker, str(time_limit)]


class _Worker:
    """The process, which has imported its checker and answers every line of JSON with one."""

    def __init__(self, checker: str, time_limit: float) -> None:
        """Start it; InvalidInput where it cannot import the checker."""
        # a session of its own: Ctrl-C is ours to handle, and what the checker starts can be killed with it
        self._process = subprocess.Popen(
            worker_command(checker, time_limit), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        error: str | None = "interrupted"
        try:
            error = self._receive(START_LIMIT_S)
        except TimeoutError:
            error = f"checker {checker!r}: importing it took longer than {START_LIMIT_S:g} s"
        except EOFError as e:
            error = f"checker {checker!r}: importing it ended the process ({e})"
        finally:
            if error is not None:
                self.kill()
        if error is not None:
            raise InvalidInput(error, key="checker", found=checker)

    def ask(self, request: object, seconds: float) -> Any:
        """The answer to a request; TimeoutError, or EOFError where the process has ended, which says how."""
        with suppress(BrokenPipeError):  # it has died: _receive tells how
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        return self._receive(seconds)

    def _receive(self, seconds: float) -> Any:
        if not connection.wait([self._replies.fileno()], seconds):
            raise TimeoutError
        line = self._replies.readline()  # whole: a worker writes a line at once, one for a request
        if not line:
            code = self._process.wait()
            raise EOFError(f"exit status {code}" if code >= 0 else str(signal.strsignal(-code)).lower())
        return json.loads(line)

    def close(self) -> None:
        """Let the process end, for a second."""
        with suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self._requests.close()
            self._process.wait(1.0)
        self.kill()

    def kill(self) -> None:
        """End the process and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._requests, self._replies):
            with suppress(BrokenPipeError):
                pipe.close()
