"""What answers requests, whichever API they come by."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Piece, Result
from autodeco_gguf.engine.request import Request as Ask
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.errors import AutoDecoError, ModelFailed, as_utf8
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.server.answer_log import AnswerLog, answer_line
from autodeco_gguf.server.choice import Choice, Delta, Words
from autodeco_gguf.server.decide import Decider, Decision, seed_of
from autodeco_gguf.server.driver import Driver, Job
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.metrics import Metrics
from autodeco_gguf.server.prompts import Prompts
from autodeco_gguf.server.settings import ServerSettings
from autodeco_gguf.server.streaming import Stream, dumps_in_turn, while_there
from autodeco_gguf.server.tools import CallFinder

_log = logging.getLogger("autodeco_gguf.server")

MAX_TOLD = 1 << 20
"""Tokens that several answers may tell of, with their alternatives: some hundred bytes each, until all have ended."""

_COMPILING = 2
"""Requests with a grammar or schema that begin at a time: to compile a large one takes seconds, and a thread of the 40
that all share."""


@dataclass
class Plan:
    """What is to be answered, and how.

    Attributes:
        prompts: as tokens.
        decision: with what tokens are drawn.
        n: choices for each prompt.
        options: more arguments of the engine's requests.
        finder: makes what finds calls of tools in a choice.
        pieces: every token is wanted, even where nothing is streamed.
        follows: the field with the grammar or schema that the answers follow, if one does.
        repeats: a stream ends with all of it once more.
    """

    prompts: Sequence[Sequence[int]]
    decision: Decision
    n: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    finder: Callable[[], CallFinder | None] = lambda: None
    pieces: bool = False
    follows: str = "grammar"
    repeats: bool = False

    def asks(self) -> list[Ask]:
        """The engine's requests: choice i of prompt p is number p * n + i."""
        return [
            Ask(prompt, **self.options, **self.decision.sampling, seed=self.seed(i))
            for prompt in self.prompts
            for i in range(self.n)
        ]

    def seed(self, index: int) -> int:
        """Of a choice."""
        return seed_of(self.decision.seed, index % self.n)

    def check_told(self, n_ctx: int, param: str) -> None:
        """Raise ApiError where several answers may tell of too many tokens; ``param``: why they are several."""
        n, top, limit = len(self.prompts) * self.n, self.options.get("top") or 0, self.options["max_tokens"]
        room = [n_ctx - len(prompt) for prompt in self.prompts]
        longest = [max(0, free if limit is None else min(limit, free)) for free in room]
        if self.options.get("prompt_logprobs"):
            longest = [drawn + len(prompt) for drawn, prompt in zip(longest, self.prompts, strict=True)]
        told = self.n * sum(longest) * (1 + top)
        if self.pieces and n > 1 and told > MAX_TOLD:
            what = f"{n} answers, each of up to {max(longest)} tokens with {top} alternatives, tell of {told} in all"
            raise ApiError(
                400, f"{param}: {what}, at most {MAX_TOLD}; lower it, max_tokens or the alternatives", param=param
            )

    def usage(self, choices: Sequence[Choice]) -> tuple[int, int]:
        """Tokens of the prompts, and drawn ones."""
        return sum(map(len, self.prompts)), sum(choice.n_tokens for choice in choices)


class Voice(Protocol):
    """How an API words an answer: as a whole, or bit by bit."""

    media_type: str
    plan: Plan

    def begin(self, choices: Sequence[Choice]) -> bytes:
        """What a stream begins with."""

    def delta(self, choice: Choice, delta: Delta) -> bytes:
        """What is new of a choice."""

    def end(self, choice: Choice, delta: Delta) -> bytes:
        """The end of a choice, and what is new with it."""

    def done(self, choices: Sequence[Choice]) -> bytes:
        """What a stream ends with."""

    def failed(self, error: ApiError) -> bytes:
        """What a stream ends with when it cannot go on."""

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """All of it; for :func:`dumps_in_turn`. From any thread."""


def load(
    model: Path,
    heads: Path | None,
    n_parallel: int,
    n_ctx: int | None,
    machine: Machine | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    *,
    batch_invariant: bool = False,
) -> Engine:
    """The engine of a server: the driver bounds the queue, so its own is long.

    Raises:
        AutoDecoError: as :class:`Engine`.
    """
    return Engine(
        model,
        n_parallel=n_parallel,
        n_ctx=n_ctx,
        heads=heads,
        machine=machine,
        batching=Batching(max_waiting=1 << 20, batch_invariant=batch_invariant),
        chat_template_kwargs=chat_template_kwargs,
    )


class Service:
    """A served model.

    Attributes:
        engine: answers.
        settings: how it is served.
        model_id: its name.
        started: seconds since 1970.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServerSettings,
        chat_template_kwargs: dict[str, Any] | None = None,
        log: AnswerLog | None = None,
    ) -> None:
        """Serve an engine; ``log``: where the answers are written down.

        Raises:
            InvalidInput: the heads are to decide, and there are none.
            BadFile: the file recommends what is out of range.
        """
        self.engine, self.settings, self.started = engine, settings, time.time()
        file = engine.context.file
        name = settings.model_id or (file.known.name if file.known is not None else file.path.stem)
        self.model_id = as_utf8(name)
        self.decider = Decider(engine, settings.sampling)
        self.words, self.prompts = Words(engine), Prompts(engine, chat_template_kwargs)
        self.driver, self.log = Driver(engine, settings.max_queue), log
        self.metrics = Metrics(self.driver)
        self._compiling = asyncio.Semaphore(_COMPILING)

    async def answer(
        self,
        request: Request,
        make: Callable[[], tuple[Plan, Voice]],
        stream: bool,
        prompt: str = "messages",
        *,
        has_grammar: bool,
    ) -> Response:
        """Answer a request.

        Args:
            request: which may go away.
            make: reads the body, in a thread: rendering, tokenizing and compiling take their time.
            stream: bit by bit.
            prompt: the field that holds the prompt.
            has_grammar: a grammar or schema is to be compiled; few such requests begin at a time.

        Raises:
            ApiError: it cannot be answered; nothing has been sent.
            Gone: the client went away.
        """
        begun, loop = time.monotonic(), asyncio.get_running_loop()
        if has_grammar:
            await while_there(self._compiling.acquire(), request, lambda: None)
        try:
            plan, voice, job = await run_in_threadpool(self._start, make, stream, prompt, loop)
        finally:
            if has_grammar:
                self._compiling.release()
        answering = _Answering(self, plan, voice, job, begun, prompt, plan.repeats if stream else plan.pieces)
        if stream:
            return Stream(answering.stream(), voice.media_type, answering.gone)
        whole = await while_there(answering.whole(), request, answering.gone)
        return Response(whole, media_type="application/json")

    def refusal(self, error: AutoDecoError, prompt: str = "messages") -> ApiError:
        """What an error of the engine is to a client: while a worker is lost, of whatever kind, that it is."""
        lost = self.engine.lost
        return ApiError.of(error if lost is None else ModelFailed(lost, key="rpc"), prompt)

    def _start(
        self, make: Callable[[], tuple[Plan, Voice]], stream: bool, prompt: str, loop: asyncio.AbstractEventLoop
    ) -> tuple[Plan, Voice, Job]:
        try:
            self.driver.revival.check()
            plan, voice = make()
            pieces = stream or plan.pieces or self.log is not None
            if self.log is not None:
                plan.options["entropy"] = True
            return plan, voice, self.driver.start(plan.asks(), loop, pieces=pieces)
        except AutoDecoError as e:
            error = self.refusal(e, prompt)
            if e.key == "schema":  # no text follows it; the plan knows what the API calls it
                error = ApiError(400, f"{plan.follows}: {e}", param=plan.follows)
            if error.status >= 500 and error.status != 503:
                _log.error("%s", error.message)
            raise error from e


class _Answering:
    """One answer under way."""

    def __init__(
        self, service: Service, plan: Plan, voice: Voice, job: Job, begun: float, prompt: str, keeps: bool
    ) -> None:
        """``keeps``: the tokens of all choices are wanted at the end."""
        self._service, self._plan, self._voice, self._job, self._begun = service, plan, voice, job, begun
        self._prompt, self._keeps = prompt, keeps
        kept = keeps or service.log is not None
        self._choices = [Choice(i, service.words, plan.finder(), kept) for i in range(len(job.requests))]
        self._ended = False

    def gone(self) -> None:
        """Nobody waits any more, or all is done."""
        self._job.cancel()
        if not self._ended:
            self._ended = True
            self._service.metrics.cancelled.inc()
        for choice in self._choices:
            if choice.result is None and choice.tokens:
                self._note(choice)

    async def stream(self) -> AsyncIterator[bytes]:
        try:
            yield self._voice.begin(self._choices)
            async for deltas in self._deltas():
                voice = self._voice
                parts = [voice.end(c, delta) if ends else voice.delta(c, delta) for c, delta, ends in deltas]
                if any(parts):
                    yield b"".join(parts)
        except ApiError as e:
            yield self._voice.failed(e)
            return
        except Exception:  # a bug, of which the stream says so too
            self._ended = True
            _log.exception("an answer failed")
            yield self._voice.failed(ApiError.bug())
            return
        yield self._voice.done(self._choices)

    async def whole(self) -> bytes:
        async for _ in self._deltas():
            pass

        def make() -> bytes:
            return dumps_in_turn(self._voice.whole(self._choices))

        return await run_in_threadpool(make) if self._plan.pieces else make()  # tokens are many, texts are not

    async def _deltas(self) -> AsyncIterator[list[tuple[Choice, Delta, bool]]]:
        metrics, first = self._service.metrics, True
        metrics.prompt_tokens.inc(sum(map(len, self._plan.prompts)))
        try:
            async for events in self._job.events():
                found: list[tuple[Choice, Delta, bool]] = []
                for index, event in events:
                    choice = self._choices[index]
                    if isinstance(event, Piece):
                        if first:
                            metrics.first_token.observe(time.monotonic() - self._begun)
                            first = False
                        found.append((choice, choice.add(event), False))
                    elif isinstance(event, Result) and event.finish_reason in ("stop", "length"):
                        found.append((choice, choice.end(event), True))
                        self._note(choice)
                        if not self._keeps:
                            choice.tokens.clear()
                    else:
                        if found:
                            yield found
                        self._ended = True
                        raise self._error(event)
                yield found
        finally:
            metrics.completion_tokens.inc(self._job.n_drawn)
            metrics.duration.observe(time.monotonic() - self._begun)
        self._ended = True

    def _note(self, choice: Choice) -> None:
        """Write an answer down, where that is asked for."""
        service, plan = self._service, self._plan
        if service.log is not None:
            prompt, seed = plan.prompts[choice.index // plan.n], plan.seed(choice.index)
            service.log.put(answer_line(service.model_id, prompt, choice, plan.decision, seed, service.words))

    def _error(self, event: Result | AutoDecoError) -> ApiError:
        if isinstance(event, AutoDecoError):
            return ApiError.of(event, self._prompt)
        if event.finish_reason == "cancelled":
            return ApiError(503, "the server is shutting down", code="shutting_down")
        if self._plan.options.get("grammar") is not None and "the grammar" in str(event.error):
            follows = self._plan.follows
            return ApiError(400, f"nothing that follows {follows} can be drawn: {event.error}", param=follows)
        _log.error("a request failed: %s", event.error)
        return ApiError(500, f"the model failed: {event.error}", code="model_failed")
