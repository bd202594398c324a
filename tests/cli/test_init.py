"""The frame of the command line: its help, wrong usage, names of files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from broken import (
    assert_refused,
    invoke,
    spawn,
)

import autodeco_gguf as ad
from autodeco_gguf.cli import VERBS

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
    assert invoke(capfd, "--version").out == f"autodeco-gguf, version {ad.__version__}\n"


def test_no_arguments_show_the_help(capfd: Capture) -> None:
    outcome = invoke(capfd)
    assert (outcome.out + outcome.err).startswith("Usage: ")
    assert re.search(r"^  export  ", outcome.out + outcome.err, re.M)


USAGE: dict[str, tuple[list[str], str]] = {
    "unknown verb": (["fly"], "No such command 'fly'"),
    "unknown option": (["inspect", "x.gguf", "--fast"], "No such option '--fast'"),
    "no file": (["inspect"], "Missing argument 'FILE'"),
    "no heads": (["export", "--base", "x.gguf"], "Missing option '--heads'"),
    "head type": (["export", "--base", "x", "--heads", "y", "--head-type", "q4_0"], "'q4_0' is not one of"),
    "activation": (["export", "--base", "x", "--heads", "y", "--activation", "tanh"], "'tanh' is not one of"),
    "nothing to extract": (["extract", "x.gguf"], "give --base OUT, --adapter OUT or both"),
    "temperature": (["run", "x.gguf", "--temperature", "-1"], "-1.0 is not in the range x>=0"),
    "top-p": (["run", "x.gguf", "--top-p", "1.5"], "1.5 is not in the range 0<=x<=1"),
    "no tokens": (["run", "x.gguf", "-n", "0"], "0 tokens; give at least 1, or -1: until the end"),
    "no context": (["run", "x.gguf", "-c", "-1"], "-1 is not in the range"),
    "two prompts": (["run", "x.gguf", "Hello", "-p", "x"], "two prompts: 'Hello', and the one of -p"),
    "two models": (["run", "-m", "x.gguf", "y.gguf", "-p", "x"], "two prompts: 'y.gguf', and the one of -p"),
    "seed": (["run", "x.gguf", "--seed", str(2**32)], "4294967296 is not in the range"),
    "seed no number": (["run", "x.gguf", "--seed", "one"], "'one' is not a valid integer"),
    "system and raw": (["run", "x.gguf", "-p", "x", "--system", "y", "--raw"], "--system needs the chat template"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage(name: str, capfd: Capture) -> None:
    args, message = USAGE[name]
    assert_refused(invoke(capfd, *args), message, "--help)", status=2)


def test_a_file_name_that_is_not_utf_8(merged: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    path.write_bytes(merged.read_bytes())
    for outcome in (spawn("inspect", path), spawn("run", "-t", 1, path, "-p", "x", "-n", 2)):
        assert "Traceback" not in outcome.err
