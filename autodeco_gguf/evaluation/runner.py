"""Draws and grades the samples of an evaluation, keeps every finished one, and never draws one twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from autodeco_gguf import __version__
from autodeco_gguf._build_info import LLAMA_CPP_PYTHON_VERSION
from autodeco_gguf.answers.items import GradedTasks, Item, make_request, render
from autodeco_gguf.answers.stream import Wanted, answers
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput, ModelFailed
from autodeco_gguf.evaluation import methods as ways
from autodeco_gguf.evaluation.as_json import from_json, to_json
from autodeco_gguf.evaluation.methods import AUTODECO, Config, Method, Points
from autodeco_gguf.evaluation.plots import plot
from autodeco_gguf.evaluation.report import page
from autodeco_gguf.evaluation.results import REPORT, RESULTS, Origin, Results
from autodeco_gguf.evaluation.samples import PARAMETERS, SAMPLES, Sample, Samples, keys_of, make_sample, sample_seed
from autodeco_gguf.evaluation.settings import ADVICE, DIGESTS, EvalSettings, Shard, make_directory, make_header
from autodeco_gguf.evaluation.summary import summarize
from autodeco_gguf.files.atomic import write_bytes
from autodeco_gguf.files.journal import Journal

EVALUATION = "evaluation.jsonl"
"""Stands beside the samples: a line with all that they depend on, then one for each time that some were drawn."""


@dataclass(frozen=True)
class Progress:
    """How far the sampling of one config is.

    ``method`` is the first that asked for these samples, ``number`` of ``of`` methods, from 1. ``done`` counts those of
    earlier runs as well; of those drawn in this run are the ``correct``, the ``tokens`` and the ``seconds`` that the
    model took.
    """

    method: str
    number: int
    of: int
    config: Config
    done: int
    total: int
    drawn: int = 0
    correct: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def plus(self, sample: Sample, seconds: float) -> Progress:
        """With one sample more, which the model took so long for."""
        return replace(
            self,
            done=self.done + 1,
            drawn=self.drawn + 1,
            correct=self.correct + bool(sample.correct),
            tokens=self.tokens + sample.tokens,
            seconds=self.seconds + seconds,
        )


EvalWatch = Callable[[Progress], None]
"""Called before the first sample of a config that lacks some, and after each."""


def evaluate(
    engine: Engine,
    tasks: GradedTasks,
    directory: Path,
    methods: Sequence[Method],
    settings: EvalSettings,
    *,
    shard: Shard | None = None,
    plots: bool = True,
    watch: EvalWatch = lambda progress: None,
) -> Results:
    """Sample every method on every problem; write samples.jsonl, evaluation.jsonl, results.json, report.md and plots.

    What is finished stays in the directory, whatever ends the run: the same call goes on from there, and so does one
    with other methods, another ``k`` or another number of seeds.

    The ``tasks`` are open; each problem is one user message, rendered with the model's chat template. The ``methods``
    are for this model. The settings' ``tasks`` are set here. With a ``shard`` this part of the problems is taken only,
    and the methods that a search has to find are left out.

    Raises:
        AutoDecoError: a setting, a problem or a method that will not do, named before anything is drawn; a directory
            with an evaluation of other settings; a checker that failed on some samples, at the end.
    """
    settings = replace(settings, tasks=tuple(task.name for task in tasks.tasks))
    settings.check()
    items = render(engine, tasks.tasks, settings.max_tokens)
    header = make_header("evaluation", engine, tasks.tasks, items, settings)
    mine, methods = _part(items, methods, shard)
    for config in [method.config for method in methods if method.config is not None]:
        engine.check(make_request(mine[0], config.sampling(engine.context.metadata), 0, settings.max_tokens))
    make_directory(directory)
    if (directory / SAMPLES).exists() and not (directory / EVALUATION).exists():
        raise BadFile.of(directory / EVALUATION, f"missing beside {SAMPLES}, whose settings it tells; {ADVICE}")
    header = {**header, "shard": None if shard is None else str(shard)}
    with (
        Journal(directory / EVALUATION, header, advice=ADVICE, digests=DIGESTS) as log,
        Samples(directory, header["tasks"]) as samples,
    ):
        order = [m.name for known in (True, False) for m in methods if (m.config is not None) is known]
        run = _Run(engine, mine, tasks, settings, samples, log, watch, order)
        run.regrade(items)
        found = run.complete_all(methods)
        try:
            drawn = read_sessions(log)
            results = summarize(samples.all(), found, settings, speeds(drawn))
            results = replace(results, origin=_origin(engine, header, drawn))
            write_results(directory, results, plots)
        except AutoDecoError:
            samples.check_graded()  # the likely reason
            raise
        samples.check_graded()
    return results


def _part(items: list[Item], methods: Sequence[Method], shard: Shard | None) -> tuple[list[Item], Sequence[Method]]:
    """The problems and methods of a shard."""
    if shard is None:
        return items, methods
    mine = [item for number, item in enumerate(items) if shard.holds(number)]
    if not mine:
        raise InvalidInput(f"shard {shard}: no problem is left for it, there are {len(items)} in all", key="shard")
    direct = [method for method in methods if method.config is not None]
    if not direct:
        names = ", ".join(method.name for method in methods)
        message = f"shard {shard}: {names}: to be found on all problems; evaluate what the shards are joined to"
        raise InvalidInput(message, key="methods", found=names)
    return mine, direct


# ---- one run ----


@dataclass(frozen=True)
class _Run:
    """Completes configs: draws what the samples lack."""

    engine: Engine
    items: list[Item]
    tasks: GradedTasks
    settings: EvalSettings
    samples: Samples
    log: Journal
    watch: EvalWatch
    order: Sequence[str]
    """Names of the methods, as they are completed."""

    def regrade(self, items: Iterable[Item]) -> None:
        """Grade what an earlier run could not."""
        of = {item.key: item for item in items}
        for sample in self.samples.ungraded():
            grade = self.tasks.grade(of[sample.task, sample.problem], sample.text)
            graded = replace(sample, **vars(grade))
            if graded != sample:
                self.samples.add(graded)

    def complete_all(self, methods: Sequence[Method]) -> list[Method]:
        """All samples of all methods; the methods with the configs that were found."""
        for method in methods:
            if method.config is not None:
                self.complete(method.name, method.config)
        found = [replace(m, config=self._find(m.name)) if m.config is None else m for m in methods]
        for method in found:
            self.complete(method.name, method.found)
        return found

    def complete(self, method: str, config: Config) -> None:
        """All samples of a config."""
        self._draw(method, config, self.items, *self.settings.draws(config))

    def _draw(self, method: str, config: Config, items: Sequence[Item], seeds: int, k: int) -> None:
        """The samples of a config that are lacking."""
        settings, sampling = self.settings, config.sampling(self.engine.context.metadata)
        wanted = [(item, key) for item in items for key in keys_of(item.key, seeds, k)]
        missing = [(item, key) for item, key in wanted if key not in self.samples.of(config)]
        if not missing:
            return
        asked = [Wanted(item, key.sample, sample_seed(settings.seed, key)) for item, key in missing]
        number = self.order.index(method) + 1
        progress = Progress(method, number, len(self.order), config, len(wanted) - len(missing), len(wanted))
        self.watch(progress)
        try:
            with closing(answers(self.engine, self.tasks, asked, sampling, settings.max_tokens)) as drawn:
                for answer in drawn:
                    _, key = missing[answer.result.index]
                    sample = make_sample(config, key, sampling, answer.result, self.engine.heads)
                    sample = replace(sample, **vars(answer.grade))
                    self.samples.add(sample)
                    progress = progress.plus(sample, answer.seconds)
                    self.watch(progress)
        finally:  # an interrupted session counts as well
            if progress.drawn:
                now = datetime.now(timezone.utc).isoformat(timespec="seconds")
                self.log.append(to_json(Session(config, progress.tokens, progress.seconds, now)))

    # ---- searches ----

    def _find(self, name: str) -> Config:
        """The config of a method that is searched for."""
        if name == "mean-shift":
            return self._mean_shift()
        coarse = [item for item in self.items if item.number < ways.COARSE_PROBLEMS]

        def score(config: Config, first_only: bool) -> Points:
            items, correct, distinct = coarse if first_only else self.items, 0, 0
            self._draw(name, config, items, 1, self.settings.n_search)
            samples = self.samples.of(config)
            for item in items:
                keys = keys_of(item.key, 1, self.settings.n_search)
                texts = [samples[key].text for key in keys if samples[key].correct]
                correct, distinct = correct + len(texts), distinct + len(set(texts))
            return Points(correct, distinct)

        return {"oracle": ways.find_oracle, "distinct": ways.find_distinct}[name](score)

    def _mean_shift(self) -> Config:
        """The means over all tokens that autodeco has drawn, as constants."""
        self.complete("mean-shift", AUTODECO)
        drawn = [s for s in self.samples.of(AUTODECO).values() if self.settings.covers(s.seed, s.sample) and s.tokens]
        total = sum(s.tokens for s in drawn)
        if not total:
            raise ModelFailed("mean-shift: autodeco has drawn no token, so there is no mean of its T and P")
        means = (math.fsum(getattr(s, name).mean * s.tokens for s in drawn) / total for name in PARAMETERS)
        return Config.static(*(round(mean, 4) for mean in means))


# ---- results ----


@dataclass(frozen=True)
class Session:
    """A line of evaluation.jsonl: what was drawn of a config at a time, and when that ended."""

    config: Config
    tokens: int
    seconds: float
    date: str


def read_sessions(log: Journal) -> list[Session]:
    """All of them; raises BadFile for a damaged line."""
    found = []
    for line in log.lines():
        try:
            found.append(from_json(Session, line.value))
        except (TypeError, KeyError, ValueError, AttributeError) as e:
            raise log.refused(line.number, "damaged: no config, tokens, seconds and date") from e
    return found


def speeds(sessions: Iterable[Session]) -> dict[Config, float]:
    """Tokens a second, over all of them."""
    sums: dict[Config, tuple[float, float]] = {}
    for one in sessions:
        tokens, seconds = sums.get(one.config, (0.0, 0.0))
        sums[one.config] = (tokens + one.tokens, seconds + one.seconds)
    return {config: tokens / seconds for config, (tokens, seconds) in sums.items() if seconds > 0}


def last_date(sessions: Iterable[Session]) -> str | None:
    """When the last samples were drawn."""
    return max((one.date for one in sessions), default=None)


def _origin(engine: Engine, header: Mapping[str, Any], sessions: Iterable[Session]) -> Origin:
    return Origin(
        model=engine.context.file.path.name,
        model_digest=header["model"],
        heads=tuple(sorted(engine.heads)),
        heads_file=None if engine.heads_file is None else engine.heads_file.name,
        heads_digest=header["heads"],
        context=engine.n_ctx,
        cache_type=header["cache_type"],
        flash_attn=header["flash_attn"],
        version=__version__,
        llama_cpp_python=LLAMA_CPP_PYTHON_VERSION,
        date=last_date(sessions),
    )


def write_results(directory: Path, results: Results, plots: bool) -> None:
    """Write results.json and report.md, and draw the plots."""
    write_json(directory / RESULTS, to_json(results))
    write_bytes(directory / REPORT, page(results).encode("utf-8", "replace"))
    if plots:
        plot(results, directory)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
