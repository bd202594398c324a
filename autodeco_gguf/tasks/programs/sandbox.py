"""The process that starts programs, each in one of its own, confined: JSON lines in, JSON lines out.

Started by :class:`autodeco_gguf.tasks.programs.grader.ProgramGrader` with the seconds that a run may take, whether
namespaces are wanted ("isolated" or "unisolated"), and the packages that a program may import. It first answers with
``[0, null]``, or with why no program can be run here instead of null, and then every ``[number, code, function, text,
most]`` with ``[number, outcome, output]``, until its input ends.

A run is a chain of processes. One watches: it reads the request, makes the namespaces, reads the output, ends the rest
in time, and answers. Its child is the first process in the namespace of processes, with which all others in there end.
Its child is the program. What the program is to give stands in none of them, nor what other programs were or gave.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from autodeco_gguf.tasks.programs import isolation, running

ENDED, FAILED, LATE, ENDLESS, BROKEN = "ended", "failed", "late", "endless", "broken"
"""What came of a run: it ended by itself; with an exception, an exit status or a signal; it took too long; it wrote
too much; or it was not run, and the output says why."""

_PROBE = "import queue, sys\nprint(sys.stdin.read())"
"""With an import that is none of those made before, so that the standard library has to be there."""


def main() -> None:
    """Serve."""
    limit, isolated, packages = float(sys.argv[1]), sys.argv[2] == "isolated", sys.argv[3:]
    isolation.import_only(packages, isolated=isolated)
    running.import_names()
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nothing, stream)
    (probe, asking), (told, answer) = os.pipe(), os.pipe()
    _reply(asking, 0, _PROBE, None, "ready", 100)
    why = _watched(probe, answer, max(limit, 10.0), isolated, packages)
    outcome, output = (BROKEN, why) if why else json.loads(os.read(told, 1 << 16))[1:]
    for pipe in (probe, asking, told, answer):
        os.close(pipe)
    if (outcome, output.strip()) != (ENDED, "ready"):
        why = f"a program that only prints a word {outcome}"
        if not isolated and os.geteuid() == 0:
            why += "; it runs as another user than root, who has to be able to read Python's library"
        _reply(replies, 0, output if outcome == BROKEN else why)
        return
    _reply(replies, 0, None)
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    for number in itertools.count(1):
        if not waiting.poll()[0][1] & select.POLLIN:
            return
        if why := _watched(requests, replies, limit, isolated, packages):
            _reply(replies, number, BROKEN, why)


def _request(requests: int) -> bytes:
    """A line; none follows it before it is answered."""
    line = bytearray()
    while not line.endswith(b"\n") and (data := os.read(requests, 1 << 16)):
        line += data
    return bytes(line)


def _reply(to: int, *value: object, end: bytes = b"\n") -> None:
    rest = json.dumps(value).encode() + end
    while rest:
        rest = rest[os.write(to, rest) :]


def _watched(requests: int, replies: int, limit: float, isolated: bool, packages: list[str]) -> str | None:
    """Have a request answered, by what :func:`_run` gives; why it was not, None where it was.

    With a directory for the program where the namespaces have none.
    """
    if isolated:
        return _apart(requests, replies, limit, None, packages)
    home = tempfile.mkdtemp()
    try:
        os.chmod(home, 0o777)
        return _apart(requests, replies, limit, home, packages)
    finally:
        with suppress(RecursionError):
            shutil.rmtree(home, ignore_errors=True)


def _apart(requests: int, replies: int, limit: float, home: str | None, packages: list[str]) -> str | None:
    """As :func:`_watched`, in a process of its own since there is no way back out of the namespaces.

    It reads its request and writes the reply itself: every program finds in its memory what the server had in its own.
    """
    try:
        pid = os.fork()
    except OSError as e:
        _request(requests)
        return f"fork: {e.strerror}"
    if pid == 0:
        isolation.end_with_parent()
        number, *program = json.loads(_request(requests))
        try:
            outcome, output = _run(program, limit, home, packages)
        except OSError as e:
            outcome, output = BROKEN, e.strerror or str(e)
        _reply(replies, number, outcome, output, end=b"")
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        return "the process that watches a program has ended"
    os.write(replies, b"\n")  # it is answered once nothing of it is left
    return None


def _run(program: Any, limit: float, home: str | None, packages: list[str]) -> tuple[str, str]:
    """Outcome and output of a program, isolated where there is no ``home`` for it."""
    code, function, text, most = program
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # whoever lacks memory, it is not the grader
    content = text.encode("utf-8", "surrogatepass")
    user = isolation.user_of(os.getpid())
    if home is None:
        os.umask(0o022)  # or another user could not read the new root
        isolation.enter_namespaces()
        isolation.enter_root(packages, content)
        source = os.open(isolation.INPUT, os.O_RDONLY)
    else:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            source = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
    reading, writing = os.pipe()
    end = time.monotonic() + limit
    pid = os.fork()
    if pid == 0:
        isolation.end_with_parent()
        if home is None:
            _first_process(writing)
        os.setsid()
        for stream, file_number in ((0, source), (1, writing), (2, os.open(os.devnull, os.O_WRONLY))):
            os.dup2(file_number, stream)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.chdir(home or isolation.HOME)
        os.environ.pop("LD_LIBRARY_PATH", None)
        os.environ.update(dict.fromkeys(("HOME", "TMPDIR"), os.getcwd()))
        isolation.give_up(int(limit) + 2, user, isolated=home is None)
        try:
            running.run(code, function, text)  # leaves by SystemExit
        except OSError as e:  # of the program: `_apart` would take it for one of the watcher's
            raise SystemExit(1) from e
    os.close(writing)
    return _outcome(pid, reading, most, end)


def _first_process(writing: int) -> None:
    """Go on as a child, and end when that does, as it did."""
    pid = os.fork()
    if pid == 0:
        return
    os.close(writing)
    os._exit(int(os.waitpid(pid, 0)[1] != 0))


def _outcome(pid: int, reading: int, most: int, end: float) -> tuple[str, str]:
    """Read the output of a process until it ends; end it where that takes too long or is too much."""
    output, process = bytearray(), os.pidfd_open(pid)
    outcome, waiting = ENDED, {reading, process}
    while waiting and outcome == ENDED:
        left = end - time.monotonic()
        ready = select.select(list(waiting), [], [], max(0.0, left))[0]
        if reading in ready:
            data = os.read(reading, 1 << 16)
            output += data
            if not data:
                waiting.discard(reading)
        if process in ready:
            waiting.discard(process)
        if process in waiting and left <= 0:
            outcome = LATE
        elif len(output) > most:
            outcome = ENDLESS
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if outcome == ENDED and status != 0:
        outcome = FAILED
    return outcome, output.decode("utf-8", "replace") if outcome == ENDED else ""
