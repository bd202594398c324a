"""``autodeco-gguf worker``, and what a verb says with --rpc."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rpc_helpers import at_command, kill, needs_rpc, nobody, restarted, running

from autodeco_gguf.cli import cli
from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.model.rpc import protocol
from autodeco_gguf.model.rpc.address import parse_address
from autodeco_gguf.model.rpc.remote import connect_workers
from autodeco_gguf.model.shipped import DEMO_MODEL

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
    assert (status, text) == (1, f"error: cannot listen on {address}: address already in use\n")
    status, text = said("worker", "--listen", "50052")
    assert (status, text.count("\n")) == (2, 1)
    assert "listen '50052', expected host:port, such as 127.0.0.1:50052" in text


@pytest.mark.parametrize(
    "verb", [["run", "-p", "Mia"], ["eval", "--task", "demo"], ["rollouts", str(DEMO_MODEL), "--task", "demo"]]
)
def test_a_worker_that_is_not_there(verb: list[str], tmp_path: Path) -> None:
    output = [] if verb[0] == "run" else ["-o", str(tmp_path / "out.jsonl")]
    with nobody() as address:
        status, text = said(*verb, *output, "--rpc", address)
    assert status == 1
    words = f"connection refused; start it there: autodeco-gguf worker --listen {address}"
    assert text.splitlines()[-1] == f"error: worker {address}: {words}"


def test_run_with_a_worker_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as (worker,):
        arguments = ["run", "-p", "Tell a story about Mia", "-s", "1", "-t", "1", "--device", "none"]
        whole = CliRunner().invoke(cli, arguments)
        assert CliRunner().invoke(cli, [*arguments, "--rpc", str(worker.address)]).stdout == whole.stdout
        at_command(monkeypatch, [protocol.GET_TENSOR], 40, lambda: kill(worker))
        result = CliRunner().invoke(cli, [*arguments, "--rpc", str(worker.address)])
    assert (result.exit_code, type(result.exception)) == (1, ModelFailed)
    assert re.match(rf"^worker {worker.address}: lost: ", str(result.exception))
    assert 10 < len(result.stdout.strip()) < len(whole.stdout.strip())
    assert whole.stdout.startswith(result.stdout.strip())


def problems(folder: Path) -> Path:
    path = folder / "p.jsonl"
    path.write_text("".join(f'{{"prompt": "{text}", "answer": "x"}}\n' for text in "abcdefgh"))
    return path


@pytest.mark.parametrize(
    "verb",
    [
        ["rollouts", "-k", "4", "--keep", "all", "--parallel", "2"],
        ["eval", "-k", "4", "--seeds", "1", "--methods", "autodeco", "--parallel", "2", "--no-plots"],
    ],
    ids=["rollouts", "eval"],
)
def test_what_is_finished_is_kept_when_a_worker_is_lost(
    verb: list[str], merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [
        "--task",
        str(problems(tmp_path)),
        "--checker",
        "exact",
        "-n",
        "6",
        "-c",
        "64",
        "-t",
        "1",
        "--device",
        "none",
    ]
    whole, output = tmp_path / "whole", tmp_path / "out"

    def run(output: Path, *more: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, [verb[0], str(merged), *verb[1:], *given, "-o", str(output), *more])
        return result.exit_code, f"{result.output}{result.exception}"

    with running() as (worker,):
        workers = "--rpc", str(worker.address)
        assert run(whole, *workers)[0] == 0
        with monkeypatch.context() as patch:
            at_command(patch, [protocol.GET_TENSOR], 90, lambda: kill(worker))
            status, text = run(output, *workers)
        assert status == 1
        assert f"worker {worker.address}: lost: " in text
        assert f"{output}: what is finished is kept; the same command goes on from there" in text
        kept = sum(path.read_bytes().count(b"\n") for path in kept_in(output))
        assert 0 < kept < 33
        again = restarted(worker)
        assert run(output, *workers)[0] == 0
        again.close()
    assert samples(output) == samples(whole)


def kept_in(output: Path) -> list[Path]:
    """What an interrupted run has written its samples to."""
    return [output / "samples.jsonl"] if output.is_dir() else [output.with_name(output.name + ".partial")]


def samples(output: Path) -> list[str]:
    path = output / "samples.jsonl" if output.is_dir() else output
    return sorted(path.read_text().splitlines())
