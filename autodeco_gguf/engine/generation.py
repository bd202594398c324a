"""A request under way, and its text as it grows."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from autodeco_gguf.engine.request import FinishReason, OnToken, Piece, Request, Result
from autodeco_gguf.model.sampler import Sampler
from autodeco_gguf.model.trace import Trace

if TYPE_CHECKING:
    from autodeco_gguf.engine.engine import Engine


class Handle:
    """A request under way.

    Iterating gives a :class:`Piece` for every token as it comes; their texts together are the result's.

    Attributes:
        request: the request.
        finish_reason: None while there is no result.
        error: why it ended, for "error".
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        index: int,
        tokens: list[int],
        sampler: Sampler,
        on_token: OnToken | None,
    ) -> None:
        """Made by :meth:`Engine.submit`."""
        self.request = request
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.on_done: Callable[[Handle], None] = lambda _: None
        self._engine, self._index, self._on_token = engine, index, on_token
        self._result: Result | None = None
        self._text = _Text(request.stop)
        self._pieces: list[Piece] = []
        self._watched = on_token is not None or bool(request.stop)  # else the text is put together when it is asked for
        self._n = 0  # drawn
        self._ended = False  # by the end-of-generation token
        room = engine.n_ctx - len(tokens)
        self._limit = min(request.max_tokens or room, room)
        # for the engine
        self.sampler, self._trace = sampler, Trace(sampler.native.records, engine.context.token_bytes)
        self.cancelled = False
        self.prompt, self.head, self.last = tuple(tokens), tuple(tokens[:-1]), tokens[-1]  # last: the next to decode
        self.n_decoded = 0

    # ---- for who asked ----

    def cancel(self) -> None:
        """End it with what it has; does nothing when it is done."""
        self.cancelled = True

    def result(self) -> Result:
        """Wait for the end.

        Raises:
            AutoDecoError: llama.cpp fails for the whole batch. What concerns this request alone is in the result.
        """
        self._engine._wait(lambda: self._result is not None)
        assert self._result is not None
        return self._result

    def __iter__(self) -> Iterator[Piece]:
        seen = 0
        while True:
            self._engine._wait(lambda seen=seen: self.finish_reason is not None or self._n > seen)  # type: ignore[misc]
            done, n = self.finish_reason is not None, self._n
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
            piece = b"" if last and self._ended else self._engine.token_bytes(token.id)
            self._pieces.append(Piece(self._text.add(piece, last), token))

    # ---- for the engine ----

    def drawn(self, token: int, ends: bool) -> FinishReason | None:
        """Take note of a token; why it is the last, if it is."""
        self.last, self._ended = token, ends
        self._n += 1
        full = self._n >= self._limit
        if self._watched:
            self._look(self._n, ends or full)
            if self._on_token is not None:
                self._on_token(self._pieces[-1])
        if ends or self._text.stopped:
            return "stop"
        return "length" if full else None

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """There is a result."""
        tokens = self._trace.ids[: self._n - self._ended]
        text = "".join(p.text for p in self._pieces) if self._watched else self._engine.text(tokens)
        self._result = Result(self._index, tokens, text, reason, error, self._trace, *self._trace.parameters)
        del self.sampler  # its scratch space is as wide as the vocabulary
        self.error, self.finish_reason = error, reason
        self.on_done(self)

    def decoded(self) -> tuple[int, ...]:
        """The tokens that its sequence holds."""
        return (*self.prompt, *self._trace.ids)[: self.n_decoded]


class _Text:
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
