"""Sampling with predicted temperature and top-p, on a llama_context of one's own."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from numbers import Integral
from typing import Any, Literal

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp._internals import LlamaModel, LlamaSampler

from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.compute import Heads
from autodeco_gguf.heads.weights import Float32Array, check_enabled
from autodeco_gguf.model.grammar import grammar_stage
from autodeco_gguf.model.sampling import MAX_LAST_N, Sampling, check_seed, check_temperature, check_top_p
from autodeco_gguf.model.token_text import check_token
from autodeco_gguf.model.trace import Trace

MAX_DRAWS = 2**28
"""Tokens that :func:`draw` draws at most, 1 GiB of them."""

_LEAST_SHARE = 1e-30
"""Of the largest probability, one that float32 still holds when it is divided by their sum."""

LogitsProcessor = Callable[[npt.NDArray[np.intc], npt.NDArray[np.single]], npt.NDArray[np.single]]


def address(pointer: Any) -> int:
    """The address behind a ctypes pointer, or an int as it is; 0 for None."""
    if pointer is None or isinstance(pointer, int):
        return pointer or 0
    try:
        if not isinstance(pointer, str | bytes):  # whose own address ctypes would take
            return ctypes.cast(pointer, ctypes.c_void_p).value or 0
    except ctypes.ArgumentError:
        pass
    raise InvalidInput.of("context", f"of {type(pointer).__name__}", "a ctypes pointer, or an address")


class Predictor:
    """Where T and P of a context's last decode come from.

    Attached, the heads are part of the context's compute graph. Otherwise they run on the host from the hidden
    state, which llama.cpp keeps after ``llama_set_embeddings(ctx, True)``.
    """

    def __init__(self, heads: Heads | None, heads_enabled: Collection[str] | None = None) -> None:
        """Predict with the given heads, or 1 and 1 for None."""
        enabled = check_enabled(heads_enabled)
        self.heads = heads
        self.names = enabled & heads.names if heads is not None else frozenset[str]()
        self.native: core.Predictor | None = None
        if heads is not None and self.names:
            self.native = core.Predictor(heads.native, "temperature" in enabled, "top_p" in enabled)

    def close(self) -> None:
        """Let go of the heads, and of what they have on a device; the names stay."""
        self.heads = self.native = None

    def evaluate(self, hidden: Float32Array, logits: Float32Array) -> tuple[Float32Array, Float32Array]:
        """T and P [n] after hidden states and raw logits [n, ...] of one's own, as :meth:`Heads.evaluate`."""
        if self.heads is None:
            ones = np.ones(len(hidden), np.float32)
            return ones, ones.copy()
        return self.heads.evaluate(hidden, logits, heads_enabled=self.names)

    def attach(self, ctx: Any, seq_id: int = 0) -> bool:
        """Put the heads into the graph of a llama_context (a ctypes pointer or an address) for one sequence.

        The caller detaches before the context is freed. While attached, a decode takes one output of that
        sequence.

        Returns:
            False where the context cannot run samplers in its graph (split mode "tensor"), or the output layer's device
            lacks an operation, with a RuntimeWarning that says so; use the host way.

        Raises:
            AutoDecoError: attached already, or the model has another hidden size or vocabulary.
        """
        return self.native is None or _told(self.native, self.native.attach(address(ctx), seq_id))

    def attach_rows(self, ctx: Any, n_rows: int, *, entropy: bool = False) -> bool:
        """Put the heads into the graph of a llama_context for every output of a decode, whichever its sequence.

        T and P are there after decodes of up to ``n_rows`` outputs that llama.cpp computes in one piece, and what to
        draw from where :func:`draw_place` says that the device draws. Returns and raises as :meth:`attach`; a device
        that lacks an operation of the draw alone is told too, and the host draws.

        Args:
            ctx: the llama_context, a ctypes pointer or an address.
            n_rows: outputs.
            entropy: have the entropy that a full trace asks for computed in the graph as well, by all of its threads,
                where it can.
        """
        if self.native is None:
            return True
        return _told(self.native, self.native.attach_rows(address(ctx), n_rows, draw_place(), entropy))

    def attach_last(self, ctx: Any, *, entropy: bool = False) -> bool:
        """:meth:`attach_rows` to a context whose decodes have one output each.

        Where the device draws, its logits stay there: ``llama_get_logits_ith`` finds them only once
        :meth:`Sampler.sample` has needed them, or :meth:`fetch` was called.
        """
        attached = self.attach_rows(ctx, 1, entropy=entropy)
        if self.draws:
            core.stay(address(ctx), True)
        return attached

    @property
    def draws(self) -> bool:
        """Whether the device that the heads are attached on draws."""
        return self.native is not None and self.native.draws

    def fetch(self, ctx: Any, idx: int = -1) -> None:
        """Bring the logits of an output of the last decode to the host, where they have stayed on the device."""
        if self.draws:
            core.logits(address(ctx), idx)

    def detach(self) -> None:
        """Take the heads out of the context's graph; does nothing when they are not in one."""
        if self.native is not None:
            self.native.detach()

    @property
    def attached(self) -> bool:
        """Whether the heads are attached to a context."""
        return self.native is not None and self.native.attached

    def in_graph(self) -> bool:
        """Whether the last decode, of one output, gave T and P; False where the architecture has no ``result_norm``."""
        return self.native is not None and self.native.in_graph()


def draw_place() -> str:
    """Where tokens are drawn, by AUTODECO_DRAW: "host", "device", or "auto", the device where that is not the CPU.

    Raises:
        InvalidInput: something else.
    """
    place = os.environ.get("AUTODECO_DRAW") or "auto"
    if place not in ("host", "device", "auto"):
        raise InvalidInput.of("AUTODECO_DRAW", repr(place), "'host', 'device' or 'auto'")
    return place


def _told(predictor: core.Predictor, attached: bool) -> bool:
    """Whether it is, and a line about what the device does not do."""
    if not attached or predictor.why_not:
        what = "tokens are drawn" if attached else "the heads are computed"
        text = f"{predictor.why_not or 'too little memory on the device'}: {what} on the CPU"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
    return attached


class Sampler:
    """Draws tokens from a llama_context, with temperature and top-p predicted at every step.

    For code that drives llama.cpp itself; :class:`autodeco_gguf.Llama` contains one. Attach it before the first
    decode, and detach it before the context is freed.

    Examples:
        >>> from autodeco_gguf.model.context import Context
        >>> from autodeco_gguf.model.shipped import DEMO_MODEL
        >>> context = Context(DEMO_MODEL, n_ctx=32)
        >>> sampler = Sampler(Heads.load(DEMO_MODEL), seed=1)
        >>> sampler.attach(context.address)
        True
        >>> logits, _ = context.decode([1], [0], [0], hidden=False)  # llama_decode
        >>> sampler.sample(context.address) == sampler.trace[0].id
        True
        >>> sampler.detach()
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
        chains: tuple[LlamaSampler | None, LlamaSampler | None] = (None, None),
        trace: Literal["full", "plain", "off"] = "full",
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
            chains: of llama.cpp: one on the logits, with penalties, biases, grammar; and one on logits / T, with
                top-k, typical, min-p, or what draws itself (mirostat).
            trace: the record of every token; "plain": without the entropy of the model's distribution (NaN), which
                costs a pass over the vocabulary; or none.

        Raises:
            InvalidInput: a parameter out of range.
        """
        if temperature is not None:
            check_temperature(temperature)
        if top_p is not None:
            check_top_p(top_p)
        self.predictor = heads if isinstance(heads, Predictor) else Predictor(heads, heads_enabled)
        if self.predictor.native is None:  # nothing predicts: what is not fixed is 1
            temperature = 1.0 if temperature is None else temperature
            top_p = 1.0 if top_p is None else top_p
        self.predicts = temperature is None or top_p is None
        self._logits_processors = logits_processors
        self._chains = chains  # kept alive: the core borrows them
        before, after = (address(chain.sampler) if chain else 0 for chain in chains)
        kept, with_entropy = trace != "off", trace == "full"
        self.native = core.Sampler(
            self.predictor.native, temperature, top_p, check_seed(seed), before, after, kept, with_entropy
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
        return self.native.sample(where, idx, changed)

    @property
    def trace(self) -> Trace:
        """What was drawn so far; its tokens' text is empty, since a sampler knows no vocabulary."""
        return Trace(self.native.records)


def build_sampler(
    predictor: Predictor, sampling: Sampling, model: LlamaModel, make: Callable[..., Sampler] = Sampler, **kwargs: Any
) -> Sampler:
    """A sampler for one sequence of a model.

    Args:
        predictor: what predicts.
        sampling: how to draw.
        model: the model, as llama_cpp has it.
        make: the class to make.
        **kwargs: more of its arguments.

    Raises:
        InvalidInput: a parameter out of range, a bias for no token, or a grammar that does not parse.
    """
    sampling.check()
    seed, temperature, top_p = check_seed(sampling.seed), sampling.temperature, sampling.top_p
    before = _restrictions(sampling, model)
    after = _cuts(sampling, seed, llama_cpp.llama_vocab_n_tokens(model.vocab))
    if sampling.order == "llama.cpp":
        before, after = [*before, *after], []
        temperature = top_p = 1.0
    chains = _chain(before), _chain(after)
    sampler = make(predictor, temperature=temperature, top_p=top_p, seed=seed, chains=chains, **kwargs)
    sampler.native.gate = sampling.gate
    return sampler


def _chain(samplers: list[Any]) -> LlamaSampler | None:
    """A chain of llama.cpp's samplers, which it owns; None where there are none."""
    if not samplers:
        return None
    chain = LlamaSampler()
    for sampler in samplers:
        llama_cpp.llama_sampler_chain_add(chain.sampler, sampler)
    return chain


def _restrictions(s: Sampling, model: LlamaModel) -> list[Any]:
    """What changes the raw logits: biases, penalties, grammar."""
    n_vocab = llama_cpp.llama_vocab_n_tokens(model.vocab)
    for token in s.logit_bias or ():
        check_token(token, n_vocab, "logit_bias of token")
    grammar = [] if s.grammar is None else [grammar_stage(model, s.grammar)]  # first: it may be refused
    stages = []
    if s.logit_bias:
        biases = (llama_cpp.llama_logit_bias * len(s.logit_bias))(*s.logit_bias.items())
        stages.append(llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(biases), biases))
    penalties = s.repeat_penalty, s.frequency_penalty, s.presence_penalty
    if penalties != (1.0, 0.0, 0.0):
        last_n = MAX_LAST_N if s.penalty_last_n < 0 else s.penalty_last_n  # llama.cpp takes -1 for none
        stages.append(llama_cpp.llama_sampler_init_penalties(n_vocab, last_n, *penalties))
    return stages + grammar


def _cuts(s: Sampling, seed: int, n_vocab: int) -> list[Any]:
    """What chooses among the tokens: llama.cpp's samplers, for order "llama.cpp" with top-p and T among them."""
    full = s.order == "llama.cpp"
    temperature = 1.0 if s.temperature is None else s.temperature
    if s.mirostat_mode:
        scale = [llama_cpp.llama_sampler_init_temp(temperature)] if full else []
        if s.mirostat_mode == 1:
            mirostat = llama_cpp.llama_sampler_init_mirostat(n_vocab, seed, s.mirostat_tau, s.mirostat_eta, 100)
            return [*scale, _possible(), mirostat]
        return [*scale, llama_cpp.llama_sampler_init_mirostat_v2(seed, s.mirostat_tau, s.mirostat_eta)]
    stages = []
    if s.top_n_sigma > 0:
        stages.append(llama_cpp.llama_sampler_init_top_n_sigma(s.top_n_sigma))
    if s.top_k > 0:
        stages.append(llama_cpp.llama_sampler_init_top_k(s.top_k))
    if s.typical_p < 1:
        stages += [_possible(), llama_cpp.llama_sampler_init_typical(s.typical_p, 1)]
    if full and s.top_p is not None and s.top_p < 1:
        stages.append(llama_cpp.llama_sampler_init_top_p(s.top_p, 1))
    if s.min_p > 0:
        stages.append(llama_cpp.llama_sampler_init_min_p(s.min_p, 1))
    if s.xtc_probability > 0:
        stages.append(llama_cpp.llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, 1, seed))
    if full:
        stages.append(llama_cpp.llama_sampler_init_temp_ext(temperature, s.dynatemp_range, s.dynatemp_exponent))
    return stages


def _possible() -> Any:
    """Leaves out what has next to no probability: of 0, typical and mirostat 1 make NaN, and then keep what comes."""
    return llama_cpp.llama_sampler_init_min_p(_LEAST_SHARE, 1)


def draw(
    logits: npt.ArrayLike, temperature: float = 1.0, top_p: float = 1.0, *, n: int = 1, seed: int | None = None
) -> npt.NDArray[np.int32]:
    """Draw n tokens from softmax(logits / temperature) cut to the nucleus of mass top_p, renormalized.

    The order is a contract: first scale, then cut. The nucleus is the smallest set of most likely tokens
    whose probabilities reach top_p, never empty. Temperature 0 gives the most likely token.

    Args:
        logits: [n_vocab]; -inf excludes a token.
        temperature: >= 0.
        top_p: in [0, 1].
        n: how many, up to MAX_DRAWS.
        seed: modulo 2**32; random when None, and as -1 and 2**32 - 1.

    Returns:
        Token ids [n].

    Raises:
        InvalidInput: NaN or +inf among the logits, or nothing but -inf; a parameter out of range.
    """
    check_temperature(temperature)
    check_top_p(top_p)
    if not isinstance(n, Integral) or not 0 <= n <= MAX_DRAWS:
        raise InvalidInput.of("n", repr(n), f"a whole number from 0 to {MAX_DRAWS}")
    array = np.asarray(logits, np.float32)
    return np.asarray(core.draw(array, temperature, top_p, n, check_seed(seed)))
