"""Types of options."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from autodeco_gguf.cli._types import FloatRange, Line


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
    ("variable", "keys"),
    [
        ("correct horse battery", ("correct horse battery",)),
        ("a b\n\n c\r\n", ("a b", "c")),
        (" \n", ("",)),
    ],
)
def test_a_variable_of_several_lines(variable: str, keys: tuple[str, ...]) -> None:
    assert CliRunner(env={"KEYS": variable}).invoke(command).output == f"None {keys}\n"
