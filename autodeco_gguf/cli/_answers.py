"""An answer on its way to standard output, and what is said about it afterwards."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import terminal
from autodeco_gguf.errors import InvalidInput, printable

if TYPE_CHECKING:
    from autodeco_gguf.engine.conversation import Answer, Conversation
    from autodeco_gguf.engine.request import Piece, Request


_STEERING = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""What a terminal does not show, but obeys."""


class CtrlC:
    """Ctrl-C while it is entered: does what :meth:`doing` says, and else nothing, so that nothing is torn."""

    def __init__(self, *, once: bool = False) -> None:
        """Args: once: the second Ctrl-C is an ordinary one."""
        self._once = once
        self._action: Callable[[], object] | None = None

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


@dataclass(frozen=True)
class Show:
    """How answers are shown.

    Attributes:
        trace: T and P under every token, after the answer.
        as_json: an object a line.
        completes: say that the model has no chat template, and completes the prompt instead.
    """

    trace: bool = False
    as_json: bool = False
    completes: bool = False


def answer(conversation: Conversation, request: Request, show: Show, ctrl_c: CtrlC) -> bool:
    """Answer a message, and let the conversation go on from there; Ctrl-C ends the answer.

    Returns:
        False where Ctrl-C was pressed.

    Raises:
        InvalidInput: as :meth:`Conversation.ask`, in terms of the command line.
        ModelFailed: llama.cpp fails, or nothing can be drawn.
    """
    if show.completes:
        click.echo("no chat template in the model; completing the prompt as it is (--raw)", err=True)
    given = _ask(conversation, request)
    if given.n_left_out:
        messages = "message is" if given.n_left_out == 1 else f"{given.n_left_out} messages are"
        click.echo(f"the context is full: the oldest {messages} left out, with the answer to it", err=True)
    if show.as_json:
        click.echo(json.dumps({"prompt": given.prompt, "ids": given.generation.prompt}))
    summary = _print(given, _echo_json if show.as_json else _echo_text, ctrl_c)
    conversation.keep(given)
    click.echo(json.dumps({"summary": summary}) if show.as_json else None)
    if show.trace:
        _show_trace(given)
    click.echo(_statistics(summary, request.max_tokens), err=True)
    return bool(summary["finish_reason"] != "interrupt")


def _ask(conversation: Conversation, request: Request) -> Answer:
    try:
        return conversation.ask(request)
    except InvalidInput as e:
        hint = "; try --raw" if e.key == "tokenizer.chat_template" else ""
        raise InvalidInput(str(e).replace("; raise it", "; raise --ctx") + hint, key=e.key) from e


def _echo_text(piece: Piece) -> None:
    text = piece.text
    if sys.stdout is not None and sys.stdout.isatty():
        text = _STEERING.sub(lambda control: printable(control[0]), text)
    click.echo(text, nl=False, color=True)  # whatever it is, as it is


def _echo_json(piece: Piece) -> None:
    click.echo(json.dumps(piece.token.to_dict(piece.text)))


def _print(given: Answer, echo: Callable[[Piece], None], ctrl_c: CtrlC) -> dict[str, Any]:
    """Print the pieces of an answer as they come, and sum it up."""
    prompt_s = total_s = 0.0
    begin = time.perf_counter()
    with ctrl_c.doing(given.generation.cancel):
        for piece in given:
            total_s = time.perf_counter() - begin
            prompt_s = prompt_s or total_s
            echo(piece)
    tokens, n_prompt = [piece.token for piece in given.pieces], len(given.generation.prompt)
    n, generation_s = len(tokens), total_s - prompt_s  # of all tokens but the first, which the prompt's decode gave
    reason = given.generation.finish_reason
    return {
        "tokens": n,
        "tok_s": (n - 1) / generation_s if n > 1 and generation_s > 0 else 0.0,
        "prompt_tokens": n_prompt,
        "prompt_tok_s": n_prompt / prompt_s if prompt_s > 0 else 0.0,
        "mean_temperature": sum(token.temperature for token in tokens) / n if n else None,
        "mean_top_p": sum(token.top_p for token in tokens) / n if n else None,
        "finish_reason": "interrupt" if reason == "cancelled" else reason,
        "seed": given.seed,
    }


def _show_trace(given: Answer) -> None:
    from autodeco_gguf.view.rows import rows

    screen = terminal()
    screen.print()
    for line in rows((piece.token for piece in given.pieces), screen.width):
        screen.print(line, no_wrap=True, overflow="ignore", crop=False)


def _statistics(summary: dict[str, Any], max_tokens: int | None) -> str:
    n, seed = summary["tokens"], summary["seed"]
    cut = "cut by -n" if n == max_tokens else "cut: the context is full"
    how = {"length": f" ({cut})", "interrupt": " (stopped)"}.get(summary["finish_reason"], "")
    if not n:
        return f"0 tokens{how}, seed {seed}"
    return (
        f"{n} tokens{how}, {summary['tok_s']:.1f} tokens/s, mean temperature "
        f"{summary['mean_temperature']:.3f}, mean top-p {summary['mean_top_p']:.3f}, seed {seed}"
    )
