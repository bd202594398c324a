"""A chat in the terminal: lines in, answers out, and a few commands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._answers import CtrlC, Show, show_legend
from autodeco_gguf.cli._commands import Session, completions, obey
from autodeco_gguf.cli._reader import history_path, reader
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.model.shipped import DEMO_NAME
from autodeco_gguf.tasks.stories import EXAMPLE, NAMES

if TYPE_CHECKING:
    from autodeco_gguf.engine.conversation import Conversation
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.request import Request

_COMMAND = re.compile(r"(/[\w?]*)(\s|$)")


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


def chat(
    engine: Engine,
    conversation: Conversation,
    request: Request,
    file: Mapping[str, Any],
    own: set[str],
    show: Show,
    guide: Guide | None,
    history: bool,
) -> None:
    """Answer what is typed until the input ends.

    Args:
        engine: what answers.
        conversation: what was said before.
        request: how messages are answered.
        file: what the model's file recommends.
        own: what options say, whatever the file does.
        show: how answers are shown.
        guide: what to say of the model; None: nothing.
        history: keep what is typed for the next chat.
    """
    with CtrlC() as ctrl_c:
        typed = reader(ctrl_c, history_path() if history else None, completions)
        _run(Session(engine, conversation, request, show, ctrl_c, typed, file, own), guide)


def _run(session: Session, guide: Guide | None) -> None:
    if guide is not None:
        click.echo(guide.advice, err=True)
    click.echo("Ctrl-C stops an answer, Ctrl-D ends, /help lists commands", err=True)
    show_legend(session.show)
    while not session.ended:
        try:
            _turn(session, guide)
        except EOFError:
            click.echo(err=True)
            return
        except AutoDecoError as e:
            click.echo(f"error: {e}", err=True)
        except KeyboardInterrupt:
            click.echo("(Ctrl-D ends)", err=True)


def _turn(session: Session, guide: Guide | None) -> None:
    typed = session.reader.read()
    command = None if typed.quoted else _COMMAND.match(typed.text)
    if command is not None:
        obey(session, command[1], typed.text[command.end() :])
    elif not typed.text.strip():
        return
    elif guide is not None and not guide.understands(typed.text):
        click.echo(guide.advice, err=True)
    else:
        session.answer(typed.text)
