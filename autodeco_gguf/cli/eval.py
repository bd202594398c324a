"""``autodeco-gguf eval``."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import (
    GGUF,
    Verb,
    answer_options,
    chat_template_option,
    machine_options,
    option,
    progress_bar,
)
from autodeco_gguf.errors import AutoDecoError, BadFile
from autodeco_gguf.evaluation.methods import HELP, check_names, parse_methods, split_names
from autodeco_gguf.evaluation.settings import EvalSettings, Shard
from autodeco_gguf.model.sampling import MAX_SEED
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks.adapters import ADAPTERS
from autodeco_gguf.tasks.checkers import CHECKERS
from autodeco_gguf.tasks.commands import SHIPPED, Commands
from autodeco_gguf.tasks.tasks import BUILT_IN, DEMO

if TYPE_CHECKING:
    from autodeco_gguf.answers.items import GradedTasks
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.evaluation.runner import EvalWatch, Progress


def _methods_help() -> str:
    wrap = textwrap.TextWrapper(width=96, subsequent_indent=" " * 24)
    return "\n".join(wrap.fill(f"  {name:22}{text}") for name, text in HELP.items())


_HELP = f"""Compare ways to decode with MODEL: pass@1, pass@k and different right answers, with errors.

Every method answers every problem k times with each seed. What is finished stays in the directory: the same command
goes on from there, and so does one with more methods, a larger -k or more --seeds. Without MODEL it evaluates the
small one that comes with the package, on its own task.

\b
Methods, "a,b,..."; by default all that apply to the model but static:T,P and distinct:
{_methods_help()}

Example: autodeco-gguf eval qwen-autodeco.gguf --task aime24.jsonl --methods autodeco,greedy,oracle -o aime24
"""


@click.command("eval", cls=Verb, help=_HELP)
@click.argument("model", type=GGUF, required=False)
@option(
    "--task",
    "tasks",
    multiple=True,
    metavar="[FORMAT:]SOURCE",
    help="A file of problems, or a data set OWNER/NAME of the Hugging Face hub; again for more. "
    f"FORMAT: {', '.join(ADAPTERS)}. Built in: {', '.join(BUILT_IN)}, each also as NAME@train.  "
    f"[default: {DEMO}, without MODEL]",
)
@option(
    "--checker",
    metavar="NAME",
    help=f"What tells a right answer of all tasks: {', '.join(CHECKERS)}, or module:function of your own.  "
    "[default: the format's own, else boxed]",
)
@option("--methods", metavar="A,B,...", help="What to compare.  [default: as above]")
@option("-k", type=click.IntRange(min=1), default=16, help="Answers to a problem and seed.")
@option("--seeds", type=click.IntRange(min=1), default=8, help="Times that all is sampled.")
@option("--seed", type=click.IntRange(0, MAX_SEED), default=0, help="Same seed, same answers.")
@option("-o", "--output", type=GGUF, required=True, help="Directory to write to; one that exists is continued.")
@option("--limit", type=click.IntRange(min=1), help="First so many problems of each task.  [default: all]")
@answer_options
@chat_template_option
@option("--heads", type=GGUF, help="Adapter with the heads, for a model without.")
@option("--shard", metavar="I/N", help="Part I of N of the problems, 1/N to N/N.  [default: all problems]")
@option(
    "--search-samples",
    type=click.IntRange(min=1),
    help="Answers to a problem for each point of a search, at most k.  [default: k]",
)
@option("--control", is_flag=True, help="Also: do commands in the prompt move mean T and P? One answer each.")
@option("--commands", type=GGUF, help='JSON with "low" and "high" lists of commands.  [default: shipped]')
@option(
    "--time-limit", type=click.FloatRange(min=0, min_open=True), default=10.0, help="Seconds for checking an answer."
)
@option("--no-plots", is_flag=True, help="Write no plots, which need matplotlib.")
@option("--wide", is_flag=True, help="Print every column, as report.md has them.")
@machine_options()
def eval_command(model: Path | None, output: Path, **options: Any) -> None:
    """Read all arguments, load the model, evaluate, and print the results; the help is above."""
    names, plots = _check_usage(model, options), not options["no_plots"]
    settings, shard = _settings(options)

    from autodeco_gguf.evaluation.control import control_table, evaluate_control
    from autodeco_gguf.evaluation.report import summary
    from autodeco_gguf.evaluation.runner import evaluate

    with _read_tasks(options) as tasks:
        _check_output(output, plots)
        commands = Commands.read(options["commands"] or SHIPPED) if options["control"] else None
        engine = _load(model, options)
        methods = parse_methods(names, engine.heads, engine.context.metadata)
        searched = [method.name for method in methods if method.config is None]
        if shard is not None and searched:
            without = f"without {', '.join(searched)}; evaluate the joined directory for those"
            click.echo(f"shard {shard}: {without}", err=True)
        control = None
        with _resumable(output), _progress() as (watch, watch_control):
            if commands is not None:
                control = evaluate_control(engine, tasks.tasks, output, commands, settings, watch=watch_control)
            results = evaluate(engine, tasks, output, methods, settings, shard=shard, plots=plots, watch=watch)
    click.echo(summary(results, wide=options["wide"]))
    if control is not None:
        click.echo(f"\n{control_table(control)}")
    click.echo(f"{output}: report.md, results.json, samples.jsonl{' and plots' if plots else ''}", err=True)


# ---- arguments ----


def _check_usage(model: Path | None, options: dict[str, Any]) -> list[str] | None:
    """Refuse what does not go together; the names of the methods."""
    if model is None and options["heads"] is not None:
        raise click.UsageError("--heads needs the MODEL they go with")
    if model is not None and not options["tasks"]:
        raise click.UsageError("MODEL needs a --task")
    if options["commands"] is not None and not options["control"]:
        raise click.UsageError("--commands needs --control")
    if options["control"] and options["shard"] is not None:
        raise click.UsageError("--control needs all problems: leave --shard out, or evaluate the joined directory")
    if options["methods"] is None:
        return None
    names = split_names(options["methods"])
    check_names(names)
    return names


def _settings(options: dict[str, Any]) -> tuple[EvalSettings, Shard | None]:
    names = ("k", "seeds", "seed", "max_tokens", "search_samples")
    settings = EvalSettings(**{name: options[name] for name in names})
    settings.check()
    return settings, None if options["shard"] is None else Shard.parse(options["shard"])


def _read_tasks(options: dict[str, Any]) -> GradedTasks:
    from autodeco_gguf.answers.items import GradedTasks
    from autodeco_gguf.tasks.tasks import read_task

    specs = options["tasks"] or (DEMO,)
    tasks = [read_task(spec, checker=options["checker"], limit=options["limit"]) for spec in specs]
    EvalSettings(tasks=tuple(task.name for task in tasks)).check()
    return GradedTasks(tasks, options["time_limit"])


def _check_output(output: Path, plots: bool) -> None:
    from autodeco_gguf.evaluation.plots import check

    if output.exists() and not output.is_dir():
        raise BadFile.of(output, "is no directory; give another name")
    if plots:
        try:
            check()
        except AutoDecoError as e:
            raise AutoDecoError(f"{e}; or use --no-plots", key=e.key) from e


def _load(model: Path | None, options: dict[str, Any]) -> Engine:
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.scheduler import Batching

    if model is None:
        click.echo("model: the demo that comes with the package", err=True)
    return Engine(
        model or DEMO_MODEL,
        n_parallel=options["parallel"],
        # so that an interruption leaves no trace in the results
        batching=Batching(batch_invariant=options["parallel"] > 1),
        n_ctx=options["ctx"],
        heads=options["heads"],
        machine=options["machine"],
        chat_template_kwargs=options["chat_template_kwargs"],
    )


# ---- progress ----


@contextmanager
def _resumable(output: Path) -> Iterator[None]:
    """Say how to go on when it is interrupted, by Ctrl-C or by SIGTERM."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        click.echo(f"{output}: what is finished is kept; the same command goes on from there", err=True)
        raise


@contextmanager
def _progress() -> Iterator[tuple[EvalWatch, Callable[[int, int], None]]]:
    """A bar of samples on a terminal, a line for each finished config elsewhere."""
    with progress_bar("samples") as bar:

        def watch(p: Progress) -> None:
            name = p.config.key if p.config.key.startswith(p.method) else f"{p.method}: {p.config}"
            text = f"method {p.number} of {p.of}, {name}, {p.correct} of {p.drawn} right"
            text += f", {p.tokens / max(p.seconds, 1e-9):.0f} tokens/s"
            if p.drawn == 0:
                bar.restart()  # or the time left would be that of the config before
            bar.update(p.done, p.total, text)
            if p.done == p.total and not bar.is_terminal:
                bar.say(text)

        yield watch, lambda done, total: bar.update(done, total, "control")
