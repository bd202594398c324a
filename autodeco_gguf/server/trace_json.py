"""Tokens as JSON: T and P, traces, and OpenAI's log-probabilities."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from autodeco_gguf.server.choice import Said
from autodeco_gguf.server.decide import Decision
from autodeco_gguf.server.fields import AutoDecoOptions


def autodeco(tokens: Sequence[Said], options: AutoDecoOptions, decision: Decision, seed: int) -> dict[str, Any]:
    """What ``"autodeco"`` asks for, of some tokens."""
    found: dict[str, Any] = {
        "temperature": [said.token.temperature for said in tokens],
        "top_p": [said.token.top_p for said in tokens],
        "source": decision.source,
        "seed": seed,
    }
    if options.tokens:
        found["tokens"] = [trace(said, options.top or 0) for said in tokens]
    return found


def trace(said: Said, top: int | None = None) -> dict[str, Any]:
    """A token with all that is known of it, and so many alternatives; None: with all."""
    return replace(said.token, alternatives=said.token.alternatives[:top]).to_dict(said.text)


LEAST = -9999.0
"""A log-probability below all others, as OpenAI has it."""


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else LEAST


def name_of(piece: bytes) -> str:
    """A token for a reader; one that is no UTF-8 as OpenAI writes it: "bytes:\\xf0\\x9f"."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def chat_logprobs(tokens: Iterable[Said], top: int) -> dict[str, Any]:
    """Of those tokens that are part of the answer, as chat completions have it, with ``top`` alternatives of each."""

    def entry(piece: bytes, logprob: float) -> dict[str, Any]:
        return {"token": name_of(piece), "logprob": finite(logprob), "bytes": list(piece)}

    content = [
        {
            **entry(said.shown, said.token.logprob),
            "top_logprobs": [entry(a.text, a.logprob) for a in said.token.alternatives[:top]],
        }
        for said in tokens
        if said.shown is not None
    ]
    return {"content": content, "refusal": None}


class TextLogprobs:
    """Of tokens, as text completions have it: four lists of the same length."""

    def __init__(self) -> None:
        """Begin at the beginning of the text."""
        self._offset, self._decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")

    def skip(self, n: int) -> None:
        """The next n characters are a token's, but not the text's."""
        self._offset -= n

    def of(self, rows: Iterable[tuple[bytes, float | None, Sequence[Any] | None]]) -> dict[str, Any]:
        """Of the next tokens: the bytes, log-probability and alternatives of each, None where there are none."""
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for piece, logprob, alternatives in rows:
            found["tokens"].append(name_of(piece))
            found["token_logprobs"].append(None if logprob is None else finite(logprob))
            top = None
            if alternatives:
                top = {name_of(a.text): finite(a.logprob) for a in reversed(alternatives)}  # the most likely one stays
            found["top_logprobs"].append(top)
            # half of a character before, which this does not end, is a character of its own
            broken = bool(self._decoder.getstate()[0]) and not 0x80 <= piece[:1].ljust(1, b"\x80")[0] < 0xC0
            found["text_offset"].append(max(0, self._offset + broken))
            self._offset += len(self._decoder.decode(piece))
        return found


def said_rows(tokens: Iterable[Said], top: int) -> list[tuple[bytes, float | None, Sequence[Any] | None]]:
    """Tokens of an answer as rows of :meth:`TextLogprobs.of`, with ``top`` alternatives of each."""
    return [(s.shown, s.token.logprob, s.token.alternatives[:top]) for s in tokens if s.shown is not None]
