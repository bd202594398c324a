"""A model's chat template: messages to the text that the model was trained on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Any

import llama_cpp

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.template import Formatter
from autodeco_gguf.model.token_text import token_bytes

_GIVEN = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}
_GIVEN |= {"functions", "function_call", "tool_choice", "raise_exception"}
"""What a template gets by itself."""

_NOW = "strftime_now"
"""The function by which a template writes the date."""


class Chat:
    """A chat template, rendered as transformers would.

    The text it gives holds the beginning-of-sequence token where the template wants one: tokenize it with
    ``add_bos=False, special=True``. It is compiled when it is first used, and runs within bounds of time and size
    (:mod:`autodeco_gguf.model.template`).
    """

    def __init__(self, template: str, vocab: Any, path: Path, kwargs: Mapping[str, object] | None = None) -> None:
        """Take the template of a file.

        Args:
            template: its source.
            vocab: the ``llama_vocab`` that names its special tokens.
            path: of the file.
            kwargs: more that the template reads, such as ``enable_thinking``; as ``strftime_now`` the date that is to
                be today's for it.

        Raises:
            InvalidInput: one of them is none of the template's, or what it gets by itself, or no date.
        """

        def name(token: int) -> str:
            return token_bytes(vocab, token).decode("utf-8", "replace") if token >= 0 else ""

        eos, bos = llama_cpp.llama_vocab_eos(vocab), llama_cpp.llama_vocab_bos(vocab)
        self._formatter = Formatter(template, eos_token=name(eos), bos_token=name(bos), path=path)
        self._kwargs = dict(kwargs or {})
        reads = self._formatter.names() if self._kwargs else set()
        for key in self._kwargs:
            if key in _GIVEN:
                raise InvalidInput(f"chat template kwargs: {key} is what the template gets by itself", key=key)
            if key not in reads:
                others = ", ".join(sorted(reads - _GIVEN)) or "nothing else"
                raise InvalidInput(f"chat template kwargs: {path} reads no {key}, it reads {others}", key=key)
        if _NOW in self._kwargs:
            self._formatter.strftime_now = _clock(self._kwargs.pop(_NOW))

    @property
    def source(self) -> str:
        """The template itself."""
        return str(self._formatter.template)

    def reads(self) -> set[str]:
        """What the template reads; InvalidInput where it does not parse."""
        return self._formatter.names()

    @functools.cached_property
    def takes_text_arguments(self) -> bool:
        """Whether the arguments of a tool call have to be text: an object fails, or becomes Python's form of it."""
        text, shown = self._with_call('{"probe": "a"}'), self._with_call({"probe": "a"})
        return '{"probe": "a"}' in text and (not shown or "{'probe': 'a'}" in shown)

    def _with_call(self, arguments: object) -> str:
        """A conversation with a call; empty where the template fails."""
        # the id has the form that Mistral's templates insist on
        call = {"id": "000000000", "type": "function", "function": {"name": "probe", "arguments": arguments}}
        answer = {"role": "assistant", "content": "", "tool_calls": [call]}
        try:
            return self.render([{"role": "user", "content": "a"}, answer], generation=False)
        except InvalidInput:
            return ""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: each with "role" and "content".
            generation: end with what makes the model answer.
            tools: that the model may call, in OpenAI's form.

        Raises:
            InvalidInput: the template does not parse, refuses, fails, or takes too much.
        """
        formatter = copy(self._formatter)  # which other threads may be using
        formatter.add_generation_prompt = generation
        return str(formatter(messages=messages, tools=tools, **self._kwargs).prompt)


def _clock(date: object) -> Callable[[str], str]:
    """What writes this date, in a template's format."""
    try:
        then = datetime.fromisoformat(str(date))
    except ValueError as e:
        reason = f"chat template kwargs: {_NOW} is {date!r}, expected a date such as 2026-11-29"
        raise InvalidInput(reason, key=_NOW, found=date) from e

    def strftime_now(format: str) -> str:  # by whose name its arguments are bounded
        return then.strftime(format)

    return strftime_now
