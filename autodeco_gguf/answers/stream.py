"""Graded answers as they come, and the groups of those to one problem."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

from autodeco_gguf.answers.drawer import Drawer
from autodeco_gguf.answers.items import GradedTasks, Item, make_request
from autodeco_gguf.engine.request import Result
from autodeco_gguf.errors import BadFile
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.tasks.grading import Grade

PairsOf = Callable[[int], Sequence[tuple[float, float]] | None]


class Wanted(NamedTuple):
    """An answer that is asked for: to which problem, its number among the answers to it, and its seed."""

    item: Item
    number: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """An answer to a problem with its grade.

    ``number`` is that of what was wanted, and ``result.index`` its place there. ``seconds`` passed until the model had
    it, since the one before was taken (of an engine, which waits for that: graded). What failed in the model is wrong,
    whatever its text. ``given`` is what the checker takes out of it, None where it looks at the whole text.
    """

    item: Item
    number: int
    result: Result
    grade: Grade
    seconds: float
    given: str | None = None

    @property
    def key(self) -> str:
        """What tells a right answer from another right one: what it gives, or its text without white space around."""
        return self.result.text.strip() if self.given is None else self.given

    def graded(self) -> bool:
        """Whether it is right; raises BadFile, naming the problem, where the checker failed on it."""
        if self.grade.correct is None:
            problem = self.item.problem
            message = f"{problem.where}: the checker failed on a sample: {self.grade.error}"
            raise BadFile(message, file=problem.file)
        return self.grade.correct


def answers(
    engine: Drawer,
    tasks: GradedTasks,
    wanted: Sequence[Wanted],
    sampling: Sampling,
    max_tokens: int | None,
    pairs: PairsOf = lambda place: None,
) -> Generator[Answer, None, None]:
    """Draw and grade; the answers as they are finished, each graded while an engine waits, or a fleet draws on.

    Args:
        engine: the model, or what has many of them.
        tasks: open, those of the problems.
        wanted: what to draw; it does not change meanwhile.
        sampling: how, but for the seed.
        max_tokens: of an answer; None: until the context is full.
        pairs: T and P of each token, where they are given, by the place in ``wanted``.

    Raises:
        AutoDecoError: as :meth:`Drawer.as_completed`, and as :meth:`Grader.grade`.
    """
    requests = (
        replace(make_request(item, sampling, seed, max_tokens), pairs=pairs(place))
        for place, (item, _, seed) in enumerate(wanted)
    )
    with closing(engine.as_completed(requests)) as results:
        start = time.perf_counter()
        for result in results:
            taken = time.perf_counter()
            item, number, _ = wanted[result.index]
            failed = result.finish_reason == "error"
            grade = Grade(False, result.error) if failed else tasks.grade(item, result.text)
            yield Answer(item, number, result, grade, taken - start, tasks.given(item, result.text, grade.correct))
            start = taken if engine.draws_on else time.perf_counter()


def groups(answers: Iterable[Answer], k: int) -> Iterator[list[Answer]]:
    """The k answers to each problem by their numbers, as soon as they are all there."""
    waiting: dict[tuple[str, int], list[Answer]] = {}
    for answer in answers:
        group = waiting.setdefault(answer.item.key, [])
        group.append(answer)
        if len(group) == k:
            yield sorted(waiting.pop(answer.item.key), key=lambda one: one.number)
