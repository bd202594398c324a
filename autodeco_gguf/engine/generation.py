"""A request under way, and its text as it grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import index as as_int

from autodeco_gguf.engine.request import FinishReason, OnToken, Piece, Request, Result
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.sampler import Sampler
from autodeco_gguf.model.stops import StoppedText
from autodeco_gguf.model.trace import Likelihood, PromptToken, Rows, Trace, alternatives, shortened

Wait = Callable[[Callable[[], bool]], None]
"""Sees to it that what it is given becomes true."""


class Generation:
    """A request under way.

    Iterating gives a :class:`Piece` for every token as it comes; their texts together are the result's, which of one
    that is cancelled or fails ends with what was held back.

    Attributes:
        request: the request.
        finish_reason: None while there is no result.
        error: why it ended, for "error".
        n_drawn: tokens drawn so far.
        n_reused: tokens of the prompt that the context held already, once it is read.
        n_forgotten: tokens that the context has forgotten, see :attr:`Request.n_keep`.
    """

    def __init__(
        self,
        request: Request,
        index: int,
        prompt: list[int],
        sampler: Sampler,
        room: int,
        wait: Wait,
        words: Context,
        on_token: OnToken | None = None,
    ) -> None:
        """Made by :meth:`Engine.submit`: ``room`` is left beside the prompt, ``words`` knows the text of tokens."""
        self.request = request
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.n_drawn = self.n_reused = self.n_forgotten = 0
        self._index, self._words, self._on_token = index, words, on_token
        self._wait: Wait | None = wait  # None once it is done: a result keeps no engine
        self._result: Result | None = None
        # of each token, taken when it is drawn, since nothing else may be read while the next are, nor after closing
        self._rows, self._shown = Rows(), list[str]()
        self._texts: dict[int, bytes] = {}
        self._trace = Trace(self._rows, self._texts.__getitem__)
        self._text = StoppedText(request.stop, words.vocab)  # type: ignore[arg-type]
        self._ended = False  # by the end-of-generation token
        self._limit = room if request.max_tokens is None else min(as_int(request.max_tokens), room)
        self._scored: list[PromptToken] = []  # of the prompt, where that is asked for
        if request.prompt_logprobs:
            self._scored.append(PromptToken(prompt[0], words.token_bytes(prompt[0]), None))
        # for the engine
        self.sampler = sampler
        self.cancelled = False
        self.prompt, self.head, self.last = tuple(prompt), tuple(prompt[:-1]), prompt[-1]  # last: the next to decode
        self.n_decoded = 0

    def __repr__(self) -> str:
        n, text = self.n_drawn, "".join(self._shown)
        state = self.finish_reason or ("under way" if n else "waiting")
        about = f": {self.error}" if self.error is not None else ""
        return f"<Generation {self._index}: {state}{about}, {n} token{'s' * (n != 1)}, {shortened(text)}>"

    # ---- for who asked ----

    @property
    def prompt_logprobs(self) -> list[PromptToken] | None:
        """The tokens of the prompt, where :attr:`Request.prompt_logprobs` asks for them; None until all are computed.

        They are there before the first token is drawn.
        """
        return list(self._scored) if len(self._scored) == len(self.prompt) else None

    def cancel(self) -> None:
        """End it with what it has; does nothing when it is done."""
        self.cancelled = True

    def result(self) -> Result:
        """Wait for the end.

        Raises:
            ModelFailed: llama.cpp fails for the whole batch. What concerns this request alone is in the result.
        """
        self._wait_for(lambda: self.finish_reason is not None)
        assert self._result is not None
        return self._result

    def __iter__(self) -> Iterator[Piece]:
        seen = 0
        while True:
            self._wait_for(lambda seen=seen: self.finish_reason is not None or self.n_drawn > seen)  # type: ignore[misc]
            done, n = self.finish_reason is not None, self.n_drawn
            for i in range(seen, n):
                yield self._piece(i)
            seen = n
            if done:
                return

    def _wait_for(self, ready: Callable[[], bool]) -> None:
        wait = self._wait
        if wait is not None:
            wait(ready)

    def _piece(self, i: int) -> Piece:
        return Piece(self._shown[i], self._trace[i])

    # ---- for the engine ----

    def scored(self, tokens: Sequence[int], likelihoods: Sequence[Likelihood]) -> None:
        """Take note of the next tokens of the prompt."""
        text = self._words.token_bytes
        for token, likelihood in zip(tokens, likelihoods, strict=True):
            others = alternatives(likelihood, text)
            self._scored.append(PromptToken(token, text(token), likelihood[0], others))

    @property
    def complete(self) -> bool:
        """Whether the prompt was all that is asked for, and it is computed."""
        return self._limit == 0 and self.n_decoded >= len(self.head)

    def drawn(self, token: int, ends: bool) -> FinishReason | None:
        """Take note of a token; why it is the last, if it is: for "error", of its callback, ``error`` says which."""
        n = self.n_drawn + 1
        full = n >= self._limit
        records = self.sampler.native.records
        likelihood = records.likelihood(n - 1)
        others = () if likelihood is None else likelihood[1]
        for id_ in (token, *(other[0] for other in others)):
            if id_ not in self._texts:
                self._texts[id_] = self._words.token_bytes(id_)
        if likelihood is not None:
            self._rows.likelihoods.append(likelihood)
        piece = b"" if ends else self._words.token_bytes(token, special=False)
        self._shown.append(self._text.add(piece, ends or full, token))
        self._rows.append(records.record(n - 1))
        self.last, self._ended, self.n_drawn = token, ends, n
        if self.request.pairs is not None:
            self.sampler.native.temperature, self.sampler.native.top_p = self.request.pair(n)
        if self._on_token is not None:
            drawn = self._piece(n - 1)
            try:
                self._on_token(drawn)
            except Exception as e:  # which is no reason for others to end
                self.error = f"on_token: {type(e).__name__}: {e}"
                return "error"
        if ends or self._text.stopped:
            return "stop"
        return "length" if full else None

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """There is a result; does nothing when there is one already."""
        if self.finish_reason is None:
            n = self.n_drawn
            tokens, text = self._rows.ids()[: n - self._ended], "".join(self._shown[:n])
            if len(self._shown) == n:
                text += self._text.rest()  # what might have become a stop
            t, p = self._trace.parameters
            prompt = self.prompt_logprobs
            self._result = Result(self._index, tokens, text, reason, error, self._trace, t, p, prompt)
            self.error = error
            self.finish_reason = reason
            self._wait = None
            del self.sampler, self._words, self._on_token  # scratch space as wide as the vocabulary, and the model

    @property
    def position(self) -> int:
        """Of the token that is decoded next."""
        return self.n_decoded - self.n_forgotten

    @property
    def beginning(self) -> tuple[int, ...]:
        """The tokens of the prompt that its sequence holds, or will."""
        return self.head[: self.request.n_keep] if self.n_forgotten else self.head

    def decoded(self) -> tuple[int, ...]:
        """The tokens that its sequence begins with, computed from nothing but those before them."""
        all_ = (*self.prompt, *self._rows.ids())
        return all_[: self.request.n_keep] if self.n_forgotten else all_[: self.n_decoded]
