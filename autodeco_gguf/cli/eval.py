"""``autodeco-gguf eval``."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from autodeco_gguf.cli._common import (
    GGUF,
    WITHOUT_PLOTS,
    Verb,
    answer_options,
    chat_template_option,
    commands_option,
    machine_options,
    named,
    option,
    progress_bar,
    resumable,
)
from autodeco_gguf.cli._config import gives_way
from autodeco_gguf.cli._ray import check_ray, drawing, ray_options
from autodeco_gguf.cli._reward import refuse
from autodeco_gguf.cli._tasks import read_tasks, task_options
from autodeco_gguf.cli._types import FloatRange, IntRange
from autodeco_gguf.errors import BadFile
from autodeco_gguf.evaluation.methods import HELP, check_names, parse_methods, split_names
from autodeco_gguf.evaluation.settings import EvalSettings, Shard
from autodeco_gguf.model.sampling import MAX_SEED
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.tasks.tasks import DEMO

if TYPE_CHECKING:
    from autodeco_gguf.answers.items import GradedTasks
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.evaluation.drawing import EvalWatch, Progress


def _methods_help() -> str:
    wide = max(map(len, HELP)) + 2
    wrap = textwrap.TextWrapper(width=98, subsequent_indent=" " * (wide + 2))
    return "\n".join(wrap.fill(f"  {name:{wide}}{text}") for name, text in HELP.items())


_HELP = f"""Compare ways to decode with MODEL: pass@1, pass@k and different right answers, with errors.

Every method answers every problem k times with each seed. What is finished stays in the directory, also after Ctrl-C:
the same command goes on from there, and so does one with more methods, a larger -k or more --seeds. After the first
answers it says how many are left to draw, and how long that will take. Without MODEL it evaluates the
small one that comes with the package, on its own task.

\b
Methods, "a,b,..."; by default all that apply but static:T,P, distinct and autodeco:fixed-t:
{_methods_help()}

Example: autodeco-gguf eval qwen-autodeco.gguf --task aime24.jsonl --methods autodeco,greedy,oracle -o aime24
"""


@click.command("eval", cls=Verb, help=_HELP)
@click.argument("model", type=GGUF, required=False)
@task_options
@option(
    "--grader",
    type=click.Choice(["math-verify", "official"]),
    help="What compares boxed answers: math-verify, which knows equal formulas, or strings as the official evaluation "
    "does. Where it is given, the results say how often the two differ.  [default: math-verify]",
)
@option("--methods", metavar="A,B,...", help="What to compare.  [default: as above]")
@option("-k", type=IntRange(min=1), default=16, help="Answers to a problem and seed.")
@option(
    "--seeds",
    type=IntRange(min=1),
    default=8,
    help="How many times the whole sampling is repeated, each time with other seeds.",
)
@option("--seed", type=IntRange(0, MAX_SEED), default=0, help="Same seed, same answers.")
@option("-o", "--output", type=GGUF, required=True, help="Directory to write to; one that exists is continued.")
@answer_options
@chat_template_option
@option("--heads", type=GGUF, help="Adapter with the heads, for a model without.")
@option("--shard", metavar="I/N", help="Part I of N of the problems, 1/N to N/N.  [default: all problems]")
@option(
    "--search-samples",
    type=IntRange(min=1),
    help="Answers to a problem for each point of a search, at most k.  [default: k]",
)
@option(
    "--mean-shift-from",
    type=GGUF,
    metavar="DIR",
    help="Evaluation of autodeco on validation problems, for the constants of mean-shift.  [default: those evaluated]",
)
@option(
    "--budget",
    type=FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Stop after so long, with the results of the methods that are complete.  [default: no limit]",
)
@option("--control", is_flag=True, help="Also: do commands in the prompt move mean T and P? One answer each.")
@commands_option
@option("--traces", is_flag=True, help="Keep T and P of every token drawn, for autodeco-gguf report and view.")
@option("--no-plots", is_flag=True, help="Write no plots, which need matplotlib.")
@option("--wide", is_flag=True, help="Print every column, as report.md has them.")
@ray_options
@machine_options()
def eval_command(model: Path | None, output: Path, **options: Any) -> None:
    """Read all arguments, load the model, evaluate, and print the results; the help is above."""
    until = math.inf if options["budget"] is None else time.monotonic() + 60 * options["budget"]
    names, plots = _check_usage(model, options), not options["no_plots"]
    settings, shard = _settings(options)
    also = [name for name, wanted in (("plots", plots), ("traces", options["traces"])) if wanted]

    from autodeco_gguf.evaluation.control import control_table, evaluate_control
    from autodeco_gguf.evaluation.drawing import Enough
    from autodeco_gguf.evaluation.report import summary
    from autodeco_gguf.evaluation.runner import evaluate
    from autodeco_gguf.evaluation.validation import mean_shift_from

    with ExitStack() as stack, read_tasks({**options, "tasks": options["tasks"] or (DEMO,)}) as tasks:
        _check_output(output, plots, options["control"], [*tasks.files, *options["commands"]])
        commands = Commands.read(options["commands"]) if options["control"] else None
        engine = stack.enter_context(drawing(model, options, traces=options["traces"]))
        methods = parse_methods(names, engine.heads, engine.metadata)
        if all(method.name != "mean-shift" for method in methods):
            refuse(["mean_shift_from"], "needs mean-shift among the methods")
        elif options["mean_shift_from"] is not None:
            methods, validation = mean_shift_from(options["mean_shift_from"], engine, methods)
            settings = replace(settings, validation=validation)
        searched = [method.name for method in methods if method.config is None]
        if shard is not None and searched:
            without = f"without {', '.join(searched)}; evaluate the joined directory for those"
            click.echo(f"shard {shard}: {without}", err=True)
        control = None
        with resumable(output), _progress(until, options["parallel"]) as (watch, watch_control):
            if commands is not None:
                how: dict[str, Any] = {"plots": plots, "watch": watch_control}
                with suppress(Enough):
                    control = evaluate_control(cast("Engine", engine), tasks.tasks, output, commands, settings, **how)
            results = evaluate(engine, tasks, output, methods, settings, shard=shard, also=also, watch=watch)
        differences = _differences(output, tasks) if results is not None and options["grader"] else []
    if results is None or results.unfinished:
        left = "no method is complete" if results is None else f"not finished: {', '.join(results.unfinished)}"
        click.echo(f"{output}: {left}; the same command goes on from there", err=True)
    if commands is not None and control is None:
        click.echo(f"{output}: control is not finished; the same command goes on from there", err=True)
    if results is not None:
        click.echo("\n".join([summary(results, wide=options["wide"]), *differences]))
    if control is not None:
        click.echo(f"\n{control_table(control)}")
    if results is not None:
        click.echo(f"{output}: report.md, results.json, samples.jsonl{' and plots' if plots else ''}", err=True)


# ---- arguments ----


def _check_usage(model: Path | None, options: dict[str, Any]) -> list[str] | None:
    """Refuse what does not go together; the names of the methods."""
    if model is None:
        refuse(["heads"], "needs the MODEL they go with")
        options["heads"] = None  # the user's default, which is for another
    if model is not None and not options["tasks"]:
        raise click.UsageError("MODEL needs a --task")
    options["control"] = options["control"] and not gives_way("control", "ray", "shard")
    if options["control"]:
        options.update({name: None for name in ("ray", "shard") if gives_way(name, "control")})
    else:
        refuse(["commands"], "needs --control")
    check_ray(options)
    if options["control"] and options["ray"] is not None:
        raise click.UsageError("--control reads answers token by token on one machine: leave --ray out for it")
    if options["control"] and options["shard"] is not None:
        raise click.UsageError("--control needs all problems: leave --shard out, or evaluate the joined directory")
    if options["methods"] is None:
        return None
    names = split_names(options["methods"])
    check_names(names)
    return names


def _settings(options: dict[str, Any]) -> tuple[EvalSettings, Shard | None]:
    settings = named(EvalSettings, {**options, "tasks": None})  # known when they are read
    settings.check()
    return settings, None if options["shard"] is None else Shard.parse(options["shard"])


def _check_output(output: Path, plots: bool, control: bool, inputs: Sequence[Path]) -> None:
    """Refuse, before the model is loaded, to write over what is an input or somebody else's."""
    from autodeco_gguf.evaluation import control as of_control
    from autodeco_gguf.evaluation.runner import EVALUATION, WRITTEN, check_directory
    from autodeco_gguf.evaluation.samples import SAMPLES
    from autodeco_gguf.files.atomic import check_name, same_file
    from autodeco_gguf.view.figures import check_matplotlib

    check_name(output)
    if output.exists() and not output.is_dir():
        raise BadFile.of(output, "is no directory; give another name")
    names = [EVALUATION, SAMPLES, *WRITTEN, *((of_control.CONTROL, *of_control.WRITTEN) if control else ())]
    same = same_file(inputs, [output / name for name in names])
    if same is not None:
        raise BadFile.of(same[0], "is an input and would be written; use another directory for -o")
    check_directory(output)
    if control:
        of_control.check_control_directory(output)
    if plots:
        check_matplotlib(WITHOUT_PLOTS)


def _differences(output: Path, tasks: GradedTasks) -> list[str]:
    """How often the graders differ, in words; as values in a file."""
    from autodeco_gguf.evaluation.graders import GRADERS, agreement
    from autodeco_gguf.evaluation.runner import write_json

    found = agreement(output, tasks)
    write_json(output / GRADERS, [vars(one) for one in found])
    return ["", *(f"- {one}" for one in found)] if found else []


# ---- progress ----


@contextmanager
def _progress(until: float, parallel: int) -> Iterator[tuple[EvalWatch, Callable[[int, int], None]]]:
    """A bar of samples on a terminal, a line for each finished config elsewhere; ends the evaluation at a time."""
    from autodeco_gguf.evaluation.drawing import Enough

    said = False

    def check_time() -> None:
        if time.monotonic() >= until:
            raise Enough

    with progress_bar("samples") as bar:

        def watch(p: Progress) -> None:
            nonlocal said
            name = p.config.key if p.config.key.startswith(p.method) else f"{p.method}: {p.config}"
            text = f"method {p.number} of {p.of}, {name}, {p.correct} of {p.drawn} right"
            text += f", {p.tokens / max(p.seconds, 1e-9):.0f} tokens/s"
            if p.drawn == 0:
                bar.restart()  # or the time left would be that of the config before
            bar.update(p.done, p.total, text)
            if p.done == p.total and not bar.is_terminal:
                bar.say(text)
            # the first answers to be finished are the short ones
            if not said and p.drawn and (p.drawn >= 4 * parallel or p.done == p.total):
                bar.say(_estimate(p))
                said = True
            check_time()

        def watch_control(done: int, total: int) -> None:
            bar.update(done, total, "control")
            if done < total:
                check_time()

        yield watch, watch_control


def _estimate(p: Progress) -> str:
    """What is left of all methods, at the speed and the length of the answers so far."""
    share, minutes = p.left / p.drawn, p.left / p.drawn * p.seconds / 60
    time_left = f"{minutes:.0f} minutes" if minutes < 100 else f"{minutes / 60:.1f} hours"
    speed = p.tokens / max(p.seconds, 1e-9)
    return f"left: about {p.left:,} answers, {share * p.tokens:,.0f} tokens at {speed:.0f} tokens/s: {time_left}"
