"""Workers: what is asked for and answered, whatever the process does."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.workers import Service, Workers, function_service, python_command

SERVES = (
    "import json, os, sys, time\nprint('[0, null]', flush=True)\n"
    "for line in sys.stdin:\n    n, x = json.loads(line)\n    "
)


def service(what: str) -> Service:
    return Service([sys.executable, "-c", SERVES + what], "checker", "mine")


def test_asked_and_answered() -> None:
    workers = Workers(service("print(json.dumps([n, x, 2 * x]), flush=True)"), 10.0)
    assert [workers.ask(1), workers.ask("a" * 200_000)] == [[1, 2], ["a" * 200_000, "a" * 400_000]]
    workers.close()


def test_one_that_hangs_or_ends_is_replaced() -> None:
    workers = Workers(service("time.sleep(x) if x >= 0 else sys.exit(4); print(json.dumps([n, x]), flush=True)"), 1.0)
    with pytest.raises(TimeoutError):
        workers.ask(60)
    with pytest.raises(EOFError, match=r"^exit status 4$"):
        workers.ask(-1)
    assert workers.ask(0) == [0]
    workers.close()


def test_one_that_has_ended_meanwhile_is_replaced() -> None:
    workers = Workers(service("print(json.dumps([n, os.getpid()]), flush=True)"), 10.0)
    (first,) = workers.ask(0)
    os.kill(first, signal.SIGKILL)
    assert workers._worker is not None
    workers._worker._process.wait()
    assert workers.ask(0) != [first]
    workers.close()


def test_one_that_does_not_start() -> None:
    with pytest.raises(InvalidInput, match=r"^checker 'mine': importing it ended the process \(exit status 3\)$"):
        Workers(Service([sys.executable, "-c", "import sys; sys.exit(3)"], "checker", "mine"), 1.0)
    with pytest.raises(InvalidInput, match=r"^no$"):
        Workers(Service([sys.executable, "-c", "print('[0, \"no\"]')"], "checker", "mine"), 1.0)


def test_where_processes_cannot_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "killpg")
    with pytest.raises(InvalidInput, match=r"^checker 'mine': what it starts cannot be ended on this system; .*WSL$"):
        Workers(service("pass"), 1.0)


def test_commands() -> None:
    assert function_service("a:b", 2.0, "reward").command[3:] == ["a:b", "2.0", "reward"]
    assert python_command("autodeco_gguf.x", "1")[2].endswith(
        "from autodeco_gguf.x import main; del sys.path[0]; main()"
    )
