"""How often the two comparisons of boxed answers differ on the samples of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.evaluation.samples import SAMPLES
from autodeco_gguf.files.jsonl import parse_line, read_lines
from autodeco_gguf.tasks.grading import Grader

GRADERS = "graders.json"
"""Where the agreement stands in the directory of an evaluation."""

_OTHER = {"boxed": "official", "official": "boxed"}


@dataclass(frozen=True)
class Agreement:
    """Of a task's samples, each counted once: how many there are, and how many only one comparison takes for right."""

    task: str
    samples: int
    official_only: int
    math_verify_only: int

    def __str__(self) -> str:
        differ = self.official_only + self.math_verify_only
        share = 100 * differ / self.samples if self.samples else 0.0
        return (
            f"{self.task}: official and math-verify differ on {differ} of {self.samples} answers ({share:.1f} %); "
            f"{self.official_only} are right by official alone, {self.math_verify_only} by math-verify alone"
        )


def agreement(directory: Path, tasks: GradedTasks) -> list[Agreement]:
    """Grade the samples in a directory by the comparison that has not graded them, for every task with boxed answers.

    The ``tasks`` are those of the evaluation. A sample that is not graded, that failed in the model, or that the other
    comparison cannot grade, is left out. Raises BadFile where the samples cannot be read.
    """
    found = []
    latest = {_key(sample): sample for sample in _samples(directory)}
    graded = [s for s in latest.values() if s["correct"] is not None and s.get("finish_reason") != "error"]
    for task in tasks.tasks:
        if task.checker not in _OTHER:
            continue
        counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
        with Grader(_OTHER[task.checker], tasks.time_limit) as grader:
            for sample in graded:
                if sample["task"] == task.name:
                    other = grader.grade(sample["text"], task.problems[sample["problem"]].answer).correct
                    if other is not None:
                        counts[sample["correct"], other] += 1
        ours, others = counts[True, False], counts[False, True]
        official, verify = (ours, others) if task.checker == "official" else (others, ours)
        found.append(Agreement(task.name, sum(counts.values()), official, verify))
    return found


def _samples(directory: Path) -> Iterator[dict[str, Any]]:
    for _, line in read_lines(directory / SAMPLES):
        value = parse_line(line)
        if isinstance(value, dict) and "sample" in value:
            yield value


def _key(sample: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sample[name] for name in ("task", "problem", "config", "seed", "sample"))
