"""Sampling with predicted temperature and top-p, on a llama_context of one's own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp._internals import LlamaSampler

from autodeco_gguf._native import core
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.heads import Heads, check_enabled, check_seed, check_temperature, check_top_p
from autodeco_gguf.trace import Trace

LogitsProcessor = Callable[[npt.NDArray[np.intc], npt.NDArray[np.single]], npt.NDArray[np.single]]


def address(pointer: Any) -> int:
    """The address behind a ctypes pointer, or an int as it is; 0 for None."""
    if pointer is None or isinstance(pointer, int):
        return pointer or 0
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


class Predictor:
    """Where T and P of a context's last decode come from.

    Attached, the heads are part of the context's compute graph. Otherwise they run on the host from the hidden
    state, which llama.cpp keeps after ``llama_set_embeddings(ctx, True)``.
    """

    def __init__(self, heads: Heads | None, heads_enabled: Collection[str] | None = None) -> None:
        """Predict with the given heads, or 1 and 1 for None."""
        enabled = check_enabled(heads_enabled)
        self.names = enabled & heads.names if heads is not None else frozenset[str]()
        self._ctx = 0
        self.native: Any = None
        if heads is not None and self.names:
            self.native = core.Predictor(heads.native, "temperature" in enabled, "top_p" in enabled)

    def attach(self, ctx: Any, seq_id: int = 0) -> bool:
        """Put the heads into the graph of a llama_context (a ctypes pointer or an address) for one sequence.

        The caller detaches before the context is freed. While attached, a decode takes one output of that
        sequence.

        Returns:
            False where the context cannot run samplers in its graph (split mode "tensor"); use the host way.

        Raises:
            AutoDecoError: attached already, or the model has another hidden size or vocabulary.
        """
        return self.native is None or bool(self.native.attach(address(ctx), seq_id))

    def detach(self) -> None:
        """Take the heads out of the context's graph; does nothing when they are not in one."""
        if self.native is not None:
            self.native.detach()

    @property
    def attached(self) -> bool:
        """Whether the heads are attached to a context."""
        return self.native is not None and bool(self.native.attached)

    def in_graph(self) -> bool:
        """Whether the last decode computed T and P; False where the architecture has no ``result_norm``."""
        return self.native is not None and bool(self.native.in_graph())


class Sampler:
    """Draws tokens from a llama_context, with temperature and top-p predicted at every step.

    For code that drives llama.cpp itself; :class:`autodeco_gguf.Llama` contains one. Attach it before the first
    decode, and detach it before the context is freed.

    Examples:
        >>> sampler = Sampler(Heads.load("model-autodeco.gguf"), seed=1)  # doctest: +SKIP
        >>> sampler.attach(ctx)  # doctest: +SKIP
        >>> llama_cpp.llama_decode(ctx, batch)  # doctest: +SKIP
        >>> token = sampler.sample(ctx)  # doctest: +SKIP
    """

    def __init__(
        self,
        heads: Heads | Predictor | None,
        *,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        heads_enabled: Collection[str] | None = None,
        logits_processors: Sequence[LogitsProcessor] = (),
        before: LlamaSampler | None = None,
        after: LlamaSampler | None = None,
        trace: bool = True,
    ) -> None:
        """Prepare to draw.

        Args:
            heads: what predicts; None is the same as no head enabled. Share a Predictor among samplers that
                follow each other on one context.
            temperature: a number fixes it, 0 is greedy; None predicts it.
            top_p: likewise, in [0, 1].
            seed: 32 bits; random when None. The same seed gives the same tokens.
            heads_enabled: the heads to use; what another would predict is 1.
            logits_processors: change the logits first of all, as in llama_cpp: (token ids, logits) -> logits.
                The heads read the raw logits all the same.
            before: a llama.cpp chain on the logits: penalties, biases, grammar.
            after: a llama.cpp chain on logits / T: top-k, typical, min-p, or one that draws itself (mirostat).
            trace: keep a record of every token.

        Raises:
            AutoDecoError: a parameter out of range.
        """
        if temperature is not None:
            check_temperature(temperature)
        if top_p is not None:
            check_top_p(top_p)
        self.predictor = heads if isinstance(heads, Predictor) else Predictor(heads, heads_enabled)
        if self.predictor.native is None:  # nothing predicts: what is not fixed is 1
            temperature = 1.0 if temperature is None else temperature
            top_p = 1.0 if top_p is None else top_p
        self._logits_processors = logits_processors
        self._chains = (before, after)  # kept alive: the core borrows them
        self._native = core.Sampler(
            self.predictor.native,
            temperature,
            top_p,
            check_seed(seed),
            address(before.sampler) if before else 0,
            address(after.sampler) if after else 0,
            trace,
        )

    def attach(self, ctx: Any, seq_id: int = 0) -> bool:
        """See :meth:`Predictor.attach`."""
        return self.predictor.attach(ctx, seq_id)

    def detach(self) -> None:
        """See :meth:`Predictor.detach`."""
        self.predictor.detach()

    def sample(self, ctx: Any, idx: int = -1, input_ids: npt.NDArray[np.intc] | None = None) -> int:
        """Draw the token that follows output ``idx`` of the last decode (as in ``llama_get_logits_ith``).

        Args:
            ctx: the llama_context, a ctypes pointer or an address.
            idx: the output; -1 is the last.
            input_ids: the tokens so far, for the logits processors.

        Raises:
            AutoDecoError: no such output, no prediction, logits that are not finite, no token allowed.
        """
        where = address(ctx)
        changed = None
        if self._logits_processors:
            ids = np.empty(0, np.intc) if input_ids is None else input_ids
            changed = core.logits(where, idx)
            for processor in self._logits_processors:
                changed = np.asarray(processor(ids, changed), np.float32)
        return int(self._native.sample(where, idx, changed))

    @property
    def trace(self) -> Trace:
        """What was drawn so far; its tokens' text is empty, since a sampler knows no vocabulary."""
        return Trace(self._native, lambda _: b"")


def token_bytes(vocab: Any, token: int, *, special: bool = True) -> bytes:
    """The text piece of a token of a ``llama_vocab``; with special False, control tokens give nothing."""
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        n = llama_cpp.llama_token_to_piece(vocab, token, buffer, size, 0, special)
        if n >= 0:
            return buffer.raw[:n]
        size = -n


def grammar_chain(chain: LlamaSampler, vocab: Any, grammar: llama_cpp.LlamaGrammar) -> None:
    """Add a grammar to a chain.

    Raises:
        AutoDecoError: the grammar does not parse (``LlamaSampler.add_grammar`` would crash the process).
    """
    capture = core.LogCapture(False)
    sampler = llama_cpp.llama_sampler_init_grammar(
        vocab, grammar._grammar.encode("utf-8"), grammar._root.encode("utf-8")
    )
    reason = capture.first_error
    del capture
    if not sampler:
        raise AutoDecoError(f"the grammar does not parse: {reason}")
    llama_cpp.llama_sampler_chain_add(chain.sampler, sampler)
