"""Grade responses with a checker that may hang or crash."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.tasks.checkers import CHECKERS, Checker, get_checker, read_answer
from autodeco_gguf.tasks.given import without_thoughts
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.programs.grader import Leave, ProgramGrader
from autodeco_gguf.tasks.workers import Workers, check_time_limit, function_service

IN_PROCESS = frozenset({"choice", "exact", "member", "number", "official", "story"})
"""Checkers that neither hang nor crash, whatever the response; ``ast.literal_eval``, behind literal, can crash."""

_NO_LEAVE = (
    "checker code: runs programs that a model wrote, which is off unless it is allowed: --allow-code, or allow_code in "
    "Python, runs them isolated (docs/evaluation.md says from what)"
)

_MAX_ERROR = 500
"""Characters of an error that are kept."""


@dataclass(frozen=True)
class Grade:
    """Whether a response is right.

    Attributes:
        correct: None where a checker of the user's own failed, or cannot read the answer, which says nothing about the
            response; one of ours that fails on a response takes it for wrong.
        error: how it failed; also given for a response that is wrong because checking it took too long.
    """

    correct: bool | None
    error: str | None = None


def judge(checker: Checker, text: str, answer: str) -> Grade:
    """The grade by a checker called here and now; whatever it raises is the error."""
    try:
        value: Any = checker(text, answer)
        value = value.item() if hasattr(value, "item") else value  # a scalar of NumPy or torch
    except Exception as e:  # it may be the user's code: anything may come out of it
        return failure(e)
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        return Grade(None, f"the checker returned {reprlib.repr(value)}, expected a bool, 0 or 1")
    return Grade(bool(value))


def failure(error: BaseException) -> Grade:
    """The grade by a checker that raised."""
    message = str(error) if isinstance(error, AutoDecoError) else f"{type(error).__name__}: {error}"
    return Grade(None, " ".join(message.split()).removesuffix(":")[:_MAX_ERROR])


class Grader:
    """Calls a checker, most of them in a process of its own that is replaced when it hangs or dies.

    A context manager; use it from one thread at a time.

    Args:
        checker: as :func:`autodeco_gguf.tasks.checkers.get_checker` takes it.
        time_limit: seconds that one call may take; for ``code``, each test of a program.
        allow_code: how ``code`` may run what a model wrote; None: not at all.

    Raises:
        InvalidInput: no such checker, or it cannot be imported; a time limit that is none; no leave to run programs,
            or a system that cannot confine them.
    """

    def __init__(self, checker: str, time_limit: float = 10.0, allow_code: Leave | None = None) -> None:
        check_time_limit(time_limit)
        self._name = checker
        self._time_limit = time_limit
        self._programs: ProgramGrader | None = None
        self._workers: Workers | None = None
        self._checker: Checker | None = None
        if checker == "code":
            if allow_code is None:
                raise InvalidInput(_NO_LEAVE, key="allow_code", found=None)
            self._programs = ProgramGrader(allow_code, time_limit)
        elif checker in IN_PROCESS:
            self._checker = get_checker(checker)
        else:
            self._workers = Workers(function_service(checker, time_limit), time_limit)

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        for one in (self._workers, self._programs):
            if one is not None:
                one.close()

    def validate(self, problems: Iterable[Problem]) -> None:
        """Call the checker with an empty response for every answer.

        Raises:
            BadFile: it raises or takes too long: an answer that it cannot use, named as file:line.
        """
        for problem in problems:
            if self._programs is not None:
                with problem.located():
                    self._programs.read(problem.answer)
                continue
            grade = self.grade("", problem.answer)
            if grade.error is not None:
                raise BadFile(f"{problem.where}: {grade.error}", file=problem.file, key="answer", found=problem.answer)

    def grade(self, text: str, answer: str) -> Grade:
        """Grade one response, as :func:`~autodeco_gguf.tasks.given.without_thoughts` gives it to the checker.

        Raises:
            InvalidInput: a new process, in place of one that hung or died, cannot import the checker any more.
        """
        text = without_thoughts(self._name, text)
        if self._programs is not None:
            return Grade(*self._programs.grade(text, answer))
        grade = judge(self._checker, text, answer) if self._checker else self._ask(text, answer)
        if grade.correct is None and self._name in CHECKERS:
            with suppress(AutoDecoError):  # one of ours that fails although it can read the answer: for the response
                read_answer(self._name, answer)
                return Grade(False, grade.error)
        return grade

    def _ask(self, text: str, answer: str) -> Grade:
        assert self._workers is not None
        try:
            return Grade(*self._workers.ask(text, answer))
        except TimeoutError:
            return Grade(False, f"the checker took longer than {self._time_limit:g} s")
        except EOFError as e:
            return Grade(None, f"the checker ended its process ({e})")
