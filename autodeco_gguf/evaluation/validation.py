"""mean-shift as published: the mean T and P of the heads on validation problems, from an evaluation of those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autodeco_gguf.answers.drawer import Drawer
from autodeco_gguf.errors import BadFile
from autodeco_gguf.evaluation.methods import Config, Method
from autodeco_gguf.evaluation.results import RESULTS
from autodeco_gguf.files.reading import read_json


def mean_shift_from(directory: Path, engine: Drawer, methods: Sequence[Method]) -> tuple[list[Method], str]:
    """The methods with the constants of mean-shift, autodeco's means in another evaluation; and the tasks of that.

    Raises:
        BadFile: there are no results of autodeco with this model and these heads.
    """
    path = directory / RESULTS
    results = read_json(path)
    try:
        origin = results["origin"]
        model, heads = origin["model_digest"], origin["heads_digest"]
        row = next(row for row in results["methods"] if row["name"] == "autodeco")
        means = [round(float(row[name]["mean"]), 4) for name in ("temperature", "top_p")]
        tasks = ", ".join(results["tasks"])
    except (KeyError, TypeError, ValueError, StopIteration) as e:
        raise BadFile.of(path, "no results of autodeco, with its mean T and P; evaluate it there first") from e
    ours, _, our_heads = engine.fingerprint.partition(" ")
    if (model, heads) != (ours[:16], our_heads[:16] or None):
        raise BadFile.of(path, "results of another model or of other heads, expected the same", key="model")
    config = Config.static(*means)
    return [replace(m, config=config) if m.name == "mean-shift" else m for m in methods], tasks
