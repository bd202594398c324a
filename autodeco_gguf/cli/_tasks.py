"""The options of verbs that sample answers to problems and grade them."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import F
from autodeco_gguf.cli._types import FloatRange, IntRange, Source
from autodeco_gguf.model.shipped import DEMO_MODEL
from autodeco_gguf.tasks.adapters import ADAPTERS
from autodeco_gguf.tasks.checkers import CHECKERS
from autodeco_gguf.tasks.tasks import BUILT_IN
from autodeco_gguf.tasks.workers import MOST_S

if TYPE_CHECKING:
    from autodeco_gguf.answers.items import GradedTasks
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.tasks.programs.grader import Leave

CHECKER_HELP = f"""What tells a right answer of all tasks: {", ".join(CHECKERS)}, or module:function of your own.  \
[default: the format's own, else boxed]"""

_OPTIONS = (
    click.option(
        "--task",
        "--problems",
        "tasks",
        type=Source(),
        multiple=True,
        metavar="[FORMAT:]SOURCE",
        help="A file of problems, or a data set OWNER/NAME of the Hugging Face hub; again for more. "
        f"FORMAT: {', '.join(ADAPTERS)}. Built in: {', '.join(BUILT_IN)}, each also as NAME@train.",
    ),
    click.option("--checker", metavar="NAME", help=CHECKER_HELP),
    click.option("--limit", type=IntRange(min=1), help="First so many problems of each task.  [default: all]"),
    click.option(
        "--time-limit",
        type=FloatRange(min=0, min_open=True, max=MOST_S),
        default=10.0,
        show_default=True,
        help="Seconds for checking an answer, of a program for each of its tests.",
    ),
    click.option(
        "--allow-code",
        is_flag=True,
        help="Grade code generation, which means to run what a model wrote: isolated, without network or files of "
        "yours, and only where the system can do that.",
    ),
    click.option(
        "--allow-code-unisolated",
        is_flag=True,
        help="The same where the system cannot: programs can then read, change and delete every file that you can.",
    ),
)


def task_options(command: F) -> F:
    """The options that say what is asked; :func:`read_tasks` reads them."""
    return reduce(lambda f, option: option(f), reversed(_OPTIONS), command)


def read_tasks(options: dict[str, Any]) -> GradedTasks:
    """The tasks asked for, not yet open.

    Raises:
        click.UsageError: none is.
        AutoDecoError: one that cannot be read.
    """
    from autodeco_gguf.answers.items import GradedTasks
    from autodeco_gguf.tasks.checkers import get_checker
    from autodeco_gguf.tasks.tasks import read_task

    if not options["tasks"]:
        raise click.UsageError("Missing option '--task'.")
    if options["checker"] is not None:
        get_checker(options["checker"])  # before anything is read
    tasks = [read_task(spec, checker=options["checker"], limit=options["limit"]) for spec in options["tasks"]]
    if options.get("grader") == "official":
        tasks = [replace(task, checker="official") if task.checker == "boxed" else task for task in tasks]
    leave: Leave | None = "isolated" if options["allow_code"] else None
    return GradedTasks(tasks, options["time_limit"], "unisolated" if options["allow_code_unisolated"] else leave)


def say_model(model: Path | None) -> None:
    """Say which it is where none was asked for."""
    if model is None:
        click.echo("model: the demo that comes with the package", err=True)


def load_engine(model: Path | None, options: dict[str, Any]) -> Engine:
    """The engine of a verb that answers problems; without a model, that of the demo.

    Raises:
        AutoDecoError: as :class:`Engine`.
    """
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.scheduler import Batching

    say_model(model)
    return Engine(
        model or DEMO_MODEL,
        n_parallel=options["parallel"],
        # so that an interruption leaves no trace in the results
        batching=Batching(batch_invariant=options["parallel"] > 1),
        n_ctx=options["ctx"],
        heads=options.get("heads"),
        machine=options["machine"],
        chat_template_kwargs=options["chat_template_kwargs"],
    )
