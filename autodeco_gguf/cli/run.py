"""``autodeco-gguf run``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from autodeco_gguf.cli._answers import CtrlC, Show, answer, show_legend, show_options
from autodeco_gguf.cli._common import EXIT_INTERRUPTED, GGUF, Verb, chat_template_option, loading_bar, machine_options
from autodeco_gguf.cli._config import gives_way, is_typed
from autodeco_gguf.cli._prompt import clean, is_chat, read_prompt
from autodeco_gguf.cli._sampling import sampling_options
from autodeco_gguf.cli._types import IntRange
from autodeco_gguf.errors import BadFile
from autodeco_gguf.heads.hub import is_hub_id
from autodeco_gguf.heads.known import KNOWN, known_model
from autodeco_gguf.model.machine import DEFAULT_CONTEXT, MAX_CONTEXT, Machine
from autodeco_gguf.model.sampling import MAX_SEED
from autodeco_gguf.model.shipped import DEMO_MODEL

if TYPE_CHECKING:
    from autodeco_gguf.cli._chat import Guide
    from autodeco_gguf.engine.conversation import Conversation, Overflow
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.request import Request


def _max_tokens(ctx: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    if value == 0:
        raise click.BadParameter("0 tokens; give at least 1, or -1: until the end")
    return None if value is None or value < 0 else value


def _seed(ctx: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    return None if value == -1 else value


_NO_TEMPLATE = "needs the chat template, which --raw leaves out"


@click.command("run", cls=Verb)
@click.argument("first", metavar="[MODEL]", type=click.Path(), required=False)  # or the first word of a prompt
@click.argument("words", nargs=-1, metavar="[PROMPT]")
@click.option("-m", "--model", "model_option", type=GGUF, help="The MODEL, for those who are used to give it so.")
@click.option("--heads", type=GGUF, help="Adapter with the heads, for a model without.")
@click.option("-p", "--prompt", help="The prompt, as PROMPT.  [default: standard input; a chat on a terminal]")
@click.option("-f", "--file", type=GGUF, help="File with the prompt, or what goes before it.")
@click.option(
    "-n",
    "--max-tokens",
    "--n-predict",
    type=IntRange(min=-2),
    callback=_max_tokens,
    help="Tokens to generate; -1, and -2 as in llama-cli: until the end.  [default: -1]",
)
@click.option(
    "-c",
    "--ctx",
    "--ctx-size",
    type=IntRange(0, MAX_CONTEXT),
    help=f"Context in tokens; 0: the model's own.  [default: the same, but at most {DEFAULT_CONTEXT}]",
)
@machine_options(flash_attn=False)
@click.option(
    "-s",
    "--seed",
    type=IntRange(-1, MAX_SEED),
    callback=_seed,
    help="Same seed, same tokens; -1, and 4294967295 as in llama.cpp: random.  [default: -1]",
)
@click.option(
    "-sys",
    "--system",
    "--system-prompt",
    callback=lambda *given: None if given[2] is None else clean(given[2], "--system"),
    help="System message of the chat.",
)
@chat_template_option
@click.option("--raw", is_flag=True, help="Complete the prompt as it is, without the chat template.")
@sampling_options
@show_options
@click.option(
    "--context-overflow",
    "overflow",
    type=click.Choice(["forget", "shift", "stop"]),
    default="forget",
    show_default=True,
    help="When a chat fills the context: forget its oldest messages; shift: in the midst of an answer too; or stop.",
)
@click.option("--history/--no-history", default=True, help="Keep what is typed in a chat for the next.  [default: on]")
def run_command(
    first: str | None,
    words: tuple[str, ...],
    model_option: Path | None,
    heads: Path | None,
    prompt: str | None,
    file: Path | None,
    max_tokens: int | None,
    ctx: int | None,
    machine: Machine,
    seed: int | None,
    system: str | None,
    chat_template_kwargs: dict[str, Any] | None,
    raw: bool,
    sampling: dict[str, Any],
    show: Show,
    overflow: Overflow,
    history: bool,
) -> None:
    """Generate from MODEL with predicted temperature and top-p.

    MODEL is a GGUF; smollm2: SmolLM2-135M-Instruct, by the extra smollm2, with heads of this package; or, by the extra
    hub, hf:user/repo[:quant] or hf:user/repo/file.gguf on the Hugging Face hub. Without MODEL it runs the small one
    that comes with the package, which tells stories that end in a sum.

    On a terminal and without a prompt it chats: Ctrl-C stops an answer, Ctrl-D ends, /help lists commands. What comes
    in by standard input or -f goes before a prompt, such as a text before a question about it.

    Example: autodeco-gguf run qwen-autodeco.gguf -p "Why is the sky blue?"
    """
    model, prompt = _model_and_prompt(first, model_option, words, prompt)
    show = _effective(show, chats := is_chat(prompt, file))
    raw = raw and not gives_way("raw", "system", "chat_template_kwargs")
    _refuse(
        (model is None and is_typed("heads"), "--heads needs the MODEL they go with"),
        (raw and is_typed("system"), f"--system {_NO_TEMPLATE}"),
        (raw and chat_template_kwargs and is_typed("chat_template_kwargs"), f"--chat-template-kwargs {_NO_TEMPLATE}"),
    )
    if model is not None and model_option is None:
        _check_first(model)
    system, chat_template_kwargs = (None, None) if raw else (system, chat_template_kwargs)
    text = "" if chats else read_prompt(prompt, file)
    _refuse((not (chats or text), "the prompt is empty"))

    from autodeco_gguf.cli._chat import chat, guide_to
    from autodeco_gguf.engine.conversation import Conversation
    from autodeco_gguf.engine.request import Request

    entropy = show.as_json or chats or show.color == "entropy"
    request = Request(text, max_tokens=max_tokens, entropy=entropy, top=show.top, **sampling)
    with _load(model, heads, ctx, machine, request, chat_template_kwargs) as engine:
        recommended, own = _recommended(engine, request, [*sampling])
        guide = None if raw else guide_to(engine)
        conversation = Conversation(engine, system=system, raw=raw, seed=seed, remembers=guide is None)
        conversation.overflow, show = overflow, replace(show, completes=engine.chat is None and not raw)
        if chats:
            chat(engine, conversation, request, recommended, own, show, guide, history)
        else:
            request = _settled(engine, request, recommended, own)
            _answer(conversation, request, show, None if guide is None or guide.understands(text) else guide)


def _model_and_prompt(
    first: str | None, option: Path | None, words: tuple[str, ...], prompt: str | None
) -> tuple[Path | None, str | None]:
    """Which of the arguments is the model, and which are the prompt.

    A model that is the first word goes before the one of the user's defaults, a GGUF that is not there too.
    """
    model = None if first is None else Path(first)
    typed = is_typed("model_option")
    if option is not None and model is not None and not typed and (_is_model(model) or model.suffix == ".gguf"):
        option = None
    if option is not None and first is not None:
        words = (first, *words)
    if words and is_typed("prompt"):
        raise click.UsageError(f"two prompts: {words[0]!r}, and the one of -p")
    return option or model, " ".join(words) if words else prompt


def _is_another(model: Path) -> bool:
    """Whether heads that are not typed were given for another model: those of the file for the file's."""
    context = click.get_current_context()
    option = next(p for p in context.command.params if p.name == "model_option")
    default = context.lookup_default("model_option")
    if context.get_parameter_source("heads") is ParameterSource.ENVIRONMENT:
        default = option.value_from_envvar(context) or default
    return isinstance(default, str) and os.path.realpath(os.path.expanduser(default)) != os.path.realpath(model)


def _recommended(engine: Engine, request: Request, options: list[str]) -> tuple[dict[str, Any], set[str]]:
    """What the model's file recommends, and which options say otherwise; tells the user who decides."""
    from autodeco_gguf.cli._settings import heads_line
    from autodeco_gguf.engine.file_sampling import file_sampling, unnamed

    context = click.get_current_context()
    own = {name for name in options if context.get_parameter_source(name) != ParameterSource.DEFAULT}
    file = file_sampling(engine.context.file.base())
    click.echo(f"heads: {heads_line(engine.heads, request, unnamed(file, own))}", err=True)
    return file, own


def _settled(engine: Engine, request: Request, recommended: dict[str, Any], own: set[str]) -> Request:
    from autodeco_gguf.engine.file_sampling import settled, unnamed

    return settled(request, engine.heads, unnamed(recommended, own))


def _effective(show: Show, chats: bool) -> Show:
    """What has an effect here; UsageError for an option without one that is typed, not the user's default."""
    as_json = show.as_json and not chats and (is_typed("as_json") or not is_typed("show_trace"))
    _refuse(
        (is_typed("as_json") and is_typed("show_trace"), "--json has the trace already; leave --trace out"),
        (chats and is_typed("as_json"), "--json needs a prompt: give -p or standard input"),
        (is_typed("top") and not (chats or as_json), "--top needs --json, or a chat"),
    )
    return replace(show, as_json=as_json, trace=show.trace and not as_json, top=show.top if as_json or chats else None)


def _refuse(*wrong: tuple[object, str]) -> None:
    """Raise UsageError for the first that is so."""
    for is_so, why in wrong:
        if is_so:
            raise click.UsageError(why)


def _is_model(name: Path) -> bool:
    return os.path.exists(name) or known_model(name) is not None or is_hub_id(name)


def _check_first(model: Path) -> None:
    """Raise BadFile for a first argument that is no model: a prompt, most likely."""
    if not _is_model(model):
        hint = f"the first argument is the MODEL, a file or {' or '.join(KNOWN)}; a prompt alone goes with -p"
        raise BadFile.of(model, f"cannot be opened: No such file or directory; {hint}")


def _answer(conversation: Conversation, request: Request, show: Show, guide: Guide | None) -> None:
    """Answer the one prompt; a guide is what to say of one that the model does not understand."""
    if guide is not None:
        is_person = sys.stdout is not None and sys.stdout.isatty() and not show.as_json
        click.echo(guide.advice, err=not is_person)
        if is_person:  # a program gets what it asks for
            return
    show_legend(show)
    with CtrlC(once=True) as ctrl_c:
        if answer(conversation, request, show, ctrl_c).summary["finish_reason"] == "interrupt":
            raise click.exceptions.Exit(EXIT_INTERRUPTED)


def _load(
    model: Path | None,
    heads: Path | None,
    ctx: int | None,
    machine: Machine,
    request: Request,
    chat_template_kwargs: dict[str, Any] | None,
) -> Engine:
    """An engine with heads, unless T and P are fixed both and, in a chat, it has none that could decide later.

    Without heads as well where the model has none, and its file says with what to draw.
    """
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.file_sampling import file_sampling
    from autodeco_gguf.heads.base_model import fitting_heads
    from autodeco_gguf.heads.model_file import ModelFile
    from autodeco_gguf.heads.weights import HEADS
    from autodeco_gguf.model.context import default_context

    if model is None:
        click.echo("model: the demo that comes with the package, not a general assistant", err=True)
    if not is_typed("heads") and (model is None or _is_another(model)):
        heads = None  # the user's default, which is for another
    file = ModelFile.open(model or DEMO_MODEL)
    has_heads = heads is not None or bool(file.heads_source.head_tensors)
    fixed = request.temperature is not None and request.top_p is not None
    if not request.prompt:  # a chat
        fixed = fixed and not has_heads
    if not has_heads:
        fixed = fixed or request.temperature == 0 or not HEADS.isdisjoint(file_sampling(file.base()))
    with loading_bar(file.outer.file_size):
        engine = Engine(
            file,
            n_parallel=1,
            n_ctx=default_context(file, at_most=MAX_CONTEXT) if ctx == 0 else ctx,
            heads=None if fixed else fitting_heads(file, heads),
            heads_enabled=() if fixed else None,
            machine=machine,
            chat_template_kwargs=chat_template_kwargs,
        )
    trained = engine.context.n_ctx_train
    if 0 < trained < engine.n_ctx:
        click.echo(f"context: {engine.n_ctx} tokens; beyond {trained}, what it was trained for, it may fail", err=True)
    return engine
