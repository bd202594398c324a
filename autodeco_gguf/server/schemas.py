"""What a request to OpenAI's API may say."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from autodeco_gguf.model.sampling import MAX_LAST_N
from autodeco_gguf.server.fields import (
    AutoDeco,
    Body,
    Flag,
    LogitBias,
    Number,
    Object,
    Seed,
    Several,
    Stop,
    Text,
    Whole,
    is_whole,
    one_of,
    refused,
)
from autodeco_gguf.server.foreign import ELSEWHERE, IN_CHAT, refuse_fields

MAX_CHOICES = 128
"""Answers to one prompt."""

MAX_PROMPTS = 1024
"""Prompts of one request."""

Heads = Annotated[str, one_of("on", "off", "temperature", "top_p")]


class StreamOptions(Body):
    """What a stream says beside the answer."""

    include_usage: Annotated[Flag | None, Field(description="A last chunk with the usage.")] = None


class SamplingBody(Body):
    """How tokens are drawn, whichever API asks."""

    temperature: Annotated[
        Number | None, Field(ge=0, le=1e6, description="0: the most likely token. Absent: the heads decide.")
    ] = None
    top_p: Annotated[
        Number | None, Field(ge=0, le=1, description="0: the most likely token. Absent: the heads decide.")
    ] = None
    top_k: Annotated[Whole | None, Field(ge=-1, le=2**31 - 1, description="Tokens kept; 0 and -1: all.")] = None
    min_p: Annotated[Number | None, Field(ge=0, le=1, description="Least share of the largest probability.")] = None
    repeat_penalty: Annotated[
        Number | None, Field(ge=1e-6, le=1e6, description="On the logits of the answer's last 64 tokens; 1: off.")
    ] = None
    repeat_last_n: Annotated[
        Whole | None, Field(ge=-1, le=MAX_LAST_N, description="So many tokens instead of 64; -1: all, 0: none.")
    ] = None
    frequency_penalty: Annotated[Number | None, Field(ge=-2, le=2, description="For each time a token came.")] = None
    presence_penalty: Annotated[Number | None, Field(ge=-2, le=2, description="Once a token came.")] = None
    typical_p: Annotated[Number | None, Field(ge=0, le=1, description="Locally typical sampling; 1: off.")] = None
    top_n_sigma: Annotated[
        Number | None, Field(ge=-1, le=1e6, description="Standard deviations below the largest logit; 0 and less: off.")
    ] = None
    xtc_probability: Annotated[
        Number | None, Field(ge=0, le=1, description="Of leaving out all but the least likely above xtc_threshold.")
    ] = None
    xtc_threshold: Annotated[Number | None, Field(ge=0, le=1, description="Absent: 0.1.")] = None
    mirostat: Annotated[
        Whole | None, Field(ge=0, le=2, description="Its version, 2 for long answers, instead of cuts; 0: off.")
    ] = None
    mirostat_tau: Annotated[Number | None, Field(ge=0, le=1e6, description="Target surprise. Absent: 5.")] = None
    mirostat_eta: Annotated[Number | None, Field(ge=0, le=1e6, description="Learning rate. Absent: 0.1.")] = None
    logit_bias: Annotated[LogitBias | None, Field(description="-100 to 100, by token id as a text.")] = None
    seed: Annotated[
        Seed | None, Field(description="64 bits, taken modulo 2**32 - 1; -1: random. Choice i has seed + i.")
    ] = None
    heads: Annotated[Heads | None, Field(description="Which heads decide: on, off, temperature or top_p.")] = None


class OpenAIBody(SamplingBody):
    """What chat and text completions have in common."""

    model: Annotated[Text | None, Field(description="Any name: the one model answers, under its own.")] = None
    stream: Annotated[Flag | None, Field(description="Answer as server-sent events.")] = None
    stream_options: Annotated[StreamOptions | None, Field(description="Taken only with stream.")] = None
    max_tokens: Annotated[
        Whole | None, Field(ge=-1, description="Absent and -1: to the end, or until the context is full.")
    ] = None
    max_completion_tokens: Annotated[
        Whole | None, Field(ge=-1, description="The same; counts where both are given.")
    ] = None
    n: Annotated[Whole | None, Field(ge=1, le=MAX_CHOICES, description="Choices for each prompt.")] = None
    stop: Annotated[Stop | None, Field(description="Texts that end an answer; empty ones are passed over.")] = None
    response_format: Annotated[
        Object | None, Field(description="type text, json_object, or json_schema with its json_schema.")
    ] = None
    grammar: Annotated[Text | None, Field(description="What the answer must follow, in llama.cpp's GBNF.")] = None
    autodeco: Annotated[AutoDeco, Field(description="true, or an object: T and P with the answer.")] = None
    user: Annotated[Any, Field(description="Passed over, as store, metadata and service_tier.")] = None

    @property
    def limit(self) -> int | None:
        """Tokens at most; None: until the end."""
        given = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return None if given == -1 else given

    @property
    def has_grammar(self) -> bool:
        """Whether a grammar or schema is to be compiled for it."""
        return bool(self.grammar) or (self.response_format or {}).get("type", "text") != "text"

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options is not None and self.stream_options.include_usage)


def _parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Part(Body):
    """A part of a message."""

    type: Text
    text: Text | None = None

    @model_validator(mode="after")
    def _is_text(self) -> Part:
        if self.type not in ("text", "input_text", "output_text"):
            raise refused(f"a part of type {self.type!r} is not supported, only text is")
        if self.text is None:
            raise refused("expected a text part to have it", "text")
        return self


class CalledFunction(Body):
    """The function of a tool call."""

    name: Text
    arguments: Annotated[Any, Field(description="JSON as a text, or an object.")] = None


class ToolCall(Body):
    """A call that the model made."""

    id: Text | None = None
    type: Text | None = None
    function: CalledFunction


_NOT_IN_MESSAGES = {
    "function_call": "use tool_calls",
    "audio": "messages are text",
    "refusal": "send it as content",
}


class Message(Body):
    """A message of a chat."""

    role: Annotated[
        str,
        one_of("system", "developer", "user", "assistant", "tool", "function"),
        Field(description="Who says it; developer is system."),
    ]
    content: Annotated[
        Several[Part] | None,
        BeforeValidator(_parts, json_schema_input_type=str | list[Part]),
        Field(description="What is said; may be missing for an assistant."),
    ] = None
    name: Annotated[Text | None, Field(description="For templates that read it.")] = None
    tool_calls: Annotated[Several[ToolCall] | None, Field(description="As an answer had them.")] = None
    tool_call_id: Annotated[Text | None, Field(description="Which call a tool answers.")] = None
    reasoning_content: Annotated[Text | None, Field(description="For templates that read thoughts.")] = None

    @model_validator(mode="before")
    @classmethod
    def _unsupported(cls, values: Any) -> Any:
        return refuse_fields(values, _NOT_IN_MESSAGES)

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise refused(f"expected a message of role {self.role} to have it", "content")
        return self

    @property
    def text(self) -> str:
        """What it says."""
        return "".join(part.text or "" for part in self.content or ())


class Function(Body):
    """What a tool is."""

    name: Annotated[Text, Field(min_length=1)]
    description: Text | None = None
    parameters: Object | None = None


class Tool(Body):
    """A tool that the model may call."""

    type: Annotated[str, BeforeValidator(lambda kind: kind or "function"), one_of("function")] = "function"
    function: Function


Effort = Annotated[str, one_of("none", "minimal", "low", "medium", "high", "xhigh")]


_NOT_IN_CHAT = {
    **ELSEWHERE,
    "prompt": "use messages, or /v1/completions",
    "echo": "use /v1/completions",
    "suffix": "nothing is inserted",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "audio": "answers are text",
    "prediction": "every token is drawn",
    "best_of": "use n",
}


class ChatBody(OpenAIBody):
    """POST /v1/chat/completions."""

    messages: Annotated[Several[Message], Field(min_length=1, description="The conversation, the last message last.")]
    logprobs: Annotated[Flag | None, Field(description="Log-probabilities of the answer's tokens.")] = None
    top_logprobs: Annotated[
        Whole | None, Field(ge=0, le=20, description="So many alternatives of each; needs logprobs.")
    ] = None
    tools: Annotated[Several[Tool] | None, Field(description="Functions that the model may call.")] = None
    tool_choice: Annotated[Any, Field(description="none, auto, required, or a function of tools.")] = None
    parallel_tool_calls: Annotated[Flag | None, Field(description="Passed over: the model decides.")] = None
    modalities: Annotated[Several[Text] | None, Field(description='["text"].')] = None
    reasoning_effort: Annotated[Effort | None, Field(description="For a chat template that reads it.")] = None
    chat_template_kwargs: Annotated[Object | None, Field(description="What the chat template reads besides.")] = None

    @model_validator(mode="before")
    @classmethod
    def _unsupported(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("web_search_options") is not None:  # an empty object asks for it
            raise refused("not supported: there is no way to the web", "web_search_options")
        return refuse_fields(values, _NOT_IN_CHAT)

    @model_validator(mode="after")
    def _fits(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise refused("needs logprobs: true", "top_logprobs")
        if self.limit == 0:
            name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
            raise refused("0, expected at least 1 for a chat", name)
        if self.modalities and self.modalities != ["text"]:
            raise refused("answers are text", "modalities")
        return self

    @property
    def has_grammar(self) -> bool:
        """Whether a grammar or schema is to be compiled for it, that of tools to be called included."""
        return super().has_grammar or self.tool_choice not in (None, "none", "auto")


def _prompts(value: Any) -> Any:
    """Texts or tokens as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise refused("expected a text, tokens, or a list of either that is not empty")
    if all(map(is_whole, value)):
        return [[int(token) for token in value]]
    for prompt in value:
        if not isinstance(prompt, str) and not (isinstance(prompt, list) and all(map(is_whole, prompt))):
            raise refused("expected each prompt to be a text or a list of token ids")
    if len(value) > MAX_PROMPTS:
        raise refused(f"expected at most {MAX_PROMPTS} prompts")
    return [prompt if isinstance(prompt, str) else [int(token) for token in prompt] for prompt in value]


_NOT_IN_COMPLETIONS = {
    **ELSEWHERE,
    **dict.fromkeys(("messages", "tools", "functions", "chat_template_kwargs"), IN_CHAT),
    "top_logprobs": "logprobs is their number",
    "suffix": "nothing is inserted",
}


class CompletionBody(OpenAIBody):
    """POST /v1/completions."""

    prompt: Annotated[
        list[Any],
        BeforeValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
        Field(description="A text, token ids, or a list of either; ids are taken as they are."),
    ]
    logprobs: Annotated[Whole | None, Field(ge=0, le=20, description="0: of the tokens drawn; N: and N others.")] = None
    echo: Annotated[Flag | None, Field(description="The prompt before the answer, with its log-probabilities.")] = None
    best_of: Annotated[
        Whole | None, Field(ge=1, le=MAX_CHOICES, description="Draw so many, keep the n with the most probable tokens.")
    ] = None
    suffix: Annotated[Any, Field(description="Refused.")] = None

    @model_validator(mode="before")
    @classmethod
    def _unsupported(cls, values: Any) -> Any:
        return refuse_fields(values, _NOT_IN_COMPLETIONS)

    @model_validator(mode="after")
    def _fits(self) -> CompletionBody:
        n = self.n or 1
        if self.best_of is not None and self.best_of < n:
            raise refused(f"{self.best_of}, expected at least n, which is {n}", "best_of")
        if self.best_of is not None and self.best_of > n and self.stream:
            raise refused("cannot be streamed", "best_of")
        return self
