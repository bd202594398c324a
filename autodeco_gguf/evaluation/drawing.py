"""Draws and grades what the samples of an evaluation lack."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from autodeco_gguf.answers.drawer import Drawer
from autodeco_gguf.answers.items import GradedTasks, Item
from autodeco_gguf.answers.stream import PairsOf, Wanted, answers
from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.evaluation import methods as ways
from autodeco_gguf.evaluation.as_json import from_json, to_json
from autodeco_gguf.evaluation.methods import AUTODECO, Config, Method, Points
from autodeco_gguf.evaluation.pairs import PairsFile, shuffled
from autodeco_gguf.evaluation.samples import PARAMETERS, Key, Sample, Samples, keys_of, make_sample, sample_seed
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.evaluation.traces import trace_line
from autodeco_gguf.files.journal import Journal
from autodeco_gguf.tasks.grading import Grade


@dataclass(frozen=True)
class Progress:
    """How far the sampling of one config is.

    ``method`` is the first that asked for these samples, ``number`` of ``of`` methods, from 1. ``done`` counts those of
    earlier runs as well; of those drawn in this run are the ``correct``, the ``tokens`` and the ``seconds`` that the
    model took. ``left`` is about what all methods lack, this one too.
    """

    method: str
    number: int
    of: int
    config: Config
    done: int
    total: int
    left: int
    drawn: int = 0
    correct: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def plus(self, sample: Sample, seconds: float) -> Progress:
        """With one sample more, which the model took so long for."""
        return replace(
            self,
            done=self.done + 1,
            left=self.left - 1,
            drawn=self.drawn + 1,
            correct=self.correct + bool(sample.correct),
            tokens=self.tokens + sample.tokens,
            seconds=self.seconds + seconds,
        )


EvalWatch = Callable[[Progress], None]
"""Called before the first sample of a config that lacks some, and after each; it may raise Enough."""


class Enough(Exception):
    """No more is to be drawn."""


_Lacking = list[tuple[Item, Key]]
_Obtain = Callable[[Config, Sequence[Item], int, int], bool]
"""(config, problems, seeds, k) -> whether all these samples are there now."""


@dataclass
class Run:
    """Completes configs: draws what the samples lack.

    ``pairs`` is where those of autodeco are kept, None where nothing needs them.
    """

    engine: Drawer
    items: list[Item]
    tasks: GradedTasks
    settings: EvalSettings
    samples: Samples
    pairs: PairsFile | None
    log: Journal
    watch: EvalWatch
    order: Sequence[str] = ()
    """Names of the methods, as they are completed."""
    left: int = 0
    traces: Journal | None = None
    """Where the tokens of what is drawn are kept."""

    def regrade(self, items: Iterable[Item]) -> None:
        """Grade what an earlier run could not, and read the answers that an older version did not."""
        of = {item.key: item for item in items}
        for sample in self.samples.ungraded():
            item = of[sample.task, sample.problem]
            graded = self._regraded(sample, item, self.tasks.grade(item, sample.text))
            if graded != sample:
                self.samples.add(graded)
        for sample in self.samples.unread():
            item = of[sample.task, sample.problem]
            self.samples.add(self._regraded(sample, item, Grade(sample.correct, sample.error)))

    def _regraded(self, sample: Sample, item: Item, grade: Grade) -> Sample:
        given = self.tasks.given(item, sample.text, grade.correct)
        return replace(sample, correct=grade.correct, error=grade.error, answer=given)

    def complete_all(self, methods: Sequence[Method]) -> list[Method]:
        """Draw all samples of all methods; those that are complete, with the configs that were found.

        Methods that follow from the samples of others come last.
        """
        ordered = sorted(methods, key=lambda method: method.config is None)
        self.order = [method.name for method in ordered]
        self.left = self._count(methods)
        try:
            for method in ordered:
                obtain = functools.partial(self._draw, method.name)
                config = method.config or self._find(method.name, obtain)
                assert config is not None  # obtained
                obtain(config, self.items, *self.settings.draws(config))
        except Enough:
            pass
        found = [replace(m, config=m.config or self._find(m.name, self._has)) for m in methods]
        return [
            method
            for method in found
            if method.config is not None and self._has(method.config, self.items, *self.settings.draws(method.config))
        ]

    def _count(self, methods: Sequence[Method]) -> int:
        """Samples that the methods lack, as far as that can be told: of a search that is not over, most of them."""
        lacking: dict[Config, int] = {}

        def note(config: Config, items: Sequence[Item], seeds: int, k: int) -> bool:
            n = len(self._lacking(config, items, seeds, k))
            lacking[config] = max(n, lacking.get(config, 0))
            return n == 0

        for method in methods:
            config = method.config or self._find(method.name, note)
            draws = (self.settings.seeds, self.settings.k) if config is None else self.settings.draws(config)
            note(config or Config(method.name), self.items, *draws)
        return sum(lacking.values())

    def _has(self, config: Config, items: Sequence[Item], seeds: int, k: int) -> bool:
        return not self._lacking(config, items, seeds, k)

    def _lacking(self, config: Config, items: Sequence[Item], seeds: int, k: int) -> _Lacking:
        """The samples that are not there, and those whose pairs are not."""
        there, pairs = self.samples.of(config), self.pairs if config == AUTODECO else None
        wanted = ((item, key) for item in items for key in keys_of(item.key, seeds, k))
        return [(item, key) for item, key in wanted if key not in there or (pairs is not None and key not in pairs)]

    def _draw(self, method: str, config: Config, items: Sequence[Item], seeds: int, k: int) -> bool:
        settings, sampling = self.settings, config.sampling(self.engine.metadata)
        missing = self._lacking(config, items, seeds, k)
        if not missing:
            return True
        asked = [Wanted(item, key.sample, sample_seed(settings.seed, key)) for item, key in missing]
        number, total = self.order.index(method) + 1, len(items) * seeds * k
        left = max(self.left, len(missing))
        progress = Progress(method, number, len(self.order), config, total - len(missing), total, left)
        self.watch(progress)
        pairs = self._shuffled(missing) if config.key.startswith("shuffle:") else lambda place: None
        everything = self.engine.heads
        if config.heads is not None:
            self.engine.enable(config.heads)
        try:
            with closing(answers(self.engine, self.tasks, asked, sampling, settings.max_tokens, pairs)) as drawn:
                for answer in drawn:
                    key = missing[answer.result.index][1]
                    sample = make_sample(config, key, sampling, answer, self.engine.heads)
                    if self.pairs is not None and config == AUTODECO:
                        self.pairs.add(key, answer.result)  # first: a sample without pairs is drawn again for these
                    if key not in self.samples.of(config):
                        if self.traces is not None:
                            self.traces.append(trace_line(sample, answer.result))
                        self.samples.add(sample)
                    progress = progress.plus(sample, answer.seconds)
                    self.watch(progress)
        finally:  # an interrupted session counts as well
            if config.heads is not None:
                self.engine.enable(everything)
            self.left = progress.left
            if progress.drawn:
                now = datetime.now(timezone.utc).isoformat(timespec="seconds")
                self.log.append(to_json(Session(config, progress.tokens, progress.seconds, now)))
        return True

    # ---- what follows from the samples of others ----

    def _find(self, name: str, obtain: _Obtain) -> Config | None:
        """The config of a method that is searched for; None where samples are not to be obtained."""
        settings, searches = self.settings, {"oracle": ways.find_oracle, "distinct": ways.find_distinct}
        if name not in searches:
            if not obtain(AUTODECO, self.items, *settings.draws(AUTODECO)):
                return None
            return self._mean_shift() if name == "mean-shift" else ways.shuffle(settings.seeds, settings.k)
        coarse = [item for item in self.items if item.number < ways.COARSE_PROBLEMS]
        complete = True

        def score(config: Config, first_only: bool) -> Points:
            nonlocal complete
            items = coarse if first_only else self.items
            complete = obtain(config, items, 1, settings.n_search) and complete
            samples = self.samples.of(config)
            keys = ([key for key in keys_of(item.key, 1, settings.n_search) if key in samples] for item in items)
            right = [[samples[key].answered for key in of if samples[key].correct] for of in keys]
            return Points(sum(map(len, right)), sum(len(set(of)) for of in right))

        found = searches[name](score)
        return found if complete else None

    def _mean_shift(self) -> Config:
        """The means over all tokens that autodeco has drawn, as constants."""
        drawn = [s for s in self.samples.of(AUTODECO).values() if self.settings.covers(s.seed, s.sample) and s.tokens]
        total = sum(s.tokens for s in drawn)
        if not total:
            raise ModelFailed("mean-shift: autodeco has drawn no token, so there is no mean of its T and P")
        means = (math.fsum(getattr(s, name).mean * s.tokens for s in drawn) / total for name in PARAMETERS)
        return Config.static(*(round(mean, 4) for mean in means))

    def _shuffled(self, asked: _Lacking) -> PairsOf:
        """Pairs for the tokens of an answer that is asked for, of autodeco's other answers to the problem."""
        settings, n_ctx, file = self.settings, self.engine.n_ctx, self.pairs
        assert file is not None

        def pairs(place: int) -> list[tuple[float, float]]:
            item, key = asked[place]
            room = n_ctx - len(item.tokens)
            n = room if settings.max_tokens is None else min(room, settings.max_tokens)
            return shuffled(file, key, keys_of(item.key, *settings.draws(AUTODECO)), n, settings.seed)

        return pairs


# ---- sessions ----


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
