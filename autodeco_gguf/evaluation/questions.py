"""The texts of the problems: what was asked, for who reads the answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from autodeco_gguf.answers.items import Item
from autodeco_gguf.errors import BadFile
from autodeco_gguf.evaluation.samples import ProblemKey
from autodeco_gguf.evaluation.settings import VERSION
from autodeco_gguf.files.journal import reading
from autodeco_gguf.files.jsonl import write_lines

QUESTIONS = "problems.jsonl"
"""Where they stand in the directory of an evaluation: a line for each problem."""


def keep_questions(directory: Path, items: Iterable[Item]) -> None:
    """Write them, once for an evaluation, whose problems never change; BadFile where that cannot be."""
    if not (directory / QUESTIONS).exists():
        lines = ({"task": item.task, "problem": item.number, "text": item.problem.text} for item in items)
        write_lines(directory / QUESTIONS, lines)


def read_questions(directory: Path) -> dict[ProblemKey, str]:
    """They, by problem; none where an older version made the directory.

    Raises:
        BadFile: a damaged line.
    """
    path, found = directory / QUESTIONS, dict[ProblemKey, str]()
    if not path.exists():
        return found
    with reading(path, None, VERSION) as (_, lines):
        for line in lines:
            try:
                task, problem, text = (line.value[name] for name in ("task", "problem", "text"))
                if not (isinstance(task, str) and isinstance(problem, int) and isinstance(text, str)):
                    raise TypeError
            except (TypeError, KeyError) as e:
                raise BadFile(f"{path}:{line.number}: damaged: no task, problem and text", file=path) from e
            found[task, problem] = text
    return found
