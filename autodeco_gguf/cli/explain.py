"""``autodeco-gguf explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import (
    GGUF,
    WITHOUT_PLOTS,
    Verb,
    answer_options,
    chat_template_option,
    machine_options,
    option,
    progress_bar,
)
from autodeco_gguf.cli._config import is_typed
from autodeco_gguf.cli._reward import refuse
from autodeco_gguf.cli._tasks import load_engine, read_tasks, task_options
from autodeco_gguf.cli._types import IntRange
from autodeco_gguf.errors import BadFile
from autodeco_gguf.model.sampling import MAX_SEED
from autodeco_gguf.tasks.tasks import DEMO

if TYPE_CHECKING:
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.explain.findings import Findings

_DRAWING = ("k", "seed", "max_tokens", "limit", "checker", "time_limit", "allow_code", "allow_code_unisolated")


@click.command("explain", cls=Verb)
@click.argument("model", type=GGUF, required=False)
@option("--data", type=GGUF, multiple=True, help="Right answers, JSONL as train takes it; again for more.")
@task_options
@option("-k", type=IntRange(min=1), default=4, help="Answers to draw to a problem, at T = 1 and P = 1.")
@option("--seed", type=IntRange(0, MAX_SEED), default=0, help="Same seed, same answers.")
@option("-o", "--output", type=GGUF, required=True, help="Directory to write to.")
@answer_options
@chat_template_option
@option("--heads", type=GGUF, help="Adapter with the heads, for a model without.")
@option("--no-plots", is_flag=True, help="Draw no plots, which need matplotlib.")
@option("--force", is_flag=True, help="Replace what is in the output.")
@machine_options()
def explain_command(model: Path | None, output: Path, **options: Any) -> None:
    """Why MODEL's heads do or don't pay: what T and P are worth at each token of right answers.

    The answers are those of --data, or the right ones of some that are drawn to the problems of --task. They are read:
    how likely is each of their tokens by the heads, by their mean as a constant, by the best constant, and by the best
    T at that token? The verdict is printed; the directory gets a page of plots and tables
    (explain.html, explain.png) and all figures (explain.json). Without MODEL it explains the small one that comes with
    the package, on its own task.

    Example: autodeco-gguf explain qwen-autodeco.gguf --data rollouts.jsonl -o why

    Example: autodeco-gguf explain qwen.gguf --heads heads.gguf --task gsm8k:test.jsonl --limit 100 -o why
    """
    if model is None:
        if any(map(is_typed, ("heads", "data", "tasks"))):
            raise click.UsageError("--heads, --data and --task need the MODEL they go with")
        options |= {"heads": None, "data": (), "tasks": ()}  # the user's defaults, which are for another
    if is_typed("data") != is_typed("tasks"):
        options["tasks" if is_typed("data") else "data"] = ()  # the user's default gives way
    if options["data"] and options["tasks"]:
        raise click.UsageError("--data and --task: give one of them")
    if model is not None and not options["data"] and not options["tasks"]:
        raise click.UsageError("MODEL needs right answers: --data, or --task to draw some")
    if options["data"]:
        refuse(_DRAWING, "needs --task")

    from autodeco_gguf.explain.explain import check_outputs, explain, size
    from autodeco_gguf.training.data import Counts
    from autodeco_gguf.view.figures import check_matplotlib

    drawn = not options["data"]
    check_outputs(output, drawn=drawn, inputs=options["data"], force=options["force"])
    if not options["no_plots"]:
        check_matplotlib(WITHOUT_PLOTS)
    engine, counts = load_engine(model, options), Counts()
    if not engine.heads:  # before any answer is drawn
        raise BadFile.of(engine.context.file.path, "has no heads to explain; give some with --heads")
    answers = [_draw(engine, output, options)] if drawn else options["data"]
    with progress_bar("tokens") as bar:
        plots = not options["no_plots"]
        found = explain(engine, answers, output, plots=plots, counted=counts, watch=bar.update)
    if counts.cut:
        click.echo(f"{counts.cut} answers cut to the context, by {counts.cut_tokens} tokens; -c sets it", err=True)
    click.echo(f"{size(found)}\n{_summary(found)}\n{found.verdict}")
    click.echo(f"{output}: explain.html, explain.json{'' if options['no_plots'] else ', explain.png'}", err=True)


def _draw(engine: Engine, output: Path, options: dict[str, Any]) -> Path:
    """Right answers to the problems."""
    from autodeco_gguf.explain.explain import draw_answers
    from autodeco_gguf.training.rollouts import RolloutSettings, RolloutSummary

    settings = RolloutSettings(k=options["k"], seed=options["seed"], max_tokens=options["max_tokens"])
    settings.check()
    with read_tasks({**options, "tasks": options["tasks"] or (DEMO,)}) as tasks, progress_bar("problems") as bar:

        def watch(summary: RolloutSummary, total: int) -> None:
            bar.update(summary.problems, total, f"problems, {summary.correct} of {summary.samples} answers right")

        return draw_answers(engine, tasks, output, settings, force=options["force"], watch=watch)


def _summary(found: Findings) -> str:
    """The tables of the page as text."""
    from autodeco_gguf.explain.page import tables

    lines = []
    for title, rows in tables(found):
        wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
        lines += ["", title, *(f"  {a:{wide[0]}}  {b:>{wide[1]}}  {c}" for a, b, c in rows)]
    return "\n".join([*lines, ""])
