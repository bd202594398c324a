"""Where the messages of a chat are typed: a line editor on a terminal, plain lines elsewhere."""

from __future__ import annotations

import bisect
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from autodeco_gguf.cli._answers import CtrlC
from autodeco_gguf.cli._paths import last_words
from autodeco_gguf.cli._prompt import clean
from autodeco_gguf.files.folders import user_folder

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from prompt_toolkit.completion import Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.key_binding.key_processor import KeyPressEvent
    from prompt_toolkit.layout.processors import Processor
    from prompt_toolkit.output import Output

QUOTES = '"""'
"""Begin and end a message of several lines."""

Complete = Callable[[str], Iterable[str]]
"""What the last word of a line may become."""


@dataclass(frozen=True)
class Typed:
    """What was typed; between quotes it is a message, whatever it begins with."""

    text: str
    quoted: bool = False


class Reader(Protocol):
    """Where messages and the answers to questions come from."""

    def read(self) -> Typed:
        """The next message.

        Raises:
            EOFError: there are no more.
            KeyboardInterrupt: Ctrl-C, and nothing was typed.
        """

    def confirm(self, question: str) -> bool:
        """Whether the answer is yes; Ctrl-C, Ctrl-D and an empty line are a no."""


def is_open(text: str) -> bool:
    """Whether a message has begun with quotes and not ended with them.

    Examples:
        >>> is_open('three quotes: \"\"\"'), is_open('\"\"\"one'), is_open('\"\"\"one\\ntwo\"\"\"')
        (False, True, False)
    """
    stripped = text.strip()
    return stripped.startswith(QUOTES) and not (stripped.endswith(QUOTES) and len(stripped) >= 2 * len(QUOTES))


def unquoted(text: str) -> Typed:
    """What stands between the quotes, and a text without them as it is."""
    stripped = text.strip()
    if not stripped.startswith(QUOTES) or is_open(text):
        return Typed(text)
    return Typed(stripped[len(QUOTES) : -len(QUOTES)].removeprefix("\n").removesuffix("\n"), quoted=True)


def reader(ctrl_c: CtrlC, history: Path | None, complete: Complete) -> Reader:
    """An editor where standard input and an output are a terminal that can move its cursor, else plain lines.

    Args:
        ctrl_c: what Ctrl-C does.
        history: file for the lines of earlier chats; None: keep none.
        complete: completes the last word of a line.
    """
    screen = next((s for s in (sys.stdout, sys.stderr) if s is not None and s.isatty()), None)
    if screen is None or not sys.stdin.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        return PlainReader(ctrl_c)
    from prompt_toolkit.output.vt100 import Vt100_Output

    from autodeco_gguf.cli._history import open_history

    # asked where its cursor is, a terminal may not answer; nothing here needs to know
    output = Vt100_Output(screen, Vt100_Output.from_pty(screen).get_size, os.environ["TERM"], enable_cpr=False)
    return Editor(open_history(history), complete, output)


def history_path() -> Path | None:
    """``autodeco-gguf/history`` in the user's state directory, as the XDG specification finds it; None: has none."""
    folder = user_folder("state")
    return folder / "history" if folder.is_absolute() else None


class PlainReader:
    """Lines as they come."""

    def __init__(self, ctrl_c: CtrlC) -> None:
        """Ctrl-C while a line is waited for interrupts it."""
        self._ctrl_c = ctrl_c

    def read(self) -> Typed:
        """See :class:`Reader`."""
        text = self._line("> ")
        while is_open(text):
            text += "\n" + self._line("... ")
        return unquoted(text)

    def confirm(self, question: str) -> bool:
        """See :class:`Reader`."""
        try:
            return _is_yes(self._line(f"{question} [y/N] "))
        except (EOFError, KeyboardInterrupt):
            click.echo(err=True)
            return False

    def _line(self, prompt: str) -> str:
        """The next line; the prompt goes where the user sees it, and never into a pipe."""
        with self._ctrl_c.doing(_interrupt):
            click.echo(prompt, nl=False, err=sys.stdout is None or not sys.stdout.isatty())
            line = sys.stdin.readline()
        if not line:
            raise EOFError
        return clean(line.removesuffix("\n"), "the message")


class Editor:
    """prompt_toolkit's line editor."""

    def __init__(self, history: Any, complete: Complete, output: Output) -> None:
        """Args: a prompt_toolkit History, what completes a line, and the terminal."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.shortcuts import CompleteStyle

        _ask_quietly()
        self._output = output
        self.block: str | None = None  # first line of several that were pasted where nothing was typed
        self._session: PromptSession[str] = PromptSession(
            [("fg:ansidefault", "> ")],  # without a colour its space would be skipped, not written
            multiline=True,
            prompt_continuation=lambda width, number, wraps: "" if wraps else "... ",
            history=history,
            completer=_completer(complete),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            enable_suspend=True,
            key_bindings=_keys(self),
            input_processors=[_unambiguous()],
            output=output,
        )

    def read(self) -> Typed:
        """See :class:`Reader`."""
        self.block = None
        text = clean(self._session.prompt(), "the message")
        return Typed(text, quoted=True) if self.is_block(text) else unquoted(text)

    def is_block(self, text: str) -> bool:
        """Whether a text is the pasted one: a message, whatever it begins with."""
        return self.block is not None and text.startswith(self.block + "\n")

    def confirm(self, question: str) -> bool:
        """See :class:`Reader`."""
        from prompt_toolkit import PromptSession

        ask: PromptSession[str] = PromptSession(f"{question} [y/N] ", enable_suspend=True, output=self._output)
        try:
            return _is_yes(ask.prompt())
        except (EOFError, KeyboardInterrupt):
            return False


def _ask_quietly() -> None:
    """Have Ctrl-C and Ctrl-D leave what prompt_toolkit asks before it lists many completions, without a traceback."""
    from prompt_toolkit.application import Application

    handle = Application._handle_exception  # noqa: SLF001  there is no other way into a prompt that it makes by itself

    def handler(app: Application[Any], loop: AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), KeyboardInterrupt | EOFError):
            handle(app, loop, context)

    Application._handle_exception = handler  # type: ignore[assignment,method-assign]  # noqa: SLF001


def _keys(editor: Editor) -> KeyBindings:
    """Enter ends a message that is not open, Alt-Enter a line; Ctrl-C clears; Backspace takes what is seen as one."""
    from prompt_toolkit.filters import has_selection, is_searching
    from prompt_toolkit.key_binding import KeyBindings
    from wcwidth import grapheme_boundary_before

    keys = KeyBindings()

    @keys.add("enter", filter=~is_searching)
    def _enter(event: KeyPressEvent) -> None:
        text = event.current_buffer.text
        if is_open(text) and not editor.is_block(text):
            event.current_buffer.newline(copy_margin=False)
        else:
            if editor.is_block(text) and text.lstrip().startswith(("/", QUOTES)):
                event.current_buffer.text = f"{QUOTES}\n{text}\n{QUOTES}"  # a message too when it is recalled
                editor.block = None
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=~is_searching)
    def _alt_enter(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("<bracketed-paste>", filter=~is_searching)
    def _paste(event: KeyPressEvent) -> None:
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        first, _, rest = text.partition("\n")
        if rest.strip() and not event.current_buffer.text:
            editor.block = first
        event.current_buffer.insert_text(text)

    @keys.add("backspace", filter=~has_selection)
    def _backspace(event: KeyPressEvent) -> None:
        before = event.current_buffer.document.current_line_before_cursor
        begin = grapheme_boundary_before(before, len(before)) if before else -1
        event.current_buffer.delete_before_cursor(len(before) - begin)

    @keys.add("<vt100-mouse-event>")
    def _mouse(event: KeyPressEvent) -> None:
        """Leave out what looks like one, such as a colour in what is pasted."""

    @keys.add("c-c", filter=~is_searching)
    @keys.add("<sigint>")
    def _ctrl_c(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


def _unambiguous() -> Processor:
    """Leaves out of the display what terminals do not agree on the width of; the text keeps it.

    Joiners of emoji, presentation selectors, keycaps, marks of direction: with them the editor would not know where the
    cursor is, and rubbish would stay there.
    """
    from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
    from prompt_toolkit.layout.utils import explode_text_fragments

    class _Unambiguous(Processor):
        def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
            fragments = explode_text_fragments(transformation_input.fragments)
            kept = [i for i, fragment in enumerate(fragments) if not _is_ambiguous(fragment[1])]
            if len(kept) == len(fragments):
                return Transformation(fragments)
            return Transformation(
                [fragments[i] for i in kept],
                source_to_display=lambda i: bisect.bisect_left(kept, i),
                display_to_source=lambda i: kept[i] if i < len(kept) else len(fragments),
            )

    return _Unambiguous()


def _is_ambiguous(character: str) -> bool:
    return unicodedata.category(character) in ("Cf", "Me") or "\ufe00" <= character <= "\ufe0f"


def _completer(complete: Complete) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class _Words(Completer):
        def get_completions(self, document: Document, complete_event: object) -> Iterator[Completion]:
            line = document.text_before_cursor
            word = last_words(line)[-1]
            for found in complete(line):
                yield Completion(found, start_position=-len(word))

    return _Words()


def _is_yes(answer: str) -> bool:
    return answer.strip().lower() in ("y", "yes")


def _interrupt() -> None:
    raise KeyboardInterrupt
