"""``autodeco-gguf rollouts``."""

from __future__ import annotations

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
from autodeco_gguf.cli._ray import check_ray, drawing, ray_options
from autodeco_gguf.cli._tasks import read_tasks, task_options
from autodeco_gguf.cli._types import FloatRange, IntRange
from autodeco_gguf.model.sampling import MAX_SEED

if TYPE_CHECKING:
    from autodeco_gguf.training.rollouts import RolloutSummary


@click.command("rollouts", cls=Verb)
@click.argument("model", type=GGUF)
@task_options
@option("-o", "--output", type=GGUF, required=True, help="JSONL to write, for autodeco-gguf train.")
@option("-k", type=IntRange(min=1), default=16, help="Answers to sample a problem.")
@option(
    "--keep",
    type=click.Choice(["correct", "all"]),
    default="correct",
    help="all: wrong and cut answers too, each with its grade.",
)
@answer_options
@chat_template_option
@option("--temperature", type=FloatRange(min=0), default=1.0, help="Of all tokens; 0: greedy.")
@option("--top-p", type=FloatRange(0, 1), default=1.0, help="Of all tokens.")
@option("--seed", type=IntRange(0, MAX_SEED), default=0, help="Same seed, same answers.")
@option("--force", is_flag=True, help="Replace the output, and a partial one of other settings.")
@ray_options
@machine_options()
def rollouts_command(model: Path, output: Path, force: bool, **options: Any) -> None:
    """Sample answers of MODEL and keep the correct ones, as data to train its heads on.

    The heads take no part: temperature and top-p are fixed, at 1 as the paper has it. Run again after an interruption
    it goes on from OUTPUT.partial, and gives what an undisturbed run would have given, but for rounding with
    --parallel 1.

    Example: autodeco-gguf rollouts qwen2.5-7b-q4_k_m.gguf --task train-problems.jsonl -k 16 -o rollouts.jsonl
    """
    check_ray(options)
    from autodeco_gguf.files.atomic import check_output
    from autodeco_gguf.training.rollouts import RolloutSettings, rollouts

    settings = named(RolloutSettings, options)
    settings.check()
    tasks = read_tasks(options)
    inputs = [model, *tasks.files]
    check_output(output, inputs=inputs, force=force)  # before the model is loaded
    with tasks, drawing(model, options, traces=True) as engine, progress_bar("problems") as bar:

        def watch(summary: RolloutSummary, total: int) -> None:
            cut = f" ({summary.cut} more cut)" if summary.cut else ""
            text = f"problems, {summary.correct} of {summary.samples} correct{cut}, {_speed(summary):.0f} tokens/s"
            bar.update(summary.problems, total, text)

        with resumable(output):
            summary = rollouts(engine, tasks, output, settings, inputs=inputs, force=force, watch=watch)
    click.echo(f"{output}: {_summary(summary)}", err=True)


def _speed(summary: RolloutSummary) -> float:
    return summary.tokens / summary.seconds if summary.seconds > 0 else 0.0


def _summary(s: RolloutSummary) -> str:
    text = f"{s.correct} of {s.samples} samples are correct, {s.unsolved} of {s.problems} problems have none"
    if s.cut:
        text += f"; {s.cut} more are right but cut, which a larger -n or --keep all would keep"
    if s.continued:
        text += f"; problems that were finished before: {s.continued}"
    return f"{text}; {s.tokens} tokens, {_speed(s):.1f} tokens/s"
