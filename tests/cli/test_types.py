"""Types of options."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from autodeco_gguf.cli._types import File, FloatRange, Line, Source


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
