"""A model's chat template: messages to the text that the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp

from autodeco_gguf.model.template import TEMPLATE_KEY, Formatter
from autodeco_gguf.model.token_text import token_bytes

__all__ = ["TEMPLATE_KEY", "Chat"]


class Chat:
    """A chat template, rendered as transformers would.

    The text it gives holds the beginning-of-sequence token where the template wants one: tokenize it with
    ``add_bos=False, special=True``. It is compiled when it is first used, and runs within bounds of time and size
    (:mod:`autodeco_gguf.model.template`).
    """

    def __init__(self, template: str, vocab: Any, path: Path) -> None:
        """Take the template of a file; ``vocab`` is the ``llama_vocab`` that names its special tokens."""

        def name(token: int) -> str:
            return token_bytes(vocab, token).decode("utf-8", "replace") if token >= 0 else ""

        eos, bos = llama_cpp.llama_vocab_eos(vocab), llama_cpp.llama_vocab_bos(vocab)
        self._formatter = Formatter(template, eos_token=name(eos), bos_token=name(bos), path=path)

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
        self._formatter.add_generation_prompt = generation
        return str(self._formatter(messages=[dict(m) for m in messages], tools=tools).prompt)
