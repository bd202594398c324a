"""/v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from autodeco_gguf.server.chat import engine_options, format_field, usage
from autodeco_gguf.server.choice import Choice, Delta, Said
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.schemas import CompletionBody
from autodeco_gguf.server.service import Plan, Service
from autodeco_gguf.server.streaming import DONE, sse
from autodeco_gguf.server.trace_json import TextLogprobs, autodeco, said_rows

MAX_ANSWERS = 4096
"""Choices of one request, over all its prompts."""


def completion_plan(service: Service, body: CompletionBody) -> tuple[Plan, CompletionVoice]:
    """What a body asks for.

    Raises:
        AutoDecoError, ApiError: what cannot be met.
    """
    n, drawn = body.n or 1, body.best_of or body.n or 1
    if len(body.prompt) * drawn > MAX_ANSWERS:
        raise ApiError(
            400, f"prompt: {len(body.prompt)} prompts of {drawn} choices, at most {MAX_ANSWERS} in all", param="prompt"
        )
    decision = service.decider.decide(body)
    top = 0 if body.logprobs is None and drawn > n else body.logprobs
    options = engine_options(body, top)
    scored = bool(body.echo) and body.logprobs is not None
    if scored and body.stream:
        raise ApiError(400, "echo with logprobs cannot be streamed", param="stream")
    options["prompt_logprobs"] = scored or body.limit == 0  # for the engine nothing is to be drawn only then
    many = len(body.prompt) > 1
    prompts = [
        service.prompts.text_or_tokens(prompt, f"prompt[{i}]" if many else "prompt")
        for i, prompt in enumerate(body.prompt)
    ]
    pieces = body.autodeco is not None or body.logprobs is not None
    plan = Plan(prompts, decision, drawn, options, pieces=pieces, follows=format_field(body))
    plan.check_told(service.engine.n_ctx, "prompt" if many else "best_of" if drawn > n else "n")
    return plan, CompletionVoice(service, plan, body)


class CompletionVoice:
    """OpenAI's text completion, or its chunks."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, plan: Plan, body: CompletionBody) -> None:
        """Word the answers of a plan."""
        self.plan, self._body, self._words = plan, body, service.words
        self._logprobs = [TextLogprobs() for _ in range(len(plan.prompts) * plan.n)]
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.model_id,
            "system_fingerprint": None,
        }

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        chunk = {**self._head, "choices": choices}
        return sse({**chunk, "usage": usage} if self._body.with_usage else chunk)

    def _choice(
        self, choice: Choice, text: str, tokens: list[Said], reason: str | None, *, echo: bool = False
    ) -> dict[str, Any]:
        found: dict[str, Any] = {"index": choice.index, "text": text, "logprobs": None, "finish_reason": reason}
        if self._body.logprobs is not None:
            logprobs, rows = self._logprobs[choice.index], said_rows(tokens, self._body.logprobs)
            if echo:
                before = self._prompt_rows(choice)
                rows = [*before, *rows]
                logprobs.skip(_n_unseen([row[0] for row in before], self._prompt_text(choice)))
            found["logprobs"] = logprobs.of(rows)
        if self._body.autodeco is not None:
            seed = self.plan.seed(choice.index)
            found["autodeco"] = autodeco(tokens, self._body.autodeco, self.plan.decision, seed)
        return found

    def _prompt_text(self, choice: Choice) -> str:
        """The prompt as it was given; tokens by their text."""
        place = choice.index // self.plan.n
        prompt = self._body.prompt[place]
        if isinstance(prompt, str):
            return prompt
        return b"".join(map(self._words.piece, prompt)).decode("utf-8", "replace")

    def _prompt_rows(self, choice: Choice) -> list[tuple[bytes, float | None, Sequence[Any] | None]]:
        assert choice.result is not None
        return [
            (token.text, token.logprob, token.alternatives[: self._body.logprobs])
            for token in choice.result.prompt_logprobs or ()
        ]

    def begin(self, choices: Sequence[Choice]) -> bytes:
        """The prompt, where it is to be repeated without log-probabilities."""
        if not self._body.echo or self._body.logprobs is not None:
            return b""
        return b"".join(self._chunk([self._choice(c, self._prompt_text(c), [], None)]) for c in choices)

    def delta(self, choice: Choice, delta: Delta) -> bytes:
        """A chunk, where there is something for it."""
        wants_tokens = self._body.autodeco is not None or self._body.logprobs is not None
        if not (delta.text or (delta.tokens and wants_tokens)):
            return b""
        return self._chunk([self._choice(choice, delta.text, delta.tokens, None)])

    def end(self, choice: Choice, delta: Delta) -> bytes:
        """The reason, and what is left."""
        return self._chunk([self._choice(choice, delta.text, delta.tokens, choice.finish_reason)])

    def done(self, choices: Sequence[Choice]) -> bytes:
        """The usage where it is asked for, and the end."""
        return (self._chunk([], usage(self.plan, choices)) if self._body.with_usage else b"") + DONE

    def failed(self, error: ApiError) -> bytes:
        """An error that clients of OpenAI's API raise."""
        return sse(error.openai())

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The completion."""
        found = map(self._whole_choice, self._best(choices))
        return {
            **self._head,
            "choices": ({**choice, "index": i} for i, choice in enumerate(found)),
            "usage": usage(self.plan, choices),
        }

    def _whole_choice(self, choice: Choice) -> dict[str, Any]:
        text = (self._prompt_text(choice) if self._body.echo else "") + choice.text
        return self._choice(choice, text, choice.tokens, choice.finish_reason, echo=bool(self._body.echo))

    def _best(self, choices: Sequence[Choice]) -> list[Choice]:
        """Of each prompt's choices the n whose tokens are the most probable on average."""
        n, drawn = self._body.n or 1, self.plan.n
        if n == drawn:
            return list(choices)
        groups = [choices[i : i + drawn] for i in range(0, len(choices), drawn)]
        return [choice for group in groups for choice in sorted(group, key=_mean_logprob, reverse=True)[:n]]


def _n_unseen(pieces: Sequence[bytes], text: str) -> int:
    """How many characters tokens have before a text: a beginning of sequence, and the space that some models add."""
    said = b"".join(pieces).decode("utf-8", "replace")
    return len(said) - len(text) if said.endswith(text) else 0


def _mean_logprob(choice: Choice) -> float:
    assert choice.result is not None
    trace = choice.result.trace
    return sum(token.logprob for token in trace) / max(1, len(trace))
