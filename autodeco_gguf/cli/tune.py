"""``autodeco-gguf tune``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import (
    GGUF,
    Verb,
    answer_options,
    chat_template_option,
    machine_options,
    named,
    option,
    progress_bar,
    resumable,
)
from autodeco_gguf.cli._tasks import read_tasks, task_options
from autodeco_gguf.cli._types import FloatRange, IntRange
from autodeco_gguf.model.sampling import MAX_SEED

if TYPE_CHECKING:
    from autodeco_gguf.tuning.plan import Plan, Speed
    from autodeco_gguf.tuning.tune import TuneProgress, TuneWatch


@click.command("tune", cls=Verb)
@click.argument("model", type=GGUF)
@task_options
@option("--minutes", type=FloatRange(min=0, min_open=True), default=30.0, help="How long it may take.")
@option(
    "--reward",
    default="correct",
    metavar="correct|any|distinct|module:function",
    help="What is to be high: right answers; at least one right of k; different right ones of k; or the mean of a "
    "function of your own (prompt, text, answer).",
)
@option("-k", type=IntRange(min=1), default=16, help="Answers to a problem that any and distinct look at.")
@option("-o", "--output", type=GGUF, help="Directory to write to; one that exists is continued.  [default: tuned]")
@option("--seed", type=IntRange(0, MAX_SEED), default=0, help="Of all that is random, the split included.")
@option("--heads", type=GGUF, help="Adapter whose heads are to be compared too, and trained further.")
@option("--train/--no-train", default=True, help="Train heads, where there is time.")
@answer_options
@chat_template_option
@machine_options()
def tune_command(model: Path, output: Path | None, **options: Any) -> None:
    """Find the best temperature and top-p for MODEL on tasks of your own, in so many minutes.

    Splits the problems, searches fixed pairs and trains heads on the one part, compares them with greedy and the usual
    defaults on the other, and says what to take: a fixed pair, with the line to use it, or the heads, as an adapter.
    The same command goes on after an interruption.

    Example: autodeco-gguf tune qwen2.5-1.5b.gguf --task problems.jsonl --checker exact --minutes 30 -o tuned
    """
    from autodeco_gguf.tuning.report import page
    from autodeco_gguf.tuning.settings import TuneSettings
    from autodeco_gguf.tuning.tune import REPORT, RESULT, tune

    output = output or Path("tuned")
    given = {**options, "n_ctx": options["ctx"], "n_parallel": options["parallel"], "allow_code": None}
    settings = named(TuneSettings, given)
    settings.check()
    tasks = read_tasks(options)
    settings = replace(settings, allow_code=tasks.allow_code)
    with resumable(output), _progress() as watch:
        tuned = tune(model, tasks.tasks, output, settings, heads=options["heads"], watch=watch)
    click.echo(page(tuned), nl=False)
    adapter = "" if tuned.trained is None else f", {tuned.trained.name}"
    click.echo(f"{output}: {REPORT}, {RESULT}{adapter}", err=True)


@contextmanager
def _progress() -> Iterator[TuneWatch]:
    """A bar of seconds, and the plan as soon as there is one."""
    from autodeco_gguf.tuning.report import plan_lines
    from autodeco_gguf.tuning.tune import TuneWatch

    with progress_bar("loading") as bar:

        def on_plan(plan: Plan, speed: Speed) -> None:
            for line in plan_lines(plan, speed):
                bar.say(line)

        def on_progress(p: TuneProgress) -> None:
            bar.update(round(p.seconds), max(1, round(p.total)), f"s, {p.text}")

        def on_warning(warning: str) -> None:
            bar.say(f"warning: {warning}")

        yield TuneWatch(plan=on_plan, progress=on_progress, warning=on_warning)
