"""The frame of the command line: its help, wrong usage, names of files."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from broken import (
    assert_refused,
    invoke,
    spawn,
)

import autodeco_gguf as ad
from autodeco_gguf.cli import VERBS, run_command
from autodeco_gguf.errors import MAX_MESSAGE, ModelFailed

Capture = pytest.CaptureFixture[str]


# ---- the group ----

HELP = """
import sys
from autodeco_gguf.cli import main
try:
    main()
except SystemExit as e:
    heavy = {"numpy", "llama_cpp", "gguf", "safetensors", "rich", "torch", "huggingface_hub", "autodeco_gguf._core"}
    print("loaded:", sorted(heavy & sys.modules.keys()), e.code)
"""


@pytest.mark.parametrize("args", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    outcome = spawn(*args, python=("-c", HELP))
    assert outcome.out.startswith("Usage: ")
    assert outcome.out.endswith("loaded: [] 0\n")
    assert ("Example: autodeco-gguf" in outcome.out) == (len(args) == 2)
    assert outcome.err == ""


def test_help_lists_the_verbs(capfd: Capture) -> None:
    assert re.findall(r"^  ([a-z]+)  +[A-Z]", invoke(capfd, "--help").out, re.M) == list(VERBS)
    assert invoke(capfd, "--version").out.startswith(f"autodeco-gguf, version {ad.__version__} (")


def test_no_arguments_show_the_help(capfd: Capture) -> None:
    outcome = invoke(capfd)
    assert (outcome.out + outcome.err).startswith("Usage: ")
    assert re.search(r"^  export  ", outcome.out + outcome.err, re.M)


USAGE: dict[str, tuple[list[str], str]] = {
    "unknown verb": (["fly"], "No such command 'fly'. (see"),
    "a verb with a slip": (["explian"], "No such command 'explian'; did you mean explain? (see"),
    "unknown option": (["inspect", "x.gguf", "--fast"], "No such option '--fast'"),
    "no file": (["inspect"], "Missing argument 'FILE'"),
    "no heads": (["export", "--base", "x.gguf"], "Missing option '--heads'"),
    "head type": (["export", "--base", "x", "--heads", "y", "--head-type", "q4_0"], "'q4_0' is not one of"),
    "activation": (["export", "--base", "x", "--heads", "y", "--activation", "tanh"], "'tanh' is not one of"),
    "nothing to extract": (["extract", "x.gguf"], "give --base OUT, --adapter OUT, --checkpoint DIR or several"),
    "temperature": (["run", "x.gguf", "--temperature", "-1"], "-1.0 is not in the range x>=0"),
    "top-p": (["run", "x.gguf", "--top-p", "1.5"], "1.5 is not in the range 0<=x<=1"),
    "no tokens": (["run", "x.gguf", "-n", "0"], "0 tokens; give at least 1, or -1: until the end"),
    "no context": (["run", "x.gguf", "-c", "-1"], "-1 is not in the range"),
    "two prompts": (["run", "x.gguf", "Hello", "-p", "x"], "two prompts: 'Hello', and the one of -p"),
    "two models": (["run", "-m", "x.gguf", "y.gguf", "-p", "x"], "two prompts: 'y.gguf', and the one of -p"),
    "seed": (["run", "x.gguf", "--seed", str(2**32)], "4294967296 is not in the range"),
    "seed no number": (["run", "x.gguf", "--seed", "one"], "'one' is not a valid integer"),
    "no such temperature": (["run", "x.gguf", "--temp", "nan"], "nan is no number"),
    "an option of one dash": (["run", "-fa", "on"], "No such option '-fa'. (see"),
    "the same, known with two": (["run", "-temp", "0.5"], "No such option '-temp'. Did you mean '--temp'?"),
    "a letter and =": (["run", "x.gguf", "-p=x"], "No such option '-p=x'"),
    "of another verb": (["inspect", "-hf", "x.gguf"], "No such option '-hf'"),
    "system and raw": (["run", "x.gguf", "-p", "x", "--system", "y", "--raw"], "--system needs the chat template"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage(name: str, capfd: Capture) -> None:
    args, message = USAGE[name]
    assert_refused(invoke(capfd, *args), message, "--help)", status=2)


def test_what_follows_an_option_is_its_value_whatever_it_looks_like(capfd: Capture) -> None:
    for arguments in (("-p", "-abc"), ("--prompt", "-abc"), ("--prompt=-abc",), ("-p", "x", "--", "-abc")):
        assert "No such option" not in invoke(capfd, "run", "-m", "x.gguf", *arguments).err


def test_nobody_sees_a_traceback_of_ctrl_c_while_it_is_imported() -> None:
    ctrl_c = "signal.signal(signal.SIGINT, {}); import autodeco_gguf.__main__; signal.raise_signal(signal.SIGINT)"
    for before, status in (("signal.default_int_handler", -signal.SIGINT), ("signal.SIG_IGN", 0)):
        outcome = spawn(python=("-c", f"import signal; {ctrl_c.format(before)}"))
        assert (outcome.status, outcome.err) == (status, "")


LOST = """
import os, signal, time
import click
from autodeco_gguf.cli import run_command

class Object:
    def __del__(self):
        os.kill(os.getpid(), {number})
        for _ in range(10): pass

@click.command()
def command():
    Object()
    for _ in range(500): time.sleep(0.01)
    print("nobody has ended it")

run_command(command, [])
"""
"""A command to which a signal comes where what it raises is lost."""


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "\ninterrupted\n")]
)
def test_a_signal_in_a_destructor_comes_again(number: int, status: int, said: str) -> None:
    outcome = spawn(python=("-c", LOST.format(number=int(number))))
    assert (outcome.status, outcome.out, outcome.err) == (status, "", said)


HANGS_UP = """
import signal
import click
from autodeco_gguf.cli import run_command

@click.command()
def command():
    signal.raise_signal(signal.SIGHUP)
    print("it runs on")

signal.signal(signal.SIGHUP, signal.{before})
run_command(command, [])
"""


@pytest.mark.parametrize(("before", "status", "out"), [("SIG_DFL", 129, ""), ("SIG_IGN", 0, "it runs on\n")])
def test_a_terminal_that_goes_ends_a_command_unless_nohup_says_otherwise(before: str, status: int, out: str) -> None:
    outcome = spawn(python=("-c", HANGS_UP.format(before=before)))
    assert (outcome.status, outcome.out, outcome.err) == (status, out, "")


def test_ctrl_c_is_caught_once_a_command_runs(capfd: Capture) -> None:
    @click.command()
    def command() -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as exit_info:
            run_command(command, [])
    finally:
        signal.signal(signal.SIGINT, before)
    assert exit_info.value.code == 130
    assert capfd.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (KeyboardInterrupt("half of it is kept"), "\ninterrupted: half of it is kept\n", 130),
        (ModelFailed("x: no memory").with_log(["a\x1b"]), "error: x: no memory\nllama.cpp: a\\x1b\n", 1),
    ],
)
def test_what_an_error_says_besides(error: BaseException, said: str, status: int, capfd: Capture) -> None:
    @click.command()
    def command() -> None:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit_info:
        run_command(command, [])
    signal.signal(signal.SIGTERM, before)
    assert (capfd.readouterr().err, exit_info.value.code) == (said, status)


def test_an_error_goes_to_standard_error_or_nowhere(monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    outcome = invoke(capfd, "fly")
    assert (outcome.status, outcome.out, outcome.err) == (2, "", "")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert invoke(capfd, "fly").status == 2
        with contextlib.suppress(OSError):
            full.close()


def test_an_error_has_a_length(capfd: Capture) -> None:
    outcome = invoke(capfd, "x" * 100_000)
    assert (outcome.status, len(outcome.err)) == (2, MAX_MESSAGE + 1)


CLOSED = """
import click
from autodeco_gguf.cli import run_command

@click.command()
def command():
    with open({path!r}, "w") as file:
        file.write(str(file.fileno()))

run_command(command, [])
"""


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    code = CLOSED.format(path=str(tmp_path / "number"))
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code], check=True, timeout=60)
        assert int((tmp_path / "number").read_text()) > 2, closed


@pytest.mark.parametrize("buffered", [True, False])
def test_an_output_that_is_full(buffered: bool) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, *(() if buffered else ("-u",)), "-m", "autodeco_gguf", "--help"]
        done = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr.decode()) == (1, "error: the output: No space left on device\n")


def test_a_library_that_is_not_there_is_not_the_output() -> None:
    command = [sys.executable, "-m", "autodeco_gguf", "run", "-p", "x"]
    env = {**os.environ, "LLAMA_CPP_LIB_PATH": "/nowhere"}
    done = subprocess.run(command, env=env, stderr=subprocess.PIPE, timeout=60, check=False)
    expected = "error: Shared library with base name 'llama' not found\n"
    assert (done.returncode, done.stderr.decode()) == (1, expected)


def test_a_file_name_that_is_not_utf_8(merged: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    path.write_bytes(merged.read_bytes())
    for outcome in (spawn("inspect", path), spawn("run", "-t", 1, path, "-p", "x", "-n", 2)):
        assert (outcome.status, "error" in outcome.err) == (0, False)
    with contextlib.closing(ad.Llama(path, n_ctx=32, n_threads=1, verbose=False)) as llm:
        assert llm.model_path == os.fspath(path)
