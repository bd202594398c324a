"""A model's chat template: messages to the text that the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp
from jinja2 import TemplateError
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.token_text import token_bytes

TEMPLATE_KEY = "tokenizer.chat_template"
"""The metadata key that holds it."""


class Chat:
    """A chat template, rendered as transformers would.

    The text it gives holds the beginning-of-sequence token where the template wants one: tokenize it with
    ``add_bos=False, special=True``.
    """

    def __init__(self, template: str, vocab: Any) -> None:
        """Parse the template; ``vocab`` is the ``llama_vocab`` that names its special tokens.

        Raises:
            InvalidInput: the template does not parse.
        """

        def name(token: int) -> str:
            return token_bytes(vocab, token).decode("utf-8", "replace") if token >= 0 else ""

        try:
            self._formatter = Jinja2ChatFormatter(
                template,
                eos_token=name(llama_cpp.llama_vocab_eos(vocab)),
                bos_token=name(llama_cpp.llama_vocab_bos(vocab)),
            )
        except TemplateError as e:
            raise InvalidInput(f"its chat template does not parse: {e}", key=TEMPLATE_KEY) from e

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
            InvalidInput: the template refuses, or fails: it is a program.
        """
        self._formatter.add_generation_prompt = generation
        try:
            return str(self._formatter(messages=[dict(m) for m in messages], tools=tools).prompt)
        except (TemplateError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as e:
            raise InvalidInput(f"the model's chat template refuses: {e}", key=TEMPLATE_KEY) from e
