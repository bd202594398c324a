"""Prompts of requests: through the chat template where there is one, and as tokens that fit."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.chat import Chat
from autodeco_gguf.model.token_text import check_token
from autodeco_gguf.server.errors import ApiError

_CACHED, _MAX_KEY = 8, 4096
"""Templates kept, by what else they read."""


class Prompts:
    """Makes the prompts of an engine's requests. Any thread may."""

    def __init__(self, engine: Engine, kwargs: Mapping[str, Any] | None = None) -> None:
        """Args: the engine, and what its chat template reads besides unless a request says otherwise."""
        self._engine, self._kwargs = engine, dict(kwargs or {})
        self._lock = threading.Lock()  # a template keeps count of one rendering at a time
        self._chats: dict[str, Chat] = {}

    @property
    def template(self) -> str:
        """The chat template's source; empty where there is none."""
        return "" if self._engine.chat is None else self._engine.chat.source

    @functools.cached_property
    def reads(self) -> set[str]:
        """What the chat template reads; nothing where it does not parse, as rendering will say."""
        try:
            return set() if self._engine.chat is None else self._engine.chat.reads()
        except InvalidInput:
            return set()

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The tokens of a conversation that the model is to go on with.

        Raises:
            ApiError: there is no template, it refuses, or the prompt is too long.
        """
        if self._engine.chat is None:
            raise ApiError(400, "the model has no chat template; use /v1/completions", param="messages")
        with self._lock:
            chat = self._with(kwargs) if kwargs else self._engine.chat
            text = _rendered(chat, messages, tools)
        return self.tokens(text, add_bos=False)

    def with_effort(self, kwargs: Mapping[str, Any] | None, effort: str | None) -> Mapping[str, Any] | None:
        """What a template reads besides, with how much the model is to think where the template reads that."""
        if effort is None or "reasoning_effort" not in self.reads:
            return kwargs
        return {"reasoning_effort": effort, **(kwargs or {})}

    def _with(self, kwargs: Mapping[str, Any]) -> Chat:
        key = repr(sorted(kwargs.items()))
        if key not in self._chats:
            context = self._engine.context
            try:
                values = {**self._kwargs, **kwargs}
                chat: Chat = context.using(lambda: Chat(self.template, context.vocab, context.file.path, values))
            except InvalidInput as e:
                text = str(e).removeprefix("chat template kwargs: ").replace(str(context.file.path), "the template")
                raise ApiError(400, f"chat_template_kwargs: {text}", param="chat_template_kwargs") from e
            if len(key) > _MAX_KEY:  # a client's whole body, for whoever asks the same again
                return chat
            while len(self._chats) >= _CACHED:
                self._chats.pop(next(iter(self._chats)))
            self._chats[key] = chat
        return self._chats[key]

    def text_or_tokens(self, prompt: str | Sequence[int], param: str) -> list[int]:
        """A prompt as it stands; tokens are taken as they are."""
        if isinstance(prompt, str):
            return self.tokens(prompt, add_bos=True) or self._beginning(param)
        try:
            return [check_token(token, self._engine.context.n_vocab) for token in prompt] or self._beginning(param)
        except InvalidInput as e:
            raise ApiError(400, f"{param}: {e}", param=param) from e

    def _beginning(self, param: str) -> list[int]:
        raise ApiError(400, f"{param}: the prompt is empty", param=param)

    def tokens(self, text: str, *, add_bos: bool) -> list[int]:
        """The tokens of a text.

        Raises:
            InvalidInput: it is too long to be worth the time, which grows with the text.
        """
        engine = self._engine
        longest = self._longest_piece if len(text) > 64 * engine.n_ctx else 0
        if longest and (least := len(text.encode("utf-8")) // longest) >= engine.n_ctx:
            message = f"the prompt has at least {least} tokens, the context holds {engine.n_ctx}"
            raise InvalidInput(message, key="n_ctx", found=f"at least {least}", expected=engine.n_ctx)
        return engine.context.tokenize(text, add_bos=add_bos)

    def end(self, tokens: Sequence[int]) -> str:
        """What a prompt ends with, as far as it tells how an answer begins."""
        return self._engine.context.text(tokens[-16:])

    @functools.cached_property
    def _longest_piece(self) -> int:
        """Bytes of the longest token; 0 for a tokenizer that may leave something of a text out."""
        context = self._engine.context
        if context.metadata.get("tokenizer.ggml.model") not in ("gpt2", "llama"):
            return 0
        return max(len(context.token_bytes(token)) for token in range(context.n_vocab))


def _rendered(chat: Chat, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> str:
    """The text of a conversation, with its calls as the template takes them."""
    calls = any(message.get("tool_calls") for message in messages)
    if calls and chat.takes_text_arguments:
        messages = [_with_texts(message) for message in messages]
    try:
        return chat.render(messages, tools=tools)
    except InvalidInput:
        if calls:
            for way in (_with_numbers(messages), [_with_texts(message) for message in messages]):
                with suppress(InvalidInput):
                    return chat.render(way, tools=tools)
        raise


def _with_numbers(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose calls have numbers of nine digits in the place of ids, if any: Mistral's templates want such."""
    found, open_calls, n = [], dict[str | int, tuple[str, str]](), 0
    for message in messages:
        turn = dict(message)
        if calls := message.get("tool_calls"):
            numbers = [f"{n + i:09d}" for i in range(len(calls))]
            n += len(calls)
            open_calls = {
                call.get("id") or i: (number, call["function"]["name"])
                for i, (call, number) in enumerate(zip(calls, numbers, strict=True))
            }
            turn["tool_calls"] = [{**call, "id": number} for call, number in zip(calls, numbers, strict=True)]
        elif message["role"] == "tool" and open_calls:
            answered = message.get("tool_call_id")
            if answered not in open_calls:  # but for its name: Ollama's clients know no ids
                named = (key for key, (_, name) in open_calls.items() if name == message.get("name"))
                answered = next(named, next(iter(open_calls)))
            turn["tool_call_id"], _ = open_calls.pop(answered)
        found.append(turn)
    return found


def _with_texts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose calls have their arguments as the model wrote them: there are templates that write texts."""
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    functions = [
        {
            **c["function"],
            "arguments": a if isinstance(a := c["function"]["arguments"], str) else json.dumps(a, ensure_ascii=False),
        }
        for c in calls
    ]
    return {**message, "tool_calls": [{**c, "function": f} for c, f in zip(calls, functions, strict=True)]}
