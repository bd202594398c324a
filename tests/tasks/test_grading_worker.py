"""The process that calls a checker: what it answers, what it may use, and that it ends."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grading_helpers import gone, read_pid, wait_for, write_own

from autodeco_gguf.tasks.workers import function_service


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of checkers in the working directory."""
    write_own(tmp_path)
    monkeypatch.chdir(tmp_path)


@contextmanager
def worker(checker: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], object]]]:
    """The process and what reads its next answer."""
    pipe = subprocess.PIPE
    with subprocess.Popen(function_service(checker, 10.0).command, stdin=pipe, stdout=pipe) as process:
        replies = process.stdout
        assert replies is not None
        yield process, lambda: json.loads(replies.readline())
        process.stdin.close() if process.stdin else None


def test_a_line_for_every_line() -> None:
    with worker("own_checkers:same") as (process, reply):
        assert reply() == [0, None]
        assert process.stdin is not None
        process.stdin.write(b'[1, "a", "a"]\n[2, "a", "b"]\n')
        process.stdin.flush()
        assert [reply(), reply()] == [[1, True, None], [2, False, None]]
    assert process.returncode == 0


def test_why_there_is_no_checker() -> None:
    with worker("own_checkers:other") as (process, reply):
        reason = "checker 'own_checkers:other': 'other' of 'own_checkers' is missing, expected a function"
        assert reply() == [0, reason]
    assert process.returncode == 0


@pytest.mark.parametrize("asked", [b"", b'[1, "a"'])
def test_who_asks_is_killed(asked: bytes) -> None:
    """Before the first answer, or within a request: on the terminal that it shared nothing is said of it."""
    command, pipe = function_service("regex", 10.0).command, subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline() if asked else process.stdout.close()
        assert process.communicate(asked, timeout=60)[1] == b""
    assert process.returncode == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are read on Linux only")
def test_memory_is_limited() -> None:
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    for checker in ("regex", "own_checkers:same"):
        with worker(checker) as (process, reply):
            assert reply() == [0, None]
            assert resource.prlimit(process.pid, resource.RLIMIT_DATA) == (4 << 30, most)


# the parent waits without a limit, so that it is surely there when it is killed
PARENT = """
    import subprocess, sys
    from autodeco_gguf.tasks.workers import function_service
    command = function_service("own_checkers:put_pid", 0.5).command
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    worker.stdin.write(b'[1, "", "%s"]\\n' % sys.argv[1].encode())
    worker.stdin.flush()
    sys.stdin.read()
"""


@pytest.fixture
def parent(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", textwrap.dedent(PARENT), request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("parent", ["0", "60"], indirect=True, ids=["idle", "hanging"])
def test_the_process_ends_when_its_parent_is_killed(parent: subprocess.Popen[bytes]) -> None:
    pid = read_pid()
    parent.kill()
    wait_for(lambda: gone(pid))
