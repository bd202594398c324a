"""Answers on a terminal and in pipes: colours, signals at every moment, odd bytes, and what is left afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from broken import spawn
from conftest import Case
from run_helpers import TEMPLATE, with_template
from terminal_helpers import Screen

HARD = "请翻译以下文字\uff0c谢谢\uff01" * 4 + "👨‍👩‍👧 e\u0301a\u0308"
GRAMMAR = f'root ::= "{HARD}"'


@pytest.fixture
def model(qwen2: Case, tmp_path: Path) -> Path:
    return with_template(qwen2, tmp_path)


@pytest.mark.parametrize("color", [(), ("--color", "temperature")])
def test_an_answer_is_not_broken_by_us(color: tuple[str, ...], model: Path) -> None:
    with Screen(model, "--grammar", GRAMMAR, *color, columns=40) as screen:
        screen.prompt()
        seen = len(screen.bytes)
        screen.say("Hello")
        answer = screen.bytes[seen:].partition(b"\x1b[?2004l")[2].partition(b" tokens")[0]
        assert (b"\x1b[38;5;" in answer) == bool(color)
        assert HARD in re.sub(rb"\x1b\[[0-9;]*m", b"", answer).decode()
        screen.type("/bye")
        assert screen.process.wait(10) == 0
        screen.left_clean()


ENDLESS = ("--color", "prob", "-c", 100_000, "--temp", 0)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("when", ["answer", "prompt"])
def test_a_signal_leaves_the_terminal_as_it_was(when: str, number: int, status: int, model: Path) -> None:
    with Screen(model, *ENDLESS) as screen:
        screen.prompt()
        if when == "answer":
            screen.type("Hello")
            screen.until_bytes(b"\x1b[38;5;")
        screen.process.send_signal(number)
        while screen.read(0.2):
            pass
        assert screen.process.wait(10) == status
        screen.left_clean()


def test_an_error_in_the_middle_leaves_the_terminal_as_it_was(model: Path) -> None:
    broken = """
from autodeco_gguf.engine.conversation import Answer
from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.cli import main
whole = Answer.__iter__
def failing(self):
    for n, piece in enumerate(whole(self)):
        if n == 5:
            raise ModelFailed("the device is gone")
        yield piece
Answer.__iter__ = failing
main()
"""
    with Screen(model, "--color", "prob", "-n", 9, python=broken) as screen:
        screen.prompt()
        assert "error: the device is gone" in screen.say("Hello")
        screen.type("/bye")
        assert screen.process.wait(10) == 0
        screen.left_clean()


def test_ctrl_c_a_moment_too_late_loses_nothing(qwen2: Case, tmp_path: Path) -> None:
    counting = "{{ raise_exception(messages | length ~ ' messages') if messages[-1].content == 'count' }}" + TEMPLATE
    with Screen(with_template(qwen2, tmp_path, counting), "-n", 20, "-c", 2000) as screen:
        screen.prompt()
        for i in range(12):  # around the answer's end, which takes some tens of milliseconds
            screen.type("Hi")
            time.sleep(i * 0.01)
            screen.send(b"\x03")
            time.sleep(0.03)
            screen.send(b"\x03")
            screen.prompt()
            time.sleep(0.05)
            screen.send(b"\x03")  # whatever has come of the others, this one is at a prompt
            screen.until(lambda lines: lines[-2:] == ["(Ctrl-D ends)", ">"])
        assert screen.process.poll() is None
        told = "\n".join(screen.say("count"))
        assert int(re.findall(r"(\d+) messages", told)[-1]) % 2 == 1  # each message with its answer, and the last
        assert int(re.findall(r"(\d+) messages", told)[-1]) > 12


def test_ctrl_c_while_it_loads_is_one_line(model: Path) -> None:
    loading = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import autodeco_gguf.model.context as context
inner = context.CheckedModel
def interrupted(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)
    return inner(*args, **kwargs)
context.CheckedModel = interrupted
from autodeco_gguf.cli import main
main()
"""
    outcome = spawn("run", "-t", 1, model, "-p", "x", python=("-c", loading))
    assert (outcome.status, outcome.out, outcome.err.strip()) == (130, "", "interrupted")


def shell(command: str, model: Path, **environment: str) -> tuple[int, bytes, bytes]:
    """A command of bash; $run is autodeco-gguf run with the model."""
    script = f'run="{sys.executable} -m autodeco_gguf run -t 1 {model} -n 4 -s 1"; set -o pipefail; {command}'
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, timeout=60, check=False, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout, done.stderr


def only_text(out: bytes) -> bool:
    return out.count(b"\n") >= 1 and out.endswith(b"\n") and b"\x1b" not in out


@pytest.mark.parametrize(
    ("command", "environment", "right"),
    [
        ("$run -p x --color prob", {}, only_text),
        ("echo x | $run | cat -v", {}, only_text),
        (r"printf 'caf\xe9 \x93x\x94' | $run", {}, only_text),
        (r"$run -p $'\xff'", {}, only_text),
        ("$run -p x --color prob", {"PYTHONIOENCODING": "cp1252"}, only_text),
        ("$run -p x --trace", {"PYTHONIOENCODING": "latin-1"}, lambda out: b"\nT " in out),
        ("$run -p x", {"LC_ALL": "C"}, only_text),
        ("$run -p x", {"LANG": "C", "LC_ALL": "", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, only_text),
        ("$run -p x 2>/dev/null | head -c 1", {}, lambda out: len(out) == 1),
        ("$run -p x <&-", {}, only_text),
    ],
)
def test_pipes_and_encodings(
    command: str, environment: dict[str, str], right: Callable[[bytes], bool], model: Path
) -> None:
    status, out, err = shell(command, model, **environment)
    assert status in ((0, 141) if "head" in command else (0,)), err
    assert right(out), out
    assert b"Traceback" not in err


def test_work_that_ends_since_nobody_reads_its_errors_has_failed(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "x", "completion": "y"}\n' * 40)
    train = f"train {model} --data {data} -o {tmp_path / 'heads'} --steps 50 --evaluations 50 --patience 0"
    status, _, _ = shell(f"${{run%% run *}} {train} 2> >(head -c 1 >/dev/null)", model)
    assert (status, (tmp_path / "heads.gguf").exists()) == (1, False)


def test_a_chat_without_standard_input_says_what_is_missing(model: Path) -> None:
    status, out, err = shell("$run <&-", model)
    assert (status, out) == (2, b"")
    assert b"error: no standard input: give -p PROMPT" in err


def test_a_large_file_is_loaded_with_a_bar(model: Path) -> None:
    large = """
import autodeco_gguf.cli._common as common
common.LARGE = 0
from autodeco_gguf.cli import main
main()
"""
    with Screen(model, python=large) as screen:
        screen.prompt()
        assert b"loading" in screen.bytes
        screen.type("/bye")
        assert screen.process.wait(10) == 0
        screen.left_clean()
    outcome = spawn("run", "-t", 1, model, "-p", "x", "-n", 1, python=("-c", large))
    assert "loading" not in outcome.err
