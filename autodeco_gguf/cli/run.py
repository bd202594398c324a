"""``autodeco-gguf run``."""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autodeco_gguf.cli._common import GGUF, heads_text
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.model.machine import DEFAULT_CONTEXT
from autodeco_gguf.model.shipped import DEMO_MODEL

if TYPE_CHECKING:
    from autodeco_gguf.model.llama import Llama


@dataclass(frozen=True)
class Options:
    """How to generate. ``max_tokens`` None: until the model stops or the context is full."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int
    system: str | None
    raw: bool
    show_trace: bool


@click.command("run", short_help="Generate text, or chat.")
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
@click.option("-t", "--threads", type=click.IntRange(1, 512), help="CPU threads.  [default: one a core, half above 4]")
@click.option(
    "--gpu-layers",
    type=click.IntRange(min=-1),
    default=-1,
    show_default=True,
    help="Layers on the GPU; -1: all.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Same seed, same tokens.  [default: random]")
@click.option("--system", help="System message of the chat.")
@click.option("--raw", is_flag=True, help="Complete the prompt as it is, without the chat template.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help="Fix the temperature; 0: greedy.  [default: predicted]",
)
@click.option("--top-p", type=click.FloatRange(0, 1), help="Fix the top-p.  [default: predicted]")
@click.option("--trace", "show_trace", is_flag=True, help="Show T and P under every token of an answer.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line: prompt, each token, summary.")
@click.option("-v", "--verbose", is_flag=True, help="Show llama.cpp's own log.")
def run_command(
    model: Path | None,
    heads: Path | None,
    prompt: str | None,
    max_tokens: int | None,
    ctx: int | None,
    threads: int | None,
    gpu_layers: int,
    seed: int | None,
    system: str | None,
    raw: bool,
    temperature: float | None,
    top_p: float | None,
    show_trace: bool,
    as_json: bool,
    verbose: bool,
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
    fixed = temperature is not None and top_p is not None
    llama = _load(model, heads, ctx, threads, gpu_layers, verbose, heads_enabled=() if fixed else None)
    options = Options(max_tokens, temperature, top_p, _seed(seed), system, raw, show_trace)
    click.echo(f"heads: {_heads_line(llama, options)}", err=True)
    if prompt is not None:
        _answer_once(llama, options, prompt, as_json)
    else:
        _chat(llama, options)


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as e:
        raise AutoDecoError(f"standard input: not UTF-8: {e}") from e


def _seed(seed: int | None) -> int:
    from autodeco_gguf.model.sampling import check_seed

    return check_seed(seed)


def _load(
    model: Path,
    heads: Path | None,
    ctx: int | None,
    threads: int | None,
    gpu_layers: int,
    verbose: bool,
    heads_enabled: tuple[str, ...] | None,
) -> Llama:
    from autodeco_gguf.heads.model_file import ModelFile
    from autodeco_gguf.model.context import default_context
    from autodeco_gguf.model.llama import Llama
    from autodeco_gguf.model.machine import default_threads

    return Llama(
        model,
        heads=heads,
        heads_enabled=heads_enabled,
        n_ctx=ctx or default_context(ModelFile.open(model)),
        n_threads=threads or default_threads(),
        n_gpu_layers=gpu_layers,
        verbose=verbose,
    )


def _heads_line(llama: Llama, options: Options) -> str:
    fixed = {"temperature": options.temperature, "top_p": options.top_p}
    in_use = [name for name in llama.heads if fixed[name] is None]
    notes = [f"{heads_text([name])} fixed at {value:g}" for name, value in fixed.items() if value is not None]
    notes += [
        f"{heads_text([name])} is 1" for name, value in fixed.items() if value is None and name not in llama.heads
    ]
    return heads_text(in_use) + (f" ({', '.join(notes)})" if notes else "")


# ---- prompts ----


def _prompt_tokens(llama: Llama, options: Options, messages: list[dict[str, str]]) -> tuple[str, list[int]]:
    """The text given to the model and its tokens: the chat template's, or the last message as it is."""
    from autodeco_gguf.model.chat import TEMPLATE_KEY, Chat

    template = llama.metadata.get(TEMPLATE_KEY)
    if options.raw or template is None:
        if options.system is not None:
            raise AutoDecoError("--system needs a chat template, and the model has none")
        if not options.raw:
            click.echo("no chat template in the model; completing the prompt as it is (--raw)", err=True)
        text, add_bos, special = messages[-1]["content"], True, False
    else:
        try:
            text, add_bos, special = Chat(template, llama._model.vocab).render(messages), False, True
        except AutoDecoError as e:
            raise AutoDecoError(f"{e}; try --raw") from e
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise AutoDecoError("the prompt is not UTF-8") from e
    tokens = llama.tokenize(encoded, add_bos=add_bos, special=special)
    if not tokens:
        raise AutoDecoError("the prompt is empty")
    if len(tokens) >= llama.n_ctx():
        raise AutoDecoError(f"the prompt has {len(tokens)} tokens, the context holds {llama.n_ctx()}; raise --ctx")
    return text, tokens


# ---- generation ----


@dataclass
class _Answer:
    """What a generation gave so far. Times in seconds."""

    text: str = ""
    finish_reason: str = "length"
    prompt_tokens: int = 0
    prompt_s: float = 0.0
    total_s: float = 0.0
    temperatures: list[float] = field(default_factory=list)
    top_ps: list[float] = field(default_factory=list)

    def summary(self, seed: int) -> dict[str, Any]:
        n = len(self.temperatures)
        generation_s = self.total_s - self.prompt_s  # of all tokens but the first, which the prompt's decode gave
        return {
            "tokens": n,
            "tok_s": (n - 1) / generation_s if n > 1 and generation_s > 0 else 0.0,
            "prompt_tokens": self.prompt_tokens,
            "prompt_tok_s": self.prompt_tokens / self.prompt_s if self.prompt_s > 0 else 0.0,
            "mean_temperature": sum(self.temperatures) / n if n else None,
            "mean_top_p": sum(self.top_ps) / n if n else None,
            "finish_reason": self.finish_reason,
            "seed": seed,
        }


def _generate(
    llama: Llama, options: Options, seed: int, tokens: list[int], emit: Callable[[str, int], None]
) -> _Answer:
    """Draw tokens until one ends the text; emit gets each one's newly complete text and its place in the trace.

    Ctrl-C ends the generation, not the program.
    """
    answer = _Answer(prompt_tokens=len(tokens))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    limit = min(options.max_tokens or llama.n_ctx(), llama.n_ctx() - len(tokens))
    llama.set_seed(seed)
    start = time.perf_counter()
    try:
        for i, (token, ends) in enumerate(_tokens(llama, options, tokens, limit)):
            answer.total_s = time.perf_counter() - start
            answer.prompt_s = answer.prompt_s or answer.total_s
            record = llama.trace[i]
            answer.temperatures.append(record.temperature)
            answer.top_ps.append(record.top_p)
            last = ends or i + 1 == limit
            text = decoder.decode(b"" if ends else llama.token_bytes(token, special=False), final=last)
            answer.text += text
            answer.finish_reason = "stop" if ends else "length"
            emit(text, i)
    except KeyboardInterrupt:
        answer.finish_reason = "interrupt"
    return answer


def _tokens(llama: Llama, options: Options, tokens: list[int], limit: int) -> Iterator[tuple[int, bool]]:
    """Up to limit tokens, each with whether it ends the generation."""
    import llama_cpp

    stream = llama.generate(tokens, temp=options.temperature, top_p=options.top_p)
    for _ in range(limit):
        token = next(stream)
        ends = bool(llama_cpp.llama_vocab_is_eog(llama._model.vocab, token))
        yield token, ends
        if ends:
            return


def _answer_once(llama: Llama, options: Options, prompt: str, as_json: bool) -> None:
    messages = [{"role": "user", "content": prompt}]
    if options.system is not None:
        messages.insert(0, {"role": "system", "content": options.system})
    text, tokens = _prompt_tokens(llama, options, messages)
    if as_json:
        click.echo(json.dumps({"prompt": text, "ids": tokens}))
    answer = _generate(llama, options, options.seed, tokens, _emit_json(llama) if as_json else _emit_text)
    summary = answer.summary(options.seed)
    if as_json:
        click.echo(json.dumps({"summary": summary}))
    else:
        click.echo()
    if options.show_trace:
        _show_trace(llama)
    click.echo(_statistics(summary), err=True)


def _emit_text(text: str, _: int) -> None:
    click.echo(text, nl=False)


def _emit_json(llama: Llama) -> Callable[[str, int], None]:
    def emit(text: str, i: int) -> None:
        t = llama.trace[i]
        values = {
            "temperature": t.temperature,
            "top_p": t.top_p,
            "entropy": t.entropy,
            "nucleus": t.nucleus,
            "prob": t.prob,
        }
        click.echo(json.dumps({"id": t.id, "text": text, **values}))

    return emit


def _chat(llama: Llama, options: Options) -> None:
    import readline  # noqa: F401  input() edits lines once it is loaded

    messages = [{"role": "system", "content": options.system}] if options.system is not None else []
    click.echo("Ctrl-C stops an answer, Ctrl-D ends", err=True)
    turn = 0
    while True:
        try:
            line = input("> ")
            if line.strip():
                messages = _chat_turn(llama, options, messages, line, turn)
                turn += 1
        except EOFError:
            click.echo(err=True)
            return
        except AutoDecoError as e:
            click.echo(f"error: {e}", err=True)
        except KeyboardInterrupt:
            click.echo("\n(Ctrl-D ends)", err=True)


def _chat_turn(
    llama: Llama, options: Options, messages: list[dict[str, str]], line: str, turn: int
) -> list[dict[str, str]]:
    """Answer a line; the conversation with it and the answer."""
    messages = [*messages, {"role": "user", "content": line}]
    _, tokens = _prompt_tokens(llama, options, messages)
    answer = _generate(llama, options, (options.seed + turn) & 0xFFFFFFFF, tokens, _emit_text)
    click.echo()
    if options.show_trace:
        _show_trace(llama)
    click.echo(_statistics(answer.summary(options.seed)), err=True)
    return [*messages, {"role": "assistant", "content": answer.text}]


def _show_trace(llama: Llama) -> None:
    from rich.console import Console

    from autodeco_gguf.view.rows import rows

    console = Console()
    console.print()
    for line in rows(llama.trace, console.width):
        console.print(line, no_wrap=True, crop=False)


def _statistics(summary: dict[str, Any]) -> str:
    if not summary["tokens"]:
        return f"0 tokens, seed {summary['seed']}"
    return (
        f"{summary['tokens']} tokens, {summary['tok_s']:.1f} tokens/s, mean temperature "
        f"{summary['mean_temperature']:.3f}, mean top-p {summary['mean_top_p']:.3f}, seed {summary['seed']}"
    )
