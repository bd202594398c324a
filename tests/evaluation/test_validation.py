"""Constants of mean-shift from an evaluation of validation problems."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autodeco_gguf.errors import BadFile
from autodeco_gguf.evaluation.methods import parse_methods
from autodeco_gguf.evaluation.validation import mean_shift_from

ENGINE: Any = SimpleNamespace(fingerprint=f"{'a' * 64} {'b' * 64}")
RESULTS = {
    "origin": {"model_digest": "a" * 16, "heads_digest": "b" * 16},
    "tasks": {"dev": 3},
    "methods": [{"name": "autodeco", "temperature": {"mean": 0.61234}, "top_p": {"mean": 0.9}}],
}


def test_the_constants_of_another_evaluation(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    asked = parse_methods(["autodeco", "mean-shift"], ["temperature", "top_p"], {})
    methods, tasks = mean_shift_from(tmp_path, ENGINE, asked)
    assert tasks == "dev"
    assert [str(method.found) for method in methods] == ["autodeco", "static:0.6123,0.9"]


BAD = [
    ({**RESULTS, "methods": []}, "no results of autodeco, with its mean T and P; evaluate it there first"),
    ([], "no results of autodeco, with its mean T and P; evaluate it there first"),
    (
        {**RESULTS, "origin": {"model_digest": "c", "heads_digest": "b" * 16}},
        "results of another model or of other heads, expected the same",
    ),
]


@pytest.mark.parametrize(("results", "reason"), BAD)
def test_others_are_refused(results: object, reason: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(BadFile, match=f"{reason}$"):
        mean_shift_from(tmp_path, ENGINE, [])
