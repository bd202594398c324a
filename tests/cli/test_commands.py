"""The commands of a chat, typed on a terminal, and their table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from broken import Kind, rewrite
from conftest import Case
from run_helpers import TEMPLATE, with_template
from terminal_helpers import Screen

import autodeco_gguf as ad
from autodeco_gguf.cli._answers import Show
from autodeco_gguf.cli._commands import COMMANDS, Session, completions, obey
from autodeco_gguf.errors import InvalidInput


def test_help_and_completion_come_from_one_table() -> None:
    names = [name for command in COMMANDS for name in command.names]
    assert names == sorted(set(names), key=names.index)
    assert set(completions("/")) == set(names)
    assert list(completions("/sa")) == ["/save"]
    assert list(completions("/heads o")) == ["on", "off"]
    assert list(completions("/set repeat_p")) == ["repeat_penalty"]
    assert list(completions("/set temperature ")) == ["heads", "default"]
    assert list(completions("/set color e")) == ["entropy"]
    assert [*completions(""), *completions("hello"), *completions("/no x"), *completions("/save /no/such/")] == []


SAID = (
    ("/set", "error: usage: /set NAME [VALUE]"),
    ("/set temp 0.5", "temperature: 0.5"),
    ("/set temperature", "temperature: 0.5"),
    ("/set temperature -1", "error: temperature -1.0, expected a number >= 0"),
    ("/set temperature heads", "temperature: predicted"),
    ("/set top-k many", "error: top_k many, expected a whole number, or default"),
    ("/set warmth 3", "error: setting warmth, expected seed, temperature"),
    ("/set max_tokens 3", "max_tokens: 3"),
    ('/set stop "a b" c', "stop: 'a b' c"),
    (r'/set stop "\n" x', r"stop: '\n' x"),
    ("/set stop default", "stop: none"),
    ("/set stats on", "stats: on"),
    ("/set stats off", "stats: off"),
    ("/set seed -1", "seed: "),
    ("/set seed 41", "seed: 41 for the next answer"),
    ("/system Be kind.", "system: Be kind."),
    ("/heads off", "heads: none (temperature fixed at 1, top-p fixed at 1)"),
    ("/heads top_p", "heads: top-p (temperature fixed at 1)"),
    ("/heads on", "heads: temperature, top-p"),
    ("/heads maybe", "error: heads maybe, expected on, off, temperature or top_p"),
    ("/regen", "error: there is no message yet"),
    ("/trace x.jsonl", "error: there is no answer yet"),
    ("/save", "error: usage: /save FILE"),
    ("/clear is a command", "error: usage: /clear"),
    ("/bye for now", "error: usage: /bye"),
    ("/load nowhere.json", "error: nowhere.json: cannot be read: No such file or directory"),
    ("/what", "error: unknown command /what; /help lists them"),
    ("/hepl", "error: unknown command /hepl; did you mean /help?"),
    ("/BYE", "error: unknown command /BYE; did you mean /bye?"),
    ("/", "error: unknown command /; /help lists them"),
    ("/set temprature 1", "error: unknown setting temprature; did you mean temperature?"),
    ("/set tempp 1", "error: unknown setting tempp; did you mean temp?"),
    ("/set n_keep 5", "error: setting n_keep, expected seed"),
    ("/save folder", "error: folder: is a directory; give a file name"),
    ("/save /no/such/talk.json", "error: /no/such/talk.json: no such directory as /no/such"),
    ("/save ~no-such-user/talk.json", "error: ~no-such-user/talk.json: no such directory as"),
    ("/save /dev/null", "error: /dev/null: is no regular file"),
    ("/load ~no-such-user/x", "error: ~no-such-user/x: cannot be read: No such file or directory"),
    ("/save " + "n" * 300, "cannot be written: File name too long"),
    ("/save 'two words.json'", "two words.json: written"),
    ("/load two\\ words.json", "two words.json: 1 message"),
    ("/load two words.json", "two words.json: 1 message"),
    ("/?", "/bye"),
)
"""What is typed, and what is said then."""


def test_what_commands_say(qwen2: Case, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with Screen(with_template(qwen2, tmp_path), cwd=tmp_path, columns=350) as screen:
        screen.prompt()
        for typed, said in SAID:
            assert said in "\n".join(screen.say(typed)).rpartition(f"> {typed}\n")[2], typed
        shown = "\n".join(screen.say("/show")).rpartition("> /show")[2]
        for line in (
            "system          Be kind.",
            "messages        0",
            "max_tokens      3",
            "seed            41 for",
            "temperature     predicted",
            "trace           off",
            "stats           off",
        ):
            assert line in shown
        screen.say("/set seed 4294967294")
        assert "3 tokens (cut by -n)" in "\n".join(screen.say("Hello")[-3:])
        assert "seed: 0 for the next answer" in "\n".join(screen.say("/set seed"))
        screen.type("/bye")
        assert screen.process.wait(10) == 0
        screen.left_clean()


def test_a_talk_is_saved_and_goes_on(qwen2: Case, tmp_path: Path) -> None:
    counting = "{{ raise_exception(messages | length ~ ' messages') if messages | length > 4 }}" + TEMPLATE
    model = with_template(qwen2, tmp_path, counting)
    talk, trace = tmp_path / "talk.json", tmp_path / "trace.jsonl"
    with Screen(model, "-n", 4, "-s", 7, "--top", 2, "-sys", "Be kind.", cwd=tmp_path, columns=250) as screen:
        screen.prompt()
        screen.say("One")
        screen.say("/save talk.json")
        first = json.loads(talk.read_text())
        assert [m["role"] for m in first["messages"]] == ["system", "user", "assistant"]
        screen.say("/regen")
        screen.say("/trace trace.jsonl")
        prompt, *tokens, summary = map(json.loads, trace.read_text().splitlines())
        assert prompt["prompt"] == "<system>Be kind.<user>One<assistant>"
        assert [list(token) for token in tokens] == [
            ["id", "text", "temperature", "top_p", "entropy", "nucleus", "prob", "logprob", "alternatives"]
        ] * 4
        assert summary["summary"]["seed"] == 8
        assert "".join(t["text"] for t in tokens) != first["messages"][2]["content"]
        for answer, state in (
            (b"\x03", "(nothing written)"),
            (b"n\r", "(nothing written)"),
            (b"y\r", "talk.json: written"),
        ):
            screen.type("/save talk.json")
            screen.until(lambda lines: lines[-1].endswith("[y/N]"))
            screen.send(answer)
            screen.until(lambda lines, state=state: lines[-2:] == [state, ">"])  # type: ignore[misc]
        assert json.loads(talk.read_text())["messages"][2]["content"] == "".join(t["text"] for t in tokens)
        screen.say("Two")
        assert "6 messages" in screen.say("Three")[-2]
        screen.say("/clear")
        assert "4 tokens" in screen.say("Two")[-2]
        assert "talk.json: 3 messages" in screen.say("/load talk.json")[-2]
        assert "4 tokens" in screen.say("/regen")[-2]
        talk.write_text('[{"role": "user", "content": "x"}]')
        assert "talk.json: 1 message, without a system message" in screen.say("/load talk.json")[-2]
        talk.write_text('[{"role": "tool", "content": "x"}]')
        assert "error: talk.json: message 1 {'role': 'tool'" in "\n".join(screen.say("/load talk.json")[-4:])


@pytest.mark.parametrize("typed", ["/clear", "/load talk.json"])
def test_answers_of_another_talk_are_none_of_this(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("talk.json").write_text("[]")
    conversation = SimpleNamespace(clear=lambda: None, resume=lambda messages: None, system=None)
    unused: Any = None
    told: Any = ["an answer"]
    session = Session(unused, conversation, unused, Show(), unused, unused, told=told)  # type: ignore[arg-type]
    obey(session, *typed.partition(" ")[::2])
    with pytest.raises(InvalidInput, match=r"^there is no answer yet$"):
        obey(session, "/view", "")


def test_where_another_answer_is_refused_the_talk_stays_as_it_was() -> None:
    conversation = SimpleNamespace(messages=["Hello", "Hi"], gone=["x"])

    def reopen() -> str:
        conversation.messages, conversation.gone = [], []
        return "Hello"

    def refuse(message: str) -> None:
        raise InvalidInput(f"not {message}")

    conversation.reopen = reopen
    session: Any = SimpleNamespace(conversation=conversation, answer=refuse)
    with pytest.raises(InvalidInput, match=r"^not Hello$"):
        obey(session, "/regen", "")
    assert (conversation.messages, conversation.gone) == (["Hello", "Hi"], ["x"])


@pytest.mark.skipif(sys.platform == "darwin", reason="its names are UTF-8")
def test_a_talk_with_a_model_whose_name_is_no_text(qwen2: Case, tmp_path: Path) -> None:
    model = with_template(qwen2, tmp_path).rename(tmp_path / "b\udcff.gguf")
    with Screen(model, "-n", 4, cwd=tmp_path, columns=250) as screen:
        screen.prompt()
        screen.say("One")
        assert "talk.json: written" in screen.say("/save talk.json")[-2]
    assert json.loads((tmp_path / "talk.json").read_text())["model"].endswith("b\udcff.gguf")


def test_a_page_of_the_answers(qwen2: Case, tmp_path: Path) -> None:
    with Screen(with_template(qwen2, tmp_path), "-n", 4, cwd=tmp_path, columns=250) as screen:
        screen.prompt()
        assert "error: there is no answer yet" in screen.say("/view")[-2]
        screen.say("One")
        assert "file:///" in "\n".join(screen.say("/view")[-4:])
        assert "error: file x.png, expected a name that ends in .html" in screen.say("/view x.png")[-2]
    assert (tmp_path / "autodeco.html").read_text().startswith("<!doctype html>")


def test_a_talk_from_elsewhere_does_not_steer_the_terminal(qwen2: Case, tmp_path: Path) -> None:
    steering = [{"role": "system", "content": "\x1b[31mred\u202e"}, {"role": "user", "content": "x"}]
    (tmp_path / "talk.json").write_text(json.dumps(steering))
    (tmp_path / "broken.json").write_text('[{"role": "user", "content": "\\ud800"}]')
    with Screen(with_template(qwen2, tmp_path), cwd=tmp_path, columns=150) as screen:
        screen.prompt()
        screen.say("/load talk.json")
        assert r"system          \x1b[31mred\u202e" in screen.say("/show")
        assert r"system: \x1b[31mred\u202e" in screen.say("/system")
        assert r"error: broken.json: message 1 {'role': 'user', 'content': '\ud800'}" in "".join(
            screen.say("/load broken.json")
        )
        assert b"\x1b[31m" not in screen.bytes


def test_a_talk_of_a_model_that_does_not_remember(tmp_path: Path) -> None:
    with Screen("-n", 4, "-s", 7, cwd=tmp_path, columns=150) as screen:
        screen.prompt()
        screen.say("Tell a story about Mia with 47 and 38.")
        screen.say("Tell a story about Tom with 12 and 13.")
        assert "talk.json: written" in screen.say("/save talk.json")[-2]
        messages = json.loads((tmp_path / "talk.json").read_text())["messages"]
        assert [m["content"] for m in messages[::2]] == [
            "Tell a story about Mia with 47 and 38.",
            "Tell a story about Tom with 12 and 13.",
        ]
        assert [m["role"] for m in messages] == ["user", "assistant"] * 2
        assert all(m["content"] for m in messages)
        assert "talk.json: 4 messages" in screen.say("/load talk.json")[-2]
        assert "4 tokens" in screen.say("Tell a story about Paul with 12 and 13.")[-2]


def test_the_file_decides_where_no_head_does(qwen2: Case, tmp_path: Path) -> None:
    keys = {"temp": (0.5, Kind.FLOAT32), "top_k": (3, Kind.INT32)}
    base = rewrite(qwen2.base, tmp_path / "b.gguf", metadata={f"general.sampling.{k}": v for k, v in keys.items()})
    with Screen(ad.export(base, qwen2.heads, tmp_path / "m.gguf").path, "-n", 2, columns=150) as screen:
        for typed, said in (
            ("/heads off", "heads: none (temperature fixed at 0.5, top-p fixed at 1, top-k 3 by the model's file)"),
            ("/set top_k", "top_k: 3 (by the model's file)"),
            ("/set top_k 5", "top_k: 5"),
            ("/heads", "heads: none (temperature fixed at 0.5, top-p fixed at 1)"),
            ("/set top_k default", "top_k: 3 (by the model's file)"),
            ("/heads on", "heads: temperature, top-p"),
            ("/set top_k", "top_k: 0"),
            ("/set temperature 0.7", "temperature: 0.7"),
            ("/heads on", "heads: temperature, top-p"),  # gives it back
            ("/heads off", "heads: none (temperature fixed at 0.5, top-p fixed at 1, top-k 3 by the model's file)"),
        ):
            screen.prompt()
            assert screen.say(typed)[-2] == said


@pytest.mark.parametrize("way", ["options", "defaults"])
def test_what_was_given_at_the_start_is_given_back_to_the_file(
    way: str, qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"temp": (0.25, Kind.FLOAT32), "top_p": (0.75, Kind.FLOAT32), "top_k": (5, Kind.INT32)}
    model = rewrite(qwen2.base, tmp_path / "m.gguf", metadata={f"general.sampling.{k}": v for k, v in keys.items()})
    (tmp_path / "config.toml").write_text("[run]\ntemperature = 0.5\n" if way == "defaults" else "")
    monkeypatch.setenv("AUTODECO_CONFIG", str(tmp_path / "config.toml"))
    with Screen(model, *(("--temp", 0.5) if way == "options" else ()), "--top-k", 3, columns=150) as screen:
        for typed, said in (
            ("/heads", "heads: none (temperature fixed at 0.5, top-p 0.75 by the model's file)"),
            ("/set top_k", "top_k: 3"),
            ("/set top_k default", "top_k: 5 (by the model's file)"),
            ("/set temperature default", "temperature: 0.25 (by the model's file)"),
        ):
            screen.prompt()
            assert screen.say(typed)[-2] == said
