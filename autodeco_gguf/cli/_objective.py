"""Options of ``autodeco-gguf train``: what is learnt as which source has it, and by which heads."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import F, commands_option, option
from autodeco_gguf.cli._config import is_typed
from autodeco_gguf.cli._types import Float, FloatRange, Integer, IntRange

if TYPE_CHECKING:
    from autodeco_gguf.training.module import HeadKind

HEADS = {"both": ("temperature", "top_p"), "temperature": ("temperature",), "top-p": ("top_p",)}


def _widths(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        return tuple(map(Integer(), text.split(",")))
    except click.BadParameter as e:
        raise click.BadParameter(f"{text!r}, expected numbers such as 256 or 256,128,64", ctx, parameter) from e


_HEADS = (
    option("--heads", type=click.Choice(list(HEADS)), default="both", help="What to train."),
    option(
        "--other-head",
        type=click.Choice(["absent", "frozen"]),
        default="absent",
        help="Of one head alone: the other is not there, T = 1 or P = 1; or it takes part as --from has it, as in the "
        "official trainer.",
    ),
    option(
        "--head-widths",
        "widths",
        metavar="N,...",
        callback=_widths,
        default="256",
        help="Hidden layers of new heads; more than one have GELU, as 256,128,64.",
    ),
    option(
        "--top-p-sees",
        type=click.Choice(["all", "temperature"]),
        default="all",
        help="What a new top-p head sees besides the hidden state: T and four numbers of the distribution, or T alone.",
    ),
    option("--initial-top-p", type=Float(), default=0.924, help="About what P begins at, between 0 and 1."),
)

_OBJECTIVE = (
    click.option(
        "--recipe",
        type=click.Choice(["trl", "nemo", "paper"]),
        help="Every setting as published: the official TRL or NeMo trainer, or the paper; what is given besides wins.",
    ),
    option(
        "--average",
        type=click.Choice(["token", "example"]),
        default="token",
        help="Of the losses: over the tokens of a batch, or over its examples, of each one's mean over its tokens.",
    ),
    option(
        "--losses",
        type=click.Choice(["two", "one"]),
        default="two",
        help="A temperature loss and one of the cut distribution, or the latter alone.",
    ),
    option(
        "--easy-mask",
        type=Float(),
        default=0.6,
        help="Share of the positions whose most likely token is right that the temperature loss drops; 0: none.",
    ),
    option(
        "--easy-mask-in",
        "easy_in",
        type=click.Choice(["temperature", "both"]),
        default="temperature",
        help="Which losses drop them.",
    ),
    option(
        "--dft/--no-dft",
        "dynamic_fine_tuning",
        default=True,
        help="Weigh positions by the model's probability of the target (dynamic fine-tuning).",
    ),
    option(
        "--dft-at",
        "weight_at",
        type=click.Choice(["1", "T"]),
        default="1",
        help="That probability in the temperature loss: the model's own, or that at the predicted T.",
    ),
    option(
        "--feature-gradient/--no-feature-gradient",
        default=False,
        help="Let the top-p loss teach T through what the top-p head sees, too.",
    ),
    option("--alpha", type=Float(), default=30.0, help="Steepness of the soft top-p mask."),
    option(
        "--sort-tolerance",
        type=Float(),
        default=1e-6,
        help="Error of the top-p loss in nats for which a large vocabulary need not be sorted; 0: always sort.",
    ),
)

OBJECTIVE_ONLY = (
    *("recipe", "average", "losses", "easy_mask", "easy_in"),
    *("dynamic_fine_tuning", "weight_at", "feature_gradient"),
)
"""Options that --reward has no use for."""

_CONTROL = (
    option("--control", is_flag=True, help="Train decoding control: T and P follow commands in the prompt."),
    option("--control-share", type=FloatRange(0, 1), default=0.25, help="Share of examples with commands."),
    option("--control-pairs", type=IntRange(1, 16), default=1, help="Low and high commands of each of them."),
    option("--control-weight", type=Float(), default=1.0, help="Weight of the ranking loss."),
    option("--control-margin", type=Float(), default=0.1, help="Gap in mean T and P it asks for."),
    commands_option,
)

CONTROL_ONLY = ("commands", "control_share", "control_pairs", "control_weight", "control_margin")
"""Options that need --control."""

NEW_ONLY = ("widths", "top_p_sees", "initial_top_p")
"""Options of new heads."""


def head_options(command: F) -> F:
    """Which heads are trained, and how new ones are built."""
    return reduce(lambda f, option: option(f), reversed(_HEADS), command)


def objective_options(command: F) -> F:
    """The losses, one by one or as a recipe."""
    return reduce(lambda f, option: option(f), reversed(_OBJECTIVE), command)


def control_options(command: F) -> F:
    """Decoding control, and what is asked for."""
    return reduce(lambda f, option: option(f), reversed(_CONTROL), command)


def with_recipe(options: dict[str, Any]) -> dict[str, Any]:
    """The options, those of the recipe in place of defaults."""
    if options["recipe"] is None:
        return options
    from autodeco_gguf.training.recipes import RECIPES

    recipe = RECIPES[options["recipe"]]
    of = {**vars(recipe), **vars(recipe.objective), **vars(recipe.kind), "ctx": recipe.max_tokens}
    source = click.get_current_context().get_parameter_source
    names = (of.keys() & options.keys()) - {"heads", "seed"}
    default = {name for name in names if source(name) is click.core.ParameterSource.DEFAULT}
    return {**options, **{name: of[name] for name in default}}


def heads_of(options: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The heads that are trained, and those that take part as they are."""
    heads = HEADS[options["heads"]]
    if options["other_head"] == "absent" or (options["heads"] == "both" and not is_typed("other_head")):
        return {"heads": heads, "frozen": ()}
    if options["heads"] == "both":
        raise click.UsageError("--other-head frozen needs --heads temperature or --heads top-p")
    return {"heads": heads, "frozen": tuple(head for head in HEADS["both"] if head not in heads)}


def kind_of(options: dict[str, Any]) -> HeadKind:
    """How new heads are built."""
    from autodeco_gguf.training.module import HeadKind

    return HeadKind(options["widths"], options["top_p_sees"] == "all", options["initial_top_p"])
