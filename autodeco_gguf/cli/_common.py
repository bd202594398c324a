"""What several verbs share."""

from __future__ import annotations

import os
import re
import select
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial, reduce, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

from autodeco_gguf.cli._config import set_variables, source_of
from autodeco_gguf.cli._types import File, Float, FloatRange, IntRange
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.files.jsonl import parse_line, type_name
from autodeco_gguf.model.machine import DEFAULT_CONTEXT, MAX_CONTEXT, MAX_THREADS, Machine

if TYPE_CHECKING:
    import rich.console
    import rich.progress

WITHOUT_PLOTS = "; or use --no-plots"

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

F = TypeVar("F", bound=Callable[..., Any])
Values = TypeVar("Values")

GGUF = File(path_type=Path)
"""A file argument, or the name or id of a model. Whether it exists is left to who opens it, whose error says more."""

option = partial(click.option, show_default=True)

max_tokens_option = click.option(
    "-n", "--max-tokens", type=IntRange(min=1), help="Longest answer in tokens.  [default: the context]"
)

_ANSWERS = (
    max_tokens_option,
    click.option(
        "-c",
        "--ctx",
        type=IntRange(1, MAX_CONTEXT),
        help=f"Context of an answer in tokens, prompt included.  [default: the model's own, at most {DEFAULT_CONTEXT}]",
    ),
    click.option("--parallel", type=IntRange(min=1), default=16, show_default=True, help="Answers at a time."),
)


def _json_object(ctx: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    """The object that an option has as JSON."""
    try:
        given = None if value is None else parse_line(value.encode("utf-8", "surrogateescape"))
    except InvalidInput as e:
        raise click.BadParameter(f"{value}: {e}", ctx, parameter) from e
    if value is not None and not isinstance(given, dict):
        raise click.BadParameter(f"{value}: is {type_name(given)}, expected an object", ctx, parameter)
    return cast("dict[str, Any] | None", given)


chat_template_option = click.option(
    "--chat-template-kwargs",
    metavar="JSON",
    callback=_json_object,
    help="""What the chat template is to read besides, such as '{"enable_thinking": false}'.""",
)

commands_option = click.option(
    "--commands",
    type=GGUF,
    multiple=True,
    metavar="LIST",
    help='Of --control: grammar, free, or JSON with "low" and "high" lists; may be given again.  [default: grammar]',
)

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
"""Of all commands."""


class Verb(click.Command):
    """A command for which input that will not do is wrong usage: the same exit status, the same advice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context_settings.update(SETTINGS)
        set_variables(self)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse them, but take nothing apart that looks like one option: -fa is not -f a, and -p=x not -p "=x".

        Raises:
            click.NoSuchOption: there is no such option.
        """
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        known = {name for given in options for name in given.opts}
        with_value = {name for given in options if not given.is_flag for name in given.opts}
        for before, argument in zip(["", *args], args, strict=False):
            name, equals, _ = argument.partition("=")
            if argument == "--":
                break
            if before in with_value or not re.fullmatch("-[A-Za-z][A-Za-z_-]*", name):
                continue
            if name not in known or (equals and len(name) == 2):
                raise click.NoSuchOption(argument, possibilities=sorted({f"-{name}"} & known), ctx=ctx)
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as e:
            where = source_of(ctx, e.param.name or "") if e.param is not None else ""
            if not where:
                raise
            raise click.BadParameter(e.message + where, ctx, e.param) from e

    def invoke(self, ctx: click.Context) -> Any:
        """Run it.

        Raises:
            click.UsageError: for InvalidInput.
        """
        try:
            return super().invoke(ctx)
        except InvalidInput as e:
            raise click.UsageError(str(e) + source_of(ctx, e.key or ""), ctx) from e
        except BrokenPipeError:
            unread = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _is_unread(stream)]
            if not unread:  # another pipe, as to a process of ours
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in unread:  # which hold what they could not write, until the exit
                os.dup2(nowhere, stream.fileno())
            # who reads our output has enough, and nothing is wrong; without one for errors the work is not done
            return EXIT_FAILURE if sys.stderr in unread and hasattr(select, "poll") else 0


def _is_unread(stream: TextIO) -> bool:
    """Whether it is a pipe whose reader has gone."""
    if not hasattr(select, "poll"):  # on Windows
        return True
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def _offline(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        os.environ["HF_HUB_OFFLINE"] = "1"  # which huggingface_hub reads too


offline_option = click.option(
    "--offline",
    is_flag=True,
    expose_value=False,
    callback=_offline,
    help="Download nothing: of hf: ids use what is here already.",
)


def answer_options(command: F) -> F:
    """The options of a command that samples many answers: how long, and how many at a time."""
    return reduce(lambda f, option: option(f), reversed(_ANSWERS), command)


def _names(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(","))


def _shares(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Numbers, between which llama.cpp takes a slash too."""
    try:
        return None if value is None else tuple(map(Float(), re.split("[,/]", value)))
    except click.BadParameter as e:
        raise click.BadParameter(f"{value!r}, expected numbers as 3,1", ctx, parameter) from e


def _workers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    return _names(ctx, parameter, value) or ()


def device_option(text: str) -> Callable[[F], F]:
    """The option for devices by name, with its help."""
    return click.option("-dev", "--device", metavar="NAME[,NAME]", callback=_names, help=text)


_PLACES = (
    device_option("Devices to put the layers on, of autodeco-gguf devices; none: the CPU alone.  [default: all GPUs]"),
    click.option(
        "--rpc",
        metavar="HOST:PORT[,HOST:PORT]",
        callback=_workers,
        help="Workers (autodeco-gguf worker) on whose devices layers are put too, before those of --device.",
    ),
    option(
        "--rpc-timeout",
        type=FloatRange(min=1),
        default=Machine.rpc_timeout,
        help="Seconds that a worker may be silent.",
    ),
    click.option(
        "-sm",
        "--split-mode",
        type=click.Choice(["none", "layer", "row", "tensor"]),
        help="Over several devices: by layers, rows or tensors; none: all on --main-gpu.  [default: layer]",
    ),
    click.option(
        "-ts",
        "--tensor-split",
        metavar="N[,N]",
        callback=_shares,
        help="Share of each device, as 3,1.  [default: by free memory]",
    ),
    click.option("-mg", "--main-gpu", type=IntRange(min=0), help="Number, from 0, of the device that has all of it."),
    click.option("--mlock", is_flag=True, help="Keep the model in RAM, so that it is not swapped out."),
    click.option("--mmap/--no-mmap", default=True, help="Map the file into memory, or read it.  [default: map]"),
)


def machine_options(
    *,
    cache_type: str = "f16",
    flash_attn: bool | None = None,
    flash_help: str = "on with an f16 cache",
    threads: str = "CPU threads; 1 is often fastest beside other programs.  [default: one a core, half above 4, "
    "1 for a model below 16 MiB]",
) -> Callable[[F], F]:
    """The options of a command that runs a model: on what, and with how much noise. It gets them as ``machine``.

    Args:
        cache_type: the default.
        flash_attn: the default; None: as what runs the model has it, which ``flash_help`` says.
        threads: the help of ``--threads``.
    """
    flash = flash_help if flash_attn is None else "on" if flash_attn else "off"
    options = (
        click.option("-t", "--threads", "n_threads", type=IntRange(1, MAX_THREADS), help=threads),
        option(
            "-ngl",
            "--gpu-layers",
            "--n-gpu-layers",
            "n_gpu_layers",
            type=IntRange(min=-1),
            default=-1,
            help="On the GPU; -1: all.",
        ),
        *_PLACES,
        option("--cache-type", type=click.Choice(["f32", "f16"]), default=cache_type, help="Type of the KV cache."),
        click.option(
            "--flash-attn/--no-flash-attn",
            default=flash_attn,
            help=f"Flash attention: faster with many answers, T and P off by up to 1e-3.  [default: {flash}]",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Show llama.cpp's own log."),
        offline_option,
    )

    def decorate(command: F) -> F:
        @wraps(command)
        def collecting(*args: Any, **values: Any) -> Any:
            machine = Machine(**{field.name: values.pop(field.name) for field in fields(Machine)})
            return command(*args, machine=machine, **values)

        return reduce(lambda f, option: option(f), reversed(options), cast("F", collecting))

    return decorate


def named(kind: type[Values], options: dict[str, Any]) -> Values:
    """A dataclass of the options that are named like its fields; one that is None keeps the field's default."""
    given = {f.name: options[f.name] for f in fields(kind) if options.get(f.name) is not None}  # type: ignore[arg-type]
    return kind(**given)


@contextmanager
def resumable(output: Path) -> Iterator[None]:
    """Say how to go on when it is interrupted, by Ctrl-C or by SIGTERM, or the model fails, as by a lost worker."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, ModelFailed):
        click.echo(f"{output}: what is finished is kept; the same command goes on from there", err=True)
        raise


REPORT_S = 60.0
"""Seconds between lines of progress where there is no terminal."""


def terminal(*, stderr: bool = False) -> rich.console.Console:
    """A terminal, or what stands in for it; never without width, as rich has it for COLUMNS=0."""
    from rich.console import Console

    return Console(stderr=stderr, width=shutil.get_terminal_size().columns)


class Bar:
    """A progress bar on stderr; without a terminal a line every minute, whether there is something new or not."""

    def __init__(self, bar: rich.progress.Progress, in_bytes: bool) -> None:
        self._bar, self._task = bar, bar.add_task("", total=None)
        self._show = human_size if in_bytes else str
        self.is_terminal = bar.console.is_terminal

    def update(self, done: int, total: int | None = None, text: str | None = None) -> None:
        """Show how far it is; what is None stays as it was."""
        self._bar.update(self._task, completed=done, total=total, description=text)

    def restart(self) -> None:
        """Estimate the time left from here on."""
        self._bar.reset(self._task)

    def report(self, ended: threading.Event) -> None:
        """Print a line every minute until the event."""
        start = time.monotonic()
        while not ended.wait(REPORT_S):
            task = self._bar.tasks[self._task]
            done = self._show(int(task.completed)) + (f"/{self._show(int(task.total))}" if task.total else "")
            with suppress(OSError):  # nobody reads it any more: the next line of the command itself will say so
                self.say(f"{(time.monotonic() - start) / 60:.0f} min: {done} {task.description}")

    def say(self, line: str) -> None:
        """Print a line above it, on a terminal or not."""
        self._bar.console.print(line, soft_wrap=True, highlight=False, markup=False)


@contextmanager
def progress_bar(text: str, *, in_bytes: bool = False) -> Iterator[Bar]:
    """A bar with a text that may change: "12/40 problems", or a copied file's bytes and their speed."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console, label = terminal(stderr=True), TextColumn("{task.description}")
    columns = (
        (label, BarColumn(), DownloadColumn(), TransferSpeedColumn())
        if in_bytes
        else (BarColumn(20), MofNCompleteColumn(), label, TimeRemainingColumn())
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = Bar(progress, in_bytes)
        bar.update(0, text=text)
        if bar.is_terminal:
            yield bar
            return
        ended = threading.Event()
        reporter = threading.Thread(target=bar.report, args=(ended,), daemon=True)
        reporter.start()
        try:
            yield bar
        finally:
            ended.set()
            reporter.join()


LARGE = 256 << 20
"""Bytes of a model whose loading takes long enough to be watched."""


@contextmanager
def loading_bar(nbytes: int) -> Iterator[None]:
    """A bar on a terminal while a large file is loaded."""
    if nbytes < LARGE or sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from autodeco_gguf.model.loading import watched

    with (
        progress_bar("loading", in_bytes=True) as bar,
        watched(lambda share: bar.update(int(share * nbytes), nbytes)),
    ):
        yield


def human_size(nbytes: int) -> str:
    """Bytes in decimal units: 1234567 -> "1.2 MB"."""
    size = float(nbytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def heads_text(names: object) -> str:
    """Head names for a reader: "temperature, top-p"."""
    return ", ".join(sorted(str(n).replace("_", "-") for n in names)) or "none"  # type: ignore[attr-defined]
