"""One run: split, measure, plan, search fixed pairs, train heads, compare on problems that nothing was chosen on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autodeco_gguf.answers.items import GradedTasks, Item, render
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.evaluation.as_json import from_json, to_json
from autodeco_gguf.evaluation.drawing import Progress
from autodeco_gguf.evaluation.methods import Config, Method, parse_methods
from autodeco_gguf.evaluation.settings import ADVICE, DIGESTS, EvalSettings, check_free, make_header
from autodeco_gguf.files.atomic import check_name, new_directory, write_bytes
from autodeco_gguf.files.journal import Journal, Line
from autodeco_gguf.heads.base_model import fitting_heads
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.weights import HeadWeights
from autodeco_gguf.tasks.tasks import Task
from autodeco_gguf.tuning import verdict as names
from autodeco_gguf.tuning.candidates import Trial, chosen, until_different
from autodeco_gguf.tuning.heads import ADAPTER, CHECKPOINT, Start, obstacle, train_heads, validation_problems
from autodeco_gguf.tuning.plan import FEWEST_TEST, Plan, Speed, Work, grid, make_plan
from autodeco_gguf.tuning.report import Tuned, page, values
from autodeco_gguf.tuning.scores import Measure, Row, measuring
from autodeco_gguf.tuning.search import Found
from autodeco_gguf.tuning.settings import MOST_MINUTES, TuneSettings
from autodeco_gguf.tuning.speed import measure_speed
from autodeco_gguf.tuning.split import Split, key_of, size, split

WRITTEN_S = 10.0
"""So many seconds at most are forgotten where a run is killed."""

JOURNAL, REPORT, RESULT = "tune.jsonl", "report.md", "result.json"
"""In the directory of a tuning: what is decided so far, and the end as text and as values."""

_PARTS = ("search", "test", CHECKPOINT, ADAPTER, REPORT, RESULT)
"""What follows from the plan."""

MEASURING = 0.1
"""Share of the time that measuring takes at most."""

TORCH_S = 5.0
"""Seconds until torch is loaded."""


@dataclass(frozen=True)
class TuneProgress:
    """How far a tuning is: what it does, and seconds of those it has."""

    text: str
    seconds: float
    total: float


@dataclass(frozen=True)
class TuneWatch:
    """Callbacks of a tuning: the plan, as soon as there is one, all that happens, and what to beware of."""

    plan: Callable[[Plan, Speed], None] = lambda plan, speed: None
    progress: Callable[[TuneProgress], None] = lambda progress: None
    warning: Callable[[str], None] = lambda warning: None


def tune(
    model: str | Path,
    tasks: Sequence[Task],
    output: str | Path,
    settings: TuneSettings | None = None,
    *,
    heads: str | Path | None = None,
    clock: Callable[[], float] = time.monotonic,
    watch: TuneWatch | None = None,
) -> Tuned:
    """Find the best way to decode for a model and tasks, and write it with a report to a directory.

    What is finished stays in the directory, with the plan: the same call after an interruption goes on from there, and
    with one thread it comes to the same end. The problems are split by the seed; pairs are searched and heads trained
    on the one part, and what comes of it is compared on the other.

    Args:
        model: a plain or merged GGUF.
        tasks: what to be good at.
        output: the directory.
        settings: how long, and what for.
        heads: an adapter whose heads are a candidate too, and which training starts from; by default the model's own,
            where it has any.
        clock: seconds that pass.
        watch: progress.

    Raises:
        AutoDecoError: a setting, a problem or a file that will not do, named before anything is drawn; too few
            problems or minutes; a directory of another tuning.
        Busy: another run has the directory.
    """
    settings, watch = settings or TuneSettings(), watch or TuneWatch()
    settings.check()
    check_name(Path(output))
    parts = split(tasks, settings.seed)
    own = _own_heads(Path(model), heads)
    if not Path(output, JOURNAL).exists():
        check_free(Path(output), _PARTS, JOURNAL)
    with (
        new_directory(output),
        GradedTasks(tasks, settings.time_limit, settings.allow_code) as graded,
        measuring(settings.reward, settings.time_limit) as measure,
    ):
        run = _Run(
            Path(model),
            None if heads is None else Path(heads),
            own,
            graded,
            measure,
            parts,
            Path(output),
            settings,
            _Clock(clock),
            watch,
        )
        return run.run()


def _own_heads(model: Path, heads: str | Path | None) -> HeadWeights | None:
    """The heads that are there already."""
    file = ModelFile.open(model)
    return fitting_heads(file, heads) if heads is not None or file.head_tensors else None


class _Clock:
    """Seconds of this run and of those before it, as far as they were written down."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._since, self._before = clock, clock(), 0.0
        self._log: Journal | None = None

    def read(self, log: Journal) -> None:
        """Add those of the runs before, and write to it from now on."""
        self._before = sum(_seconds(log, line) for line in log.lines())
        self._log = log

    def write(self, after_s: float = 0.0) -> None:
        """Write down what was not yet, if it is so much."""
        now = self._clock()
        if self._log is not None and now - self._since >= after_s:
            self._log.append({"seconds": round(now - self._since, 3)})
            self._before, self._since = self._before + now - self._since, now

    @property
    def seconds(self) -> float:
        return self._before + self._clock() - self._since


@dataclass(frozen=True)
class _Run:
    """All that one run knows from the beginning."""

    model: Path
    heads: Path | None
    own: HeadWeights | None
    graded: GradedTasks
    measure: Measure
    parts: Split
    output: Path
    settings: TuneSettings
    clock: _Clock
    watch: TuneWatch

    def run(self) -> Tuned:
        with self._open(None) as engine:
            loaded_s = self.clock.seconds
            self._say("reading problems")
            with Journal(self.output / JOURNAL, self._header(engine), advice=ADVICE, digests=DIGESTS) as log:
                self.clock.read(log)
                try:
                    plan, speed = _planned(log) or self._first_plan(engine, log, loaded_s)
                    self.watch.plan(plan, speed)
                    found, rows = self._pairs(engine, plan)
                    self.clock.write()
                    engine.close()
                    rows += self._heads(plan)
                finally:
                    self.clock.write()
                return self._end(plan, speed, found, rows, engine.context.file.path)

    def _open(self, heads: HeadWeights | Path | None) -> Engine:
        """The model, with these heads or none; closed as a context manager."""
        many = self.settings.n_parallel > 1
        return Engine(
            self.model,
            n_parallel=self.settings.n_parallel,
            n_ctx=self.settings.n_ctx,
            heads=heads,
            heads_enabled=() if heads is None else None,
            machine=self.settings.machine,
            chat_template_kwargs=self.settings.chat_template_kwargs,
            batching=Batching(batch_invariant=many),  # so that an interruption leaves no trace in the results
        )

    def _header(self, engine: Engine) -> dict[str, Any]:
        """All that the end depends on, but for the plan."""
        s = self.settings
        items = render(engine, self.graded.tasks, s.max_tokens)
        drawn = EvalSettings(seed=s.seed, max_tokens=s.max_tokens)
        header = make_header("tune", engine, self.graded.tasks, items, drawn)
        own = None if self.own is None else self.own.fingerprint()[:16]
        told = {"minutes": s.minutes, "reward": s.reward, "k": s.group, "parallel": s.n_parallel}
        told["chat_template_kwargs"] = s.undated_kwargs or None
        return {**header, "heads": own, **told, "train": obstacle(s) is None}

    def _say(self, text: str) -> None:
        self.clock.write(WRITTEN_S)
        self.watch.progress(TuneProgress(text, self.clock.seconds, 60 * self.settings.minutes))

    # ---- plan ----

    def _first_plan(self, engine: Engine, log: Journal, loaded_s: float) -> tuple[Plan, Speed]:
        """The same; where it is refused nothing has begun, and other settings may be given."""
        check_free(self.output, _PARTS, JOURNAL)  # with a plan that has been cut off; the rest of it stays
        try:
            return self._plan(engine, log, loaded_s)
        except InvalidInput:
            log.path.unlink(missing_ok=True)
            raise

    def _plan(self, engine: Engine, log: Journal, loaded_s: float) -> tuple[Plan, Speed]:
        """Measure and plan, once and for all."""
        s, total = self.settings, 60 * self.settings.minutes
        self._say("measuring")
        items = render(engine, chosen(self.parts.search, 0, 2 * s.n_parallel), s.max_tokens)
        speed = measure_speed(engine, self._grade, items, max_tokens=s.max_tokens, limit_s=MEASURING * total)
        trained, n = obstacle(s) is None, size(self.parts.search)
        work = Work(
            search_problems=n,
            test_problems=size(self.parts.test),
            fewest_test=until_different(self.parts.test, FEWEST_TEST),
            group=s.group,
            methods=3 + 2 * (self.own is not None),
            at_once=s.n_parallel,
            trains=trained,
            validation_problems=validation_problems(n) if trained else 0,
            likelihood=self.own is None,
            start_s=2 * loaded_s + TORCH_S,
        )
        used_s = self.clock.seconds + loaded_s * (self.own is not None)
        plan = make_plan(total, speed, work, used_s=used_s)
        log.append({"plan": to_json(plan), "speed": to_json(speed)})
        return plan, speed

    def _grade(self, item: Item, text: str) -> None:
        """All that is asked of an answer."""
        self.graded.grade(item, text)
        self.measure.score(item.problem, text)

    # ---- the parts ----

    def _trial(self, engine: Engine) -> Trial:
        def watch(stage: str, p: Progress) -> None:
            self._say(f"{stage}, {p.config}: {p.done} of {p.total} answers")

        return Trial(engine, self.graded, self.settings, self.measure, watch)

    def _pairs(self, engine: Engine, plan: Plan) -> tuple[list[Found[Config]], list[Row]]:
        """What the search found, and how the best pair and the usual ways do on the test."""
        trial = self._trial(engine)
        pairs = [Config.static(*pair) for pair in grid(coarse=plan.coarse)]
        found = trial.search(self.parts.search, self.output / "search", pairs, plan)
        usual = parse_methods([names.GREEDY, names.DEFAULT, names.LLAMA_CPP], (), engine.context.metadata)
        best = found[0].candidate
        methods = [*usual, *([] if best in [m.config for m in usual] else [Method(names.PAIR, "constant", best)])]
        return found, self._test(trial, plan, "pairs", methods)

    def _heads(self, plan: Plan) -> list[Row]:
        """How heads do on the test: the model's own, and those that are trained now."""
        rows = []
        if self.own is not None:
            with self._open(self.own) as engine:
                rows += self._test_heads(engine, plan, names.OWN)
        if plan.training is not None:
            own = self.own
            start = None if own is None else Start(self.heads or self.model, tuple(sorted(own.mlps)))
            tasks = self.graded.of(self.parts.search)
            told = self.settings, plan, self._say, self.watch.warning
            adapter = train_heads(self.model, start, tasks, self.output, *told)
            with self._open(adapter) as engine:
                rows += self._test_heads(engine, plan, names.HEADS)
        return rows

    def _test_heads(self, engine: Engine, plan: Plan, name: str) -> list[Row]:
        """The heads, and their mean T and P as constants."""
        methods = parse_methods(["autodeco", "mean-shift"], engine.heads, {})
        heads, mean = self._test(self._trial(engine), plan, name.replace(" ", "-"), methods)
        return [replace(heads, name=name), replace(mean, name=names.MEANS[name])]

    def _test(self, trial: Trial, plan: Plan, name: str, methods: Sequence[Method]) -> list[Row]:
        return trial.run(
            chosen(self.parts.test, 0, plan.test_problems),
            self.output / "test" / name,
            methods,
            f"test of {name}",
            times=plan.test_times,
        )

    # ---- the end ----

    def _end(self, plan: Plan, speed: Speed, found: list[Found[Config]], rows: list[Row], file: Path) -> Tuned:
        """Decide, and write it down."""
        asked = [(key_of(t, p), t.name) for t in chosen(self.parts.test, 0, plan.test_problems) for p in t.problems]
        keys, task_of = [key for key, _ in asked], dict(reversed(asked))
        tested = [task_of[key] for key in dict.fromkeys(keys)]
        by_name = {row.name: row.merged(keys) for row in rows}
        pair = next(row.name for row in rows if row.config == found[0].candidate)
        tuned = Tuned(
            model=self.model,
            settings=self.settings,
            parts=self.parts,
            plan=plan,
            speed=speed,
            found=found,
            rows=by_name,
            pair=pair,
            verdict=names.decide(by_name, pair, tested, self.settings.limit),
            tested=tested,
            seconds=self.clock.seconds,
            file=file,
            own=self.heads,
            trained=None if plan.training is None else self.output / ADAPTER,
            obstacle=obstacle(self.settings),
        )
        write_bytes(self.output / REPORT, page(tuned).encode("utf-8", "replace"))
        write_bytes(self.output / RESULT, (json.dumps(values(tuned), indent=1) + "\n").encode())
        return tuned


def _seconds(log: Journal, line: Line) -> float:
    """What a line says that an earlier run took."""
    found = line.value.get("seconds", 0) if isinstance(line.value, dict) else None
    if not isinstance(found, int | float) or not 0 <= found <= 60 * MOST_MINUTES:
        raise log.refused(line.number, "damaged: no seconds")
    return float(found)


def _planned(log: Journal) -> tuple[Plan, Speed] | None:
    """The plan of an earlier run."""
    for line in log.lines():
        try:
            if "plan" in line.value:
                plan, speed = from_json(Plan, line.value["plan"]), from_json(Speed, line.value["speed"])
                plan.check()
                return plan, speed
        except (TypeError, KeyError, ValueError, AttributeError) as e:
            raise log.refused(line.number, "damaged: no plan") from e
    return None
