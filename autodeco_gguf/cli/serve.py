"""``autodeco-gguf serve``."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from autodeco_gguf.cli._common import GGUF, Verb, chat_template_option, heads_text, machine_options, named, option
from autodeco_gguf.cli._config import is_typed
from autodeco_gguf.cli._reward import refuse
from autodeco_gguf.cli._types import FloatRange, IntRange, Line
from autodeco_gguf.errors import not_installed, printable
from autodeco_gguf.model.machine import DEFAULT_CONTEXT, MAX_CONTEXT, Machine
from autodeco_gguf.model.shipped import DEMO_MODEL


@click.command("serve", cls=Verb)
@click.argument("model", type=GGUF, required=False)
@click.option("--heads", type=GGUF, help="Adapter with the heads, for a model without.")
@option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0: all of this machine's.")
@option("--port", type=IntRange(0, 65535), default=8080, help="0: any that is free.")
@option("--parallel", type=IntRange(1, 256), default=4, help="Answers at a time; others wait.")
@option("--queue", "max_queue", type=IntRange(0, 2**16), default=64, help="Answers that may wait; then 503.")
@click.option(
    "-c",
    "--ctx",
    type=IntRange(1, MAX_CONTEXT),
    help=f"Context of an answer in tokens, prompt included.  [default: the model's own, at most {DEFAULT_CONTEXT}]",
)
@machine_options()
@option(
    "--sampling",
    type=click.Choice(["client", "heads"]),
    default="client",
    help="Who decides where a client sends a temperature or top-p.",
)
@click.option("--alias", "model_id", help="Name of the model for clients.  [default: its own, or its file's]")
@click.option("--api-key", "api_keys", type=Line(), multiple=True, help="Key of a client; repeatable.")
@click.option("--cors", "cors_origins", multiple=True, help="Origin whose pages may use it, or *; repeatable.")
@click.option("--allow-host", "allowed_hosts", multiple=True, help="Own name in Host headers, or *; repeatable.")
@option(
    "--max-body",
    type=FloatRange(0.001, 1024),
    default=8.0,
    callback=lambda *given: round(given[2] * 2**20),
    help="MiB of a request.",
)
@option("--drain", "drain_s", type=FloatRange(1, 3600), default=30.0, help="Seconds for answers under way at the end.")
@click.option("--batch-invariant", is_flag=True, help="Same seed, same bits, whatever runs beside; slower when alone.")
@chat_template_option
@click.option("--log-requests", is_flag=True, help="A line on stderr for each request.")
@click.option(
    "--log-answers",
    type=GGUF,
    help="File for each answer with its prompt and tokens, which view shows: it has the conversations in it.",
)
def serve_command(
    model: Path | None,
    heads: Path | None,
    host: str,
    port: int,
    parallel: int,
    ctx: int | None,
    machine: Machine,
    drain_s: float,
    batch_invariant: bool,
    chat_template_kwargs: dict[str, Any] | None,
    log_requests: bool,
    log_answers: Path | None,
    **options: Any,
) -> None:
    """Serve MODEL over HTTP: OpenAI's API, Ollama's, and a page to chat on at /.

    MODEL is a GGUF, or smollm2; without it, the demo model. Temperature and top-p that a client does not send are
    predicted. SIGTERM and Ctrl-C let the answers under way come to their end. docs/server.md has the routes.

    Example: autodeco-gguf serve qwen-autodeco.gguf --parallel 8
    """
    keys = options["api_keys"]
    if any(not key.strip() for key in keys) or (not keys and "AUTODECO_SERVE_API_KEY" in os.environ):
        raise click.UsageError("--api-key is empty")  # a server that is open by mistake is worse than none
    try:
        from autodeco_gguf.server.running import Server, address_of, bind
    except ModuleNotFoundError as e:
        raise not_installed(f"serving needs {e.name}", "fastapi uvicorn prometheus-client", "server") from e
    from autodeco_gguf.server.answer_log import AnswerLog
    from autodeco_gguf.server.service import Service, load
    from autodeco_gguf.server.settings import ServerSettings

    if model is None:
        refuse(["heads"], "needs the MODEL they go with")
        heads = None  # the user's default, which is for another
    batch_invariant = batch_invariant and (parallel > 1 or is_typed("batch_invariant"))
    settings = named(ServerSettings, {**options, "allowed_hosts": (*options["allowed_hosts"], host)})
    log = None if log_answers is None else AnswerLog(log_answers)
    sockets = bind(host, port)  # before a model is loaded
    try:
        kwargs, model = chat_template_kwargs, model or DEMO_MODEL
        loaded = load(model, heads, parallel, ctx, machine, kwargs, batch_invariant=batch_invariant)
        with loaded as engine, log or nullcontext():
            service = Service(engine, settings, kwargs, log)

            def started() -> None:
                click.echo(f"heads: {heads_text(engine.heads)}", err=True)
                for listening in sockets:
                    click.echo(f"{printable(service.model_id)} on {address_of(listening)}", err=True)

            Server(service, sockets, drain_s=drain_s, access_log=log_requests).run(started)
    finally:
        for listening in sockets:
            listening.close()
