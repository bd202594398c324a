"""``autodeco-gguf train``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import GGUF, Verb, machine_options, progress_bar
from autodeco_gguf.errors import AutoDecoError

if TYPE_CHECKING:
    from autodeco_gguf.training.data import Counts
    from autodeco_gguf.training.report import Report
    from autodeco_gguf.training.train import Watch
    from autodeco_gguf.training.trainer import Step

HEADS = {"both": ("temperature", "top_p"), "temperature": ("temperature",), "top-p": ("top_p",)}


@click.command("train", cls=Verb, short_help="Train heads on a GGUF.")
@click.argument("base", type=GGUF)
@click.option("--data", type=GGUF, required=True, multiple=True, help="JSONL to train on; may be given again.")
@click.option(
    "-o", "--output", type=GGUF, required=True, help="Directory for the checkpoint; the adapter: OUTPUT.gguf."
)
@click.option("--heads", type=click.Choice(list(HEADS)), default="both", show_default=True, help="What to train.")
@click.option("--epochs", type=float, default=1.0, show_default=True, help="Passes over the data.")
@click.option("--steps", type=int, help="Steps, instead of epochs.")
@click.option("--batch", type=int, default=32, show_default=True, help="Examples a step.")
@click.option("--lr", type=float, help="Peak learning rate of AdamW.  [default: 0.1 / hidden size]")
@click.option("--weight-decay", type=float, default=0.0, show_default=True, help="Weight decay of AdamW.")
@click.option(
    "--warmup", type=float, default=0.03, show_default=True, help="Share of the steps with rising rate, 0 to 1."
)
@click.option("--clip", type=float, default=1.0, show_default=True, help="Largest norm of the gradient.")
@click.option(
    "--easy-mask",
    type=float,
    default=0.6,
    show_default=True,
    help="Share of the positions whose most likely token is right that the temperature loss drops; 0: none.",
)
@click.option(
    "--dft/--no-dft",
    default=True,
    show_default=True,
    help="Weigh positions by the model's probability of the target (dynamic fine-tuning).",
)
@click.option("--alpha", type=float, default=30.0, show_default=True, help="Steepness of the soft top-p mask.")
@click.option(
    "--sort-tolerance",
    type=float,
    default=1e-6,
    show_default=True,
    help="Error of the top-p loss in nats for which a large vocabulary need not be sorted; 0: always sort.",
)
@click.option("--control", is_flag=True, help="Train decoding control: T and P follow commands in the prompt.")
@click.option(
    "--control-share",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    help="Share of examples with commands.",
)
@click.option("--control-weight", type=float, default=1.0, show_default=True, help="Weight of the ranking loss.")
@click.option("--control-margin", type=float, default=0.1, show_default=True, help="Gap in mean T and P it asks for.")
@click.option("--commands", type=GGUF, help='JSON with "low" and "high" lists of commands.  [default: shipped]')
@click.option("-c", "--ctx", type=int, default=2048, show_default=True, help="Longest example in tokens; cut beyond.")
@click.option("--validation", type=float, default=0.05, show_default=True, help="Share of examples held out, 0 to 0.5.")
@click.option("--evaluations", type=int, default=10, show_default=True, help="Validations during the training.")
@click.option("--patience", type=int, default=3, show_default=True, help="Stop after so many without gain; 0: never.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--base-name", help="The base's Hugging Face id or path, for the official code.  [default: the GGUF's]")
@click.option("--skip-bad", is_flag=True, help="Leave malformed lines out, and count them.")
@click.option("--force", is_flag=True, help="Start anew and replace what is in the output.")
@machine_options(flash_attn=False, threads="CPU threads; 1 is reproducible.  [default: cores]")
def train_command(base: Path, data: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Train AutoDeco heads on BASE itself, as quantized as it is.

    Lines of data: {"prompt", "completion"}, {"messages"} (the model's chat template; its own turns are learnt) or
    {"text"}. Run again after an interruption it goes on where it was. The paper's objectives are the defaults.

    Example: autodeco-gguf train qwen2.5-7b-q4_k_m.gguf --data rollouts.jsonl -o heads
    """
    try:
        from autodeco_gguf.training.train import train
    except ImportError as e:
        raise AutoDecoError(f"training needs {e.name}; pip install 'autodeco-gguf[train]'") from e
    from autodeco_gguf.tasks.commands import SHIPPED, Commands

    try:
        settings = _settings(options)
        settings.check()
    except AutoDecoError as e:
        raise click.UsageError(str(e)) from e
    commands = None
    if options["control"]:
        commands = Commands.read(options["commands"] or SHIPPED, share=options["control_share"], seed=options["seed"])
    else:
        _check_unused()
    with _progress() as watch:
        trained = train(
            base,
            data,
            output,
            settings,
            commands=commands,
            base_name=options["base_name"],
            skip_bad=options["skip_bad"],
            force=options["force"],
            machine=options["machine"],
            watch=watch,
        )
    click.echo(f"{trained.checkpoint}: the checkpoint, after {trained.steps} steps", err=True)
    click.echo(f"{trained.adapter}: the adapter, for autodeco-gguf run {base} --heads {trained.adapter}", err=True)
    if trained.report is not None:
        _print_report(trained.report)


def _check_unused() -> None:
    """Refuse options that would have no effect without --control."""
    context = click.get_current_context()
    for name in ("commands", "control_share", "control_weight", "control_margin"):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --control")


def _settings(options: dict[str, Any]) -> Any:
    from autodeco_gguf.training.settings import Objective, Settings

    objective = Objective(
        heads=HEADS[options["heads"]],
        easy_mask=options["easy_mask"],
        dynamic_fine_tuning=options["dft"],
        alpha=options["alpha"],
        sort_tolerance=options["sort_tolerance"],
        control_weight=options["control_weight"],
        control_margin=options["control_margin"],
    )
    names = ("batch", "epochs", "steps", "lr", "weight_decay", "warmup", "clip", "validation", "evaluations")
    same = {name: options[name] for name in (*names, "patience", "seed")}
    return Settings(objective=objective, max_tokens=options["ctx"], **same)


@contextmanager
def _progress() -> Iterator[Watch]:
    """A bar with losses and mean predictions on a terminal, a line at each validation."""
    from autodeco_gguf.training.train import Watch

    with progress_bar("reading") as bar:

        def on_step(s: Step) -> None:
            text = _losses(s.losses) + f", {s.tok_s:.0f} tokens/s"
            bar.update(s.step, s.steps, text)
            if s.validation is not None:
                bar.say(f"step {s.step} of {s.steps}: {text}; validation {_losses(s.validation)}")

        yield Watch(lines=bar.update, data=_print_counts, step=on_step)


def _losses(losses: Any) -> str:
    text = f"loss {losses.total:.4f}, T {losses.mean_temperature:.3f}, P {losses.mean_top_p:.3f}"
    return text


def _print_counts(counts: Counts) -> None:
    line = f"{counts.examples} examples, {counts.tokens} tokens, {counts.predicted} of them predicted"
    if counts.controlled:
        line += f"; {counts.controlled} examples with commands"
    if counts.cut:
        line += f"; {counts.cut} cut to the context, by {counts.cut_tokens} tokens"
    if counts.empty:
        line += f"; {counts.empty} left out: nothing to predict within the context"
    if counts.bad:
        line += f"; {counts.bad} malformed lines skipped, the first: {counts.bad_lines[0]}"
    click.echo(line, err=True)


def _print_report(result: Report) -> None:
    click.echo(f"on {result.examples} validation examples, {result.tokens} tokens:")
    click.echo(f"{'':16}{'mean T':>8}{'mean P':>8}{'NLL':>9}  {'worse than the heads by':>24}")
    for m in result.methods:
        row = f"{m.name:16}{m.temperature:8.3f}{m.top_p:8.3f}{m.nll:9.4f}"
        click.echo(row if m.name == "heads" else f"{row}  {m.difference:+14.4f} +- {m.standard_error:.4f}")
    click.echo(result.verdict)
