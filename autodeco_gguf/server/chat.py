"""/v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from autodeco_gguf.server.choice import Choice, Delta, Said
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.fields import AutoDecoOptions
from autodeco_gguf.server.formats import grammar_of
from autodeco_gguf.server.schemas import ChatBody, OpenAIBody
from autodeco_gguf.server.service import Plan, Service
from autodeco_gguf.server.streaming import DONE, sse
from autodeco_gguf.server.tools import Calls, ToolUse, template_messages
from autodeco_gguf.server.trace_json import autodeco, chat_logprobs


def engine_options(body: OpenAIBody, top: int | None) -> dict[str, Any]:
    """What the engine's requests have of a body beside how they draw; ``top``: log-probabilities that it asks for."""
    wanted = [n for n in (top, body.autodeco.top if body.autodeco else None) if n is not None]
    options: dict[str, Any] = {
        "max_tokens": body.limit,
        "stop": [text for text in body.stop or () if text],
        "grammar": grammar_of(body.response_format, body.grammar),
        "entropy": body.autodeco is not None and bool(body.autodeco.tokens),
    }
    return {**options, "top": max(wanted)} if wanted else options


def format_field(body: OpenAIBody) -> str:
    """The field that says what answers follow."""
    return "grammar" if body.grammar else "response_format"


def chat_plan(service: Service, body: ChatBody) -> tuple[Plan, ChatVoice]:
    """What a body asks for.

    Raises:
        AutoDecoError, ApiError: what cannot be met.
    """
    decision = service.decider.decide(body)
    top = (body.top_logprobs or 0) if body.logprobs else None
    options = engine_options(body, top)
    template = service.prompts.template
    tools = ToolUse(body, template, service.prompts.reads)
    if tools.grammar is not None:
        if options["grammar"] is not None:
            raise ApiError(400, "tool_choice and a format: give one of them", param="tool_choice")
        options["grammar"] = tools.grammar
    messages = template_messages(body.messages, template)
    kwargs = service.prompts.with_effort(body.chat_template_kwargs, body.reasoning_effort)
    tokens = service.prompts.chat(messages, tools.tools, kwargs)
    pieces = body.autodeco is not None or top is not None
    follows = "tools" if tools.grammar is not None else format_field(body)
    finder = partial(tools.finder, service.prompts.end(tokens))
    plan = Plan([tokens], decision, body.n or 1, options, finder, pieces, follows)
    plan.check_told(service.engine.n_ctx, "n")
    return plan, ChatVoice(service, plan, body)


def usage(plan: Plan, choices: Sequence[Choice]) -> dict[str, int]:
    """OpenAI's count of tokens."""
    prompt, drawn = plan.usage(choices)
    return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}


class ChatVoice:
    """OpenAI's chat completion, or its chunks."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, plan: Plan, body: ChatBody) -> None:
        """Word the answers of a plan."""
        self.plan, self._body = plan, body
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": service.model_id,
            "system_fingerprint": None,
        }

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        return sse({**chunk, "usage": usage} if self._body.with_usage else chunk)

    def _part(self, choice: Choice, delta: dict[str, Any], tokens: list[Said], reason: str | None = None) -> bytes:
        part: dict[str, Any] = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": reason}
        if self._body.logprobs and any(said.shown is not None for said in tokens):
            part["logprobs"] = chat_logprobs(tokens, self._body.top_logprobs or 0)
        return self._chunk([{**part, **self._autodeco(choice, tokens)}])

    def _autodeco(self, choice: Choice, tokens: list[Said]) -> dict[str, Any]:
        options: AutoDecoOptions | None = self._body.autodeco
        if options is None:
            return {}
        return {"autodeco": autodeco(tokens, options, self.plan.decision, self.plan.seed(choice.index))}

    def begin(self, choices: Sequence[Choice]) -> bytes:
        """The role, once for each choice."""
        return b"".join(self._part(choice, {"role": "assistant", "content": ""}, []) for choice in choices)

    def delta(self, choice: Choice, delta: Delta) -> bytes:
        """A chunk, where there is something for it."""
        wants_tokens = self._body.autodeco is not None or self._body.logprobs
        if not (delta.text or delta.calls or (delta.tokens and wants_tokens)):
            return b""
        content: dict[str, Any] = {"content": delta.text} if delta.text or not delta.calls else {}
        if delta.calls:
            content["tool_calls"] = _calls(delta.calls, delta.n_earlier, indexed=True)
        return self._part(choice, content, delta.tokens)

    def end(self, choice: Choice, delta: Delta) -> bytes:
        """The reason, after what is left."""
        rest = b""
        if delta.text or delta.calls:
            rest, delta = self.delta(choice, delta), Delta("", Calls(), [])
        return rest + self._part(choice, {}, delta.tokens, choice.finish_reason)

    def done(self, choices: Sequence[Choice]) -> bytes:
        """The usage where it is asked for, and the end."""
        return (self._chunk([], usage(self.plan, choices)) if self._body.with_usage else b"") + DONE

    def failed(self, error: ApiError) -> bytes:
        """An error that clients of OpenAI's API raise."""
        return sse(error.openai())

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The completion."""
        return {**self._head, "choices": map(self._choice, choices), "usage": usage(self.plan, choices)}

    def _choice(self, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message |= {"content": choice.text.strip() or None, "tool_calls": _calls(choice.calls)}
        return {
            "index": choice.index,
            "message": message,
            "logprobs": chat_logprobs(choice.tokens, self._body.top_logprobs or 0) if self._body.logprobs else None,
            "finish_reason": choice.finish_reason,
            **self._autodeco(choice, choice.tokens),
        }


def _calls(calls: Calls, first: int = 0, *, indexed: bool = False) -> list[dict[str, Any]]:
    return [
        {
            **({"index": first + i} if indexed else {}),
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for i, call in enumerate(calls)
    ]
