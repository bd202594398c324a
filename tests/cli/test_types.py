"""Types of options."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from autodeco_gguf.cli import VERBS, cli
from autodeco_gguf.cli._types import File, Float, FloatRange, Integer, IntRange, Line, Source


@click.command()
@click.option("--seconds", type=FloatRange(1, 60))
@click.option("--key", "keys", type=Line(), multiple=True, envvar="KEYS")
def command(seconds: float | None, keys: tuple[str, ...]) -> None:
    click.echo(f"{seconds} {keys}")


@pytest.mark.parametrize("value", ["nan", "-NaN", "0.5", "inf", "soon"])
def test_numbers_that_are_none_of_a_range(value: str) -> None:
    result = CliRunner().invoke(command, [f"--seconds={value}"])
    assert result.exit_code == 2
    assert "--seconds" in result.output


def test_a_name_that_the_file_system_cannot_have() -> None:
    with pytest.raises(click.BadParameter, match=r"^'mod\\udc00\\ud800l' is no name of a file in utf-8\.$"):
        File().convert("mod\udc00\ud800l", None, None)


def test_a_number() -> None:
    assert CliRunner().invoke(command, ["--seconds", "1.5"]).output == "1.5 ()\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~/x", "/home/x/x"),
        ("gsm8k:~/x", "gsm8k:/home/x/x"),
        ("a:b:~/x", "a:b:~/x"),
        ("x~/y", "x~/y"),
        ("hf/data:main@test", "hf/data:main@test"),
        ("", ""),
    ],
)
def test_a_home_no_shell_has_seen(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    assert Source().convert(text, None, None) == expected
    assert File().convert("~/x", None, None) == "/home/x/x"


@pytest.mark.parametrize(
    ("variable", "keys"),
    [
        ("correct horse battery", ("correct horse battery",)),
        ("a b\n\n c\r\n", ("a b", "c")),
        (" \n", ("",)),
    ],
)
def test_a_variable_of_several_lines(variable: str, keys: tuple[str, ...]) -> None:
    assert CliRunner(env={"KEYS": variable}).invoke(command).output == f"None {keys}\n"


@pytest.mark.parametrize("kind", [Integer(), IntRange(0, 20)])
def test_a_whole_number(kind: Integer) -> None:
    assert [kind.convert(value, None, None) for value in ("10", 10)] == [10, 10]
    for value in ("1_0", "1.0", "ten"):
        with pytest.raises(click.BadParameter, match=f"^'{value}' is not a valid {kind.name}.$"):
            kind.convert(value, None, None)
    with pytest.raises(click.BadParameter, match="is not in the range 0<=x<=20"):
        IntRange(0, 20).convert("21", None, None)


@pytest.mark.parametrize("kind", [Float(), FloatRange(0, 20)])
def test_a_number_of_any_kind(kind: Float) -> None:
    assert [kind.convert(value, None, None) for value in ("1e1", "10", 10.0)] == [10.0] * 3
    for value in ("1_0", "0.1_0", "ten"):
        with pytest.raises(click.BadParameter, match=f"^'{value}' is not a valid {kind.name}.$"):
            kind.convert(value, None, None)


@pytest.mark.parametrize("verb", VERBS)
def test_every_number_is_of_these_types(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    clicks, ours = (click.types.IntParamType, click.types.FloatParamType), (Integer, Float)
    numbers = [option for option in command.params if isinstance(option.type, clicks)]
    assert [option.name for option in numbers if not isinstance(option.type, ours)] == []
