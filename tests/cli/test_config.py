"""A user's own defaults: which goes before which, and what is none."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from broken import Terminal, assert_refused, invoke
from click.testing import CliRunner

from autodeco_gguf.cli import VERBS, cli
from autodeco_gguf.cli._common import Verb
from autodeco_gguf.cli._config import config_path, defaults_from_file, negative_variables
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.server import service

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("AUTODECO_CONFIG", str(path))
    path.write_text("")
    return path


@click.group()
@click.pass_context
def group(ctx: click.Context) -> None:
    ctx.default_map = {"run": {**defaults_from_file(run, ["run", "eval"]), **negative_variables(run)}}


@group.command("run", cls=Verb)
@click.option("-t", "--temperature", "--temp", type=float, default=1.0)
@click.option("--json", "as_json", is_flag=True)
@click.option("--history/--no-history", default=True)
@click.option("--data", multiple=True)
def run(**values: object) -> None:
    click.echo(sorted(values.items()))


def values(*args: str, **environment: str) -> dict[str, object]:
    result = CliRunner().invoke(group, ["run", *args], env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(eval(result.output))


def test_option_variable_file_default(config: Path) -> None:
    assert values()["temperature"] == 1.0
    config.write_text("[run]\ntemperature = 0.5\n")
    assert values()["temperature"] == 0.5
    assert values(AUTODECO_RUN_TEMPERATURE="0.25")["temperature"] == 0.25
    assert values(AUTODECO_RUN_TEMP="0.125")["temperature"] == 0.125
    assert values("--temp", "2", AUTODECO_RUN_TEMPERATURE="0.25")["temperature"] == 2.0


def test_flags_and_lists(config: Path) -> None:
    config.write_text('[run]\njson = true\nno_history = true\ndata = ["a", "b"]\n[eval]\n')
    assert values() == {"as_json": True, "data": ("a", "b"), "history": False, "temperature": 1.0}
    config.write_text("[run]\nhistory = false\n")
    assert values()["history"] is False
    assert values("--history")["history"] is True
    assert values(AUTODECO_RUN_HISTORY="1")["history"] is True
    assert values(AUTODECO_RUN_JSON="1")["as_json"] is True


def test_variables_that_say_no(config: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    assert values(AUTODECO_RUN_NO_HISTORY="1")["history"] is False
    assert values(AUTODECO_RUN_NO_HISTORY="")["history"] is True
    assert values("--history", AUTODECO_RUN_NO_HISTORY="1")["history"] is True
    config.write_text("[run]\nno_history = true\n")
    assert values(AUTODECO_RUN_NO_HISTORY="off")["history"] is True
    monkeypatch.setenv("AUTODECO_SERVE_NO_MMAP", "of course")
    words = "AUTODECO_SERVE_NO_MMAP in the environment: 'of course' is not a valid boolean"
    assert_refused(invoke(capfd, "serve"), words, status=2)
    assert invoke(capfd, "serve", "--help").status == 0
    monkeypatch.setenv("AUTODECO_SERVE_NO_MMAP", "1")
    loaded: list[object] = []

    def load(*arguments: object, **options: object) -> None:
        loaded.extend(arguments)
        raise InvalidInput("seen")

    monkeypatch.setattr(service, "load", load)
    assert_refused(invoke(capfd, "serve"), "seen", status=2)
    assert [value.mmap for value in loaded if isinstance(value, Machine)] == [False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run]\ntemprature = 1\n", "[run] temprature: no such option; did you mean temperature?"),
        ("[rum]\n", "[rum]: no such verb; did you mean run?"),
        ("temperature = 1\n", "[temperature]: no such verb; there is run"),
        ("run = 5\n", "run is a number, expected a table, [run]"),
        ("[run\n", "not TOML: "),
        ("[run]\njson = 1\n", "[run] json is 1, expected true or false"),
        ("[run]\ntemperature = [1]\n", "[run] temperature is [1], expected a text or a number"),
        ("[run]\ntemperature = true\n", "[run] temperature is True, expected a text or a number"),
        (f"x = {'[' * 100_000}", "not TOML: "),
        ("[run]\ntemperature = 1\ntemp = 2\n", "[run] temp: the same option is given twice"),
    ],
)
def test_what_is_no_default(text: str, words: str, config: Path, capfd: Capture) -> None:
    config.write_text(text)
    assert_refused(invoke(capfd, "run", "x.gguf", "-p", "x"), f"{config}: {words}")


def test_a_file_that_cannot_be_read_is_not_called_wrong(config: Path, capfd: Capture) -> None:
    config.unlink()
    config.mkdir()
    outcome = invoke(capfd, "run", "x.gguf", "-p", "x")
    assert_refused(outcome, f"error: {config}: cannot be read: Is a directory")


def test_files_of_windows_and_of_a_home(config: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    config.write_bytes(b'\xef\xbb\xbf[run]\nheads = "~/heads.gguf"\n')
    assert_refused(invoke(capfd, "run", DEMO_MODEL, "-p", "x"), "/home/x/heads.gguf: cannot be opened")


NONE = {
    ("eval", "-o", "x"): ("task", "~/none.jsonl", "none.jsonl: no such file"),
    ("eval", "-o", "y"): ("task", "gsm8k:~/none.jsonl", "none.jsonl: no such file"),
    ("train", DEMO_MODEL, "-o", "x"): ("data", "~/none.jsonl", "none.jsonl: cannot be read"),
    ("train", DEMO_MODEL, "-o", "x", "--data", "x.jsonl"): ("from", "~/none.gguf", "none.gguf: "),
    ("export", "--base", DEMO_MODEL): ("heads", "~/none", "none: "),
    ("run", "-p", "x"): ("model", "~/none.gguf", "none.gguf: cannot be opened"),
}
"""Arguments of a verb: an option, its value, and what is said of the file."""


@pytest.mark.parametrize("arguments", NONE)
def test_a_home_in_variables_and_in_every_name_of_a_file(
    arguments: tuple[str, ...], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/x")
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    option, value, words = NONE[arguments]
    config.write_text(f'[{arguments[0]}]\n{option} = "{value}"\n')
    assert f"/home/x/{words}" in invoke(capfd, *arguments).err
    config.write_text("")
    monkeypatch.setenv(f"AUTODECO_{arguments[0]}_{option}".upper(), value)
    assert f"/home/x/{words}" in invoke(capfd, *arguments).err


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_whatever_is_wrong_with_the_file(option: str, config: Path, capfd: Capture) -> None:
    config.write_text("[run\n")
    outcome = invoke(capfd, "run", option)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("Usage: ")


def test_where_a_wrong_value_is_from(config: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    config.write_text('[run]\ntemperature = "warm"\n')
    assert_refused(invoke(capfd, "run", "x.gguf", "-p", "x"), "'warm'", f"(in {config})", status=2)
    monkeypatch.setenv("AUTODECO_RUN_TEMPERATURE", "hot")
    words = "'hot' is not a valid float range. (of AUTODECO_RUN_TEMPERATURE in the environment)"
    assert_refused(invoke(capfd, "run", "x.gguf", "-p", "x"), words, status=2)
    monkeypatch.setenv("AUTODECO_RUN_TEMPERATURE", "nan")
    words = "nan is no number. (of AUTODECO_RUN_TEMPERATURE in the environment)"
    assert_refused(invoke(capfd, "run", "x.gguf", "-p", "x"), words, status=2)
    monkeypatch.delenv("AUTODECO_RUN_TEMPERATURE")
    config.write_text("[run]\njson-schema = '{'\n")
    assert_refused(invoke(capfd, "run", "x.gguf", "-p", "x"), "JSON schema: EOF", f"(in {config})", status=2)
    monkeypatch.setenv("AUTODECO_RUN_GRAMMAR", "x")
    words = "the grammar does not parse", "(of AUTODECO_RUN_GRAMMAR in the environment)"
    assert_refused(invoke(capfd, "run", "x.gguf", "-p", "x"), *words, status=2)
    monkeypatch.setenv("AUTODECO_RUN_GRAMMAR_FILE", "x")
    names = ("AUTODECO_RUN_GRAMMAR", "AUTODECO_RUN_GRAMMAR_FILE")
    words = "give one of", " ".join(f"(of {name} in the environment)" for name in names)
    assert_refused(invoke(capfd, "run", "x.gguf", "-p", "x"), *words, status=2)


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.delenv("AUTODECO_CONFIG", raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    for folder, expected in (("/c", "/c"), ("", "/home/x/.config"), ("relative", "/home/x/.config")):
        monkeypatch.setenv("XDG_CONFIG_HOME", folder)
        assert config_path() == Path(expected, "autodeco-gguf", "config.toml")
    monkeypatch.setenv("AUTODECO_CONFIG", "/nowhere.toml")
    why = "no such file, or none that can be reached; AUTODECO_CONFIG names it"
    assert_refused(invoke(capfd, "run", "-p", "x"), f"/nowhere.toml: {why}")
    assert invoke(capfd, "--help").status == 0


def test_a_folder_that_cannot_be_entered_holds_no_file(monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    """Its name is too long: root may enter all others."""
    monkeypatch.delenv("AUTODECO_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", f"/{'x' * 300}")
    assert invoke(capfd, "inspect", DEMO_MODEL).status == 0
    assert invoke(capfd, "inspect", "--help").status == 0
    monkeypatch.setenv("AUTODECO_CONFIG", f"/{'x' * 300}/config.toml")
    assert_refused(invoke(capfd, "inspect", DEMO_MODEL), "none that can be reached; AUTODECO_CONFIG names it")


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_variables_of_its_own(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    names = [name for p in command.params if isinstance(p, click.Option) for name in p.envvar or ()]
    assert len(names) == len(set(names))
    assert all(name.startswith(f"AUTODECO_{verb.upper()}_") for name in names)


def test_a_model_that_is_typed_goes_before_the_user_s(config: Path, capfd: Capture, tmp_path: Path) -> None:
    config.write_text('[run]\nmodel = "mine.gguf"\n')
    (tmp_path / "typed.gguf").write_text("x")
    assert_refused(invoke(capfd, "run", tmp_path / "typed.gguf", "-p", "x"), "typed.gguf: not a GGUF")
    assert_refused(invoke(capfd, "run", "Why is the sky blue?"), "mine.gguf: cannot be opened")


def test_an_option_without_a_long_name_has_its_letter(
    config: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture, tmp_path: Path
) -> None:
    config.write_text('[eval]\nk = "many"\n')
    given = ("eval", "-o", tmp_path / "out")
    assert_refused(invoke(capfd, *given), "'many' is not a valid", f"(in {config})", status=2)
    monkeypatch.setenv("AUTODECO_EVAL_K", "some")
    assert_refused(invoke(capfd, *given), "'some' is not a valid", "AUTODECO_EVAL_K in the environment", status=2)


def test_a_default_that_has_no_effect_is_none(config: Path, capfd: Capture, tmp_path: Path) -> None:
    """What would be refused where it is typed."""
    config.write_text(
        '[run]\nheads = "none.gguf"\ntop = 3\nsystem = "Be kind."\nchat_template_kwargs = \'{"a": 1}\'\n'
        'max_tokens = 3\n[train]\nrounds = 50\nfrom = "likelihood"\n'
    )
    assert invoke(capfd, "run", "-p", "x", "--raw").status == 0
    why = "needs the chat template, which --raw leaves out"
    assert_refused(invoke(capfd, "run", "-p", "x", "--raw", "-sys", "x"), f"--system {why}", status=2)
    assert_refused(invoke(capfd, "run", "-p", "x", "--top", "2"), "--top needs --json, or a chat", status=2)
    given = ("train", DEMO_MODEL, "--data", tmp_path / "none.jsonl", "-o", tmp_path / "x")
    assert_refused(invoke(capfd, *given), "none.jsonl: cannot be read")
    assert_refused(invoke(capfd, *given, "--rounds", "5"), "--rounds needs --reward", status=2)
    config.write_text('[train]\nreward = "correct"\n')
    assert_refused(invoke(capfd, *given), "none.jsonl: cannot be read")
    why = "--data has no effect with --reward"
    assert_refused(invoke(capfd, *given, "--reward", "any"), why, status=2)


@pytest.mark.parametrize(
    ("verb", "defaults", "options"),
    [
        (
            "eval",
            'heads = "none.gguf"\ncommands = ["free"]\nmean-shift-from = "none"',
            ("--seeds", 1, "--methods", "greedy"),
        ),
        ("explain", 'heads = "none.gguf"\ndata = ["none.jsonl"]\ntask = ["none.jsonl"]', ()),
    ],
)
def test_a_default_for_a_model_is_none_for_the_demo(
    verb: str, defaults: str, options: tuple[object, ...], config: Path, capfd: Capture, tmp_path: Path
) -> None:
    config.write_text(f"[{verb}]\n{defaults}\n")
    given = ("-o", tmp_path / "out", "--limit", 4, "-k", 2, "-n", 60, "-t", 1, "--no-plots")
    outcome = invoke(capfd, verb, *given, *options)
    assert outcome.status == 0, outcome.err


def test_a_default_gives_way_to_a_typed_option_that_it_conflicts_with(
    config: Path, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        '[eval]\ncontrol = true\n[explain]\ndata = ["mine.jsonl"]\n[serve]\nheads = "none.gguf"\nport = 0\n'
    )
    given = ("-o", tmp_path / "out", "--limit", 4, "-k", 2, "-n", 60, "-t", 1, "--no-plots", "--seeds", 1)
    assert invoke(capfd, "eval", *given, "--methods", "greedy", "--shard", "1/2").status == 0
    assert_refused(invoke(capfd, "eval", *given, "--control", "--shard", "1/2"), "leave --shard out", status=2)
    explain = ("explain", DEMO_MODEL, "-o", tmp_path / "why", "--task", "typed.jsonl")
    assert_refused(invoke(capfd, *explain), "typed.jsonl: no such file", status=2)
    assert_refused(invoke(capfd, *explain, "--data", "mine.jsonl"), "--data and --task: give one of them", status=2)
    assert_refused(invoke(capfd, "serve", "--heads", "x.gguf"), "--heads needs the MODEL they go with", status=2)
    loaded: list[object] = []

    def load(*arguments: object, **options: object) -> None:
        loaded[:] = [*arguments[:2], options["batch_invariant"]]
        raise InvalidInput("seen")

    monkeypatch.setattr(service, "load", load)
    assert_refused(invoke(capfd, "serve"), "seen", status=2)
    assert loaded == [DEMO_MODEL, None, False]
    config.write_text("[serve]\nbatch-invariant = true\nport = 0\n")
    for parallel, invariant in ((2, True), (1, False)):
        assert_refused(invoke(capfd, "serve", "--parallel", parallel), "seen", status=2)
        assert loaded[2] is invariant
    assert_refused(invoke(capfd, "serve", "--parallel", 1, "--batch-invariant"), "seen", status=2)
    assert loaded[2]  # which an engine refuses


def test_what_is_from_further_off_gives_way(
    config: Path, capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of options that do not go together: what the file has to a variable, and both to what is typed."""
    text = "Tell a story about Mia with 47 and 38."
    given = ("run", "-p", text, "--json", "-n", 1, "-t", 1)
    config.write_text("[run]\nraw = true\njson-schema = '{}'\n")
    monkeypatch.setenv("AUTODECO_RUN_GRAMMAR", 'root ::= "Tom"')
    assert json.loads(invoke(capfd, *given).out.splitlines()[0])["prompt"] == text
    trace = json.loads(invoke(capfd, *given, "-sys", "x").out.splitlines()[0])
    assert trace["prompt"] != text
    config.write_text('[eval]\nray = "auto"\nshard = "1/2"\n')
    small = ("-o", tmp_path / "out", "--limit", 2, "-k", 1, "-n", 60, "-t", 1, "--no-plots", "--seeds", 1)
    outcome = invoke(capfd, "eval", *small, "--methods", "greedy", "--control")
    assert outcome.status == 0, outcome.err
    assert "shard" not in outcome.err


def test_words_that_are_typed_go_before_the_user_s_prompt(config: Path, capfd: Capture) -> None:
    config.write_text('[run]\nprompt = "Tell"\nraw = true\nmax_tokens = 1\n')
    trace = invoke(capfd, "run", DEMO_MODEL, "Hello", "--json", "-t", 1).out.splitlines()
    assert json.loads(trace[0])["prompt"] == "Hello"
    trace = invoke(capfd, "run", DEMO_MODEL, "--json", "-t", 1).out.splitlines()
    assert json.loads(trace[0])["prompt"] == "Tell"


def test_a_trace_and_json_of_which_one_is_typed(config: Path, capfd: Capture) -> None:
    given = ("run", "-p", "Tell a story about Mia with 47 and 38.", "--temp", 0, "-n", 4, "-t", 1)
    as_json, traced = (invoke(capfd, *given, option) for option in ("--json", "--trace"))
    assert_refused(invoke(capfd, *given, "--json", "--trace"), "--json has the trace already", status=2)
    for defaults, option, expected in (
        ("trace = true", "--json", as_json),
        ("json = true", "--trace", traced),
        ("trace = true\njson = true", "--stats", as_json),
    ):
        config.write_text(f"[run]\n{defaults}\n")
        outcome = invoke(capfd, *given, option)
        assert (outcome.status, outcome.out.splitlines()[:-1]) == (0, expected.out.splitlines()[:-1])
    with Terminal("run", "-t", 1, "--temp", 0, "-n", 4) as terminal:
        terminal.wait_for(b"> ")
        terminal.send(b"Tell a story about Mia with 47 and 38.\r")
        terminal.wait_for(rb"\r\nT +0")
