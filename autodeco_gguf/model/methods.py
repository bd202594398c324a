"""The methods of ``llama_cpp.Llama`` as ours has them: with other defaults, and one thread at a time."""

from __future__ import annotations

import ctypes
import functools
import inspect
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from operator import index
from typing import Any, SupportsIndex, TypeVar

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as lib
from llama_cpp._internals import LlamaContext

from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.heads.weights import Float32Array
from autodeco_gguf.model.machine import MAX_CONTEXT, MAX_THREADS
from autodeco_gguf.model.sampler import Predictor, Sampler
from autodeco_gguf.model.sampling import Sampling, check_whole
from autodeco_gguf.model.stops import stop_tuple
from autodeco_gguf.model.token_text import check_token
from autodeco_gguf.model.turns import undoing

F = TypeVar("F", bound=Callable[..., Any])

PREDICT_ROWS = 32
"""Outputs per decode while predictions are made for a whole text: bounds the buffer of logits."""

RESTORED = -2
"""``Llama._evaluated`` after load_state: what there is to draw from is of the tokens before."""

_DEFAULTS = {"temperature": None, "temp": None, "top_p": None, "top_k": 0, "min_p": 0.0, "typical_p": 1.0}
"""Sampling defaults that differ from llama_cpp's: predicted, and nothing else cut."""

_STOCK = llama_cpp.Llama
"""llama_cpp's class, before a program puts ours in its place."""

_KNOWN = frozenset(inspect.signature(_STOCK.__init__).parameters)


_NUMBERS = frozenset(
    [
        "temperature",
        "temp",
        "top_p",
        "top_k",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "frequency_penalty",
        "presence_penalty",
        "mirostat_mode",
        "mirostat_tau",
        "mirostat_eta",
    ]
)

_TEXTS = frozenset(["prompt", "suffix", "messages", "functions", "tools"])

_SETTINGS = {
    "n_ctx": (0, MAX_CONTEXT),
    "n_batch": (1, 2**31 - 1),
    "n_ubatch": (0, 2**31 - 1),
    "n_threads": (-1, MAX_THREADS),
    "n_threads_batch": (-1, MAX_THREADS),
}
"""Arguments of the constructor whose values beyond these crash llama.cpp, or are another value there."""


def with_defaults(method: F) -> F:
    """The same method with the defaults above, that takes all forms of stops, and None for a number not given."""
    signature = inspect.signature(method)
    signature = signature.replace(
        parameters=[p.replace(default=_DEFAULTS.get(p.name, p.default)) for p in signature.parameters.values()]
    )

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name in _NUMBERS & bound.arguments.keys():
            value = bound.arguments[name]
            if value is None:
                bound.arguments[name] = signature.parameters[name].default
            elif not isinstance(value, Real):
                raise InvalidInput.of(name, repr(value), "a number")
        for name in _TEXTS & bound.arguments.keys():
            check_utf8(name, bound.arguments[name])
        if "stop" in bound.arguments:  # llama_cpp's chat formats add theirs to a list
            bound.arguments["stop"] = list(stop_tuple(bound.arguments["stop"]))
        return method(*bound.args, **bound.kwargs)

    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def check_utf8(name: str, value: object) -> None:
    """Raise InvalidInput for a text that is not to be written as UTF-8, wherever in an argument it stands."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as e:
            raise InvalidInput(f"{name} {value!r:.80} is not UTF-8: {e.reason}", key=name) from e
    elif isinstance(value, Mapping | list | tuple) and name != "prompt":  # tokens
        for part in value.values() if isinstance(value, Mapping) else value:
            check_utf8(name, part)


def in_turn(method: F, *, changes: bool = True) -> F:
    """The same method of a Llama, that waits while another thread computes (see :class:`Turns`)."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        def compute() -> Any:
            result = method(self, *args, **kwargs)
            self._remote.check()
            return result

        return self._turns.run(compute, changes=changes)

    return wrapper  # type: ignore[return-value]


def check_settings(arguments: dict[str, Any]) -> None:
    """Refuse arguments that crash llama.cpp, give a draft model what it needs, and warn of those that are ignored.

    Raises:
        InvalidInput: a size or a number of threads out of range, or a seed that is no whole number.
    """
    if isinstance(arguments.get("lora_path"), os.PathLike):
        arguments["lora_path"] = os.fspath(arguments["lora_path"])
    for name, (least, most) in _SETTINGS.items():
        value = arguments.get(name)
        if value is not None and not (isinstance(value, SupportsIndex) and least <= index(value) <= most):
            raise InvalidInput.of(name, repr(value), f"a whole number, {least} to {most}")
    if arguments.get("seed") is not None:
        check_whole(arguments["seed"])
    if arguments.get("draft_model") is not None:  # llama_cpp writes all logits then, into rows for one batch
        arguments["logits_all"] = True
    for name in arguments.keys() - _KNOWN:
        warnings.warn(f"Llama: unknown argument {name}, which llama_cpp ignores", RuntimeWarning, stacklevel=3)


def who_decides(sampling: str | None) -> str:
    """Of temperature and top-p, "caller" or "heads": by default what AUTODECO_SAMPLING says; InvalidInput else."""
    found = sampling or os.environ.get("AUTODECO_SAMPLING") or "caller"
    if found not in ("caller", "heads"):
        raise InvalidInput.of("sampling", repr(found), "'caller' or 'heads'")
    return found


def warn_ignored(model: str, given: dict[str, float | None]) -> bool:
    """Whether a call gave what the heads decide, and say so if it did."""
    ignored = " and ".join(f"{name} {value}" for name, value in given.items() if value is not None)
    if ignored:
        text = f'{model}: sampling "heads" ignores {ignored}, here and in later calls: the heads decide'
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return bool(ignored)


def as_sampling(
    *, temperature: float | None, top_p: float | None, top_k: int, min_p: float, typical_p: float, **others: Any
) -> Sampling:
    """What llama_cpp's numbers mean, some of which are off below or above their range."""
    if temperature is not None and temperature < 0.0:  # draw from the model's own distribution
        return Sampling(**{**others, "mirostat_mode": 0}, temperature=1.0, top_p=1.0)
    return Sampling(
        temperature=temperature,
        top_p=None if top_p is None else min(top_p, 1.0),
        top_k=max(top_k, 0),
        min_p=max(min_p, 0.0),
        typical_p=min(typical_p, 1.0),
        **others,
    )


def checked(self: Any, tokens: Iterable[int]) -> list[int]:
    """Tokens to compute; InvalidInput for what is none, or where there is nothing to compute with."""
    check_computes(self)
    return [check_token(token, self._n_vocab) for token in tokens]


def check_computes(self: Any) -> None:
    """Raise InvalidInput where the vocabulary alone is loaded."""
    if self.model_params.vocab_only:
        raise InvalidInput("vocab_only: nothing can be computed; load the model without it", key="vocab_only")


def predict(self: Any, tokens: list[int]) -> tuple[Float32Array, Float32Array]:
    """What ``Llama.predict`` returns, for tokens that the context holds and heads that the Llama has."""
    was_attached, n = self._predictor.attached, min(PREDICT_ROWS, self.n_batch)
    self._forget()

    def work() -> list[tuple[Float32Array, Float32Array]]:
        self._predictor.detach()
        lib.llama_set_embeddings(self._ctx.ctx, True)
        return [_predict_part(self, tokens[i : i + n], i) for i in range(0, len(tokens), n)]

    def restore() -> None:
        self._ctx.kv_cache_clear()
        lib.llama_set_embeddings(self._ctx.ctx, self._keeps_hidden)
        if was_attached and not self._predictor.attached:
            self._predictor.attach_last(self._ctx.ctx, entropy=self._trace_on)

    parts = undoing(work, restore)
    temperature, top_p = (np.concatenate(column) for column in zip(*parts, strict=True))
    return temperature, top_p


def _predict_part(self: Any, part: list[int], begin: int) -> tuple[Float32Array, Float32Array]:
    self._batch.set_batch(batch=part, n_past=begin, logits_all=True)
    self._raw.keep(True)
    self._ctx.decode(self._batch)
    self._remote.settle(self._ctx.ctx)
    n, n_vocab, n_embd = len(part), self.n_vocab(), lib.llama_model_n_embd_out(self._model.model)
    logits = np.ctypeslib.as_array(lib.llama_get_logits(self._ctx.ctx), shape=(n, n_vocab))
    hidden = np.ctypeslib.as_array(lib.llama_get_embeddings(self._ctx.ctx), shape=(n, n_embd))
    found: tuple[Float32Array, Float32Array] = self._predictor.evaluate(hidden, self._raw.read(logits))
    return found


def embed(self: Any, input: Any, normalize: bool = False, truncate: bool = True, return_count: bool = False) -> Any:
    """``llama_cpp.Llama.embed``, before which nothing counts as computed: an interrupt may leave any of it.

    Without pooling each text is computed by itself: llama_cpp gives the second of a batch vectors of the first.
    """
    check_computes(self)
    texts = [input] if isinstance(input, str) else list(input) if isinstance(input, Iterable) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidInput.of("input", f"{input!r:.80}", "a text, or a list of texts")
    check_utf8("input", texts)
    if self.context_params.embeddings:  # else it is refused
        self.reset()
        if "" in texts and not self.tokenize(b""):  # llama_cpp would write beyond its batch
            raise InvalidInput("input: a text without tokens, expected at least one", key="input")
    if isinstance(input, str) or self.pooling_type() != lib.LLAMA_POOLING_TYPE_NONE:
        whole = input if isinstance(input, str) else texts
        return _STOCK.embed(self, whole, normalize, truncate, return_count)
    vectors, counts = zip(*(_STOCK.embed(self, text, normalize, truncate, True) for text in texts), strict=True)
    return ([*vectors], sum(counts)) if return_count else [*vectors]


def reset(self: Any) -> None:
    """``llama_cpp.Llama.reset``; tokens of before do not stay where none are written, as in the places of an image."""
    _STOCK.reset(self)
    self.input_ids[:] = 0


def set_seed(self: Any, seed: int) -> None:
    """``llama_cpp.Llama.set_seed``; for what is no whole number InvalidInput, and the seed of before stays."""
    check_whole(seed)
    _STOCK.set_seed(self, seed)


def save_state(self: Any) -> llama_cpp.LlamaState:
    """``llama_cpp.Llama.save_state``, with no scores where none are kept: a whole batch of rows that nobody wrote."""
    state = _STOCK.save_state(self)
    if not self._logits_all:
        state.scores = state.scores[:0].copy()
    return state


def load_state(self: Any, state: llama_cpp.LlamaState) -> None:
    """``llama_cpp.Llama.load_state``, also of a Llama with another ``n_ctx`` or ``n_batch``.

    Raises:
        ModelFailed: it does not fit this context, in which nothing counts as computed then.
    """
    n, size = state.n_tokens, state.llama_state_size
    self.reset()  # first: it may be interrupted
    data = (ctypes.c_uint8 * size).from_buffer_copy(state.llama_state)
    fits = n <= len(self.input_ids) and (not self._logits_all or len(state.scores) == n)
    if not fits or lib.llama_state_set_data(self._ctx.ctx, data, size) != size:
        raise ModelFailed(f"{self.model_path}: a state of {n} tokens does not fit this context or lacks its scores")
    if self._logits_all:
        self.scores[:n] = state.scores
    self.input_ids[:n] = state.input_ids[:n]
    self._seed, self.n_tokens, self._evaluated = state.seed, n, RESTORED


class Pieces(dict[int, bytes]):
    """The text of tokens; what was drawn outlives the model, what another thread sees before is read from it."""

    def __init__(self, llama: Any) -> None:
        """Args: the Llama, or a proxy of it."""
        super().__init__()
        self._llama = llama

    def __missing__(self, token: int) -> bytes:
        self[token] = text = bytes(self._llama.token_bytes(token))
        return text


class LlamaSampler(Sampler):
    """A Sampler with the call that ``llama_cpp.Llama`` makes, and that keeps the text of what it draws."""

    def __init__(self, llama: Any, predictor: Predictor, **kwargs: Any) -> None:
        """Args: the Llama, and what a Sampler takes."""
        super().__init__(predictor, **kwargs)
        self._llama = weakref.proxy(llama)  # which holds this sampler: no cycle, so that it is freed at once
        self.pieces = Pieces(self._llama)

    def sample(self, ctx: LlamaContext, idx: int = -1) -> int:  # type: ignore[override]
        """Draw, as ``LlamaSampler.sample`` of llama_cpp does."""
        llama = self._llama
        # of a draft, which is read as a whole, what follows this place is not decided
        ids = llama.input_ids[: llama.n_tokens + 1 + idx] if self._logits_processors else None
        token = super().sample(llama._address, idx, ids)  # noqa: SLF001  of ctx, a pointer that is slow to ask
        llama._remote.check()  # noqa: SLF001  T and P have been read
        _ = self.pieces[token]
        return token
