"""Samples that are made by hand, and the results of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from autodeco_gguf.evaluation.as_json import from_json, to_json
from autodeco_gguf.evaluation.methods import Method, config_of
from autodeco_gguf.evaluation.results import Results
from autodeco_gguf.evaluation.samples import Sample
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.evaluation.summary import summarize

AUTODECO = Method("autodeco", "predicted", config_of("autodeco"))
GREEDY = Method("greedy", "constant", config_of("static:0,1"))
ORACLE = Method("oracle", "constant", config_of("static:0.1,0.2"))
SETTINGS = EvalSettings(tasks=("t",), k=2, seeds=2)
T = [{"mean": 0.5, "sd": 0.1}, {"mean": 1.0, "sd": 0.3}]
"""Of the samples of two problems."""


def bins(**counts: int) -> dict[str, list[int]]:
    return {"bins": [counts.get(f"_{i}", 0) for i in range(40)]}


def make(config: str, problem: int, seed: int, number: int, answer: str | None, **more: Any) -> dict[str, Any]:
    """A sample: right with this text, or wrong."""
    return {
        "task": "t",
        "problem": problem,
        "config": config,
        "seed": seed,
        "sample": number,
        "text": answer or "no",
        "correct": answer is not None,
        "error": None,
        "finish_reason": "stop",
        "tokens": 10,
        "temperature": {"mean": 0.0, "sd": 0.0},
        "top_p": {"mean": 1.0, "sd": 0.0},
        **more,
    }


def hand_made() -> list[dict[str, Any]]:
    """AutoDeco: right, right | right, wrong on the first problem, all wrong on the second; greedy the other way."""
    predicted: list[dict[str, Any]] = [
        {"temperature": {**T[0], **bins(_10=10)}, "top_p": {"mean": 0.5, "sd": 0.0, **bins(_20=10)}},
        {"temperature": {**T[1], **bins(_19=20)}, "top_p": {"mean": 0.5, "sd": 0.0, **bins(_20=20)}, "tokens": 20},
    ]
    answers = [["a", "a", "b", None], [None] * 4]
    samples = [
        make("autodeco", p, i // 2, i % 2, answer, **predicted[p])
        for p, row in enumerate(answers)
        for i, answer in enumerate(row)
    ]
    samples[0]["finish_reason"] = "length"
    samples += [make("static:0,1", 0, 0, 0, None), make("static:0,1", 1, 0, 0, "x")]
    searched = [make("static:0.5,1", 0, 0, 0, "a"), make("static:0.5,1", 0, 0, 1, None)]
    return [*samples, *searched, make("static:0.5,1", 0, 0, 2, "beyond k")]


def about(value: float) -> Any:
    return pytest.approx(value, abs=1e-9)


def sample(line: dict[str, Any]) -> Sample:
    return Sample.from_json(line, {line["task"]: {"problems": line["problem"] + 1}})


def summarized(
    lines: Sequence[dict[str, Any]], methods: Sequence[Method], settings: EvalSettings, tokens_s: Mapping[str, float]
) -> Any:
    """What stands in results.json."""
    speeds = {config_of(key): speed for key, speed in tokens_s.items()}
    results = summarize(map(sample, lines), methods, settings, speeds)
    assert from_json(Results, to_json(results)) == results
    return to_json(results)
