"""Draws and grades the samples of an evaluation, keeps every finished one, and never draws one twice."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Result
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.evaluation import methods as ways
from autodeco_gguf.evaluation import plots as charts
from autodeco_gguf.evaluation import report
from autodeco_gguf.evaluation.items import Item, make_header, make_request, render
from autodeco_gguf.evaluation.methods import Method, Points
from autodeco_gguf.evaluation.samples import PARAMETERS, Key, Sample, Samples, make_sample, sample_seed
from autodeco_gguf.evaluation.settings import ADVICE, VERSION, EvalSettings, Shard, make_directory
from autodeco_gguf.files.atomic import write_bytes
from autodeco_gguf.files.journal import Journal
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.tasks.grading import Grader
from autodeco_gguf.tasks.tasks import Task

TIMING, RESULTS = "timing.jsonl", "results.json"
"""What stands in the directory of an evaluation beside its samples."""


@dataclass(frozen=True)
class Progress:
    """How far the sampling of one config is.

    Attributes:
        method: whose samples these are, the first that asked for them.
        config: how they are sampled.
        done: samples there, earlier runs' included.
        total: samples wanted.
        drawn: samples of this run.
        correct: of those drawn.
        tokens: of those drawn.
        seconds: that the model took for them.
    """

    method: str
    config: str
    done: int
    total: int
    drawn: int = 0
    correct: int = 0
    tokens: int = 0
    seconds: float = 0.0


Watch = Callable[[Progress], None]
"""Called before the first sample of a config that lacks some, and after each."""


def evaluate(
    engine: Engine,
    tasks: Sequence[Task],
    directory: Path,
    methods: Sequence[Method],
    settings: EvalSettings,
    *,
    time_limit: float = 10.0,
    shard: Shard | None = None,
    plots: bool = True,
    watch: Watch = lambda progress: None,
) -> dict[str, Any]:
    """Sample every method on every problem, and write samples.jsonl, timing.jsonl, results.json and plots.

    What is finished stays in the directory, whatever ends the run: the same call goes on from there, and so does one
    with other methods, another ``k`` or another number of seeds.

    Args:
        engine: the model.
        tasks: each problem is one user message, rendered with the model's chat template.
        directory: made where it is not there.
        methods: of :func:`~autodeco_gguf.evaluation.methods.parse_methods`, for this model.
        settings: how much to sample; its ``tasks`` are set here.
        time_limit: seconds that a checker may take for an answer.
        shard: take this part of the problems only, and leave out the methods that a search has to find.
        plots: draw the plots as well.
        watch: progress.

    Returns:
        what stands in results.json.

    Raises:
        AutoDecoError: a setting, a problem or a method that will not do, named before anything is drawn; a directory
            with an evaluation of other settings; a checker that failed on some samples, at the end.
    """
    settings = replace(settings, tasks=tuple(task.name for task in tasks))
    settings.check()
    items = render(engine, tasks, settings)
    header = {**make_header("samples", engine, tasks, items, settings), "shard": None if shard is None else str(shard)}
    mine, methods = _part(items, methods, shard)
    with ExitStack() as stack:
        graders = open_graders(stack, tasks, time_limit)
        run = _Run(engine, mine, graders, settings, watch)
        run.check(methods)
        make_directory(directory)
        run.samples = stack.enter_context(Samples(directory, header))
        run.timing = stack.enter_context(Journal(directory / TIMING, {"timing": VERSION}, advice=ADVICE))
        run.regrade(items)
        found = run.complete_all(methods)
        try:
            results = write_results(directory, run.samples.within(settings), found, settings, speeds(run.timing), plots)
        except AutoDecoError:
            run.samples.check_graded()  # the likely reason
            raise
        run.samples.check_graded()
    return results


def _part(items: list[Item], methods: Sequence[Method], shard: Shard | None) -> tuple[list[Item], list[Method]]:
    """The problems and methods of a shard."""
    if shard is None:
        return items, list(methods)
    mine = [item for number, item in enumerate(items) if shard.holds(number)]
    if not mine:
        raise AutoDecoError(f"shard {shard}: no problem is left for it, there are {len(items)} in all")
    direct = [method for method in methods if method.config is not None]
    if not direct:
        names = ", ".join(method.name for method in methods)
        raise AutoDecoError(
            f"shard {shard}: {names}: to be found on all problems; evaluate what the shards are joined to"
        )
    return mine, direct


def open_graders(stack: ExitStack, tasks: Sequence[Task], time_limit: float) -> dict[str, Grader]:
    """A grader for every task, the same for the same checker.

    Raises:
        AutoDecoError: a checker that cannot be had, or an answer that it cannot use.
    """
    graders: dict[str, Grader] = {}
    for task in tasks:
        if task.checker not in graders:
            graders[task.checker] = stack.enter_context(Grader(task.checker, time_limit))
        graders[task.checker].validate(task.problems)
    return {task.name: graders[task.checker] for task in tasks}


# ---- one run ----


class _Run:
    """Completes configs: draws what the samples lack."""

    samples: Samples
    timing: Journal

    def __init__(
        self, engine: Engine, items: list[Item], graders: Mapping[str, Grader], settings: EvalSettings, watch: Watch
    ) -> None:
        self._engine, self._items, self._graders = engine, items, graders
        self._settings, self._watch = settings, watch

    def _sampling(self, config: str) -> Sampling:
        return ways.sampling_of(config, self._engine.context.metadata)

    def check(self, methods: Iterable[Method]) -> None:
        """Raise AutoDecoError for a method that cannot be sampled."""
        for method in methods:
            if method.config is not None:
                self._engine.check(make_request(self._items[0], self._sampling(method.config), 0, self._settings))

    def regrade(self, items: Iterable[Item]) -> None:
        """Grade what an earlier run could not."""
        answers = {(item.task, item.number): item.problem.answer for item in items}
        for sample in self.samples.ungraded():
            grade = self._graders[sample["task"]].grade(sample["text"], answers[sample["task"], sample["problem"]])
            if grade.correct is not None or grade.error != sample["error"]:
                self.samples.add({**sample, "correct": grade.correct, "error": grade.error})

    def complete_all(self, methods: Sequence[Method]) -> list[Method]:
        """All samples of all methods; the methods with the configs that were found."""
        for method in methods:
            if method.config is not None:
                self.complete(method.name, method.config)
        found = [replace(m, config=self._find(m.name)) if m.config is None else m for m in methods]
        for method in found:
            assert method.config is not None
            self.complete(method.name, method.config)
        return found

    def complete(self, method: str, config: str, items: Sequence[Item] | None = None, search: bool = False) -> None:
        """The samples of a config: all, or those of a search."""
        seeds, k = (1, self._settings.n_search) if search else (self._settings.seeds, self._settings.k)
        if ways.is_deterministic(config):
            seeds = k = 1
        items, there = self._items if items is None else items, self.samples.of(config)
        wanted = [
            (item, Key(item.task, item.number, seed, sample))
            for item in items
            for seed in range(seeds)
            for sample in range(k)
        ]
        missing = [(item, key) for item, key in wanted if key not in there]
        if missing:
            self._draw(config, missing, Progress(method, config, len(wanted) - len(missing), len(wanted)))

    def _draw(self, config: str, missing: Sequence[tuple[Item, Key]], progress: Progress) -> None:
        settings, sampling = self._settings, self._sampling(config)
        requests = (make_request(item, sampling, sample_seed(settings.seed, key), settings) for item, key in missing)
        self._watch(progress)
        try:
            with closing(self._engine.as_completed(requests)) as results:
                for seconds, result in _timed(results):
                    item, key = missing[result.index]
                    sample = self._graded(make_sample(config, key, sampling, result, self._engine.heads), item, result)
                    self.samples.add(sample)
                    progress = replace(
                        progress,
                        done=progress.done + 1,
                        drawn=progress.drawn + 1,
                        correct=progress.correct + bool(sample["correct"]),
                        tokens=progress.tokens + sample["tokens"],
                        seconds=progress.seconds + seconds,
                    )
                    self._watch(progress)
        finally:  # an interrupted session counts as well
            if progress.drawn:
                self.timing.append({"config": config, "tokens": progress.tokens, "seconds": progress.seconds})

    def _graded(self, sample: dict[str, Any], item: Item, result: Result) -> dict[str, Any]:
        if result.finish_reason == "error":
            return {**sample, "correct": False, "error": result.error}
        grade = self._graders[item.task].grade(result.text, item.problem.answer)
        return {**sample, "correct": grade.correct, "error": grade.error}

    # ---- searches ----

    def _find(self, name: str) -> str:
        """The config of a method that is searched for."""
        if name == "mean-shift":
            return self._mean_shift()
        coarse = [item for item in self._items if item.number < ways.COARSE_PROBLEMS]

        def score(config: str, first_only: bool) -> Points:
            items = coarse if first_only else self._items
            self.complete(name, config, items, search=True)
            return self._points(config, items)

        return {"oracle": ways.find_oracle, "distinct": ways.find_distinct}[name](score)

    def _points(self, config: str, items: Iterable[Item]) -> Points:
        """Of the samples of a search."""
        samples, correct, distinct = self.samples.of(config), 0, 0
        for item in items:
            keys = (Key(item.task, item.number, 0, sample) for sample in range(self._settings.n_search))
            texts = [samples[key]["text"] for key in keys if samples[key]["correct"]]
            correct, distinct = correct + len(texts), distinct + len(set(texts))
        return Points(correct, distinct)

    def _mean_shift(self) -> str:
        """The means over all tokens that autodeco has drawn, as constants."""
        self.complete("mean-shift", "autodeco")
        keys = self.samples.of("autodeco").items()
        drawn = [
            s for key, s in keys if key.seed < self._settings.seeds and key.sample < self._settings.k and s["tokens"]
        ]
        total = sum(sample["tokens"] for sample in drawn)
        if not total:
            raise AutoDecoError("mean-shift: autodeco has drawn no token, so there is no mean of its T and P")
        means = (math.fsum(s[name]["mean"] * s["tokens"] for s in drawn) / total for name in PARAMETERS)
        temperature, top_p = (round(mean, 4) for mean in means)
        return ways.static(temperature, top_p)


def _timed(results: Generator[Result, None, None]) -> Iterator[tuple[float, Result]]:
    """Each result, and the seconds it was waited for."""
    start = time.perf_counter()
    for result in results:
        yield time.perf_counter() - start, result
        start = time.perf_counter()


# ---- results ----


def write_results(
    directory: Path,
    samples: Sequence[Sample],
    methods: Sequence[Method],
    settings: EvalSettings,
    tokens_s: Mapping[str, float],
    plots: bool,
) -> dict[str, Any]:
    """Summarize into results.json, and draw the plots."""
    results = report.summarize(samples, methods, settings, tokens_s)
    write_json(directory / RESULTS, results)
    if plots:
        charts.plot(results, directory)
    return results


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


def speeds(timing: Journal) -> dict[str, float]:
    """Tokens a second by config, over all runs."""
    sums: dict[str, tuple[float, float]] = {}
    for line in timing.lines():
        try:
            tokens, seconds = sums.get(line.value["config"], (0.0, 0.0))
            sums[line.value["config"]] = (tokens + line.value["tokens"], seconds + line.value["seconds"])
        except (TypeError, KeyError) as e:
            raise timing.refused(line.number, "damaged: no config, tokens and seconds") from e
    return {config: tokens / seconds for config, (tokens, seconds) in sums.items() if seconds > 0}
