"""The tokens of samples with their T and P: what a report colours."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from autodeco_gguf.engine.request import Result
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.evaluation.samples import PARAMETERS, Key, Sample
from autodeco_gguf.evaluation.settings import VERSION
from autodeco_gguf.files.journal import reading
from autodeco_gguf.model.trace import texts
from autodeco_gguf.view.traces import Token, tokens_of

TRACES = "traces.jsonl"
"""Where they stand in the directory of an evaluation: a line for each sample that was drawn with them asked for."""

Place = tuple[str, Key]
"""Which sample: the key of its config, and its own."""


def trace_line(sample: Sample, result: Result) -> dict[str, Any]:
    """The line of a sample: its texts, T and P, where there is telling, as lists with an item for each token."""
    columns: dict[str, Any] = {"text": texts(list(result.trace), len(result.tokens))}  # what ends it is no text
    for name in PARAMETERS:
        if getattr(sample, name).mean is not None:
            columns[name] = [round(float(value), 4) for value in getattr(result, name)]
    return {**sample.key._asdict(), "config": sample.config.key, "tokens": columns}


def read_traces(directory: Path, wanted: Collection[Place]) -> dict[Place, list[Token]]:
    """The tokens of those samples that are wanted, by config and key; those that are not there are left out.

    Raises:
        BadFile: a damaged line.
    """
    path, found = directory / TRACES, dict[Place, list[Token]]()
    if not path.exists():
        return {}
    with reading(path, None, VERSION) as (_, lines):
        for line in lines:
            try:
                place = (line.value["config"], Key._make(line.value[name] for name in Key._fields))
                if place in wanted:
                    found[place] = tokens_of(line.value["tokens"])
            except (TypeError, KeyError, AttributeError, InvalidInput) as e:
                raise BadFile(f"{path}:{line.number}: damaged: no tokens of a sample", file=path) from e
    return found
