"""What a request to Ollama's API may say."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from autodeco_gguf.server.fields import AutoDeco, Body, Flag, Several, Text, is_whole, kind_check, refused
from autodeco_gguf.server.foreign import ELSEWHERE, FORMAT, IN_CHAT, refuse_fields
from autodeco_gguf.server.formats import rewritten
from autodeco_gguf.server.schemas import Heads, Part, SamplingBody, Tool


def _option(words: str, right: Callable[[Any], bool], kind: type) -> BeforeValidator:
    """A type of option: the words of Ollama's message for another."""

    def check(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, bool) or not right(value):
            raise refused(f"must be of type {words}", kind="option")
        return value

    return BeforeValidator(check, json_schema_input_type=kind)


_INTEGER = _option("integer", is_whole, int)
_FLOAT = _option("float32", lambda value: isinstance(value, int | float), float)
_ARRAY = _option("array", lambda v: isinstance(v, list) and all(isinstance(text, str) for text in v), list)


class Options(Body):
    """How to answer; unknown options, and those of how a model is loaded, are passed over."""

    temperature: Annotated[Any, _FLOAT] = None
    top_p: Annotated[Any, _FLOAT] = None
    top_k: Annotated[Any, _INTEGER] = None
    min_p: Annotated[Any, _FLOAT] = None
    typical_p: Annotated[Any, _FLOAT] = None
    repeat_penalty: Annotated[Any, _FLOAT] = None
    repeat_last_n: Annotated[Any, _INTEGER] = None
    presence_penalty: Annotated[Any, _FLOAT] = None
    frequency_penalty: Annotated[Any, _FLOAT] = None
    mirostat: Annotated[Any, _INTEGER] = None
    mirostat_tau: Annotated[Any, _FLOAT] = None
    mirostat_eta: Annotated[Any, _FLOAT] = None
    seed: Annotated[Any, _INTEGER] = None
    num_predict: Annotated[Any, _INTEGER, Field(description="-1 and -2: to the end, or until the context is full.")] = (
        None
    )
    num_ctx: Annotated[Any, _INTEGER, Field(description="Passed over: the context is the server's.")] = None
    stop: Annotated[Any, _ARRAY] = None

    @property
    def limit(self) -> int | None:
        """Tokens at most."""
        return None if self.num_predict is None or self.num_predict < 0 else int(self.num_predict)

    @model_validator(mode="after")
    def _in_range(self) -> Options:
        if self.limit == 0:
            raise refused("0, expected at least 1, or -1", "num_predict")
        return self

    def sampling(self, heads: str | None) -> SamplingBody:
        """The same as OpenAI's fields, with their ranges.

        Raises:
            pydantic.ValidationError: a value out of range.
        """
        names = SamplingBody.model_fields.keys() & Options.model_fields.keys()
        return SamplingBody.model_validate({"heads": heads, **{name: getattr(self, name) for name in names}})


def _format(value: Any) -> Any:
    if value == "":
        return None
    if value not in (None, "json") and not isinstance(value, dict):
        raise refused('expected "json" or a JSON schema')
    return value


_COMBINING = frozenset(["$ref", "allOf", "anyOf", "oneOf", "properties"])
"""Keywords of which two beside each other have to be met by the same object."""


def _closed(schema: dict[str, Any]) -> Any:
    """A schema whose objects have no other keys than their ``properties``, as Ollama reads it.

    One that says what other keys there are is left as it is, and so is all of a schema that combines others: objects
    that are closed each for itself would leave nothing that meets all of them.
    """
    combines = False

    def close(inner: dict[str, Any]) -> dict[str, Any]:
        nonlocal combines
        parts, properties, required = inner.get("allOf"), inner.get("properties"), inner.get("required", [])
        combines |= len(_COMBINING & inner.keys()) > 1 or (isinstance(parts, list) and len(parts) > 1)
        if not isinstance(properties, dict) or not isinstance(required, list):
            return inner
        others = {"additionalProperties", "patternProperties", "minProperties"} & inner.keys()
        if others or any(name not in properties for name in map(str, required)):
            return inner
        return {**inner, "additionalProperties": False}

    found = rewritten(schema, close)
    return schema if combines else found


_LIMIT = ("n_predict", "max_new_tokens", "max_tokens", "max_completion_tokens")
_NO_FIELD = ("logprobs", "top_logprobs", "n_probs", "logit_bias", "bad_words", "allowed_token_ids", "n", "tool_choice")
_NOT_IN_OLLAMA = {
    **{name: "use format" if reason == FORMAT else reason for name, reason in ELSEWHERE.items() if name != "format"},
    **dict.fromkeys(Options.model_fields, "it is one of options"),
    **dict.fromkeys(_LIMIT, "use num_predict in options"),
    **dict.fromkeys(("response_format", "grammar"), "use format"),
    **dict.fromkeys(("enable_thinking", "thinking_budget", "reasoning_effort", "chat_template_kwargs"), "use think"),
    **dict.fromkeys(_NO_FIELD, IN_CHAT),
    "best_of": "use /v1/completions",
}


def _think(value: Any) -> Any:
    if value not in (None, "low", "medium", "high") and not isinstance(value, bool):
        raise refused("expected true, false, low, medium or high")
    return value


_DURATION = re.compile(r"[-+]?(\d+|((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
"""Seconds, or a time as Go reads it."""


def _keep_alive(value: Any) -> Any:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise refused("expected seconds, or a time such as 5m")
    return value


class OllamaBody(Body):
    """What /api/chat and /api/generate have in common."""

    model: Annotated[Text, Field(description="The model's name; another is not found.")]
    stream: Annotated[Flag | None, Field(description="A JSON object a line; absent: true.")] = None
    format: Annotated[Any, BeforeValidator(_format), Field(description="json, or a JSON schema.")] = None
    options: Annotated[
        Options | None, BeforeValidator(kind_check(dict, "an object")), Field(description="How to answer.")
    ] = None
    keep_alive: Annotated[
        Any,
        BeforeValidator(_keep_alive, json_schema_input_type=float | str),
        Field(description="Seconds, or as 5m; the model stays."),
    ] = None
    think: Annotated[
        Any,
        BeforeValidator(_think, json_schema_input_type=bool | Literal["low", "medium", "high"]),
        Field(description="enable_thinking, or reasoning_effort, for a chat template that reads it."),
    ] = None
    heads: Annotated[Heads | None, Field(description="Which heads decide: on, off, temperature or top_p.")] = None
    autodeco: Annotated[AutoDeco, Field(description="true, or an object: T and P with the answer.")] = None

    @model_validator(mode="before")
    @classmethod
    def _elsewhere(cls, values: Any) -> Any:
        return refuse_fields(values, _NOT_IN_OLLAMA)

    @property
    def unloads(self) -> bool:
        """Whether the model is to go at once, as far as it can."""
        return set(str(self.keep_alive)) & set(string.digits) == {"0"}

    @property
    def response_format(self) -> dict[str, Any] | None:
        """OpenAI's form of it."""
        if self.format is None:
            return None
        if self.format == "json":
            return {"type": "json_object"}
        return {"type": "json_schema", "json_schema": {"schema": _closed(self.format)}}


class OllamaFunction(Body):
    """The function of a tool call."""

    name: Text
    arguments: Annotated[Any, Field(description="An object, or JSON as a text.")] = None


class OllamaCall(Body):
    """A call that the model made."""

    function: OllamaFunction
    id: Text | None = None


def _content(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class OllamaMessage(Body):
    """A message of a chat."""

    role: Text
    content: Annotated[Several[Part] | None, BeforeValidator(_content, json_schema_input_type=str | list[Part])] = None
    tool_calls: Several[OllamaCall] | None = None
    tool_name: Text | None = None
    tool_call_id: Annotated[Text | None, Field(description="Which call a tool answers, where calls have ids.")] = None
    thinking: Annotated[Text | None, Field(description="For templates that read thoughts.")] = None
    images: Annotated[Any, Field(description="Refused.")] = None

    @model_validator(mode="before")
    @classmethod
    def _unsupported(cls, values: Any) -> Any:
        return refuse_fields(values, {"images": "the model reads text"})

    def openai(self) -> dict[str, Any]:
        """The same as a message of OpenAI's."""
        text = "".join(part.text or "" for part in self.content or ())
        calls = [call.model_dump(exclude_none=True) for call in self.tool_calls or ()]
        extras = {"name": self.tool_name, "tool_call_id": self.tool_call_id, "reasoning_content": self.thinking}
        return {"role": self.role, "content": text, "tool_calls": calls or None, **extras}


class OllamaChatBody(OllamaBody):
    """POST /api/chat."""

    messages: Annotated[Several[OllamaMessage] | None, Field(description="None: the model is loaded, as it is.")] = None
    tools: Annotated[Several[Tool] | None, Field(description="Functions that the model may call.")] = None


_NOT_IN_GENERATE = {
    "images": "the model reads text",
    "suffix": "nothing is inserted",
    "template": "the model's own is used, or raw",
    "context": "send the conversation to /api/chat",
}


class OllamaGenerateBody(OllamaBody):
    """POST /api/generate."""

    prompt: Annotated[Text | None, Field(description="None or empty: the model is loaded, as it is.")] = None
    system: Annotated[Text | None, Field(description="A system message.")] = None
    raw: Annotated[Flag | None, Field(description="Leave the chat template out.")] = None

    @model_validator(mode="before")
    @classmethod
    def _unsupported(cls, values: Any) -> Any:
        return refuse_fields(values, _NOT_IN_GENERATE)


class ShowBody(Body):
    """POST /api/show."""

    model: Text | None = None
    name: Annotated[Text | None, Field(description="The same, as older clients send it.")] = None
