"""``autodeco-gguf train --reward``: its options, what it runs, and what it prints."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import F, max_tokens_option, named, progress_bar
from autodeco_gguf.cli._config import is_typed
from autodeco_gguf.cli._objective import CONTROL_ONLY, NEW_ONLY, OBJECTIVE_ONLY, heads_of, kind_of
from autodeco_gguf.cli._tasks import read_tasks, task_options
from autodeco_gguf.cli._types import Float, Integer, IntRange, Source

if TYPE_CHECKING:
    from autodeco_gguf.training.measures import Measures, RewardReport
    from autodeco_gguf.training.reward import RewardWatch
    from autodeco_gguf.training.reward_trainer import Round

_OPTIONS = (
    click.option(
        "--reward",
        metavar="NAME",
        help="Train on it: correct, any (one of k is right), distinct (different right answers), or module:function of "
        "your own, (prompt, text, answer) -> number.",
    ),
    task_options,
    click.option(
        "--from",
        "start",
        type=Source(),
        metavar="START",
        help="Heads to begin with: new, a checkpoint, or a GGUF with heads; with --reward also likelihood: learnt from "
        "right answers at T = 1.  [default: new; likelihood with --reward]",
    ),
    click.option("-k", type=Integer(), default=16, show_default=True, help="Answers to a problem in a round."),
    click.option("--rounds", type=Integer(), default=30, show_default=True, help="Rounds: answers, and a step."),
    max_tokens_option,
    click.option("--parallel", type=IntRange(min=1), default=32, show_default=True, help="Answers at a time."),
    click.option("--pull", type=Float(), default=0.001, show_default=True, help="Weight of the pull towards START."),
    click.option(
        "--t-range", metavar="LOW,HIGH", default="0.1,1.5", show_default=True, help="Where T is kept, of 0 to 2."
    ),
    click.option(
        "--p-range", metavar="LOW,HIGH", default="0.1,1", show_default=True, help="Where P is kept, of 0 to 1."
    ),
)

REWARD_ONLY = (
    *("tasks", "checker", "limit", "time_limit", "allow_code", "allow_code_unisolated", "k", "rounds"),
    *("max_tokens", "parallel", "pull", "t_range", "p_range"),
)
"""Options that need --reward."""

_DATA_ONLY = (
    *("data", "epochs", "steps", "warmup", "schedule", "too_long", "skip_bad", *OBJECTIVE_ONLY),
    *("control", *CONTROL_ONLY),
)
"""Options that --reward has no use for."""


def reward_options(command: F) -> F:
    """The options that need --reward, and that one itself."""
    return reduce(lambda f, option: option(f), reversed(_OPTIONS), command)


def refuse(names: Sequence[str], why: str) -> None:
    """Refuse options that are typed and would have no effect: "--pull needs --reward"."""
    for name in filter(is_typed, names):
        command = click.get_current_context().command
        flags = next(parameter.opts for parameter in command.params if parameter.name == name)
        long = [flag for flag in flags if flag.startswith("--")]
        raise click.UsageError(f"{(long or flags)[0]} {why}")


def train_on_reward(base: Path, options: dict[str, Any]) -> None:
    """Read what --reward needs, train, and print what came of it."""
    from autodeco_gguf.training.policy import Limits
    from autodeco_gguf.training.reward import RewardOptions, train_reward
    from autodeco_gguf.training.reward_settings import RewardSettings
    from autodeco_gguf.training.settings import Objective

    refuse(_DATA_ONLY, "has no effect with --reward")
    if options["start"] not in (None, "likelihood", "new"):
        refuse(NEW_ONLY, "has no effect with --from: the heads bring their own")
    limits = Limits(options["pull"], _range("t-range", options["t_range"]), _range("p-range", options["p_range"]))
    settings = named(RewardSettings, {**options, "problems": options["batch"]})
    objective = named(Objective, {**heads_of(options), **_soft_cut(options)})
    settings = replace(settings, objective=objective, kind=kind_of(options), limits=limits)
    settings.check()
    how = named(RewardOptions, {**options, "n_ctx": options["ctx"], "n_parallel": options["parallel"]})
    with read_tasks(options) as tasks, _progress() as watch:
        trained = train_reward(
            base,
            tasks,
            options["output"],
            settings,
            options=how,
            force=options["force"],
            machine=options["machine"],
            watch=watch,
        )
    if trained.rounds < trained.planned:
        click.echo(f"stopped early after round {trained.rounds}", err=True)
    print_files(base, trained.checkpoint, trained.adapter, f"round {trained.kept}")
    if trained.report is not None:
        _print_report(trained.report)


def print_files(base: Path, checkpoint: Path, adapter: Path, after: str) -> None:
    """Say what a training left, and what for."""
    click.echo(f"{checkpoint}: the checkpoint, after {after}", err=True)
    line = shlex.join(["autodeco-gguf", "run", str(base), "--heads", str(adapter)])
    click.echo(f"{adapter}: the adapter, for {line}", err=True)


def _soft_cut(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("alpha", "sort_tolerance")}


def _range(name: str, text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError as e:
        raise click.UsageError(f"--{name} {text!r}, expected two numbers LOW,HIGH") from e
    return low, high


@contextmanager
def _progress() -> Iterator[RewardWatch]:
    """A bar of what is under way on a terminal, a line for each round."""
    from autodeco_gguf.training.reward import RewardWatch

    with progress_bar("reading") as bar:
        last = ""

        def phase(name: str, done: int, of: int) -> None:
            nonlocal last
            if done == 0 or name != last:
                bar.restart()
            last = name
            bar.update(done, of, name)

        def on_round(r: Round) -> None:
            if r.train is not None:
                bar.say(f"round {r.round} of {r.rounds}: {_shown(r.train)}, {r.drawing_s + r.learning_s:.0f} s")
            if r.validation is not None:
                bar.say(f"validation{'' if r.round else ' of the start'}: {_shown(r.validation)}")

        yield RewardWatch(phase=phase, warning=lambda text: bar.say(f"warning: {text}"), round=on_round)


def _shown(m: Measures) -> str:
    return (
        f"reward {m.reward:.3f}, pass@1 {m.pass_at_1:.3f}, distinct {m.distinct:.2f}, T {m.temperature:.2f} +- "
        f"{m.temperature_sd:.2f}, P {m.top_p:.2f} +- {m.top_p_sd:.2f}, {m.length:.0f} tokens, "
        f"{m.differing:.0%} of the problems differ"
    )


def _print_report(report: RewardReport) -> None:
    click.echo(f"{report.k} answers to each of {report.problems} validation problems:")
    click.echo(f"{'':10}{'reward':>9}{'pass@1':>9}{'pass@k':>9}{'distinct':>10}{'T':>7}{'P':>7}{'tokens':>8}")
    for number, m in report.validations:
        name = f"round {number}" if number else "start"
        row = f"{m.reward:9.3f}{m.pass_at_1:9.3f}{m.pass_at_k:9.3f}{m.distinct:10.2f}"
        row += f"{m.temperature:7.2f}{m.top_p:7.2f}{m.length:8.0f}"
        click.echo(f"{name:10}{row}{'  kept' if number == report.kept else ''}")
    click.echo(report.verdict)
