"""What was asked, in the directory of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_engine import TASKS, run

from autodeco_gguf.errors import BadFile
from autodeco_gguf.evaluation.questions import QUESTIONS, read_questions
from autodeco_gguf.evaluation.settings import Shard
from autodeco_gguf.evaluation.shards import join

ALL = {(task.name, i): problem.text for task in TASKS for i, problem in enumerate(task.problems)}


def test_each_is_kept_once(tmp_path: Path) -> None:
    assert read_questions(tmp_path) == {}
    for _ in range(2):
        run(tmp_path, ["greedy"])
        lines = [json.loads(line) for line in (tmp_path / QUESTIONS).read_text().splitlines()]
        assert lines[0] == {"task": "sums", "problem": 0, "text": "sums 0"}
        assert len(lines) == len(ALL) == 5
        assert read_questions(tmp_path) == ALL


def test_shards_have_those_of_all_and_so_has_what_they_are_joined_to(tmp_path: Path) -> None:
    parts = [tmp_path / f"part{i}" for i in (1, 2)]
    for i, part in enumerate(parts, 1):
        run(part, ["greedy"], shard=Shard(i, 2))
        assert read_questions(part) == ALL
    (parts[0] / QUESTIONS).unlink()
    join(parts, tmp_path / "all", plots=False)
    assert (tmp_path / "all" / QUESTIONS).read_bytes() == (parts[1] / QUESTIONS).read_bytes()
    (parts[1] / QUESTIONS).unlink()
    join(parts, tmp_path / "older", plots=False)
    assert read_questions(tmp_path / "older") == {}


@pytest.mark.parametrize("line", [[1], {}, {"task": "a", "problem": "1", "text": "x"}, {"task": "a", "problem": 1}])
def test_a_damaged_line_is_named(tmp_path: Path, line: Any) -> None:
    whole = json.dumps({"task": "a", "problem": 0, "text": "x"})
    (tmp_path / QUESTIONS).write_text(f"{whole}\n{json.dumps(line)}\n")
    with pytest.raises(BadFile, match=r"problems\.jsonl:2: damaged: no task, problem and text$"):
        read_questions(tmp_path)
