"""A drop-in for ``llama_cpp.Llama`` whose temperature and top-p are predicted at every token."""

from __future__ import annotations

import functools
import inspect
import os
import warnings
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as lib
from llama_cpp._internals import LlamaContext

from autodeco_gguf.errors import Closed, InvalidInput
from autodeco_gguf.heads.base_model import fitting_heads
from autodeco_gguf.heads.compute import Heads
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.weights import Float32Array, check_enabled
from autodeco_gguf.model.grammar import in_place_of, with_schemas
from autodeco_gguf.model.loading import loading
from autodeco_gguf.model.sampler import Predictor, Sampler, build_sampler
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.model.token_text import check_token, token_bytes
from autodeco_gguf.model.trace import Trace

_DEFAULTS = {"temperature": None, "temp": None, "top_p": None, "top_k": 0, "min_p": 0.0, "typical_p": 1.0}
"""Sampling defaults that differ from llama_cpp's: predicted, and nothing else cut."""

_PREDICT_ROWS = 32
"""Outputs per decode while predictions are made for a whole text: bounds the buffer of logits."""

F = TypeVar("F", bound=Callable[..., Any])


def _with_defaults(method: F) -> F:
    """The same method with the defaults above; what the caller gives is passed on untouched."""
    signature = inspect.signature(method)
    signature = signature.replace(
        parameters=[p.replace(default=_DEFAULTS.get(p.name, p.default)) for p in signature.parameters.values()]
    )

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return method(*bound.args, **bound.kwargs)

    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


_sample_once = _with_defaults(llama_cpp.Llama.sample)


class Llama(llama_cpp.Llama):
    """``llama_cpp.Llama`` with AutoDeco heads: changing the import is the whole migration.

    Where llama_cpp takes ``temperature`` and ``top_p``, both default to None here, which means predicted; a number
    fixes that one (temperature 0 is greedy). ``top_k``, ``min_p`` and ``typical_p`` are off unless given. The order
    is: logits processors and biases, penalties, grammar, scale by T, top-k, typical, min-p, cut at P, draw. The
    heads read the raw logits.

    Examples:
        >>> from autodeco_gguf.model.shipped import DEMO_MODEL
        >>> llm = Llama(DEMO_MODEL, verbose=False)
        >>> text = llm("Tell a story about Mia", max_tokens=4, seed=1)["choices"][0]["text"]
        >>> b"".join(token.text for token in llm.trace).decode() == text
        True
        >>> [0 < token.temperature < 2 for token in llm.trace]
        [True, True, True, True]
    """

    create_completion = _with_defaults(llama_cpp.Llama.create_completion)
    create_chat_completion = _with_defaults(with_schemas(llama_cpp.Llama.create_chat_completion))
    generate = _with_defaults(llama_cpp.Llama.generate)
    __call__ = _with_defaults(llama_cpp.Llama.__call__)

    # llama_cpp.Llama's own, of which mypy sees nothing
    n_tokens: int
    _requires_eval: bool
    n_batch: int

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        heads: str | os.PathLike[str] | None = None,
        heads_enabled: Collection[str] | None = None,
        trace: bool = True,
        **kwargs: Any,
    ) -> None:
        """Load a model and its heads.

        Args:
            model_path: a merged GGUF, or a plain one together with ``heads``.
            heads: an adapter, or a merged file whose heads to take; by default those of the model itself.
            heads_enabled: the heads to use, of "temperature" and "top_p"; the other parameter is then 1. All by
                default; with none, a model without heads will do.
            trace: keep :attr:`trace`.
            **kwargs: as in ``llama_cpp.Llama``.

        Raises:
            BadFile: a file that is broken, without heads, an adapter given as model, a stale base view, heads
                that do not fit, or llama.cpp cannot load the model; one line with the cause.
        """
        self._stack = ExitStack()  # llama_cpp's __del__ closes it, also when this fails before llama_cpp's __init__
        _warn_unknown(kwargs)
        enabled = check_enabled(heads_enabled)
        model = ModelFile.open(Path(model_path))
        base = model.base()
        self._heads = Heads(fitting_heads(model, heads)) if enabled else None
        self._heads_path = heads
        self._trace_on = trace
        self._last: Sampler | None = None
        self._predictor = Predictor(self._heads, enabled)
        self._host_way = False
        self._graph_seen = False  # whether a decode has shown that this architecture's graph takes the heads
        with loading(base, kwargs.get("verbose", True), outputs_max=self._outputs_max(kwargs)) as path:
            super().__init__(path, **kwargs)
        self.model_path = os.fspath(model_path)
        self._start_heads()

    @property
    def heads(self) -> frozenset[str]:
        """The heads in use: some of "temperature" and "top_p"."""
        return self._predictor.names

    @property
    def trace(self) -> Trace:
        """The tokens of the last generation, end-of-generation token included; empty with ``trace=False``."""
        return Trace(self._last.native.records, self.token_bytes) if self._last is not None else Trace()

    def token_bytes(self, token: int, *, special: bool = True) -> bytes:
        """The text piece of one token: bytes, since it may end within a UTF-8 character.

        Args:
            token: a token id.
            special: give control tokens their names; else they give nothing.

        Raises:
            Closed: the model is.
        """
        self._check_open()
        return token_bytes(self._model.vocab, token, special=special)

    def predict(self, tokens: Sequence[int]) -> tuple[Float32Array, Float32Array]:
        """Teacher-forced predictions: what T and P would be after each token of a text.

        Args:
            tokens: [n] token ids, n up to the context's size.

        Returns:
            temperature [n] and top-p [n]; entry i is for the token that follows ``tokens[i]``.

        Raises:
            InvalidInput: no such token, more tokens than the context holds, or a context that pools its embeddings.
            Closed: the model is.
        """
        self._check_open()
        tokens = [check_token(t, self.n_vocab()) for t in tokens]
        if len(tokens) > self.n_ctx():
            raise InvalidInput(f"{len(tokens)} tokens, the context holds {self.n_ctx()}; raise n_ctx", key="n_ctx")
        ones = np.ones(len(tokens), np.float32)
        if not self._predictor.names or not tokens or self._heads is None:
            return ones, ones.copy()
        if self.pooling_type() != lib.LLAMA_POOLING_TYPE_NONE:
            raise InvalidInput("the context pools its embeddings; predict needs LLAMA_POOLING_TYPE_NONE")
        was_attached = self._predictor.attached
        self._predictor.detach()
        lib.llama_set_embeddings(self._ctx.ctx, True)
        try:
            parts = [self._predict_part(tokens, i) for i in range(0, len(tokens), self._predict_rows)]
        finally:
            self.n_tokens = 0
            self._requires_eval = True
            self._ctx.kv_cache_clear()
            lib.llama_set_embeddings(self._ctx.ctx, self._keeps_hidden)
            if was_attached:
                self._predictor.attach(self._ctx.ctx)
        temperature, top_p = (np.concatenate(column) for column in zip(*parts, strict=True))
        return temperature, top_p

    @functools.wraps(_sample_once)
    def sample(self, *args: Any, idx: int | None = None, **kwargs: Any) -> int:  # noqa: D102  llama_cpp's own
        if self.n_tokens == 0:
            raise InvalidInput("the prompt is empty: there is no output to draw from")
        if self._sampler is None:  # else generate() is under way, and has set it up with these parameters
            return int(_sample_once(self, *args, idx=idx, **kwargs))
        return int(self._sampler.sample(self._ctx, -1 if idx is None else idx - self.n_tokens))

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens, as ``llama_cpp.Llama.eval``, and see to it that T and P can be had afterwards."""
        if not tokens:
            return
        n_vocab = self.n_vocab()
        tokens = [check_token(t, n_vocab) for t in tokens]
        if self._host_way and not self._keeps_hidden:
            # hidden states are kept for the last token only: the flag makes every token an output
            lib.llama_set_embeddings(self._ctx.ctx, False)
            super().eval(tokens[:-1])
            lib.llama_set_embeddings(self._ctx.ctx, True)
            tokens = tokens[-1:]
        super().eval(tokens)
        if not self._graph_seen and self._predictor.attached:
            self._graph_seen = True
            if not self._predictor.in_graph():
                self._leave_graph()

    def detokenize(self, tokens: list[int], *args: Any, **kwargs: Any) -> bytes:
        """The text of tokens, as ``llama_cpp.Llama.detokenize``; InvalidInput where one is not in the vocabulary."""
        n_vocab = self.n_vocab()
        text: bytes = super().detokenize([check_token(t, n_vocab) for t in tokens], *args, **kwargs)
        return text

    def _check_open(self) -> None:
        if self._model.model is None:
            raise Closed("the model is closed")

    # ---- loading ----

    def _outputs_max(self, kwargs: dict[str, Any]) -> int:
        """Outputs per decode to reserve graph memory for; 0, llama.cpp's default, where every token is one."""
        every_token = kwargs.get("logits_all") or kwargs.get("embedding") or kwargs.get("draft_model") is not None
        return 0 if every_token or not self._predictor.names else _PREDICT_ROWS

    def _start_heads(self) -> None:
        self._keeps_hidden = bool(self.context_params.embeddings)
        if not self._predictor.names:
            return
        # on the context's own stack: it runs before the context is freed, whoever frees it, also while garbage
        # of which both are part is collected in whatever order
        self._ctx._exit_stack.callback(self._predictor.detach)  # noqa: SLF001  there is no other
        if self._logits_all:
            lib.llama_set_embeddings(self._ctx.ctx, True)
            self._keeps_hidden = True
        self._host_way = self._keeps_hidden or not self._predictor.attach(self._ctx.ctx)

    def _leave_graph(self) -> None:
        """Go over to the host way: this architecture's graph has no hidden state where heads look for it."""
        self._predictor.detach()
        self._host_way = True
        tokens = self.input_ids[: self.n_tokens].tolist()
        self._ctx.kv_cache_clear()
        self.reset()
        self.eval(tokens)

    # ---- predicting ----

    @property
    def _predict_rows(self) -> int:
        return max(1, min(_PREDICT_ROWS, self.n_batch))

    def _predict_part(self, tokens: list[int], begin: int) -> tuple[Float32Array, Float32Array]:
        assert self._heads is not None
        if begin == 0:
            self._ctx.kv_cache_clear()
        part = tokens[begin : begin + self._predict_rows]
        self._batch.set_batch(batch=part, n_past=begin, logits_all=True)
        self._ctx.decode(self._batch)
        n, n_vocab, n_embd = len(part), self.n_vocab(), lib.llama_model_n_embd_out(self._model.model)
        logits = np.ctypeslib.as_array(lib.llama_get_logits(self._ctx.ctx), shape=(n, n_vocab))
        hidden = np.ctypeslib.as_array(lib.llama_get_embeddings(self._ctx.ctx), shape=(n, n_embd))
        return self._heads.evaluate(hidden, logits, heads_enabled=self._predictor.names)

    # ---- sampling ----

    def _create_completion(self, *args: Any, **kwargs: Any) -> Any:
        # llama_cpp drops both when both are given: list.extend returns None
        bias, processors = kwargs.get("logit_bias"), kwargs.get("logits_processor")
        for token in bias or ():
            check_token(int(token) if isinstance(token, str) else token, self.n_vocab(), "logit_bias of token")
        if bias and processors:
            kwargs["logits_processor"] = llama_cpp.LogitsProcessorList([*processors, _bias_processor(bias)])
            kwargs["logit_bias"] = None
        kwargs["grammar"] = in_place_of(kwargs.get("grammar"))
        return super()._create_completion(*args, **kwargs)

    def _init_sampler(
        self,
        top_k: int = 0,
        top_p: float | None = None,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        temp: float | None = None,
        repeat_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_eta: float = 0.1,
        mirostat_tau: float = 5.0,
        penalize_nl: bool = True,
        logits_processor: llama_cpp.LogitsProcessorList | None = None,
        grammar: llama_cpp.LlamaGrammar | None = None,
    ) -> Sampler:
        """What llama_cpp's generate calls for; tfs_z and penalize_nl have no effect there either."""
        if temp is not None and temp < 0.0:  # in llama_cpp: draw from the model's own distribution
            temp, top_p, top_k, typical_p, min_p, mirostat_mode = 1.0, 1.0, 0, 1.0, 0.0, 0
        sampling = Sampling(
            seed=self._seed,
            temperature=temp,
            top_p=None if top_p is None else min(top_p, 1.0),
            top_k=max(top_k, 0),
            min_p=max(min_p, 0.0),
            typical_p=min(typical_p, 1.0),
            repeat_penalty=repeat_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            penalty_last_n=self.last_n_tokens_size,
            mirostat_mode=mirostat_mode,
            mirostat_tau=mirostat_tau,
            mirostat_eta=mirostat_eta,
            grammar=grammar,
        )
        self._last = build_sampler(
            self._predictor,
            sampling,
            self._model,
            make=functools.partial(_LlamaSampler, self),
            logits_processors=logits_processor or (),
            trace="full" if self._trace_on else "off",
        )
        return self._last

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "heads": self._heads_path,
            "heads_enabled": self._predictor.names,
            "trace": self._trace_on,
        }


class _LlamaSampler(Sampler):
    """A Sampler with the call that llama_cpp.Llama makes."""

    def __init__(self, llama: Llama, predictor: Predictor, **kwargs: Any) -> None:
        super().__init__(predictor, **kwargs)
        self._llama = weakref.proxy(llama)  # which holds this sampler: no cycle, so that it is freed at once

    def sample(self, ctx: LlamaContext, idx: int = -1) -> int:  # type: ignore[override]
        return super().sample(ctx.ctx, idx, self._llama.input_ids[: self._llama.n_tokens])


def _bias_processor(bias: dict[int, float]) -> Callable[..., Any]:
    def add(_: Any, scores: Float32Array) -> Float32Array:
        scores = scores.copy()
        for token, value in bias.items():
            scores[int(token)] += value
        return scores

    return add


def _warn_unknown(kwargs: dict[str, Any]) -> None:
    known = inspect.signature(llama_cpp.Llama.__init__).parameters
    for name in kwargs.keys() - known.keys():
        warnings.warn(f"Llama: unknown argument {name}, which llama_cpp ignores", RuntimeWarning, stacklevel=3)
