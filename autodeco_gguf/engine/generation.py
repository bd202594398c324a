"""A request under way, and its text as it grows."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from autodeco_gguf.engine.request import FinishReason, OnToken, Piece, Request, Result
from autodeco_gguf.model.sampler import Sampler
from autodeco_gguf.model.trace import Trace

Wait = Callable[[Callable[[], bool]], None]
"""Sees to it that what it is given becomes true."""


class Detokenizer(Protocol):
    """What knows the text pieces of tokens, as a :class:`Context` does."""

    def token_bytes(self, token: int, *, special: bool = True) -> bytes:
        """The text piece of a token; with special False, control tokens give nothing."""

    def text(self, tokens: Iterable[int]) -> str:
        """The text of tokens, control tokens left out."""


class Generation:
    """A request under way.

    Iterating gives a :class:`Piece` for every token as it comes; their texts together are the result's.

    Attributes:
        request: the request.
        finish_reason: None while there is no result.
        error: why it ended, for "error".
        n_drawn: tokens drawn so far.
    """

    def __init__(
        self,
        request: Request,
        index: int,
        prompt: list[int],
        sampler: Sampler,
        *,
        room: int,
        wait: Wait,
        words: Detokenizer,
        on_token: OnToken | None = None,
    ) -> None:
        """Made by :meth:`Engine.submit`.

        Args:
            request: what it answers.
            index: its number.
            prompt: its tokens.
            sampler: what draws.
            room: tokens that the context holds beside the prompt.
            wait: runs the engine until something is true.
            words: the text of tokens.
            on_token: called with every :class:`Piece`.
        """
        self.request = request
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.n_drawn = 0
        self._index, self._wait, self._words, self._on_token = index, wait, words, on_token
        self._result: Result | None = None
        self._text = StoppedText(request.stop)
        self._pieces: list[Piece] = []
        self._watched = on_token is not None or bool(request.stop)  # else the text is put together when it is asked for
        self._ended = False  # by the end-of-generation token
        self._limit = min(request.max_tokens or room, room)
        # for the engine
        self.on_done: Callable[[Generation], None] = lambda _: None
        self.sampler, self._trace = sampler, Trace(sampler.native.records, words.token_bytes)
        self.cancelled = False
        self.prompt, self.head, self.last = tuple(prompt), tuple(prompt[:-1]), prompt[-1]  # last: the next to decode
        self.n_decoded = 0

    # ---- for who asked ----

    def cancel(self) -> None:
        """End it with what it has; does nothing when it is done."""
        self.cancelled = True

    def result(self) -> Result:
        """Wait for the end.

        Raises:
            ModelFailed: llama.cpp fails for the whole batch. What concerns this request alone is in the result.
        """
        self._wait(lambda: self._result is not None)
        assert self._result is not None
        return self._result

    def __iter__(self) -> Iterator[Piece]:
        seen = 0
        while True:
            self._wait(lambda seen=seen: self.finish_reason is not None or self.n_drawn > seen)  # type: ignore[misc]
            done, n = self.finish_reason is not None, self.n_drawn
            if not self._watched:
                self._look(n, done)
            yield from self._pieces[seen:n]
            seen = n
            if done:
                return

    def _look(self, n: int, final: bool) -> None:
        """Make pieces of the first n tokens; final: there will be no more."""
        for i in range(len(self._pieces), n):
            token, last = self._trace[i], final and i == n - 1
            piece = b"" if last and self._ended else self._words.token_bytes(token.id, special=False)
            self._pieces.append(Piece(self._text.add(piece, last), token))

    # ---- for the engine ----

    def drawn(self, token: int, ends: bool) -> FinishReason | None:
        """Take note of a token; why it is the last, if it is."""
        self.last, self._ended = token, ends
        self.n_drawn += 1
        full = self.n_drawn >= self._limit
        if self._watched:
            self._look(self.n_drawn, ends or full)
            if self._on_token is not None:
                self._on_token(self._pieces[-1])
        if ends or self._text.stopped:
            return "stop"
        return "length" if full else None

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """There is a result."""
        tokens = self._trace.ids[: self.n_drawn - self._ended]
        text = "".join(p.text for p in self._pieces) if self._watched else self._words.text(tokens)
        self._result = Result(self._index, tokens, text, reason, error, self._trace, *self._trace.parameters)
        del self.sampler  # its scratch space is as wide as the vocabulary
        self.error, self.finish_reason = error, reason
        self.on_done(self)

    def decoded(self) -> tuple[int, ...]:
        """The tokens that its sequence holds."""
        return (*self.prompt, *self._trace.ids)[: self.n_decoded]


class StoppedText:
    """The text of an answer as it grows: decoded, and cut before the first stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def add(self, piece: bytes, final: bool) -> str:
        """The text that is certain with a token's piece."""
        text = self._held + self._decoder.decode(piece, final)
        found = [begin for stop in self._stop if (begin := text.find(stop)) >= 0]
        if self.stopped or found:
            self.stopped, self._held = True, ""
            return text[: min(found)] if found else ""
        keep = 0 if final else max((n for s in self._stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]
