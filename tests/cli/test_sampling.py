"""The options that say how to draw."""

from __future__ import annotations

import os
from typing import Any

import click
import pytest
from click.testing import CliRunner

from autodeco_gguf.cli._sampling import sampling_options
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.grammar import LlamaGrammar, SchemaGrammar
from autodeco_gguf.model.sampling import Sampling


def sampling_of(*args: str, **defaults: str) -> Sampling:
    found: list[Sampling] = []

    @click.command()
    @sampling_options
    def command(sampling: dict[str, Any]) -> None:
        found.append(Sampling(**sampling))

    result = CliRunner().invoke(command, args, catch_exceptions=False, standalone_mode=False, default_map=defaults)
    assert result.exit_code == 0, result.output
    return found[0]


def test_nothing_given_is_what_a_sampling_is() -> None:
    assert sampling_of() == Sampling()


def test_options_are_collected_into_a_sampling() -> None:
    given = ("--temp", "0.5", "--top-p", "0.9", "--top-k", "40", "--min-p", "0.05", "--repeat-penalty", "1.1")
    expected = Sampling(temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, repeat_penalty=1.1)
    assert sampling_of(*given) == expected
    assert sampling_of("--temperature", "0.5") == Sampling(temperature=0.5)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("--grammar", ""), click.UsageError),
        (("--grammar", "x ::= y"), click.UsageError),
        (("--grammar-file", os.devnull), click.UsageError),
        (("--temp", "nan"), click.BadParameter),
        (("--temp", "2e6"), InvalidInput),
        (("--repeat-penalty", "1e9"), InvalidInput),
    ],
)
def test_what_will_not_do_is_said_before_a_model_is_loaded(given: tuple[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        sampling_of(*given)


def test_every_way_to_a_grammar() -> None:
    for way in (("--grammar", 'root ::= "a"'), ("--json-schema", '{"type": "null"}'), ("-j", '{"type": "null"}')):
        assert sampling_of(*way).grammar is not None


def test_a_grammar_that_is_typed_goes_before_another_that_is_a_default() -> None:
    grammar, schema = 'root ::= "a"', '{"type": "null"}'
    assert isinstance(sampling_of("-j", schema, grammar=grammar).grammar, SchemaGrammar)
    assert isinstance(sampling_of("--grammar", grammar, json_schema=schema).grammar, LlamaGrammar)
    with pytest.raises(click.UsageError, match="give one of"):
        sampling_of("-j", schema, "--grammar", grammar)
    with pytest.raises(click.UsageError, match="give one of"):
        sampling_of(grammar=grammar, json_schema=schema)
