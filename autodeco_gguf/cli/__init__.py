"""The command line: a thin dispatcher over one module a verb."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import click

from autodeco_gguf.cli._common import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE, SETTINGS
from autodeco_gguf.cli._config import defaults_from_file, near, negative_variables
from autodeco_gguf.errors import MAX_MESSAGE, AutoDecoError, BadFile, printable
from autodeco_gguf.files.system import HANGUP

VERBS = {
    "run": "Generate text, or chat.",
    "serve": "Serve a model over HTTP.",
    "view": "Show what the tokens of answers were drawn with, on a page.",
    "tune": "Find the best way to decode for a task of one's own.",
    "eval": "Compare ways to decode on problems.",
    "explain": "Say why heads do or don't pay, token by token.",
    "report": "Show an evaluation on a page, with its samples.",
    "join": "Put the shards of an evaluation together.",
    "rollouts": "Sample correct answers to train on.",
    "train": "Train heads on a GGUF.",
    "export": "Put trained heads into a GGUF.",
    "extract": "Take a merged GGUF apart again.",
    "inspect": "Show what AutoDeco heads a GGUF has.",
    "repack": "Rebuild a stale base view.",
    "verify": "Compare predictions with recorded ones.",
    "devices": "List what a model can run on.",
    "worker": "Lend devices to a model that runs on another machine.",
    "completion": "Print what completes commands in a shell.",
}


_HELPS = f"{__name__}.helps"
"""Key of a context's meta: whether a verb's help is asked for."""


class _Verbs(click.Group):
    """Imports a verb's module when it is asked for. Those modules import what is heavy inside their function."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that is asked for; of one that is none, which it may be."""
        if args[0] not in VERBS and not ctx.resilient_parsing and (similar := near(args[0], VERBS)):
            ctx.fail(f"No such command '{args[0]}'{similar}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb, with the user's defaults; its help does not need them, whatever is wrong with them."""
        ctx.meta[_HELPS] = "--help" in ctx.args or "-h" in ctx.args
        return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from autodeco_gguf.cli._version import version_text

        click.echo(version_text())
        ctx.exit()


@click.group(cls=_Verbs, context_settings=SETTINGS)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the versions."
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run language models that choose their own temperature and top-p at every token."""
    verb = ctx.invoked_subcommand or ""
    command = cli.get_command(ctx, verb)
    if command is not None and not ctx.resilient_parsing:
        try:
            ctx.default_map = {verb: {**defaults_from_file(command, [*VERBS]), **negative_variables(command)}}
        except (BadFile, click.UsageError):
            if not ctx.meta[_HELPS]:
                raise


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)  # so that half-written files are removed


def _come_again(otherwise: Callable[[sys.UnraisableHookArgs], Any], lost: sys.UnraisableHookArgs) -> None:
    """Raise a signal anew where what it raised is lost, as in a destructor or where llama.cpp calls Python."""
    error = lost.exc_value
    number = error.code - 128 if isinstance(error, SystemExit) and isinstance(error.code, int) else 0
    if isinstance(error, KeyboardInterrupt):
        number = signal.SIGINT
    if number in (signal.SIGINT, signal.SIGTERM, HANGUP):
        again = threading.Timer(0.01, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
    else:
        otherwise(lost)


def _occupy_standard_streams() -> None:
    """Lead descriptors that are closed nowhere: the next file would get one, and with it what libraries print there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free, this one


def _let_any_text_pass() -> None:
    """What standard output cannot write becomes "?", what is not text on standard input a surrogate."""
    for stream, errors in ((sys.stdout, "replace"), (sys.stdin, "surrogateescape")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"warning: {printable(' '.join(str(message).split()))}\n"


def _drop_output() -> None:
    """Lead standard output nowhere if it fails: the interpreter would say so once more at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def run_command(command: click.Command, args: list[str] | None = None) -> None:
    """Run a command and exit the process: 0, 1 for a failure, 2 for wrong usage, with one line on stderr."""
    _occupy_standard_streams()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(HANGUP) is signal.SIG_DFL:  # else it runs on without its terminal, as nohup has it
        signal.signal(HANGUP, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = partial(_come_again, sys.unraisablehook)
    _let_any_text_pass()
    warnings.formatwarning = _warning_line
    notes: list[str] = []
    try:
        result = command.main(args=args, prog_name=None, standalone_mode=False) or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # while it can still be said that it fails
        sys.exit(result)
    except click.exceptions.NoArgsIsHelpError as e:
        print(e.format_message(), file=sys.stderr)
        status, message = EXIT_USAGE, ""
    except click.UsageError as e:
        help_hint = f" (see {e.ctx.command_path} --help)" if e.ctx is not None else ""
        status, message = EXIT_USAGE, f"error: {e.format_message()}{help_hint}"
    except click.ClickException as e:
        status, message = EXIT_FAILURE, f"error: {e.format_message()}"
    except (click.Abort, KeyboardInterrupt) as e:
        status, message = EXIT_INTERRUPTED, "interrupted"
        if isinstance(e.__cause__, KeyboardInterrupt) and str(e.__cause__):  # click's Abort is raised from it
            message = f"interrupted: {e.__cause__}"
    except AutoDecoError as e:
        status, message, notes = EXIT_FAILURE, f"error: {e}", e.__notes__
    except OSError as e:
        _drop_output()
        reason = f"{e.filename or 'the output'}: {e.strerror}" if e.strerror else e  # else not of the system
        status, message = EXIT_FAILURE, f"error: {reason}"
    if message:
        with suppress(OSError):  # nobody is to know
            lines = [printable(" ".join(line.split())[:MAX_MESSAGE]) for line in (message, *notes)]
            click.echo("\n".join(lines), err=True)
    sys.exit(status)


def main() -> None:
    """Entry point of ``autodeco-gguf``."""
    run_command(cli)
