"""An answer on its way to standard output, and what is said about it afterwards."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce, wraps
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import click

from autodeco_gguf.cli._common import F, terminal
from autodeco_gguf.cli._screen import SCALES, Screen, can_color, legend
from autodeco_gguf.cli._statistics import line, summarize, table
from autodeco_gguf.cli._types import IntRange
from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.model.sampling import MAX_TOP

if TYPE_CHECKING:
    from autodeco_gguf.engine.conversation import Answer, Conversation
    from autodeco_gguf.engine.request import Piece, Request


class CtrlC:
    """Ctrl-C while it is entered: does what :meth:`doing` says, and else nothing, so that nothing is torn.

    Attributes:
        pressed: it was, at a time when there was nothing to do; who can do something now may take it up.
    """

    def __init__(self, *, once: bool = False) -> None:
        """Args: once: the second Ctrl-C is an ordinary one."""
        self._once = once
        self._action: Callable[[], object] | None = None
        self.pressed = False

    def __enter__(self) -> CtrlC:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:  # as for a job in the background
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def doing(self, action: Callable[[], object]) -> Iterator[None]:
        """Within it Ctrl-C does that."""
        self._action = action
        try:
            yield
        finally:
            self._action = None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._once:
            signal.signal(signal.SIGINT, self._before)
        action, self._action = self._action, None
        if action is not None:
            action()
        else:
            self.pressed = True


_OPTIONS = (
    click.option("--trace", "show_trace", is_flag=True, help="Show T and P under every token of an answer."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line: prompt, each token, summary."),
    click.option(
        "--color",
        type=click.Choice([*SCALES]),
        help="Colour the tokens by that, on a terminal; not with NO_COLOR in the environment.",
    ),
    click.option(
        "--top",
        type=IntRange(0, MAX_TOP),
        help="With --json, and in what a chat writes: log-probabilities, and so many tokens that were likely too.",
    ),
    click.option("--stats", is_flag=True, help="Show all statistics: speeds, range of T and P, seed."),
)


@dataclass(frozen=True)
class Show:
    """How answers are shown.

    Attributes:
        trace: T and P under every token, after the answer.
        as_json: an object a line.
        completes: say that the model has no chat template, and completes the prompt instead.
        color: what colours the tokens, of ``SCALES``; None: nothing does.
        stats: all statistics, not one line of them.
        top: tokens beside each that were likely too, in JSON; None: nothing of likelihoods.
    """

    trace: bool = False
    as_json: bool = False
    completes: bool = False
    color: str | None = None
    stats: bool = False
    top: int | None = None

    @property
    def colors(self) -> bool:
        """Whether tokens are coloured: asked for, and possible there."""
        return self.color is not None and not self.as_json and can_color(sys.stdout)


def show_options(command: F) -> F:
    """The options that say how answers are shown; a command gets them as ``show``."""

    @wraps(command)
    def collecting(*args: Any, **values: Any) -> Any:
        names = {"trace": "show_trace", "as_json": "as_json", "color": "color", "stats": "stats", "top": "top"}
        show = Show(**{name: values.pop(given) for name, given in names.items()})
        return command(*args, show=show, **values)

    return reduce(lambda f, option: option(f), reversed(_OPTIONS), cast("F", collecting))


@dataclass(frozen=True)
class Told:
    """An answer that has been shown, and its summary."""

    answer: Answer
    summary: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """It as JSON: the prompt, every token, the summary; what ``run --json`` prints."""
        yield prompt_line(self.answer)
        yield from map(token_line, self.answer.pieces)
        yield json.dumps({"summary": self.summary})


def show_legend(show: Show) -> None:
    """What the colours stand for, where there are some."""
    if show.color is not None and show.colors and can_color(sys.stderr):
        click.echo(legend(SCALES[show.color]), err=True, color=True)


def answer(conversation: Conversation, request: Request, show: Show, ctrl_c: CtrlC) -> Told:
    """Answer a message, and let the conversation go on from there; Ctrl-C ends the answer.

    Raises:
        InvalidInput: as :meth:`Conversation.ask`, in terms of the command line.
        ModelFailed: llama.cpp fails, or nothing can be drawn.
    """
    ctrl_c.pressed = False
    if show.completes:
        click.echo("no chat template in the model; completing the prompt as it is (--raw)", err=True)
    given = _ask(conversation, request)
    if given.n_left_out:
        messages = "message is" if given.n_left_out == 1 else f"{given.n_left_out} messages are"
        click.echo(f"the context is full: the oldest {messages} left out, with the answer to it", err=True)
    if show.as_json:
        click.echo(prompt_line(given))
    told = Told(given, _print(given, show, ctrl_c))
    conversation.keep(given)
    click.echo(json.dumps({"summary": told.summary}) if show.as_json else None)
    if given.generation.n_forgotten:
        n_forgotten = given.generation.n_forgotten
        click.echo(f"the context was full: the oldest {n_forgotten} tokens were left out on the way", err=True)
    if show.trace:
        _show_trace(given)
    click.echo((table if show.stats else line)(told.summary, request.max_tokens), err=True)
    return told


def _ask(conversation: Conversation, request: Request) -> Answer:
    try:
        return conversation.ask(request)
    except InvalidInput as e:
        hint = "; try --raw" if e.key == "tokenizer.chat_template" else ""
        raise InvalidInput(str(e).replace("; raise it", "; raise --ctx") + hint, key=e.key) from e


def prompt_line(given: Answer) -> str:
    """What an answer is to, as JSON."""
    return json.dumps({"prompt": given.prompt, "ids": given.generation.prompt})


def token_line(piece: Piece) -> str:
    """A token of it as JSON."""
    return json.dumps(piece.token.to_dict(piece.text))


def _print(given: Answer, show: Show, ctrl_c: CtrlC) -> dict[str, Any]:
    """Print the pieces of an answer as they come, and sum it up."""
    prompt_s = total_s = 0.0
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    screen = Screen(SCALES[show.color] if show.color is not None and show.colors else None)
    begin = time.perf_counter()
    with ctrl_c.doing(given.generation.cancel):
        if ctrl_c.pressed:
            given.generation.cancel()
        try:
            for piece in given:
                total_s = time.perf_counter() - begin
                prompt_s = prompt_s or total_s
                if show.as_json:
                    click.echo(token_line(piece))
                else:  # a pipe gets it as it is
                    click.echo(
                        screen.show(piece.text, piece.token) if is_terminal else piece.text, nl=False, color=True
                    )
        except AutoDecoError:
            if given.pieces and not show.as_json:
                click.echo()  # the error stands in a line of its own
            raise
    if is_terminal and not show.as_json:
        click.echo(screen.end(), nl=False)
    return summarize(given, prompt_s, total_s)


def _show_trace(given: Answer) -> None:
    from autodeco_gguf.view.rows import rows

    screen = terminal()
    screen.print()
    for shown in rows((piece.token for piece in given.pieces), screen.width):
        screen.print(shown, no_wrap=True, overflow="ignore", crop=False)
