"""The chat of the command run: its commands, its memory, Ctrl-C, and what the demo says of itself."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from broken import Terminal, spawn
from conftest import Case
from run_helpers import STATISTICS, TEMPLATE, with_template

import autodeco_gguf as ad
from autodeco_gguf.cli._chat import guide_to
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks import stories

LINE = re.sub(r"\\n$", "", STATISTICS).encode()


def test_chat(qwen2: Case, tmp_path: Path) -> None:
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path), "-n", 8, "--seed", 7) as terminal:
        assert "heads: temperature, top-p" in terminal.wait_for(b"> ")
        for _ in range(2):
            terminal.send(b"Hello\r")
            terminal.wait_for(LINE)
            terminal.wait_for(b"> ")
        terminal.send(b"\r")  # an empty line is no message
        terminal.wait_for(b"> ")
        terminal.ctrl_d_ends_it()


def test_chat_ctrl_c_ends_the_answer_only(qwen2: Case, tmp_path: Path) -> None:
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path), "--temperature", 0, "-c", 100_000) as terminal:
        for message in (b"Hello", b"Again"):
            terminal.wait_for(b"> ")
            terminal.send(message + b"\r")
            terminal.wait_for(re.escape(message) + rb"\r\n(.|\n){40}")  # the answer has begun
            terminal.send(b"\x03")
            terminal.wait_for(LINE)
        terminal.wait_for(b"> ")
        terminal.ctrl_c_at_prompt()
        terminal.wait_for(rb"\(Ctrl-D ends\)\r\n> ")
        terminal.ctrl_d_ends_it()


def test_chat_remembers_and_survives_a_refusal(qwen2: Case, tmp_path: Path) -> None:
    refusing = (
        "{% if messages | length > 2 %}{{ raise_exception(messages | length ~ ' messages') }}{% endif %}" + TEMPLATE
    )
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path, refusing), "-n", 4) as terminal:
        terminal.wait_for(b"> ")
        terminal.send(b"One\r")
        terminal.wait_for(LINE)
        terminal.wait_for(b"> ")
        terminal.send(b"Two\r")
        terminal.wait_for(b"error: .*3 messages")  # user, assistant, user
        terminal.wait_for(b"> ")
        terminal.ctrl_d_ends_it()


def test_the_seed_that_is_printed_repeats_the_answer(qwen2: Case, tmp_path: Path) -> None:
    model = with_template(qwen2, tmp_path, "<{{ messages[-1].content }}>")  # every turn is like the first
    answers = []
    for seeds in ((7, 8), (8,)):
        with Terminal("run", "-t", 1, model, "-n", 8, "--seed", seeds[0]) as terminal:
            for seed in seeds:
                terminal.wait_for(b"> ")
                terminal.send(b"Hello\r")
                terminal.wait_for(b"Hello\r\n")
                answers.append(terminal.wait_for(LINE))
                assert answers[-1].rstrip().endswith(f"seed {seed}")
    first, second, again = (text.rpartition("8 tokens (")[0] for text in answers)
    assert first != second == again


def test_slash_commands(qwen2: Case, tmp_path: Path) -> None:
    model = with_template(qwen2, tmp_path, "{{ raise_exception(messages | length ~ ' messages') }}" + TEMPLATE)
    remembering = with_template(qwen2, tmp_path / "x", TEMPLATE) if (tmp_path / "x").mkdir() is None else model
    with Terminal("run", "-t", 1, remembering, "-n", 4) as terminal:
        terminal.wait_for(b"> ")
        for typed, reply in (
            (b"/help", rb"/clear +forget[\s\S]*?/bye"),
            (b"/?", rb"/clear +forget"),
            (b"/clear", rb"\(forgotten\)"),
            (b"/clear all of it", rb"usage: /clear\r\n> "),
            (b"/set temperature 1", rb"temperature: 1\r\n> "),
            (b"/nonsense", rb"unknown command /nonsense; /help lists them\r\n> "),
            (b"/etc/passwd is a file", LINE),
            (b" /bye is a word", LINE),
        ):
            terminal.send(typed + b"\r")
            terminal.wait_for(reply)
        terminal.wait_for(b"> ")
        terminal.send(b"/bye\r")
        assert terminal.process.wait(timeout=30) == 0


def test_clear_forgets(qwen2: Case, tmp_path: Path) -> None:
    counting = "{{ raise_exception(messages | length ~ ' messages') if messages | length > 2 }}" + TEMPLATE
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path, counting), "-n", 4) as terminal:
        for typed, reply in ((b"One", LINE), (b"Two", b"3 messages"), (b"/clear", b"forgotten"), (b"Two", LINE)):
            terminal.wait_for(b"> ")
            terminal.send(typed + b"\r")
            terminal.wait_for(reply)


def test_a_full_context_is_no_dead_end(qwen2: Case, tmp_path: Path) -> None:
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path), "-c", 96, "-n", 12) as terminal:
        for i in range(5):
            terminal.wait_for(b"> ")
            terminal.send(f"Message {i}".encode() + b"\r")
            text = terminal.wait_for(LINE)
        assert "the context is full: the oldest" in text
        assert "error" not in text


def test_ctrl_c_again_and_again_loses_nothing(qwen2: Case, tmp_path: Path) -> None:
    remembering = (
        "{% if messages | length > 2 %}{{ raise_exception(messages | length ~ ' messages') }}{% endif %}" + TEMPLATE
    )
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path, remembering), "-n", 200, "-c", 400) as terminal:
        terminal.wait_for(b"> ")
        terminal.send(b"One\r")
        terminal.wait_for(rb"One\r\n(.|\n){40}")
        for _ in range(40):  # during the answer, around its end, at the prompt
            terminal.send(b"\x03")
            time.sleep(0.01)
        terminal.wait_for(LINE)
        terminal.ctrl_c_at_prompt()
        terminal.wait_for(b"> ")
        terminal.send(b"Two\r")
        terminal.wait_for(b"error: .*3 messages")
        terminal.wait_for(b"> ")
        terminal.ctrl_d_ends_it()


def test_the_prompt_of_a_chat_stays_out_of_a_pipe(qwen2: Case, tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path), "-n", 4, stdout=pipe) as terminal:
        terminal.wait_for(b"> ")
        terminal.send(b"Hello\r")
        terminal.wait_for(LINE)
        terminal.wait_for(b"> ")
        terminal.ctrl_d_ends_it()
        assert terminal.process.stdout is not None
        out = terminal.process.stdout.read()
        terminal.process.stdout.close()
    assert b">" not in out
    assert out.count(b"\n") >= 1


@pytest.mark.parametrize("typed", ["é".encode(), b"\xe9"])
def test_any_bytes_can_be_typed_in_any_locale(typed: bytes, qwen2: Case, tmp_path: Path) -> None:
    echoing = "{{ raise_exception(messages[-1].content) }}"
    env = {**os.environ, "LC_ALL": "C"}
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path, echoing), env=env) as terminal:
        terminal.wait_for(b"> ")
        terminal.send(b"<" + typed + b">\r")
        terminal.wait_for(b"refuses: <" + typed.decode("utf-8", "replace").encode() + b">")


def test_an_answer_does_not_steer_the_terminal(qwen2: Case, tmp_path: Path) -> None:
    options = ("--grammar", r'root ::= "a\x1b[31mb\x07c\td"')
    with Terminal("run", "-t", 1, with_template(qwen2, tmp_path), *options) as terminal:
        terminal.wait_for(b"> ")
        terminal.send(b"Hello\r")
        terminal.wait_for(rb"a\\x1b\[31mb\\x07c\td\r\n")


# ---- the demo ----


def test_the_demo_says_what_it_can_do_and_starts_each_story_afresh() -> None:
    with Terminal("run", "-t", 1, "--temp", 0, "--seed", 1) as terminal:
        greeting = terminal.wait_for(b"> ")
        assert f"Try: {stories.EXAMPLE}\r\n" in greeting
        assert "each by itself" in greeting
        terminal.send(b"Hello\r")
        assert f"Try: {stories.EXAMPLE}\r\n" in terminal.wait_for(b"Try: .*\r\n")
        told = []
        for _ in range(2):
            terminal.wait_for(b"> ")
            terminal.send(stories.EXAMPLE.encode() + b"\r")
            terminal.wait_for(rb"38\.\r\n")
            told.append(terminal.wait_for(LINE).splitlines()[0])
        assert stories.check(told[0], "Mia 47 38")
        assert told[0] == told[1]


def test_the_demo_answers_a_person_what_it_can_do() -> None:
    with Terminal("run", "-t", 1, "-p", "Hello") as terminal:
        assert "tokens/s" not in terminal.wait_for(b"Try: .*\r\n")
        assert terminal.process.wait(timeout=30) == 0
    outcome = spawn("run", "-t", 1, "-p", "Hello", "-n", 2)
    assert re.search(STATISTICS, outcome.err)
    assert f"Try: {stories.EXAMPLE}\n" in outcome.err


def test_what_the_demo_says_of_itself_is_no_answer() -> None:
    with Terminal("run", "-t", 1, stdout=subprocess.DEVNULL) as terminal:
        terminal.wait_for(b"> ")
        terminal.send(b"Hello\r")
        terminal.wait_for(b"Try: .*\r\n")


def test_what_is_made_of_the_demo_is_told_by_its_name(tmp_path: Path, qwen2: Case) -> None:
    ad.extract(DEMO_MODEL, base=tmp_path / "small.gguf")
    for model, known in ((tmp_path / "small.gguf", True), (qwen2.base, False)):
        with Engine(model, n_parallel=1, n_ctx=64) as engine:
            assert (guide_to(engine) is not None) == known


@pytest.mark.parametrize(
    "message", ["Hello", "Tell me a story", "What is 47 + 38?", "Bob, 47 and 38", "Mia, 7 and 100"]
)
def test_what_the_demo_cannot_do(message: str) -> None:
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=64) as engine:
        guide = guide_to(engine)
    assert guide is not None
    assert not guide.understands(message)
    for command in (None, "low", "high"):
        for problem in stories.problems(50, seed=1, held_out=True, command=command):
            assert guide.understands(problem.prompt)
