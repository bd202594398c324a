"""Answers of the ways to decode that are tried: drawn and kept by evaluations, a directory for each set of problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.evaluation.drawing import Progress
from autodeco_gguf.evaluation.methods import Config, Method
from autodeco_gguf.evaluation.runner import evaluate
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.tasks.tasks import Task
from autodeco_gguf.tuning.plan import Plan
from autodeco_gguf.tuning.scores import Measure, Row, rows
from autodeco_gguf.tuning.search import Found, Seen, halve
from autodeco_gguf.tuning.settings import TuneSettings
from autodeco_gguf.tuning.split import key_of, size

Watch = Callable[[str, Progress], None]
"""(what for, how far)."""


@dataclass(frozen=True)
class Trial:
    """Tries ways to decode with one model: ``tasks`` are open, and hold all problems that are asked."""

    engine: Engine
    tasks: GradedTasks
    settings: TuneSettings
    measure: Measure
    watch: Watch

    def run(
        self,
        tasks: Sequence[Task],
        directory: Path,
        methods: Sequence[Method],
        stage: str,
        *,
        times: int = 1,
        seed: int = 0,
    ) -> list[Row]:
        """How these methods do on these problems, a group of answers to each problem so many times.

        Raises:
            AutoDecoError: as :func:`evaluate`.
        """
        settings = EvalSettings(
            k=self.settings.group,
            seeds=times,
            seed=(self.settings.seed + seed) % 2**32,
            max_tokens=self.settings.max_tokens,
        )

        def watch(progress: Progress) -> None:
            self.watch(stage, progress)

        results = evaluate(self.engine, self.tasks.of(tasks), directory, methods, settings, also=(), watch=watch)
        assert results is not None  # only a watch that has had enough ends it before
        return rows(directory, results, tasks, self.measure)

    def search(
        self, tasks: Sequence[Task], directory: Path, pairs: Sequence[Config], plan: Plan
    ) -> list[Found[Config]]:
        """Successive halving over fixed pairs; every round has problems of its own as long as there are any."""
        n = sum(len(task.problems) for task in tasks)
        starts = [sum(rung.problems for rung in plan.rungs[:i]) for i in range(len(plan.rungs))]

        def score(number: int, configs: Sequence[Config]) -> Mapping[Config, Seen]:
            values: dict[Config, list[tuple[str, float]]] = {config: [] for config in configs}
            stage = f"search, round {number + 1} of {len(plan.rungs)}"
            methods = [Method(str(config), "constant", config) for config in configs]
            for part, (again, first, last) in enumerate(passes(starts[number], plan.rungs[number].problems, n)):
                name = f"{number + 1}" + (f".{part + 1}" if part else "")
                part_of = chosen(tasks, first, last)
                problems = [key_of(task, problem) for task in part_of for problem in task.problems]
                for row in self.run(part_of, directory / name, methods, stage, seed=again):
                    values[row.config].extend(zip(problems, row.values.tolist(), strict=True))
            return values

        return halve(pairs, plan.rungs, score)


def passes(start: int, count: int, n: int) -> Iterator[tuple[int, int, int]]:
    """``count`` problems from place ``start`` of the n problems, which follow each other again and again.

    Gives (how often all have been gone through before, first, last) for each stretch.

    Examples:
        >>> list(passes(6, 9, 8))
        [(0, 6, 8), (1, 0, 7)]
    """
    at = start
    while at < start + count:
        again, first = divmod(at, n)
        last = min(n, first + start + count - at)
        yield again, first, last
        at += last - first


def chosen(tasks: Sequence[Task], first: int, last: int) -> list[Task]:
    """The tasks with the problems from ``first`` to ``last`` alone, where those of all tasks take turns."""
    kept: dict[int, list[int]] = {}
    for _, number, place in _turns(tasks)[first:last]:
        kept.setdefault(number, []).append(place)
    return [
        replace(tasks[number], problems=tuple(tasks[number].problems[place] for place in sorted(places)))
        for number, places in sorted(kept.items())
    ]


def until_different(tasks: Sequence[Task], n: int) -> int:
    """How many problems :func:`chosen` takes from the first on until n of them differ; all where that many do not."""
    counts: dict[str, int] = {}
    for count, (_, number, place) in enumerate(_turns(tasks), 1):
        counts.setdefault(key_of(tasks[number], tasks[number].problems[place]), count)
    return list(counts.values())[n - 1] if n <= len(counts) else size(tasks)


def _turns(tasks: Sequence[Task]) -> list[tuple[float, int, int]]:
    """The numbers of task and problem, in their order."""
    return sorted(
        ((place + 0.5) / len(task.problems), number, place)
        for number, task in enumerate(tasks)
        for place in range(len(task.problems))
    )
