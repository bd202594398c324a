"""A plugin for simonw/llm, of which the heads decide: ``llm -m autodeco/smollm2 "Why is the sky blue?"``.

llama.cpp is loaded with the first prompt, so that ``llm models`` answers at once.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import llm
from llm.parts import ReasoningPart, TextPart
from pydantic import Field, field_validator

from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.files.atomic import bad_file
from autodeco_gguf.files.lock import locked
from autodeco_gguf.heads.known import KNOWN
from autodeco_gguf.integrations.named import Source, check_name, read_named, shipped, source_of, write_named
from autodeco_gguf.model.machine import MAX_CONTEXT
from autodeco_gguf.model.sampling import MAX_SEED
from autodeco_gguf.model.shipped import DEMO_NAME

if TYPE_CHECKING:
    from autodeco_gguf.engine.conversation import Answer, Message
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.request import Request

PREFIX = "autodeco/"
"""What the models' names begin with."""

_engines: dict[Source, Engine] = {}
atexit.register(_engines.clear)  # while what closes them is still there
_loading = threading.Lock()


def _engine(source: Source) -> Engine:
    """The engine of a model, one in the process: llm makes its models anew for every look at them."""
    from autodeco_gguf.engine.engine import Engine

    with _loading:
        if source not in _engines:
            # files that are called as known models are not meant
            known, known_heads = KNOWN.get(source.model), KNOWN.get(source.heads or source.model)
            model = source.model if known is None else known.find()
            heads = source.heads if known_heads is None else known_heads.heads
            _engines[source] = Engine(Path(model), heads=heads, n_ctx=source.ctx, n_parallel=1)
        return _engines[source]


class AutoDecoOptions(llm.Options):
    """Options of a prompt: ``-o seed 1``."""

    temperature: float | None = Field(None, ge=0, le=1e6, description="Fix the temperature, 0: greedy; else predicted")
    top_p: float | None = Field(None, ge=0, le=1, description="Fix the top-p; else predicted")
    heads: Literal["on", "off", "temperature", "top_p"] | None = Field(
        None, description="The heads that decide: on (both), temperature, top_p or off; what another would is 1"
    )
    seed: int | None = Field(None, ge=-1, le=MAX_SEED, description="Same seed, same answer; else random, as with -1")
    max_tokens: int | None = Field(None, ge=1, description="At most so many tokens; else until the end")
    top_k: int | None = Field(None, ge=0, lt=2**31, description="Keep so many tokens; else all")
    min_p: float | None = Field(None, ge=0, le=1, description="Least probability, as a share of the largest; else 0")
    repeat_penalty: float | None = Field(
        None, ge=1e-6, le=1e6, description="On the answer's last 64 tokens' logits; else 1"
    )
    stop: Any = Field(None, description='Text that ends the answer, or several: \'["one", "two"]\'')

    @field_validator("stop")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """What is the JSON of a list is one."""
        if isinstance(value, str) and value.startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                return value
        if not isinstance(value, str | None) and not (
            isinstance(value, list) and all(isinstance(text, str) for text in value)
        ):
            raise ValueError("expected a text, or a list of texts")
        return value


class _Answering:
    """What both kinds of models of llm's are: an answer for a prompt, and what is noted of it."""

    can_stream = True
    supports_schema = True

    def __init__(self, name: str, source: Source) -> None:
        self.model_id, self._source = PREFIX + name, source

    def __str__(self) -> str:
        return f"AutoDeco: {self.model_id}"

    def _pieces(self, prompt: llm.Prompt, response: Any) -> Iterator[str]:
        """The text of the answer as it comes; afterwards the response has all that llm's log is to know.

        Raises:
            AutoDecoError: the model cannot be loaded, or the prompt not be answered.
        """
        engine = _engine(self._source)
        answer = _ask(engine, prompt)
        if answer.n_left_out and _in_terminal():
            click.echo(f"the context is full: oldest messages left out: {answer.n_left_out}", err=True)
        try:
            with _first_ctrl_c(answer.generation.cancel):
                for piece in answer:
                    if piece.text:
                        yield piece.text
        finally:
            answer.generation.cancel()
            _note(response, answer, _source(engine, prompt.options, answer.generation.request))


class AutoDeco(_Answering, llm.Model):
    """A model as llm has it."""

    class Options(AutoDecoOptions):
        """Those of all."""

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """The text of an answer, piece by piece; AutoDecoError where there is none."""
        yield from self._pieces(prompt, response)


class AsyncAutoDeco(_Answering, llm.AsyncModel):
    """The same for asyncio: the model computes in a thread."""

    class Options(AutoDecoOptions):
        """Those of all."""

    async def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.AsyncResponse, conversation: Any
    ) -> AsyncGenerator[str, None]:
        """The text of an answer, piece by piece; AutoDecoError where there is none."""
        pieces = self._pieces(prompt, response)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


# ---- a prompt, and what came of it ----


def _ask(engine: Engine, prompt: llm.Prompt) -> Answer:
    from autodeco_gguf.engine.conversation import Conversation

    options: Any = prompt.options
    system, said, message = _conversation(prompt)
    conversation = Conversation(engine, system=system, seed=options.seed)
    if engine.context.metadata.get("general.name") != DEMO_NAME:  # which was trained on one message and its answer
        conversation.messages = [*conversation.messages, *said]
    return conversation.ask(_request(engine, message, options, prompt.schema))


def _conversation(prompt: llm.Prompt) -> tuple[str | None, list[Message], str]:
    """The system message, what was said, and what to answer."""
    messages = [{"role": message.role, "content": _text(message)} for message in prompt.messages]
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"]:
        raise InvalidInput("the prompt is empty", key="prompt")
    systems = [message["content"] for message in messages if message["role"] == "system"]
    said = [message for message in messages[:-1] if message["role"] in ("user", "assistant")]
    return prompt.system or "\n\n".join(systems) or None, said, messages[-1]["content"]


def _text(message: llm.Message) -> str:
    """What a message says; InvalidInput where it has more than text, which is all that these models read."""
    for part in message.parts:
        if message.role == "tool" or not isinstance(part, TextPart | ReasoningPart):
            what = f"a message of role {message.role} with a part of type {type(part).__name__}"
            raise InvalidInput(f"{what}: this model reads text alone, without tools", key="messages")
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def _request(engine: Engine, message: str, options: Any, schema: Any) -> Request:
    from autodeco_gguf.engine.file_sampling import settled
    from autodeco_gguf.engine.request import Request
    from autodeco_gguf.heads.weights import HEADS, deciding

    names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "stop")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    heads = engine.heads if options.heads is None else deciding(options.heads, engine.heads)
    if schema is not None:
        from autodeco_gguf.model.grammar import SchemaGrammar

        with _loading:  # compiling one sets the stack size of the process's next thread
            given["grammar"] = SchemaGrammar(schema)
    file = {name: value for name, value in _recommended(engine).items() if name not in given}
    request = settled(Request(message, **given), heads, file)
    undecided: dict[str, Any] = {name: 1.0 for name in HEADS - heads if getattr(request, name) is None}
    return replace(request, **undecided)


def _recommended(engine: Engine) -> dict[str, Any]:
    from autodeco_gguf.engine.file_sampling import file_sampling

    return file_sampling(engine.context.file.base())


def _source(engine: Engine, options: Any, request: Request) -> str | dict[str, str]:
    """Who decides T and P, as the server has it: one word where both have the same."""
    found, file = {}, _recommended(engine)
    for name in ("temperature", "top_p"):
        predicted = getattr(request, name) is None and name in engine.heads
        otherwise = "file" if name in file else "default"
        found[name] = "heads" if predicted else otherwise if getattr(options, name) is None else "client"
    return found["temperature"] if len(set(found.values())) == 1 else found


def _note(response: Any, answer: Answer, source: str | dict[str, str]) -> None:
    """Tell llm's log of T and P of every token, and what repeats the answer."""
    tokens = [piece.token for piece in answer.pieces]
    temperature, top_p = [token.temperature for token in tokens], [token.top_p for token in tokens]
    n, reason = len(tokens), answer.generation.finish_reason
    response.response_json = {
        "finish_reason": "interrupt" if reason in ("cancelled", None) else reason,
        "source": source,
        "seed": answer.seed,
        "tokens": n,
        "temperature": temperature,
        "top_p": top_p,
    }
    means = {"mean_temperature": round(sum(temperature) / n, 4), "mean_top_p": round(sum(top_p) / n, 4)} if n else None
    response.set_usage(input=len(answer.generation.prompt), output=n, details=means)


def _in_terminal() -> bool:
    """Whether llm's command line asks, and not a program."""
    return click.get_current_context(silent=True) is not None


@contextmanager
def _first_ctrl_c(action: Callable[[], object]) -> Iterator[None]:
    """Within it the first Ctrl-C of llm's command line does that; the next is an ordinary one, as in a program."""
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not (_in_terminal() and in_main and before is signal.default_int_handler):
        yield
        return

    def handle(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        action()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ---- what llm calls ----


def _file() -> Path:
    return Path(llm.user_dir()) / "autodeco.json"  # type: ignore[no-untyped-call]


@functools.cache
def _warn(message: str) -> None:
    click.echo(f"warning: {message}", err=True)


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Tell llm of the demo, of known models that are installed, and of the user's own."""
    sources = shipped()
    try:
        sources |= read_named(_file())
    except BadFile as e:
        _warn(str(e))  # llm's other models are not to suffer
    for name, source in sources.items():
        register(AutoDeco(name, source), AsyncAutoDeco(name, source))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """Add ``llm autodeco`` to llm's commands."""
    cli.add_command(_autodeco)


@contextmanager
def _one_line() -> Iterator[None]:
    """Errors as llm shows them."""
    try:
        yield
    except AutoDecoError as e:
        raise click.ClickException(str(e)) from e


@contextmanager
def _alone() -> Iterator[Path]:
    """The file of names, which no other command changes meanwhile; BadFile where its directory cannot be opened."""
    file = _file()
    with bad_file(file, "cannot be written"), locked(file.parent, wait=True):
        yield file


@click.group("autodeco")
def _autodeco() -> None:
    """Name GGUF files with AutoDeco heads: models that choose their temperature and top-p at every token."""


@_autodeco.command("add")
@click.argument("name")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--heads", type=click.Path(path_type=Path), help="Adapter with the heads, for a model without.")
@click.option("--ctx", type=click.IntRange(1, MAX_CONTEXT), help="Context in tokens.")
def _add(name: str, model: Path, heads: Path | None, ctx: int | None) -> None:
    """Let MODEL, a GGUF, be known to llm as autodeco/NAME.

    Example: llm autodeco add qwen qwen-autodeco.gguf
    """
    from autodeco_gguf.heads.base_model import fitting_heads
    from autodeco_gguf.heads.model_file import ModelFile

    with _one_line():
        check_name(name)
        file = ModelFile.open(model)
        file.base()  # an adapter has none
        if heads is not None or file.heads_source.head_tensors:
            fitting_heads(file, heads)
        source = Source(source_of(model), None if heads is None else source_of(heads), ctx)
        with _alone() as names:
            write_named(names, {**read_named(names), name: source})
    click.echo(f"llm -m {PREFIX}{name}")


@_autodeco.command("remove")
@click.argument("name")
def _remove(name: str) -> None:
    """Let llm forget autodeco/NAME; its file stays."""
    with _one_line(), _alone() as names:
        sources = read_named(names)
        if sources.pop(name, None) is None:
            raise InvalidInput.of("name", repr(name), f"one of {', '.join(sorted(sources)) or 'none'}")
        write_named(names, sources)


@_autodeco.command("list")
def _list() -> None:
    """Show the models, with the files that they are from."""
    with _one_line():
        for name, source in {**shipped(), **read_named(_file())}.items():
            heads = "" if source.heads is None else f" --heads {source.heads}"
            click.echo(f"{PREFIX}{name}: {source.model}{heads}")
