"""The options that say how tokens are drawn."""

from __future__ import annotations

from functools import reduce, wraps
from pathlib import Path
from typing import Any, cast

import click

from autodeco_gguf.cli._common import F
from autodeco_gguf.cli._config import gives_way, source_of
from autodeco_gguf.cli._prompt import clean, read_text
from autodeco_gguf.cli._types import File, FloatRange, IntRange
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.sampling import Sampling

_OPTIONS = (
    click.option(
        "--temperature",
        "--temp",
        type=FloatRange(min=0),
        help="Fix the temperature; 0: greedy.  [default: predicted]",
    ),
    click.option("--top-p", type=FloatRange(0, 1), help="Fix the top-p.  [default: predicted]"),
    click.option("--top-k", type=IntRange(min=0), default=0, help="Keep so many tokens.  [default: 0, all of them]"),
    click.option(
        "--min-p",
        type=FloatRange(0, 1),
        default=0.0,
        help="Least probability, as a share of the largest.  [default: 0, off]",
    ),
    click.option(
        "--repeat-penalty",
        type=FloatRange(min=0, min_open=True),
        default=1.0,
        help="On the logits of the last 64 tokens of the answer.  [default: 1, off]",
    ),
    click.option("--grammar", help="What the answer must follow, in llama.cpp's GBNF."),
    click.option("--grammar-file", type=File(path_type=Path), help="The same, from a file."),
    click.option("-j", "--json-schema", help="JSON schema that the answer must follow."),
)
_GRAMMARS = ("grammar", "grammar_file", "json_schema")


def sampling_options(command: F) -> F:
    """The options of a command that draws; it gets them as ``sampling``, the arguments of a ``Sampling``."""

    @wraps(command)
    def collecting(*args: Any, **values: Any) -> Any:
        names = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")
        sampling = {name: values.pop(name) for name in names}
        Sampling(**sampling).check()  # before a model is loaded
        given = {name: value for name in _GRAMMARS if (value := values.pop(name)) is not None}
        given = {name: value for name, value in given.items() if not gives_way(name, *given)}
        try:
            sampling["grammar"] = _grammar(**given)
        except InvalidInput as e:
            ctx = click.get_current_context()
            raise click.UsageError(str(e) + "".join(source_of(ctx, name) for name in given), ctx) from e
        return command(*args, sampling=sampling, **values)

    return reduce(lambda f, option: option(f), reversed(_OPTIONS), cast("F", collecting))


def _grammar(grammar: str | None = None, grammar_file: Path | None = None, json_schema: str | None = None) -> Any:
    if sum(value is not None for value in (grammar, grammar_file, json_schema)) > 1:
        raise InvalidInput("give one of --grammar, --grammar-file and --json-schema")
    if json_schema is not None:
        from autodeco_gguf.model.grammar import SchemaGrammar

        return SchemaGrammar(clean(json_schema, "--json-schema"))
    if grammar_file is not None:
        grammar = read_text(grammar_file)
    if grammar is None:
        return None
    from autodeco_gguf.model.gbnf import check_gbnf
    from autodeco_gguf.model.grammar import LlamaGrammar

    text = clean(grammar, "--grammar")
    check_gbnf(text)  # before a model is loaded
    return LlamaGrammar.from_string(text, verbose=False)
