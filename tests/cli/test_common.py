"""What several verbs share: the options of a machine, wrong usage, sizes and names for a reader."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from autodeco_gguf.cli import VERBS, _common, cli
from autodeco_gguf.cli._common import (
    Bar,
    Verb,
    chat_template_option,
    heads_text,
    human_size,
    machine_options,
    named,
    progress_bar,
    resumable,
    terminal,
)
from autodeco_gguf.errors import BadFile, InvalidInput, ModelFailed
from autodeco_gguf.model.machine import Machine


def machine_of(*args: str, **defaults: Any) -> Machine:
    """The machine that a command gets for these arguments."""
    found: list[Machine] = []

    @click.command()
    @click.argument("name")
    @machine_options(**defaults)
    def command(name: str, machine: Machine) -> None:
        assert name == "x"
        found.append(machine)

    result = CliRunner().invoke(command, ["x", *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


def test_options_are_collected_into_a_machine() -> None:
    assert machine_of() == Machine()
    assert machine_of(cache_type="f32", flash_attn=False) == Machine(cache_type="f32", flash_attn=False)
    given = ("-t", "3", "--gpu-layers", "0", "--cache-type", "f32", "--flash-attn", "-v")
    assert machine_of(*given) == Machine(n_threads=3, n_gpu_layers=0, cache_type="f32", flash_attn=True, verbose=True)
    assert machine_of("--no-flash-attn").flash_attn is False
    given = ("--device", "CUDA0, CUDA1", "-ts", "3/1", "-mg", "1", "-sm", "row", "--mlock", "--no-mmap")
    assert machine_of(*given) == Machine(
        device=("CUDA0", "CUDA1"), tensor_split=(3, 1), main_gpu=1, split_mode="row", mlock=True, mmap=False
    )
    given = ("--rpc", "a:1, b:2", "--rpc-timeout", "5")
    assert machine_of(*given) == Machine(rpc=("a:1", "b:2"), rpc_timeout=5.0)
    assert machine_of("-dev", "none", "--split-mode", "none") == Machine(device=("none",), split_mode="none")


def test_every_field_of_a_machine_has_an_option() -> None:
    @click.command()
    @machine_options()
    def command(machine: Machine) -> None: ...

    assert {p.name for p in command.params} == {field.name for field in fields(Machine)} | {"offline"}


@pytest.mark.parametrize("verb", ["run", "eval", "rollouts", "train", "verify"])
def test_the_verbs_that_run_a_model_have_them(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert {field.name for field in fields(Machine)} <= {p.name for p in command.params}


def test_input_that_will_not_do_is_wrong_usage() -> None:
    @click.command(cls=Verb)
    @click.argument("what")
    def command(what: str) -> None:
        raise InvalidInput.of("k", what, "at least 1") if what != "file" else BadFile.of("x.gguf", "is broken")

    with pytest.raises(click.UsageError, match=r"^k 0, expected at least 1$") as caught:
        command.main(["0"], standalone_mode=False, prog_name="verb")
    assert caught.value.ctx is not None
    assert caught.value.ctx.command_path == "verb"
    with pytest.raises(BadFile, match=r"^x.gguf: is broken$"):
        command.main(["file"], standalone_mode=False)


def test_every_verb_is_one() -> None:
    assert all(isinstance(cli.get_command(click.Context(cli), verb), Verb) for verb in VERBS)


def test_for_a_reader() -> None:
    sizes = {0: "0 B", 999: "999 B", 1234: "1.2 kB", 1_234_567: "1.2 MB", 987_654_321_000: "987.7 GB"}
    assert {size: human_size(size) for size in sizes} == sizes
    assert heads_text(["top_p", "temperature"]) == "temperature, top-p"
    assert heads_text([]) == "none"


@pytest.mark.parametrize("in_bytes", [False, True])
def test_without_a_terminal_progress_is_a_line_from_time_to_time(
    in_bytes: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also while nothing new is known, and no more once it is over."""
    monkeypatch.setattr(_common, "REPORT_S", 0.005)
    told: list[str] = []
    monkeypatch.setattr(Bar, "say", lambda self, line: told.append(line))

    def wait(n: int) -> None:
        until = time.monotonic() + 20
        while len(told) < n and time.monotonic() < until:
            time.sleep(0.001)
        assert len(told) >= n

    with progress_bar("reading", in_bytes=in_bytes) as bar:
        wait(1)
        assert told[0] == ("0 min: 0 B reading" if in_bytes else "0 min: 0 reading")
        bar.update(3000, 20000, "problems, 7 of 8 correct")
        seen = len(told)
        wait(seen + 3)
    assert told[-1] == f"0 min: {'3.0 kB/20.0 kB' if in_bytes else '3000/20000'} problems, 7 of 8 correct"
    ended = len(told)
    time.sleep(0.02)
    assert len(told) == ended
    assert capfd.readouterr().err == ""


def test_a_line_is_said_as_it_stands(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading") as bar:
        bar.say("[/x] [bold]")
    assert capfd.readouterr().err == "[/x] [bold]\n"


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("-5", 80), ("x", 80), ("7", 7)])
def test_a_terminal_has_a_width(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal().width == width


UNREAD = """
import os, sys
import click
from autodeco_gguf.cli import run_command
from autodeco_gguf.cli._common import Verb

whose = sys.argv.pop()

@click.command(cls=Verb)
def command():
    if whose != "another":
        click.echo("x" * 100_000, err=whose == "errors")
    read, write = os.pipe()
    os.close(read)
    os.write(write, b"x")

run_command(command, [])
"""


@pytest.mark.parametrize(("whose", "status"), [("own", 0), ("errors", 1), ("another", 1)])
def test_only_the_reader_of_our_output_may_go(whose: str, status: int) -> None:
    read, write = os.pipe()
    if whose != "another":
        os.close(read)
    stdout, stderr = (subprocess.PIPE, write) if whose == "errors" else (write, subprocess.PIPE)
    outcome = subprocess.run(
        [sys.executable, "-c", UNREAD, whose], stdout=stdout, stderr=stderr, timeout=60, check=False
    )
    for fd in (write, *([read] if whose == "another" else [])):
        os.close(fd)
    assert (outcome.returncode, outcome.stdout or b"", outcome.stderr or b"") == (status, b"", b"")


@pytest.mark.parametrize("verb", ["run", "eval", "rollouts", "train"])
def test_the_verbs_that_use_a_chat_template_take_what_it_reads(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert "chat_template_kwargs" in {p.name for p in command.params}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[1]", "[1]: is a list, expected an object"),
        ("false", "false: is a boolean, expected an object"),
        ("null", "null: is null, expected an object"),
        ("{enable_thinking: false}", "{enable_thinking: false}: not JSON: Expecting property name"),
        ("", ": not JSON: Expecting value"),
        ('{"a": "\udce9"}', r'{"a": "\udce9"}: not UTF-8 at byte 7'),
    ],
)
def test_what_is_no_object(given: str, words: str) -> None:
    @click.command(cls=Verb)
    @chat_template_option
    def command(chat_template_kwargs: dict[str, Any] | None) -> None: ...

    result = CliRunner().invoke(command, ["--chat-template-kwargs", given])
    assert (result.exit_code, result.output.count("Error")) == (2, 1)
    assert f"Error: Invalid value for '--chat-template-kwargs': {words}" in result.output


def test_behind_two_dashes_all_is_text() -> None:
    @click.command(cls=Verb)
    @click.argument("what")
    def command(what: str) -> None:
        click.echo(what)

    assert CliRunner().invoke(command, ["--", "-fast"]).output == "-fast\n"
    assert "No such option" in CliRunner().invoke(command, ["-fast"]).output


@pytest.mark.parametrize(
    ("error", "kept"),
    [(KeyboardInterrupt(), True), (SystemExit(143), True), (ModelFailed("lost"), True), (BadFile("broken"), False)],
)
def test_what_is_said_where_a_command_can_go_on(
    error: BaseException, kept: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)), resumable(Path("out")):
        raise error
    said = "out: what is finished is kept; the same command goes on from there\n"
    assert capfd.readouterr().err == (said if kept else "")


def test_options_that_are_named_like_fields() -> None:
    @dataclass(frozen=True)
    class Settings:
        k: int = 16
        seed: int = 3

    assert named(Settings, {"k": 0, "seed": None, "other": 1}) == Settings(k=0)
