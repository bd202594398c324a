"""What is shown of groups of answers, and the report by the log."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autodeco_gguf.answers.items import Item
from autodeco_gguf.answers.stream import Answer
from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.tasks.grading import Grade
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.training.measures import Measures, report_of
from autodeco_gguf.training.rewards import Reward


def answer(text: str, correct: bool, t: list[float], p: list[float], reason: str = "stop") -> Answer:
    values = {"temperature": np.float32(t), "top_p": np.float32(p), "error": "out of memory"}
    result: Any = SimpleNamespace(text=text, finish_reason=reason, **values)
    return Answer(Item("t", 0, Problem("x", "y", 1), [1]), 0, result, Grade(correct), 0.0)


def test_means_over_groups_and_over_tokens() -> None:
    first = [answer("a", True, [1.0], [0.5]), answer("b", True, [0.5, 0.5, 2.0], [0.5] * 3)]
    second = [answer("c", False, [1.0], [0.5], "length"), answer("d", False, [1.0], [1.0])]
    with Reward("distinct") as reward:
        found = Measures.of([reward.group(first), reward.group(second)])
    assert found == Measures(
        reward=1.0,
        pass_at_1=0.5,
        pass_at_k=0.5,
        distinct=1.0,
        differing=0.0,
        temperature=1.0,
        temperature_sd=pytest.approx(0.5),
        top_p=pytest.approx(3.5 / 6),
        top_p_sd=pytest.approx(np.std([0.5] * 5 + [1.0])),
        length=1.5,
        cut=0.25,
        values=(2.0, 0.0),
    )


def test_one_right_answer_of_a_group_is_enough_for_pass_at_k() -> None:
    groups = [[answer(text, text == "a", [1.0], [0.5]) for text in texts] for texts in ("ab", "cd")]
    with Reward("correct") as reward:
        found = Measures.of([reward.group(group) for group in groups])
    assert (found.reward, found.pass_at_1, found.pass_at_k, found.differing) == (0.25, 0.25, 0.5, 0.5)


def test_without_a_token_there_is_no_mean() -> None:
    with Reward("correct") as reward:
        group = reward.group([answer("", False, [], [], "error")] * 2)
    with pytest.raises(ModelFailed, match=r"^no answer has a token: out of memory$"):
        Measures.of([group])


_KEPT = "Round 5 is kept: reward 0.750 on {} validation problems, 0.500 at the start, {}. It was chosen on these same "
_KEPT += "problems, which favours it."


@pytest.mark.parametrize(
    ("kept", "problems", "words"),
    [
        (5, 9, _KEPT.format(9, "too few for a verdict")),
        (5, 10, _KEPT.format(10, "a difference of +0.250 ± 0.083")),  # of five 0 and five 0.5
        (0, 9, "No round was better than the start, which is kept: reward 0.500 on 9 problems."),
    ],
)
def test_the_report_is_that_of_the_log(kept: int, problems: int, words: str, tmp_path: Path) -> None:
    measures = Measures(*[0.5] * 11, values=(0.5,) * problems)
    better = {**asdict(measures), "reward": 0.75, "values": ([0.5, 1.0] * 5)[:problems]}
    rows: list[dict[str, object]] = [
        {"round": 0, "validation": asdict(measures)},
        {"round": 1, "train": asdict(measures)},
        {"round": 5, "validation": better},
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = report_of(log, "correct", 4, problems, kept)
    assert found is not None
    assert [(number, m.reward) for number, m in found.validations] == [(0, 0.5), (5, 0.75)]
    assert found.verdict == words
    log.write_text(json.dumps(rows[1]) + "\n")
    assert report_of(log, "correct", 4, 9, 1) is None


def test_a_log_without_the_values_of_problems(tmp_path: Path) -> None:
    """As an earlier version wrote it."""
    old = asdict(Measures(*[0.5] * 11))
    del old["values"]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"round": n, "validation": old}) + "\n" for n in range(2)))
    found = report_of(log, "correct", 4, 20, 1)
    assert found is not None
    assert found.verdict.startswith(
        "Round 1 is kept: reward 0.500 on 20 validation problems, 0.500 at the start. It was"
    )
