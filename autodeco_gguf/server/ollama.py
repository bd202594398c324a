"""Ollama's /api/chat and /api/generate."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any

from pydantic import ValidationError

from autodeco_gguf.server.choice import Choice, Delta, Said
from autodeco_gguf.server.errors import ApiError, of_validation
from autodeco_gguf.server.formats import grammar_of
from autodeco_gguf.server.ollama_schemas import OllamaBody, OllamaChatBody, OllamaGenerateBody, Options
from autodeco_gguf.server.schemas import ChatBody
from autodeco_gguf.server.service import Plan, Service
from autodeco_gguf.server.streaming import ndjson
from autodeco_gguf.server.tools import Call, Calls, ToolUse, template_messages
from autodeco_gguf.server.trace_json import autodeco

_log = logging.getLogger("autodeco_gguf.server")


def rfc3339(seconds: float | None = None) -> str:
    """A time as Ollama writes it; now for None."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, timezone.utc).isoformat()


def check_model(service: Service, name: str) -> None:
    """Raise for another model than the one that is served, with or without ":latest", in whatever case."""
    given, own = (text.casefold().removesuffix(":latest") for text in (name, service.model_id))
    if given != own:
        raise ApiError(404, f"model '{name[:200]}' not found", code="model_not_found")


def loaded(service: Service, body: OllamaBody, raw: dict[str, Any]) -> dict[str, Any] | None:
    """The answer to a request without anything to answer, by which clients load a model; None for another."""
    check_model(service, body.model)
    chat = isinstance(body, OllamaChatBody)
    if body.messages if isinstance(body, OllamaChatBody) else getattr(body, "prompt", None):
        return None
    unknown = sorted(set(raw) - set(type(body).model_fields))
    if unknown:
        _log.warning("a request to load the model has %s: is it misspelt?", ", ".join(map(repr, unknown))[:200])
    reason = "unload" if body.unloads else "load"
    content: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    head = {"model": body.model, "created_at": rfc3339()}
    return {**head, **content, "done": True, "done_reason": reason}


def _kwargs(service: Service, body: OllamaBody) -> dict[str, Any] | None:
    if body.think is None:
        return None
    reads = service.prompts.reads
    if isinstance(body.think, str) and "reasoning_effort" in reads:
        return {"reasoning_effort": body.think}
    if "enable_thinking" in reads:
        return {"enable_thinking": bool(body.think)}
    if body.think and "reasoning_effort" not in reads:  # true names no effort: the template's own
        raise ApiError(400, f"{body.model} does not support thinking", param="think")
    return None


def _plan(service: Service, body: OllamaBody, tokens: list[int], tools: ToolUse | None = None) -> Plan:
    options = body.options or Options()
    try:
        sampling = options.sampling(body.heads)
    except ValidationError as e:
        raise of_validation(e.errors(), "/v1/") from e
    asked: dict[str, Any] = {
        "max_tokens": options.limit,
        "stop": [text for text in options.stop or () if text],
        "grammar": grammar_of(body.response_format, None, "format"),
        "entropy": body.autodeco is not None and bool(body.autodeco.tokens),
    }
    if body.autodeco is not None and body.autodeco.top is not None:
        asked["top"] = body.autodeco.top
    finder = partial(tools.finder, service.prompts.end(tokens)) if tools is not None else lambda: None
    # pieces: for the time of the first token
    return Plan([tokens], service.decider.decide(sampling), 1, asked, finder, pieces=True, follows="format")


def ollama_chat_plan(service: Service, body: OllamaChatBody) -> tuple[Plan, OllamaVoice]:
    """What a body asks for.

    Raises:
        AutoDecoError, ApiError: what cannot be met.
    """
    try:
        chat = ChatBody.model_validate(
            {
                "messages": [message.openai() for message in body.messages or ()],
                "tools": [tool.model_dump() for tool in body.tools or ()] or None,
            }
        )
    except ValidationError as e:
        raise of_validation(e.errors(), "/v1/") from e
    template = service.prompts.template
    tools = ToolUse(chat, template, service.prompts.reads)
    messages = template_messages(chat.messages, template)
    tokens = service.prompts.chat(messages, tools.tools, _kwargs(service, body))
    return (plan := _plan(service, body, tokens, tools)), OllamaVoice(plan, body)


def ollama_generate_plan(service: Service, body: OllamaGenerateBody) -> tuple[Plan, OllamaVoice]:
    """What a body asks for.

    Raises:
        AutoDecoError, ApiError: what cannot be met.
    """
    prompt = body.prompt or ""
    if body.raw or service.engine.chat is None:
        for name in ("system", "think"):
            if getattr(body, name):
                raise ApiError(400, f"{name} needs the chat template", param=name)
        tokens = service.prompts.text_or_tokens(prompt, "prompt")
    else:
        system = [{"role": "system", "content": body.system}] if body.system else []
        messages = [*system, {"role": "user", "content": prompt}]
        tokens = service.prompts.chat(messages, kwargs=_kwargs(service, body))
    return (plan := _plan(service, body, tokens)), OllamaVoice(plan, body)


class OllamaVoice:
    """Ollama's answer: a JSON object, or one a line."""

    media_type = "application/x-ndjson"

    def __init__(self, plan: Plan, body: OllamaBody) -> None:
        """Word the answer of a plan."""
        self.plan, self._body = plan, body
        self._begun, self._last = time.monotonic_ns(), Delta("", Calls(), [])

    def _line(self, text: str, calls: Sequence[Call], tokens: list[Said]) -> dict[str, Any]:
        found: dict[str, Any] = {"model": self._body.model, "created_at": rfc3339()}
        if isinstance(self._body, OllamaChatBody):
            found["message"] = {"role": "assistant", "content": text}
            if calls:
                found["message"]["tool_calls"] = [_call(call) for call in calls]
        else:
            found["response"] = text
        if self._body.autodeco is not None and tokens:
            found["autodeco"] = autodeco(tokens, self._body.autodeco, self.plan.decision, self.plan.seed(0))
        return found

    def begin(self, choices: Sequence[Choice]) -> bytes:
        """Nothing."""
        return b""

    def delta(self, choice: Choice, delta: Delta) -> bytes:
        """A line, where there is something for it."""
        if not (delta.text or delta.calls or (delta.tokens and self._body.autodeco is not None)):
            return b""
        return ndjson({**self._line(delta.text, delta.calls, delta.tokens), "done": False})

    def end(self, choice: Choice, delta: Delta) -> bytes:
        """What is left; the last line, with the counts, comes with the end."""
        self._last = delta
        return b""

    def done(self, choices: Sequence[Choice]) -> bytes:
        """The last line."""
        return ndjson(self._final(choices[0], self._last))

    def failed(self, error: ApiError) -> bytes:
        """A line with the error."""
        return ndjson(error.ollama())

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """All of it as one object."""
        (choice,) = choices
        return self._final(choice, Delta(choice.text, choice.calls, choice.tokens))

    def _final(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        now = time.monotonic_ns()
        first = choice.first_ns or now
        prompt, drawn = self.plan.usage([choice])
        return {
            **self._line(delta.text, delta.calls, delta.tokens),
            "done": True,
            "done_reason": "length" if choice.finish_reason == "length" else "stop",
            "total_duration": now - self._begun,
            "load_duration": 0,
            "prompt_eval_count": prompt,
            "prompt_eval_duration": first - self._begun,
            "eval_count": drawn,
            "eval_duration": now - first,
        }


def _call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
