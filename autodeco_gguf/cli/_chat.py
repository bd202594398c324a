"""A chat in the terminal: lines in, answers out, and a few commands."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from autodeco_gguf.cli._answers import CtrlC, Show, answer
from autodeco_gguf.cli._prompt import clean
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.model.shipped import DEMO_NAME
from autodeco_gguf.tasks.stories import EXAMPLE, NAMES

if TYPE_CHECKING:
    from autodeco_gguf.engine.conversation import Conversation
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.request import Request

_COMMAND = re.compile(r"(/[\w?]*)(\s|$)")

_HELP = """\
/clear      forget what was said
/bye        end, as Ctrl-D does
/help       this list
Ctrl-C stops an answer. A message that begins with a slash: put a space before it."""


@dataclass(frozen=True)
class Guide:
    """What a user is to know of a model that can do one thing only."""

    text: str
    example: str

    def understands(self, message: str) -> bool:
        """Whether the model was trained on messages like this one."""
        words = re.findall(r"\w+", message)
        numbers = [word for word in words if re.fullmatch("[1-9][0-9]", word)]
        return len(numbers) == 2 and not {*NAMES}.isdisjoint(words)

    @property
    def advice(self) -> str:
        """What to do, in one line."""
        return f"{self.text} Try: {self.example}"


_DEMO = Guide(
    "This is the demo model. It tells stories of one person and two numbers from 10 to 99, each by itself, and can do "
    f"nothing else; the people it knows are {', '.join(NAMES[:4])} and {len(NAMES) - 4} more.",
    EXAMPLE,
)


def guide_to(engine: Engine) -> Guide | None:
    """What to say of the model: of the demo and of what is made from it, by the name in the file."""
    return _DEMO if engine.context.metadata.get("general.name") == DEMO_NAME else None


def chat(conversation: Conversation, request: Request, show: Show, guide: Guide | None) -> None:
    """Answer what is typed until the input ends."""
    with suppress(ImportError):
        import readline  # input() edits lines once it is loaded

        for setting in ("input-meta on", "output-meta on", "convert-meta off"):  # or LC_ALL=C drops what is not ASCII
            readline.parse_and_bind(f"set {setting}")
    if guide is not None:
        click.echo(guide.advice, err=True)
    click.echo("Ctrl-C stops an answer, Ctrl-D ends, /help lists commands", err=True)
    with CtrlC() as ctrl_c:
        while True:
            try:
                with ctrl_c.doing(_interrupt):
                    line = clean(_read_line(), "the message")
                if command := _COMMAND.match(line):
                    if not _obey(command[1], conversation):
                        return
                elif guide is not None and line.strip() and not guide.understands(line):
                    click.echo(guide.advice)
                elif line.strip():
                    answer(conversation, replace(request, prompt=line), show, ctrl_c)
            except EOFError:
                click.echo(err=True)
                return
            except AutoDecoError as e:
                click.echo(f"error: {e}", err=True)
            except KeyboardInterrupt:
                click.echo("\n(Ctrl-D ends)", err=True)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _read_line() -> str:
    """The next line; the prompt goes where the user sees it, and never into a pipe."""
    if sys.stdout.isatty():
        return input("> ")
    click.echo("> ", nl=False, err=True)
    return input()


def _obey(command: str, conversation: Conversation) -> bool:
    """Do what a slash command says; False where it ends the chat."""
    if command in ("/bye", "/exit", "/quit"):
        return False
    if command == "/clear":
        conversation.clear()
        click.echo("(forgotten)", err=True)
    elif command in ("/help", "/?"):
        click.echo(_HELP, err=True)
    else:
        click.echo(f"unknown command {command}; /help lists them", err=True)
    return True
