"""/v1/responses, in its text form."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from autodeco_gguf.server.choice import Choice, Delta
from autodeco_gguf.server.errors import ApiError
from autodeco_gguf.server.fields import AutoDeco, Body, Flag, Object, Several, Text, Texts, Whole, refused
from autodeco_gguf.server.foreign import ELSEWHERE, IN_CHAT, refuse_fields
from autodeco_gguf.server.formats import grammar_of
from autodeco_gguf.server.schemas import Effort, Message, SamplingBody
from autodeco_gguf.server.service import Plan, Service
from autodeco_gguf.server.streaming import sse
from autodeco_gguf.server.tools import template_messages
from autodeco_gguf.server.trace_json import autodeco

_FORMATS = "type text, json_object, or json_schema with an object as the schema beside it"
_NOT_HERE = {
    **ELSEWHERE,
    **dict.fromkeys(("tools", "top_logprobs", "logprobs", "stop", "n", "grammar"), IN_CHAT),
    "response_format": "use text.format",
    "messages": "use input",
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "use max_output_tokens"),
    "truncation": "a prompt is never cut",
    "previous_response_id": "nothing is stored; send the conversation as input",
    "conversation": "nothing is stored; send the conversation as input",
    "background": "answers are sent when they are there",
    "prompt": "there are no stored prompts",
    "include": "there is nothing more to include",
}


def _messages(value: Any) -> Any:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    for i, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict) and item.get("type") not in (None, "message"):
            raise refused(f"an item of type {str(item['type'])[:40]!r} is not supported, only messages are", i)
        if isinstance(item, dict) and "role" not in item:
            raise refused("expected a role", i)
    return value


def _tool_choice(value: Any) -> Any:
    if value not in (None, "none", "auto"):
        raise refused(f"there are no tools here; {IN_CHAT}")
    return value


class Reasoning(Body):
    """How much the model is to think."""

    effort: Annotated[Effort | None, Field(description="For a chat template that reads it.")] = None


class TextOptions(Body):
    """How the text of an answer is to be."""

    format: Annotated[Object | None, Field(description="type text, json_object or json_schema.")] = None


class ResponsesBody(SamplingBody):
    """POST /v1/responses."""

    model: Annotated[Text | None, Field(description="Any name: the one model answers, under its own.")] = None
    input: Annotated[
        Several[Message],
        BeforeValidator(_messages, json_schema_input_type=str | list[Message]),
        Field(min_length=1, description="A text, or messages."),
    ]
    instructions: Annotated[Text | None, Field(description="A system message before the input.")] = None
    max_output_tokens: Annotated[Whole | None, Field(ge=1, description="Absent: to the end.")] = None
    stream: Annotated[Flag | None, Field(description="Answer as server-sent events.")] = None
    text: Annotated[TextOptions | None, Field(description="The format of the answer.")] = None
    reasoning: Annotated[Reasoning | None, Field(description="How much the model is to think.")] = None
    tool_choice: Annotated[Any, BeforeValidator(_tool_choice), Field(description="none or auto.")] = None
    metadata: Annotated[Texts | None, Field(description="Texts by name, sent back.")] = None
    store: Annotated[Flag | None, Field(description="Passed over: nothing is stored.")] = None
    autodeco: Annotated[AutoDeco, Field(description="true, or an object: T and P with the answer.")] = None
    chat_template_kwargs: Annotated[Object | None, Field(description="What the chat template reads besides.")] = None

    @model_validator(mode="before")
    @classmethod
    def _unsupported(cls, values: Any) -> Any:
        return refuse_fields(values, _NOT_HERE)

    @property
    def has_grammar(self) -> bool:
        """Whether a schema is to be compiled for it."""
        return self.text is not None and (self.text.format or {}).get("type", "text") != "text"


def responses_plan(service: Service, body: ResponsesBody) -> tuple[Plan, ResponsesVoice]:
    """What a body asks for.

    Raises:
        AutoDecoError, ApiError: what cannot be met.
    """
    decision = service.decider.decide(body)
    form = body.text.format if body.text is not None else None
    if form is not None and form.get("type") == "json_schema" and form.get("json_schema") is None:
        form = {"type": "json_schema", "json_schema": form}  # here the schema stands beside the type
    options: dict[str, Any] = {
        "max_tokens": body.max_output_tokens,
        "grammar": grammar_of(form, None, "text.format", _FORMATS),
        "entropy": body.autodeco is not None and bool(body.autodeco.tokens),
    }
    if body.autodeco is not None and body.autodeco.top is not None:
        options["top"] = body.autodeco.top
    messages = template_messages(body.input, service.prompts.template)
    if body.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    effort = body.reasoning.effort if body.reasoning is not None else None
    tokens = service.prompts.chat(messages, kwargs=service.prompts.with_effort(body.chat_template_kwargs, effort))
    plan = Plan([tokens], decision, 1, options, pieces=body.autodeco is not None, follows="text.format", repeats=True)
    return plan, ResponsesVoice(service, plan, body)


class ResponsesVoice:
    """OpenAI's response, or its events."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, plan: Plan, body: ResponsesBody) -> None:
        """Word the answer of a plan."""
        self.plan, self._body, self._model = plan, body, service.model_id
        self._id, self._item = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"
        self._created, self._number = int(time.time()), 0

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse({"type": f"response.{kind}", "sequence_number": number, **fields}, f"response.{kind}")

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _message(self, text: str, status: str) -> dict[str, Any]:
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": [_part(text)]}

    def begin(self, choices: Sequence[Choice]) -> bytes:
        """That it begins."""
        empty = {**self._message("", "in_progress"), "content": []}
        return b"".join(
            [
                self._event("created", response=self._response("in_progress")),
                self._event("in_progress", response=self._response("in_progress")),
                self._event("output_item.added", output_index=0, item=empty),
                self._event("content_part.added", **self._place(), part=_part("")),
            ]
        )

    def delta(self, choice: Choice, delta: Delta) -> bytes:
        """A piece of the text."""
        more = self._autodeco(choice, delta)
        if not delta.text and not more:
            return b""
        return self._event("output_text.delta", **self._place(), delta=delta.text, logprobs=[], **more)

    def end(self, choice: Choice, delta: Delta) -> bytes:
        """What is left."""
        return self.delta(choice, delta)

    def _autodeco(self, choice: Choice, delta: Delta) -> dict[str, Any]:
        if self._body.autodeco is None or not delta.tokens:
            return {}
        return {"autodeco": autodeco(delta.tokens, self._body.autodeco, self.plan.decision, self.plan.seed(0))}

    def done(self, choices: Sequence[Choice]) -> bytes:
        """The whole once more."""
        text, whole = choices[0].text, self.whole(choices)
        return b"".join(
            [
                self._event("output_text.done", **self._place(), text=text, logprobs=[]),
                self._event("content_part.done", **self._place(), part=_part(text)),
                self._event("output_item.done", output_index=0, item=whole["output"][0]),
                self._event(whole["status"], response=whole),
            ]
        )

    def failed(self, error: ApiError) -> bytes:
        """An error that openai's client raises, in a form that looks like one of the API's too."""
        return sse({**error.openai(), "type": "error", "sequence_number": self._number})

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The response."""
        (choice,) = choices
        status = "incomplete" if choice.finish_reason == "length" else "completed"
        found = self._response(status, choice.text)
        prompt, drawn = self.plan.usage(choices)
        found["usage"] = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": drawn,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + drawn,
        }
        return {**found, **self._autodeco(choice, Delta("", choice.calls, choice.tokens))}

    def _response(self, status: str, text: str | None = None) -> dict[str, Any]:
        body, sampling = self._body, self.plan.decision.sampling
        form = body.text.format if body.text is not None else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._model,
            "output": [] if text is None else [self._message(text, status)],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": sampling["temperature"],
            "top_p": sampling["top_p"],
            "text": {"format": form or {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "truncation": "disabled",
            "usage": None,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
