"""What an engine is asked, and what comes of it: values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.weights import Float32Array
from autodeco_gguf.model.sampling import MAX_TOP, Sampling, check_seed_range, check_size, check_temperature, check_top_p
from autodeco_gguf.model.stops import stop_texts, stop_tuple
from autodeco_gguf.model.trace import PromptToken, Trace, TraceToken

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Request(Sampling):
    """What to generate: a prompt, and how to go on from it.

    Attributes:
        prompt: tokens, at least one; or text, tokenized as it stands (:meth:`Engine.prompt` applies a chat template).
        max_tokens: at most so many, the end-of-generation token included. None: until the context is full. 0, with
            ``prompt_logprobs`` alone: nothing is drawn.
        stop: texts that end the answer, which does not contain them; one, several, or none (None). The name of a
            control token, as "<|im_end|>", ends it where the token is drawn. Of several that end with the same token
            the one that begins first counts. Kept as a tuple.
        pairs: T and P of each token in turn, after the last from the first again, in the place of predicted ones; None:
            as ``temperature`` and ``top_p`` say.
        entropy: put the entropy of the model's distribution into the trace, a pass over the vocabulary for each token.
        top: put the log-probability of each token into the trace, and so many alternatives to it, 0 to 64; two passes
            over the vocabulary for each token. None: neither.
        n_keep: what to do once the context is full: forget half of what it holds, the older half, except for so many
            tokens at the beginning, and go on (llama.cpp's context shift); at most half of the context. Then None as
            ``max_tokens`` sets no end at all. None: the answer ends there.
        prompt_logprobs: find out the log-probability of each token of the prompt too, with ``top`` alternatives; all of
            the prompt is computed, whatever other sequences hold of it.
    """

    prompt: Sequence[int] | str
    max_tokens: int | None = field(default=None, kw_only=True)
    stop: Iterable[str] | str | None = field(default=(), kw_only=True)
    pairs: Sequence[tuple[float, float]] | None = field(default=None, kw_only=True)
    entropy: bool = field(default=False, kw_only=True)
    top: int | None = field(default=None, kw_only=True)
    n_keep: int | None = field(default=None, kw_only=True)
    prompt_logprobs: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", stop_tuple(self.stop))  # a generator can be read only once

    def check(self) -> None:
        """Raise InvalidInput for a parameter out of range."""
        super().check()
        if self.seed is not None:
            check_seed_range(self.seed)
        least = 0 if self.prompt_logprobs else 1
        for name, low, high in (("max_tokens", least, None), ("top", 0, MAX_TOP), ("n_keep", 0, None)):
            if (value := getattr(self, name)) is not None:
                check_size(name, value, low, high)
        # the items of bytes would pass for tokens
        if isinstance(self.prompt, bytes | bytearray) or not isinstance(self.prompt, Iterable):
            raise InvalidInput.of("prompt", f"of {type(self.prompt).__name__}", "a text or tokens")
        stop_texts(self.stop)
        self._check_pairs()

    def check_room(self, n: int, n_ctx: int) -> None:
        """Raise InvalidInput unless a context of so many tokens has room for a prompt of n, and an answer to it."""
        if n == 0:
            raise InvalidInput("the prompt is empty", key="prompt")
        if n + (self.max_tokens != 0) > n_ctx:
            text = f"the prompt has {n} tokens, the context holds {n_ctx}; raise it"
            raise InvalidInput(text, key="n_ctx", found=n, expected=n_ctx)
        if self.n_keep is not None and self.n_keep > n_ctx // 2:
            raise InvalidInput.of("n_keep", self.n_keep, f"at most half of the context, {n_ctx // 2}")

    def _check_pairs(self) -> None:
        if self.pairs is None:
            return
        if self.order != "autodeco" or (self.temperature, self.top_p) != (None, None):
            raise InvalidInput("pairs with temperature, top_p or order 'llama.cpp'; leave these out", key="pairs")
        if not isinstance(self.pairs, Sequence) or not self.pairs:
            raise InvalidInput.of("pairs", repr(self.pairs), "at least one (T, P)")
        for pair in self.pairs:
            if not isinstance(pair, Sequence) or len(pair) != 2:
                raise InvalidInput.of("pairs", f"with {pair!r}", "each of them (T, P)")
            check_temperature(pair[0])
            check_top_p(pair[1])

    def pair(self, n: int) -> tuple[float | None, float | None]:
        """T and P of token ``n``, from 0; None where they are predicted."""
        return (self.temperature, self.top_p) if self.pairs is None else self.pairs[n % len(self.pairs)]


@dataclass(frozen=True, eq=False)
class Result:
    """What became of a request: needs no engine, and can be pickled.

    Attributes:
        index: the request's place among those given or submitted, from 0.
        tokens: the answer, without the end-of-generation token.
        text: of these tokens up to a stop string, control tokens left out.
        finish_reason: "stop" when the model or a stop string ended it, "length" at max_tokens or the end of the
            context, "cancelled", or "error".
        error: why, for "error".
        trace: all that was drawn, the end-of-generation token included.
        temperature: [n] what the tokens of the trace were drawn with.
        top_p: [n] likewise.
        prompt_logprobs: the tokens of the prompt, where they were asked for and all were computed; else None.
    """

    index: int
    tokens: list[int]
    text: str
    finish_reason: FinishReason
    error: str | None
    trace: Trace
    temperature: Float32Array
    top_p: Float32Array
    prompt_logprobs: list[PromptToken] | None = None


@dataclass(frozen=True)
class Piece:
    """A drawn token, and the text that is certain with it.

    Half a character, or what may be the beginning of a stop string, is held back until more is known.
    """

    text: str
    token: TraceToken


OnToken = Callable[[Piece], None]
