"""A process that is asked and answers in lines of JSON, and that is replaced when it hangs or dies."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from autodeco_gguf.errors import InvalidInput

START_LIMIT_S = 120.0
"""For a worker to import its checker, which may be a large package on a slow disk."""

MOST_S = 1e6
"""That a call may take at most: the system's timers cannot be set to any number."""

_POLL_S = 0.05
"""How often to see whether a process has ended whose pipe somebody keeps open."""

Kind = Literal["checker", "reward"]
"""What a function is for."""


@dataclass(frozen=True)
class Service:
    """What a worker is: the command that starts it, which function it has, and its environment, None for ours."""

    command: list[str]
    kind: Kind
    function: str
    environment: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """For a reader: "checker 'module:function'"."""
        return f"{self.kind} {self.function!r}"


def check_time_limit(seconds: float) -> None:
    """Raises InvalidInput for what is no time limit."""
    if not 0 < seconds <= MOST_S:
        raise InvalidInput.of("time limit", seconds, f"a number of seconds above 0, at most {MOST_S:.0f}")


def function_service(function: str, time_limit: float, kind: Kind = "checker") -> Service:
    """``autodeco_gguf.tasks.grading_worker`` with a function."""
    command = python_command("autodeco_gguf.tasks.grading_worker", function, str(time_limit), kind)
    return Service(command, kind, function)


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that calls ``main`` of a module of this package, on the modules that this process has.

    It is this package that is imported, whatever stands in the working directory: ``python -m`` would look there first,
    and what ``sys.path`` begins with may have changed since.
    """
    path = [str(Path(__file__).parents[2]), *sys.path]
    main = f"from {module} import main; del sys.path[0]; main()"
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path!a}; {main}", *arguments]


class Workers:
    """A worker, and another in its place when it hangs or dies, also between two calls, or its answer was not waited
    for.
    """

    def __init__(self, service: Service, time_limit: float) -> None:
        """Start the first, each call of which may take so many seconds; InvalidInput where it cannot be started."""
        self._service, self._time_limit = service, time_limit
        self._worker: Worker | None = Worker(service)

    def ask(self, *arguments: object) -> Any:
        """As :meth:`Worker.ask`; InvalidInput where a new one cannot be started any more."""
        if self._worker is not None and self._worker.ended():
            self.close()
        worker = self._worker or Worker(self._service)
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

    def __init__(self, service: Service) -> None:
        """Start it; InvalidInput where it says that it has no function, or cannot say so."""
        if not hasattr(os, "killpg"):
            text = f"{service.name}: what it starts cannot be ended on this system; on Windows use WSL"
            raise InvalidInput(text, key=service.kind, found=service.function)
        # a session of its own: Ctrl-C is ours to handle, and what the checker starts can be killed with it
        self._process = subprocess.Popen(
            service.command,
            bufsize=0,
            env=service.environment,
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
            error = f"{service.name}: importing it took longer than {START_LIMIT_S:g} s"
        except EOFError as e:
            error = f"{service.name}: importing it ended the process ({e})"
        finally:
            if error is not None:
                self.kill()
        if error is not None:
            raise InvalidInput(error, key=service.kind, found=service.function)

    def ask(self, seconds: float, *arguments: object) -> Any:
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

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

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
