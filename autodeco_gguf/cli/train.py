"""``autodeco-gguf train``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import GGUF, Verb, chat_template_option, machine_options, named, option, progress_bar
from autodeco_gguf.cli._config import gives_way, is_typed
from autodeco_gguf.cli._objective import (
    CONTROL_ONLY,
    NEW_ONLY,
    control_options,
    head_options,
    heads_of,
    kind_of,
    objective_options,
    with_recipe,
)
from autodeco_gguf.cli._reward import REWARD_ONLY, print_files, refuse, reward_options, train_on_reward
from autodeco_gguf.cli._types import Float, Integer, IntRange
from autodeco_gguf.errors import not_installed
from autodeco_gguf.files.system import signals_wait
from autodeco_gguf.model.machine import MAX_CONTEXT

if TYPE_CHECKING:
    from autodeco_gguf.training.data import Counts
    from autodeco_gguf.training.objective import Losses
    from autodeco_gguf.training.report import Report
    from autodeco_gguf.training.train import TrainingWatch
    from autodeco_gguf.training.trainer import Step


@click.command("train", cls=Verb)
@click.argument("base", type=GGUF)
@option("--data", type=GGUF, multiple=True, help="JSONL to train on; may be given again.")
@reward_options
@option("-o", "--output", type=GGUF, required=True, help="Directory for the checkpoint; the adapter: OUTPUT.gguf.")
@head_options
@objective_options
@option("--epochs", type=Float(), help="Passes over the data.  [default: 1, or more for 60 steps]")
@option("--steps", type=Integer(), help="Steps, instead of epochs.")
@option(
    "--batch",
    type=Integer(),
    help="Examples a step, or problems a round.  [default: 32, of few data 8; 24 with --reward]",
)
@option("--lr", type=Float(), help="Peak learning rate of AdamW.  [default: 0.1 / hidden size; 0.25 with --reward]")
@option("--weight-decay", type=Float(), default=0.0, help="Weight decay of AdamW.")
@option("--warmup", type=Float(), default=0.03, help="Steps with rising rate: a share of them, or, from 2 on, so many.")
@option("--schedule", type=click.Choice(["linear", "cosine"]), default="linear", help="How the rate falls then.")
@option("--clip", type=Float(), default=1.0, help="Largest norm of the gradient.")
@control_options
@chat_template_option
@option(
    "-c",
    "--ctx",
    type=IntRange(2, MAX_CONTEXT),
    help="Longest example, in tokens, or context of an answer.  [default: by memory, or the model's own]",
)
@option("--too-long", type=click.Choice(["cut", "leave-out"]), default="cut", help="What becomes of longer examples.")
@option("--validation", type=Float(), help="Share held out, 0 to 0.5.  [default: 0.05; 0.2 with --reward]")
@option("--evaluations", type=Integer(), help="Validations during the training.  [default: 10; 6 with --reward]")
@option("--patience", type=Integer(), default=3, help="Stop after so many without gain; 0: never.")
@option("--seed", type=Integer(), default=0, help="Of everything random.")
@option("--base-name", help="The base's Hugging Face id or path, for the official code.  [default: the GGUF's]")
@option("--skip-bad", is_flag=True, help="Leave malformed lines out, and count them.")
@option("--force", is_flag=True, help="Start anew and replace what is in the output.")
@option(
    "--torch-device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    help="Where torch works on the losses; auto: the first there is of cuda, mps, cpu.",
)
@machine_options(
    threads="CPU threads; 1 is reproducible.  [default: one a core, half above 4]",
    flash_help="off; with --reward on with an f16 cache",
)
def train_command(base: Path, **options: Any) -> None:
    """Train AutoDeco heads on BASE itself, as quantized as it is: on text, or on the reward of their own answers.

    Lines of data: {"prompt", "completion"}, {"messages"} or {"conversations"} (the model's chat template; its own turns
    are learnt), {"instruction", "input", "output"}, or {"text"}. With --reward instead, the heads answer the problems
    of --task again and again, and learn from which answers are right. Run again after an interruption it goes on where
    it was.

    Example: autodeco-gguf train qwen2.5-7b-q4_k_m.gguf --data rollouts.jsonl -o heads

    Example: autodeco-gguf train qwen2.5-7b-q4_k_m.gguf --data rollouts.jsonl --recipe trl -o heads

    Example: autodeco-gguf train qwen2.5-7b-q4_k_m.gguf --data d.jsonl --from heads --control --steps 60 -o second

    Example: autodeco-gguf train qwen2.5-7b-q4_k_m.gguf --reward correct --task gsm8k:train.jsonl -n 400 -o heads
    """
    try:
        with signals_wait():
            import autodeco_gguf.training.train  # noqa: F401
    except ImportError as e:
        package = str(e.name).partition(".")[0]
        raise not_installed(f"training needs {package}", package, "train") from e
    if is_typed("data") and not is_typed("reward"):
        options["reward"] = None  # the user's default gives way
    if options["reward"] is not None:
        train_on_reward(base, options)
    else:
        _train_on_data(base, options)


def _train_on_data(base: Path, options: dict[str, Any]) -> None:
    from autodeco_gguf.tasks.commands import Commands
    from autodeco_gguf.training.settings import Objective, TrainingSettings
    from autodeco_gguf.training.train import TrainingOptions, train

    if not options["data"]:
        raise click.UsageError("Missing option '--data', or '--reward' and '--task'.")
    refuse(REWARD_ONLY, "needs --reward")
    if options["start"] == "likelihood":
        if is_typed("start"):
            raise click.UsageError("--from likelihood needs --reward; --data is learnt by likelihood from new heads")
        options["start"] = None  # the user's default, which is for --reward
    if options["start"] not in (None, "new"):
        refuse(NEW_ONLY, "has no effect with --from: the heads bring their own")
    if is_typed("epochs"):
        refuse(["steps"], "goes instead of --epochs: give one of them")
    if gives_way("steps", "epochs"):
        options["steps"] = None
    options = with_recipe(options)
    objective = named(Objective, {**options, **heads_of(options)})
    settings = named(TrainingSettings, {**options, "max_tokens": options["ctx"]})
    settings = replace(settings, objective=objective, kind=kind_of(options))
    settings.check()
    commands = None
    if options["control"]:
        how = {"share": options["control_share"], "seed": options["seed"], "pairs": options["control_pairs"]}
        commands = Commands.read(options["commands"], **how)
    else:
        refuse(CONTROL_ONLY, "needs --control")
    with _progress() as watch:
        trained = train(
            base,
            options["data"],
            options["output"],
            settings,
            options=named(TrainingOptions, {**options, "commands": commands}),
            force=options["force"],
            machine=options["machine"],
            watch=watch,
        )
    if trained.steps < trained.planned:
        click.echo(f"stopped early at step {trained.steps}, kept step {trained.kept}", err=True)
    elif trained.kept < trained.steps:
        click.echo(f"kept step {trained.kept}, whose validation was the best", err=True)
    print_files(base, trained.checkpoint, trained.adapter, f"step {trained.kept}")
    if trained.report is not None:
        _print_report(trained.report)


@contextmanager
def _progress() -> Iterator[TrainingWatch]:
    """A bar with losses and mean predictions on a terminal, a line at each validation."""
    from autodeco_gguf.training.train import TrainingWatch

    with progress_bar("reading") as bar:

        def on_step(s: Step) -> None:
            text = _losses(s.train) + f", {s.tok_s:.0f} tokens/s"
            bar.update(s.step, s.steps, text)
            if s.validation is not None:
                bar.say(f"step {s.step} of {s.steps}: {text}; validation {_losses(s.validation)}")

        yield TrainingWatch(lines=bar.update, data=_print_counts, warning=_print_warning, step=on_step)


def _losses(losses: Losses) -> str:
    return f"loss {losses.total:.4f}, T {losses.mean_temperature:.3f}, P {losses.mean_top_p:.3f}"


def _print_counts(counts: Counts) -> None:
    line = f"{counts.examples} examples, {counts.tokens} tokens, {counts.predicted} of them predicted"
    if counts.controlled:
        line += f"; {counts.controlled} examples with commands"
    if counts.cut:
        line += f"; {counts.cut} cut to {counts.longest} tokens, by {counts.cut_tokens}: their ends are not learnt"
    if counts.too_long:
        line += f"; {counts.too_long} left out: longer than the context"
    if counts.empty:
        line += f"; {counts.empty} left out: nothing to predict within the context"
    if counts.bad:
        line += f"; {counts.bad} malformed lines skipped, the first: {counts.bad_lines[0]}"
    click.echo(line, err=True)


def _print_warning(warning: str) -> None:
    click.echo(f"warning: {warning}", err=True)


def _print_report(result: Report) -> None:
    click.echo(f"on {result.examples} validation examples, {result.tokens} tokens:")
    click.echo(f"{'':16}{'mean T':>8}{'mean P':>8}{'NLL':>9}  {'heads better by':>24}")
    for m in result.methods:
        row = f"{m.name:16}{m.temperature:8.3f}{m.top_p:8.3f}{m.nll:9.4f}"
        click.echo(row if m.name == "heads" else f"{row}  {m.difference:+14.4f} +- {m.standard_error:.4f}")
    click.echo(result.verdict)
