"""From the answers that a directory keeps to a value for every problem: what a reward says ways to decode are worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autodeco_gguf.evaluation.estimates import Array
from autodeco_gguf.evaluation.methods import Config
from autodeco_gguf.evaluation.results import Results
from autodeco_gguf.evaluation.samples import SAMPLES, ProblemKey, Sample
from autodeco_gguf.evaluation.settings import VERSION, EvalSettings
from autodeco_gguf.evaluation.summary import Groups, all_problems, by_config, complete_scores
from autodeco_gguf.files.journal import reading
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.scoring import Scorer
from autodeco_gguf.tasks.tasks import Task
from autodeco_gguf.training.rewards import REWARDS, no_answer
from autodeco_gguf.tuning.search import by_problem


@dataclass(frozen=True)
class Row:
    """A way to decode, and how it did: a value for each problem, [problems], and means over its tokens.

    ``temperature`` and ``top_p`` are None where nobody can tell.
    """

    name: str
    config: Config
    values: Array
    tokens: float
    temperature: float | None
    top_p: float | None

    def merged(self, keys: Sequence[str]) -> Row:
        """With a value for each different key, the mean of its problems, in the order in which they come first."""
        values = by_problem(list(zip(keys, self.values.tolist(), strict=True)))
        return replace(self, values=np.array(values))


@dataclass(frozen=True)
class Measure:
    """What a reward says: ``values`` of a config, ``score`` of an answer that has just been graded, where it is asked.

    ``values`` is (config, all its answers by problem, how they were drawn, the problems) -> a value for each problem.
    """

    values: Callable[[Config, Groups, EvalSettings, Mapping[ProblemKey, Problem]], Array]
    score: Callable[[Problem, str], object] = lambda problem, text: None


@contextmanager
def measuring(reward: str, time_limit: float) -> Iterator[Measure]:
    """What a reward is after: pass@1, pass@k, different right answers among k, or the mean of the user's function.

    That one runs in a process of its own, for ``time_limit`` seconds a call.

    Raises:
        InvalidInput: the function cannot be imported.
        BadFile: it failed on an answer; the problem is named as file:line.
        ModelFailed: the model failed on all answers to a problem.
    """
    if reward in REWARDS:

        def total(config: Config, groups: Groups, settings: EvalSettings, _: object) -> Array:
            scores = complete_scores(config, groups, groups, settings)
            k = settings.k
            return {"correct": scores.right, "any": scores.passed[k], "distinct": scores.distinct[k]}[reward]

        yield Measure(total)
        return
    with Scorer(reward, time_limit) as scorer:

        def score(problem: Problem, text: str) -> float:
            with problem.located():
                return scorer.score(problem.text, text, problem.answer)

        def mean(config: Config, groups: Groups, settings: EvalSettings, asked: Mapping[ProblemKey, Problem]) -> Array:
            return np.array([_mean(score, asked[key], samples) for key, samples in groups.items()])

        yield Measure(mean, score)


def _mean(score: Callable[[Problem, str], float], problem: Problem, samples: Sequence[Sample]) -> float:
    """Over those that did not fail in the model."""
    drawn = [sample for sample in samples if sample.finish_reason != "error"]
    if not drawn:
        raise no_answer(problem, samples[0].error)
    return math.fsum(score(problem, sample.text) for sample in drawn) / len(drawn)


def rows(directory: Path, results: Results, tasks: Iterable[Task], measure: Measure) -> list[Row]:
    """How the methods of an evaluation of these tasks did, from its results and the answers in its directory."""
    settings = results.settings
    asked = {(task.name, number): problem for task in tasks for number, problem in enumerate(task.problems)}
    grouped = by_config(_read(directory, results), settings)
    problems = all_problems(grouped, settings)
    found = []
    for method in results.methods:
        groups = {problem: grouped[method.config].get(problem, []) for problem in problems}
        values = measure.values(method.config, groups, settings, asked)
        means = (None if moments is None else moments.mean for moments in (method.temperature, method.top_p))
        found.append(Row(method.name, method.config, values, method.overall.tokens_mean, *means))
    return found


def _read(directory: Path, results: Results) -> Iterator[Sample]:
    """The answers with their texts."""
    tasks = {name: {"problems": n} for name, n in results.tasks.items()}
    with reading(directory / SAMPLES, None, VERSION) as (_, lines):
        for line in lines:
            yield Sample.from_json(line.value, tasks)
