"""``autodeco-gguf worker``, and what a verb says with --rpc."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rpc_helpers import kill, needs_rpc, nobody, running

from autodeco_gguf.model.rpc.address import parse_address
from autodeco_gguf.model.rpc.remote import connect_workers

pytestmark = needs_rpc

COMMAND = [sys.executable, "-m", "autodeco_gguf"]


def started(*arguments: str) -> tuple[subprocess.Popen[str], list[str]]:
    """The process, and what it says until it listens."""
    command = [*COMMAND, "worker", "-t", "1", "--device", "none", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or lines[-1].startswith("warning:"):
        line = process.stderr.readline()
        assert line
        lines.append(line)
    return process, lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal(number: signal.Signals) -> None:
    process, (line,) = started("--listen", "127.0.0.1:0")
    match = re.fullmatch(r"worker on (127\.0\.0\.1:\d+): CPU\n", line)
    assert match
    assert connect_workers(match[1], 10.0).lost is None
    process.send_signal(number)
    assert (process.communicate(timeout=30), process.returncode) == (("", ""), 0)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(parse_address(match[1], key="rpc"))


def test_an_address_that_all_can_reach() -> None:
    process, (warning, line) = started("--listen", "0.0.0.0:0")
    assert re.fullmatch(
        r"warning: 0\.0\.0\.0:\d+ has no authentication: let nobody but trusted machines reach it\n", warning
    )
    assert line.startswith("worker on 0.0.0.0:")
    process.terminate()
    process.communicate(timeout=30)


def said(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_one_line_where_it_cannot_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, text = said("worker", "--listen", address)
    expected = f"error: cannot listen on {address}: address already in use (see autodeco-gguf worker --help)\n"
    assert (status, text) == (2, expected)
    status, text = said("worker", "--listen", "50052")
    assert (status, text.count("\n")) == (2, 1)
    assert "listen '50052', expected host:port, such as 127.0.0.1:50052" in text


@pytest.mark.parametrize(
    "verb", [["run", "-p", "Mia"], ["eval", "--tasks", "stories"], ["rollouts", "--tasks", "stories"]]
)
def test_a_worker_that_is_not_there(verb: list[str], tmp_path: Path) -> None:
    output = [] if verb[0] == "run" else ["-o", str(tmp_path / "out.jsonl")]
    with nobody() as address:
        status, text = said(*verb, *output, "--rpc", address)
    assert status == 1
    assert (
        text
        == f"error: worker {address}: connection refused; start it there: autodeco-gguf worker --listen {address}\n"
    )


def test_run_with_a_worker_that_is_lost() -> None:
    with running() as (worker,):
        command = [*COMMAND, "run", "-p", "Tell a story about Mia", "--device", "none", "--rpc", str(worker.address)]
        whole = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True, stdin=subprocess.DEVNULL
        )
        assert whole.stdout
        process = subprocess.Popen(
            [*command, "--ignore-eos"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        process.stdout.read(1)
        kill(worker)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(rf"^error: .*worker {worker.address}: lost: .*$", errors.splitlines()[-1])
