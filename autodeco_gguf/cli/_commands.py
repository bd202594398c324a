"""The commands of a chat: one table, from which its help, its completion and what it does come."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli import _settings as settings
from autodeco_gguf.cli._answers import CtrlC, Show, Told, answer, show_legend
from autodeco_gguf.cli._config import near
from autodeco_gguf.cli._paths import file_completions, last_words, typed_path
from autodeco_gguf.cli._reader import Reader
from autodeco_gguf.cli._screen import SCALES, harmless
from autodeco_gguf.engine.file_sampling import settled, unnamed
from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.files.atomic import check_output, write_bytes
from autodeco_gguf.files.reading import read_json

if TYPE_CHECKING:
    from autodeco_gguf.engine.conversation import Conversation
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.request import Request


@dataclass
class Session:
    """A chat under way.

    Attributes:
        engine: what answers.
        conversation: what was said.
        request: how the next message is answered.
        show: how answers are shown.
        ctrl_c: what Ctrl-C does.
        reader: where messages are typed.
        file: what the model's file recommends.
        own: what the user has set, by an option or since.
        told: the answers so far.
        ended: no message follows.
    """

    engine: Engine
    conversation: Conversation
    request: Request
    show: Show
    ctrl_c: CtrlC
    reader: Reader
    file: Mapping[str, Any] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    told: list[Told] = field(default_factory=list)
    ended: bool = False

    def answer(self, message: str) -> None:
        """Answer a message.

        Raises:
            AutoDecoError: as :func:`~autodeco_gguf.cli._answers.answer`.
        """
        request = settled(replace(self.request, prompt=message), self.engine.heads, self.recommended)
        self.told.append(answer(self.conversation, request, self.show, self.ctrl_c))

    @property
    def recommended(self) -> dict[str, Any]:
        """What the file recommends and the user has not set."""
        return unnamed(self.file, self.own)

    @property
    def heads_line(self) -> str:
        """What decides now."""
        return settings.heads_line(self.engine.heads, self.request, self.recommended)

    def last(self) -> Told:
        """The last answer; InvalidInput before there is one."""
        if not self.told:
            raise InvalidInput("there is no answer yet")
        return self.told[-1]


@dataclass(frozen=True)
class Command:
    """A command of the chat.

    Attributes:
        names: what it is called; the first is what the help says.
        operands: what follows it, in words; brackets where it may be left out.
        text: what it does.
        do: does it, given what follows its name.
        words: what the words that follow may be, of which the last may be incomplete; None: a file.
    """

    names: tuple[str, ...]
    operands: str
    text: str
    do: Callable[[Session, str], None]
    words: Callable[[list[str]], Iterable[str]] | None = lambda _: ()

    @property
    def usage(self) -> str:
        """Its name and operands."""
        return f"{self.names[0]} {self.operands}".rstrip()


def obey(session: Session, name: str, rest: str) -> None:
    """Do what a slash command says.

    Raises:
        InvalidInput: no such command, or it cannot be done.
        BadFile: a file that cannot be read or written.
    """
    command = next((command for command in COMMANDS if name in command.names), None)
    if command is None:
        similar = near(name, _NAMES) if name != "/" else ""
        raise InvalidInput(f"unknown command {name}{similar or '; /help lists them'}")
    rest = rest.strip()
    needs_some = command.operands and not command.operands.startswith("[")
    if (needs_some and not rest) or (rest and not command.operands):
        raise InvalidInput(f"usage: {command.usage}")
    command.do(session, rest)


def completions(line: str) -> Iterator[str]:
    """What the last word of a line may become."""
    name, *words = last_words(line) if line.startswith("/") else ("",)
    if not words:
        yield from (known for known in _NAMES if name and known.startswith(name))
        return
    command = next((command for command in COMMANDS if name in command.names), None)
    if command is None:
        return
    if command.words is not None:
        yield from (word for word in command.words(words) if word.startswith(words[-1]))
    else:
        yield from file_completions(words[-1])


# ---- what they do ----


def _say(text: str) -> None:
    click.echo(harmless(text), err=True)


def _set(session: Session, rest: str) -> None:
    word, _, value = rest.partition(" ")
    name, value = settings.setting_name(word), value.strip()
    if name in _OTHERS:
        _OTHERS[name](session, value)
    elif name not in settings.SETTINGS:
        if similar := near(name, (*_setting_names(), *settings.ALIASES)):
            raise InvalidInput(f"unknown setting {word}{similar}", key="setting", found=word)
        raise InvalidInput.of("setting", word, ", ".join(_setting_names()))
    elif name == "seed":
        if value:
            new = settings.changed(session.request, name, "default" if value == "-1" else value).seed
            session.conversation.reseed(new)
        _say(f"seed: {session.conversation.next_seed} for the next answer")
    else:
        if value:
            session.request = settings.changed(session.request, name, value)
            (session.own.discard if value in settings.RESET else session.own.add)(name)
        _say(f"{name}: {settings.shown(session.request, name, session.engine.heads, session.recommended)}")


def _system(session: Session, text: str) -> None:
    if text:
        session.conversation.system = None if text in ("default", "none") else text
    _say(f"system: {session.conversation.system or 'none'}")


def _color(session: Session, value: str) -> None:
    if value and value not in (*SCALES, "off", "default"):
        raise InvalidInput.of("color", value, f"{', '.join(SCALES)} or off")
    if value:
        session.show = replace(session.show, color=value if value in SCALES else None)
        show_legend(session.show)
    _say(f"color: {session.show.color or 'off'}")


def _switch(name: str, session: Session, value: str) -> None:
    if value not in ("", "on", "off", "default"):
        raise InvalidInput.of(name, value, "on or off")
    if value:
        switched: dict[str, Any] = {name: value == "on"}
        session.show = replace(session.show, **switched)
    _say(f"{name}: {'on' if getattr(session.show, name) else 'off'}")


_OTHERS: dict[str, Callable[[Session, str], None]] = {
    "system": _system, "color": _color, "trace": partial(_switch, "trace"), "stats": partial(_switch, "stats"),
}  # fmt: skip


def _setting_names() -> tuple[str, ...]:
    return (*settings.SETTINGS, *_OTHERS)


def _setting_words(words: list[str]) -> Iterable[str]:
    if len(words) == 1:
        return _setting_names()
    name = settings.setting_name(words[0])
    values = {"color": (*SCALES, "off"), "trace": ("on", "off"), "stats": ("on", "off")}
    return values.get(name, ("heads", "default") if name in settings.HEADS else ("default",))


def _heads(session: Session, which: str) -> None:
    if which:
        session.request = settings.with_heads(session.request, which, session.engine.heads, session.recommended)
        session.own -= {name for name in settings.HEADS if getattr(session.request, name) is None}
    _say(f"heads: {session.heads_line}")


def _show(session: Session, _: str) -> None:
    conversation, engine = session.conversation, session.engine
    rows = [
        ("model", str(engine.context.file.path)),
        ("heads", session.heads_line),
        ("context", f"{conversation.n_tokens} of {engine.n_ctx} tokens, when full: {conversation.overflow}"),
        ("messages", str(len(conversation.said) - (conversation.system is not None))),
        ("system", conversation.system or "none"),
        *settings.table(session.request, engine.heads, session.recommended),
        ("seed", f"{conversation.next_seed} for the next answer"),
        ("color", session.show.color or "off"),
        ("trace", "on" if session.show.trace else "off"),
        ("stats", "on" if session.show.stats else "off"),
    ]
    _say("\n".join(f"{name:16}{value}" for name, value in rows))


def _regen(session: Session, _: str) -> None:
    conversation = session.conversation
    kept = conversation.messages, conversation.gone
    try:
        session.answer(conversation.reopen())
    except AutoDecoError:
        conversation.messages, conversation.gone = kept
        raise


def _clear(session: Session, _: str) -> None:
    session.conversation.clear()
    session.told.clear()
    _say("(forgotten)")


def _may_write(session: Session, path: Path) -> bool:
    check_output(path, force=True)
    if not path.exists() or session.reader.confirm(f"{path} exists; overwrite it?"):
        return True
    _say("(nothing written)")
    return False


def _write(session: Session, name: str, lines: Iterable[str]) -> None:
    path = typed_path(name)
    if _may_write(session, path):
        content = "".join(f"{line}\n" for line in lines)
        write_bytes(path, content.encode("utf-8", "backslashreplace"))  # of a path's bytes; JSON has the same escapes
        _say(f"{path}: written")


def _save(session: Session, name: str) -> None:
    talk = {"model": str(session.engine.context.file.path), "messages": session.conversation.said}
    _write(session, name, [json.dumps(talk, ensure_ascii=False, indent=1)])


def _load(session: Session, name: str) -> None:
    path = typed_path(name)
    talk = read_json(path)
    messages = talk.get("messages") if isinstance(talk, dict) else talk
    if not isinstance(messages, list):
        raise InvalidInput(f'{path}: no list of "messages", as /save writes it', key="messages")
    system = session.conversation.system
    try:
        session.conversation.resume(messages)
    except InvalidInput as e:
        raise e.within(path) from e
    session.told.clear()
    lost = ", without a system message" if system and not session.conversation.system else ""
    _say(f"{path}: {len(messages)} message{'' if len(messages) == 1 else 's'}{lost}")


def _trace(session: Session, name: str) -> None:
    _write(session, name, session.last().lines())


def _view(session: Session, name: str) -> None:
    from autodeco_gguf.view.page import write_page

    session.last()
    path = typed_path(name or "autodeco.html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise InvalidInput.of("file", str(path), "a name that ends in .html")
    if _may_write(session, path):
        write_page(path, [list(map(json.loads, told.lines())) for told in session.told])
        _say(f"{path.absolute().as_uri()}: written")


def _help(session: Session, _: str) -> None:
    width = max(len(command.usage) for command in COMMANDS)
    lines = [f"{command.usage:{width}}  {command.text}" for command in COMMANDS]
    _say("\n".join([*lines, *_KEYS]))


def _bye(session: Session, _: str) -> None:
    session.ended = True


_KEYS = (
    "Ctrl-C stops an answer, and clears what is typed.",
    'Alt-Enter begins a new line; so does Enter between two """.',
    "A message that begins with a slash: put a space before it.",
)

COMMANDS = (
    Command(("/set",), "NAME [VALUE]", "change a setting: temperature, top_p, seed, max_tokens, ...; "
            "heads gives it back to them", _set, _setting_words),
    Command(("/show",), "", "the settings, and how full the context is", _show),
    Command(("/system",), "[TEXT]", "the system message; none: without", _system),
    Command(("/heads",), "[on|off|temperature|top_p]", "which heads decide", _heads,
            lambda _: ("on", "off", *settings.HEADS)),
    Command(("/regen",), "", "another answer to the last message", _regen),
    Command(("/clear",), "", "forget what was said", _clear),
    Command(("/save",), "FILE", "write what was said, as JSON", _save, None),
    Command(("/load",), "FILE", "go on from what was saved", _load, None),
    Command(("/trace",), "FILE", "write the last answer's T and P, a line of JSON a token", _trace, None),
    Command(("/view",), "[FILE]", "write a page with the answers, token by token", _view, None),
    Command(("/help", "/?"), "", "this list", _help),
    Command(("/bye", "/exit", "/quit"), "", "end, as Ctrl-D does", _bye),
)  # fmt: skip
"""All of them, in the order of the help."""

_NAMES = [name for command in COMMANDS for name in command.names]
