"""How often the comparisons of boxed answers differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.evaluation.graders import Agreement, agreement
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task

TEXTS = [
    (r"\boxed{0.50}", False, True),
    (r"\boxed{\frac12}", True, True),
    (r"\boxed{3}", False, False),
    (r"\boxed \frac12$", True, False),
]


@pytest.mark.parametrize("checker", ["official", "boxed"])
def test_agreement(checker: str, tmp_path: Path) -> None:
    lines = [
        {"task": "t", "problem": 0, "config": "greedy", "seed": 0, "sample": i, "text": text, "correct": right[0]}
        for i, (text, *both) in enumerate(TEXTS)
        for right in [both if checker == "official" else both[::-1]]
    ]
    lines.insert(0, {**lines[0], "correct": None})
    lines.append({**lines[2], "sample": 9, "text": r"\boxed{\frac12} and", "correct": False, "finish_reason": "error"})
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tasks = [Task("t", (Problem("a", r"\frac{1}{2}", 1),), checker), Task("u", (Problem("a", "b", 1),), "exact")]
    found = agreement(tmp_path, GradedTasks(tasks))
    assert found == [Agreement("t", 4, 1, 1)]
    assert str(found[0]) == (
        "t: official and math-verify differ on 2 of 4 answers (50.0 %); 1 are right by official alone, 1 by "
        "math-verify alone"
    )
