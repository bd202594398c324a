"""The options of verbs that draw on one model here, or on many over a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import F
from autodeco_gguf.cli._tasks import load_engine, say_model
from autodeco_gguf.cli._types import FloatRange
from autodeco_gguf.errors import InvalidInput

if TYPE_CHECKING:
    from autodeco_gguf.answers.drawer import Drawer
    from autodeco_gguf.cluster.actor import Spec

_OPTIONS = (
    click.option(
        "--ray",
        is_flag=False,
        flag_value="auto",
        metavar="[ADDRESS]",
        help="Draw on all nodes of a Ray cluster, HOST:PORT; alone, that of RAY_ADDRESS or of this machine; local: one "
        "of this machine, for this run. Each has its own copy of the model, and of -t threads as many as fit.",
    ),
    click.option(
        "--ray-wait",
        type=FloatRange(min=0),
        default=10.0,
        show_default=True,
        metavar="MINUTES",
        help="Give up when there is no node for so long.",
    ),
)


def ray_options(command: F) -> F:
    """The options that say on which machines; :func:`drawing` takes them."""
    return reduce(lambda f, option: option(f), reversed(_OPTIONS), command)


def check_ray(options: dict[str, Any]) -> None:
    """Raise a UsageError for what is no address of a cluster, as an argument that came to stand after --ray is not."""
    if options["ray"] is None:
        return
    from autodeco_gguf.cluster.connection import check_address

    try:
        check_address(options["ray"])
    except InvalidInput as e:
        raise click.UsageError(f"--{e}; --ray=auto where another argument follows") from e


@contextmanager
def drawing(model: Path | None, options: dict[str, Any], *, traces: bool = False) -> Iterator[Drawer]:
    """A model in this process; or models on the nodes of a cluster, and none here.

    Raises:
        AutoDecoError: as :class:`Engine`; there is no cluster, no node that takes part, or no such model there.
    """
    if options["ray"] is None:
        yield load_engine(model, options)
        return
    from autodeco_gguf.cluster.connection import Connection
    from autodeco_gguf.cluster.fleet import Fleet

    say_model(model)
    spec = make_spec(model, options, traces)
    how: dict[str, Any] = {"say": partial(click.echo, err=True), "wait_s": 60 * options["ray_wait"]}
    verbose = options["machine"].verbose
    with Connection(options["ray"], verbose=verbose) as cluster, Fleet(cluster, spec, **how) as fleet:
        yield fleet


def make_spec(model: Path | None, options: dict[str, Any], traces: bool) -> Spec:
    """What the nodes are to load; what is a file here is one there by its whole path."""
    from autodeco_gguf.cluster.actor import Spec
    from autodeco_gguf.heads.hub import is_offline

    def place(path: Path | None) -> str | None:
        return None if path is None else os.path.abspath(path) if path.exists() else str(path)

    return Spec(
        model=place(model),
        heads=place(options.get("heads")),
        n_parallel=options["parallel"],
        n_ctx=options["ctx"],
        machine=options["machine"],
        chat_template_kwargs=options["chat_template_kwargs"],
        traces=traces,
        offline=is_offline(),
    )
