"""Where messages are typed: keys, several lines, wide characters, history, resizing, and plain lines."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from broken import Terminal
from conftest import Case
from run_helpers import with_template
from terminal_helpers import Screen

from autodeco_gguf.cli._answers import CtrlC
from autodeco_gguf.cli._reader import PlainReader, Typed, history_path, is_open, unquoted

ECHO = "{{ raise_exception('<' ~ messages[-1].content | replace('\\n', '|') ~ '>') }}"
"""A template that says what it was given."""


FAMILY = "👨\u200d👩\u200d👧"


@pytest.fixture
def echo(qwen2: Case, tmp_path: Path) -> Path:
    return with_template(qwen2, tmp_path, ECHO)


def test_what_stands_between_quotes() -> None:
    texts = {
        'a """ b': Typed('a """ b'),
        '"""': Typed('"""'),
        '"""/bye"""': Typed("/bye", quoted=True),
        '  """\n a\nb"""c"\n""" ': Typed(' a\nb"""c"', quoted=True),
        '""""""': Typed("", quoted=True),
    }
    assert {text: unquoted(text) for text in texts} == texts
    assert [is_open(text) for text in ('"""', '"""a', '"""a"""', 'a"""', '""""')] == [True, True, False, False, True]


def test_a_terminal_edits_lines(echo: Path) -> None:
    with Screen(echo, columns=40) as screen:
        screen.prompt()
        for text in (
            "请翻译以下文字" * 4,
            "x" * 100,
            "e\u0301" * 9,
            "👨" * 30,
            FAMILY * 9,
            "🇩🇪🇫🇷👍🏽❤\ufe0f1\ufe0f\u20e3" * 9,
        ):
            screen.type(text, b"")
            screen.until(lambda lines: lines[-1] != ">")
            screen.type(b"\x7f" * len(text), b"")
            assert screen.prompt()[-2] == "lp lists commands"
        told = "".join(screen.say(FAMILY * 2 + "\x7f"))  # what is seen as one is erased as one
        assert r"<👨\u200d👩\u200d👧>" in told
        assert "<ab>" in " ".join(screen.say(b"b\x1b[Da"))  # the left arrow
        screen.type("gone", b"")
        screen.until(lambda lines: lines[-1] == "> gone")
        screen.send(b"\x03")  # clears
        screen.prompt()
        screen.send(b"\x03")
        assert "(Ctrl-D ends)" in screen.until(lambda lines: lines[-2:] == ["(Ctrl-D ends)", ">"])
        screen.resize(60)
        screen.process.send_signal(signal.SIGWINCH)
        assert f"<{'y' * 50}>" in "".join(screen.say("y" * 50))
        screen.send(b"\x04")
        assert screen.process.wait(10) == 0
        screen.left_clean()


def test_messages_of_several_lines(echo: Path) -> None:
    with Screen(echo, columns=250) as screen:
        screen.prompt()
        for typed, given in (
            (b'"""one\rtwo\r\r/bye"""', "<one|two||/bye>"),
            (b"one\x1b\rtwo", "<one|two>"),
            (b"\x1b[200~one\r\n/bye\nthree\x1b[201~", "<one|/bye|three>"),
            (b'\x1b[200~"""doc"""\rx = 1\x1b[201~', '<"""doc"""|x = 1>'),
            (b'\x1b[200~"""doc\nof two lines\x1b[201~', '<"""doc|of two lines>'),
            (b"\x1b[200~/bye\nis a word\x1b[201~!", "</bye|is a word!>"),
            (b"a\x1b[200~\tb\x1b[31mc\x07\x1b[201~", r"<a\tb\x1b[31mc\x07>"),
            (b"\x1b[200~" + b"line\n" * 200 + b"\x1b[201~", "<" + "line|" * 200 + ">"),
            (b"\x1b[200~/system x\nand y\x1b[201~", "</system x|and y>"),
            (b"\x1b[A", "</system x|and y>"),  # is a message when it is recalled, too
            (b'\x1b[200~"""doc\nof lines\x1b[201~', '<"""doc|of lines>'),
            (b"\x1b[A", '<"""doc|of lines>'),
            (b'"""/bye"""', "</bye>"),
            (b"\x1b[200~/set\n\x1b[201~", "error: usage: /set"),
            (b"/home is where", "error: unknown command /home"),
        ):
            told = screen.say(typed)
            assert given in " ".join(told) + "".join(told)
        assert screen.process.poll() is None


def test_tab_completes_commands_settings_and_files(echo: Path, tmp_path: Path) -> None:
    (tmp_path / "talk.json").write_text("[]")
    with Screen(echo, cwd=tmp_path) as screen:
        screen.prompt()
        for begin, end in ((b"/sy", "> /system"), (b"/set repeat", "> /set repeat_penalty"),
                           (b"/set temperature h", "> /set temperature heads"), (b"/load tal", "> /load talk.json"),
                           (b"/heads of", "> /heads off")):  # fmt: skip
            screen.send(begin + b"\t")
            screen.until(lambda lines, end=end: lines[-1].rstrip() == end)  # type: ignore[misc]
            screen.send(b"\x03")
            screen.prompt()


def test_what_is_asked_before_many_completions_can_be_left(
    echo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")  # this terminal does not say where its cursor is
    for i in range(1500):
        (tmp_path / f"talk{i}.json").touch()
    with Screen(echo, cwd=tmp_path) as screen:
        screen.prompt()
        screen.send(b"/load talk\t\t")
        screen.until(lambda lines: any("possibilities? (y/n)" in line for line in lines))
        screen.send(b"\x03")
        screen.until(lambda lines: lines[-1].rstrip() in (">", "> /load talk"))
        screen.send(b"\x03")
        assert "Unhandled" not in "".join(screen.prompt())


def test_what_looks_like_a_mouse_is_left_out(echo: Path) -> None:
    with Screen(echo) as screen:
        screen.prompt()
        told = " ".join(screen.say(b"a\x1b[31m\x1b[<0;1Mb"))
        assert "<ab>" in told


def test_history_goes_on_in_the_next_chat(echo: Path, tmp_path: Path) -> None:
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    file = tmp_path / "state" / "autodeco-gguf" / "history"
    with Screen(echo, env=env) as screen:
        screen.prompt()
        screen.say('"""first\rline"""')
        screen.say(b"caf\xe9 <")
        screen.send(b"\x04")
        assert screen.process.wait(10) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    file.write_bytes(file.read_bytes() + b"\n# x\n+br\xff\xfeken\n")
    file.chmod(0o644)
    with Screen(echo, env=env) as screen:
        screen.prompt()
        for shown in ("> br\ufffd\ufffdken", "> caf\ufffd <", '... line"""'):
            screen.send(b"\x1b[A")
            screen.until(lambda lines, shown=shown: lines[-1] == shown)  # type: ignore[misc]
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    with Screen(echo, "--no-history", env=env) as screen:
        screen.prompt()
        screen.say("secret")
        screen.send(b"\x04")
        assert screen.process.wait(10) == 0
    assert file.read_bytes() == before


def test_where_history_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    for state, folder in (("/s", "/s"), ("", "/home/x/.local/state"), ("relative", "/home/x/.local/state")):
        monkeypatch.setenv("XDG_STATE_HOME", state)
        assert history_path() == Path(folder, "autodeco-gguf", "history")
    monkeypatch.setenv("HOME", "none")
    assert history_path() is None


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(echo: Path) -> None:
    with Terminal("run", "-t", 1, echo, env={**os.environ, "TERM": "dumb", "LC_ALL": "C.UTF-8"}) as terminal:
        terminal.wait_for(b"> ")
        terminal.send(b"caf\xe9\r")
        terminal.wait_for("<caf\ufffd>".encode())
        terminal.wait_for(b"> ")
        terminal.send(b'"""one\r')
        terminal.wait_for(rb"\.\.\. ")
        terminal.send(b'two"""\r')
        terminal.wait_for(rb"<one\|two>")
        terminal.wait_for(b"> ")
        terminal.ctrl_c_at_prompt()
        terminal.wait_for(rb"\(Ctrl-D ends\)\r\n> ")
        time.sleep(0.1)
        terminal.ctrl_d_ends_it()
        assert b"\x1b" not in terminal.seen + terminal.raw


def test_a_question_is_a_no_unless_it_is_a_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, is_yes in (("y\n", True), ("YES\n", True), ("\n", False), ("no\n", False), ("", False)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        assert PlainReader(CtrlC()).confirm("really?") == is_yes
