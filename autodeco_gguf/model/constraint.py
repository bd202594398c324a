"""What an answer must follow, from its text: a grammar of llama.cpp's, or a JSON schema."""

from __future__ import annotations

import llama_cpp

from autodeco_gguf.errors import InvalidInput


def from_gbnf(text: str) -> llama_cpp.LlamaGrammar:
    """A grammar in llama.cpp's notation (GBNF), which is parsed when a sampler is built with it."""
    return llama_cpp.LlamaGrammar.from_string(text, verbose=False)


def from_json_schema(schema: str) -> llama_cpp.LlamaGrammar:
    """The grammar of the JSON that a schema allows.

    Raises:
        InvalidInput: it is no JSON schema, or one of which llama_cpp makes no grammar.
    """
    try:
        return llama_cpp.LlamaGrammar.from_json_schema(schema, verbose=False)
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError) as e:
        reason = f"{type(e).__name__}: {e}"
        raise InvalidInput(f"the JSON schema will not do: {reason}", key="json_schema") from e
