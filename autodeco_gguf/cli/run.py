"""``autodeco-gguf run``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import GGUF, Verb, heads_text, machine_options
from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.model.machine import DEFAULT_CONTEXT, Machine
from autodeco_gguf.model.sampling import MAX_SEED
from autodeco_gguf.model.shipped import DEMO_MODEL

if TYPE_CHECKING:
    from autodeco_gguf.engine.conversation import Answer, Conversation
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.request import Piece, Request


@click.command("run", cls=Verb)
@click.argument("model", type=GGUF, required=False)
@click.option("--heads", type=GGUF, help="Adapter with the heads, for a model without.")
@click.option("-p", "--prompt", help="The prompt.  [default: standard input; a chat on a terminal]")
@click.option("-n", "--max-tokens", type=click.IntRange(min=1), help="Tokens to generate.  [default: until the end]")
@click.option(
    "-c",
    "--ctx",
    type=click.IntRange(1, 2**31 - 1),
    help=f"Context in tokens.  [default: the model's own, at most {DEFAULT_CONTEXT}]",
)
@machine_options(flash_attn=False)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Same seed, same tokens.  [default: random]")
@click.option("--system", help="System message of the chat.")
@click.option("--raw", is_flag=True, help="Complete the prompt as it is, without the chat template.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), help="Fix the temperature; 0: greedy.  [default: predicted]"
)
@click.option("--top-p", type=click.FloatRange(0, 1), help="Fix the top-p.  [default: predicted]")
@click.option("--trace", "show_trace", is_flag=True, help="Show T and P under every token of an answer.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line: prompt, each token, summary.")
def run_command(
    model: Path | None,
    heads: Path | None,
    prompt: str | None,
    max_tokens: int | None,
    ctx: int | None,
    machine: Machine,
    seed: int | None,
    system: str | None,
    raw: bool,
    temperature: float | None,
    top_p: float | None,
    show_trace: bool,
    as_json: bool,
) -> None:
    """Generate from MODEL with predicted temperature and top-p.

    Without MODEL it runs the small one that comes with the package, which tells stories that end in a sum.

    On a terminal and without a prompt it chats: Ctrl-C stops an answer, Ctrl-D ends.

    Example: autodeco-gguf run qwen-autodeco.gguf -p "Why is the sky blue?"
    """
    if prompt is None and sys.stdin is None:
        raise click.UsageError("no standard input: give -p PROMPT")
    chat = prompt is None and sys.stdin.isatty()
    if chat and as_json:
        raise click.UsageError("--json needs a prompt: give -p or standard input")
    if as_json and show_trace:
        raise click.UsageError("--json has the trace already; leave --trace out")
    if model is None and heads is not None:
        raise click.UsageError("--heads needs the MODEL they go with")
    if raw and system is not None:
        raise click.UsageError("--system needs the chat template, which --raw leaves out")
    if prompt is None and not chat:
        prompt = _read_stdin()
    if model is None:
        click.echo("model: the demo that comes with the package, not a general assistant", err=True)
        model = DEMO_MODEL

    from autodeco_gguf.engine.conversation import Conversation
    from autodeco_gguf.engine.request import Request

    request = Request(prompt or "", max_tokens=max_tokens, temperature=temperature, top_p=top_p, entropy=as_json)
    with _load(model, heads, ctx, machine, fixed=temperature is not None and top_p is not None) as engine:
        click.echo(f"heads: {_heads_line(engine, request)}", err=True)
        if system is not None and engine.chat is None:
            raise InvalidInput("--system needs a chat template, and the model has none", key="system")
        conversation = Conversation(engine, system=system, raw=raw, seed=seed)
        without_template = engine.chat is None and not raw
        if prompt is not None:
            _answer(conversation, request, without_template, show_trace, as_json)
        else:
            _chat(conversation, request, without_template, show_trace)


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as e:
        raise InvalidInput(f"standard input: not UTF-8: {e}", key="prompt") from e


def _load(model: Path, heads: Path | None, ctx: int | None, machine: Machine, *, fixed: bool) -> Engine:
    """An engine that predicts, unless T and P are fixed both."""
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.heads.base_model import fitting_heads
    from autodeco_gguf.heads.model_file import ModelFile
    from autodeco_gguf.model.context import default_context

    file = ModelFile.open(model)
    n_ctx = ctx or default_context(file)
    return Engine(
        file,
        n_parallel=1,
        n_ctx=-(-n_ctx // 256) * 256,  # as llama.cpp rounds it
        heads=None if fixed else fitting_heads(file, heads),
        heads_enabled=() if fixed else None,
        machine=machine,
    )


def _heads_line(engine: Engine, request: Request) -> str:
    fixed = {"temperature": request.temperature, "top_p": request.top_p}
    in_use = [name for name in engine.heads if fixed[name] is None]
    notes = [f"{heads_text([name])} fixed at {value:g}" for name, value in fixed.items() if value is not None]
    notes += [
        f"{heads_text([name])} is 1" for name, value in fixed.items() if value is None and name not in engine.heads
    ]
    return heads_text(in_use) + (f" ({', '.join(notes)})" if notes else "")


def _chat(conversation: Conversation, request: Request, without_template: bool, show_trace: bool) -> None:
    import readline  # noqa: F401  input() edits lines once it is loaded

    click.echo("Ctrl-C stops an answer, Ctrl-D ends", err=True)
    while True:
        try:
            line = input("> ")
            if line.strip():
                _answer(conversation, replace(request, prompt=line), without_template, show_trace)
        except EOFError:
            click.echo(err=True)
            return
        except AutoDecoError as e:
            click.echo(f"error: {e}", err=True)
        except KeyboardInterrupt:
            click.echo("\n(Ctrl-D ends)", err=True)


def _answer(
    conversation: Conversation, request: Request, without_template: bool, show_trace: bool, as_json: bool = False
) -> None:
    """Answer a message, and let the conversation go on from there."""
    if without_template:
        click.echo("no chat template in the model; completing the prompt as it is (--raw)", err=True)
    try:
        answer = conversation.ask(request)
    except InvalidInput as e:
        hint = "; try --raw" if e.key == "tokenizer.chat_template" else ""
        raise InvalidInput(str(e).replace("; raise it", "; raise --ctx") + hint, key=e.key) from e
    if as_json:
        click.echo(json.dumps({"prompt": answer.prompt, "ids": answer.generation.prompt}))
    summary = _print(answer, _echo_json if as_json else _echo_text) | {"seed": conversation.seed}
    conversation.keep(answer)
    click.echo(json.dumps({"summary": summary}) if as_json else None)
    if show_trace:
        _show_trace(answer)
    click.echo(_statistics(summary), err=True)


def _echo_text(piece: Piece) -> None:
    click.echo(piece.text, nl=False)


def _echo_json(piece: Piece) -> None:
    click.echo(json.dumps(vars(piece.token) | {"text": piece.text}))


def _print(answer: Answer, echo: Callable[[Piece], None]) -> dict[str, Any]:
    """Print the pieces of an answer as they come, and sum it up; Ctrl-C ends the answer, not the program."""
    prompt_s = total_s = 0.0
    interrupted = False
    begin = time.perf_counter()
    try:
        for piece in answer:
            total_s = time.perf_counter() - begin
            prompt_s = prompt_s or total_s
            echo(piece)
    except KeyboardInterrupt:
        answer.generation.cancel()
        interrupted = True
    tokens, n_prompt = [piece.token for piece in answer.pieces], len(answer.generation.prompt)
    n, generation_s = len(tokens), total_s - prompt_s  # of all tokens but the first, which the prompt's decode gave
    return {
        "tokens": n,
        "tok_s": (n - 1) / generation_s if n > 1 and generation_s > 0 else 0.0,
        "prompt_tokens": n_prompt,
        "prompt_tok_s": n_prompt / prompt_s if prompt_s > 0 else 0.0,
        "mean_temperature": sum(token.temperature for token in tokens) / n if n else None,
        "mean_top_p": sum(token.top_p for token in tokens) / n if n else None,
        "finish_reason": "interrupt" if interrupted else answer.generation.finish_reason,
    }


def _show_trace(answer: Answer) -> None:
    from rich.console import Console

    from autodeco_gguf.view.rows import rows

    console = Console()
    console.print()
    for line in rows((piece.token for piece in answer.pieces), console.width):
        console.print(line, no_wrap=True, crop=False)


def _statistics(summary: dict[str, Any]) -> str:
    if not summary["tokens"]:
        return f"0 tokens, seed {summary['seed']}"
    return (
        f"{summary['tokens']} tokens, {summary['tok_s']:.1f} tokens/s, mean temperature "
        f"{summary['mean_temperature']:.3f}, mean top-p {summary['mean_top_p']:.3f}, seed {summary['seed']}"
    )
