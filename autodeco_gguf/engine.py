"""Generates many sequences at once, each with its own prompt, seed, and fixed or predicted temperature and top-p."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from autodeco_gguf._native import core
from autodeco_gguf.context import MAX_SEQUENCES, Context, default_context
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.heads import Float32Array, Heads, check_temperature, check_top_p
from autodeco_gguf.model_file import ModelFile

MAX_PARALLEL = MAX_SEQUENCES - 1
"""Sequences at once; one more holds the prompt that several of them share."""

UInt64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Request:
    """What to generate: the tokens of a prompt, and how to go on.

    Attributes:
        tokens: the prompt, at least one token.
        seed: in [0, 2**64). The draw at place i depends on it and on i only, not on what runs beside it.
        temperature: fixed; 0 is greedy. None: predicted, 1 where there is no such head.
        top_p: fixed, in [0, 1]. None: predicted, 1 where there is no such head.
        max_tokens: at most so many, the end-of-generation token included. None: until the context is full.
    """

    tokens: Sequence[int]
    _: KW_ONLY
    seed: int
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """What became of a request.

    Attributes:
        index: the request's place among those given, from 0.
        tokens: the answer, without the end-of-generation token.
        text: of these tokens, control tokens left out.
        finish_reason: "stop" when the model ended it, "length" at max_tokens or the end of the context.
        temperature: [n] what each token was drawn with, the end-of-generation token included.
        top_p: [n] likewise.
    """

    index: int
    tokens: list[int]
    text: str
    finish_reason: Literal["stop", "length"]
    temperature: Float32Array
    top_p: Float32Array


class Engine:
    """A model that answers up to ``n_parallel`` requests at once and takes the next as soon as one is done.

    Examples:
        >>> engine = Engine("model-autodeco.gguf", n_parallel=16)  # doctest: +SKIP
        >>> _, tokens = engine.prompt("Why is the sky blue?")  # doctest: +SKIP
        >>> for result in engine.generate(Request(tokens, seed=i) for i in range(100)):  # doctest: +SKIP
        ...     print(result.index, result.text)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_parallel: int = 8,
        n_ctx: int | None = None,
        heads: str | os.PathLike[str] | None = None,
        n_threads: int | None = None,
        n_gpu_layers: int = -1,
        f32_cache: bool = False,
        verbose: bool = False,
    ) -> None:
        """Load a model and its heads, if it has any.

        Args:
            path: a plain or merged GGUF.
            n_parallel: sequences at once, 1 to 255.
            n_ctx: tokens of one sequence, its prompt included; by default as in :func:`default_context`.
            heads: an adapter, or a merged file whose heads to take; by default those of the model itself.
            n_threads: CPU threads; by default one a core, half of them above four.
            n_gpu_layers: layers on the GPU; -1: all.
            f32_cache: keep keys and values in 32 bits instead of 16.
            verbose: show llama.cpp's own log.

        Raises:
            AutoDecoError: a parameter out of range, a broken file, heads that do not fit, or llama.cpp fails.
        """
        if not 1 <= n_parallel <= MAX_PARALLEL:
            raise AutoDecoError(f"n_parallel {n_parallel}, expected 1 to {MAX_PARALLEL}")
        if n_ctx is not None and n_ctx < 1:
            raise AutoDecoError(f"n_ctx {n_ctx}, expected at least 1")
        self.n_parallel, self.n_ctx = n_parallel, n_ctx or default_context(path)
        model = ModelFile.open(Path(path))
        self._heads = Heads(model.fitting_heads(heads)) if heads is not None or model.head_tensors else None
        n_seq = n_parallel + 1
        self.context = Context(
            path,
            n_ctx=self.n_ctx,
            n_seq=n_seq,
            n_threads=n_threads,
            n_gpu_layers=n_gpu_layers,
            f32_cache=f32_cache,
            verbose=verbose,
        )
        self._n_threads = n_threads
        self._chat = self.context.chat()
        self._ends = np.array([self.context.is_eog(token) for token in range(self.context.n_vocab)])
        self._pieces: dict[int, bytes] = {}
        self._busy = False

    @property
    def heads(self) -> frozenset[str]:
        """The heads that predict where a request asks for it: some of "temperature" and "top_p"."""
        return self._heads.names if self._heads is not None else frozenset()

    def close(self) -> None:
        """Free the context and the model."""
        self.context.close()

    def prompt(self, message: str) -> tuple[str, list[int]]:
        """A user's message as the model expects it, text and tokens; without a chat template, the message itself.

        Raises:
            AutoDecoError: the chat template refuses, or the message is not to be written as UTF-8.
        """
        if self._chat is None:
            return message, self.context.tokenize(message, add_bos=True)
        text = self._chat.render([{"role": "user", "content": message}])
        return text, self.context.tokenize(text)

    def check(self, request: Request) -> None:
        """Raise AutoDecoError for a request that cannot be met: its prompt does not fit, a value out of range."""
        n, n_vocab = len(request.tokens), self.context.n_vocab
        if n == 0:
            raise AutoDecoError("the prompt is empty")
        if n >= self.n_ctx:
            raise AutoDecoError(f"the prompt has {n} tokens, the context holds {self.n_ctx}; raise it")
        bad = next((token for token in request.tokens if not 0 <= token < n_vocab), None)
        if bad is not None:
            raise AutoDecoError(f"token {bad}, expected 0 to {n_vocab - 1}")
        if not 0 <= request.seed < 1 << 64:
            raise AutoDecoError(f"seed {request.seed}, expected 0 to 2**64 - 1")
        if request.max_tokens is not None and request.max_tokens < 1:
            raise AutoDecoError(f"max_tokens {request.max_tokens}, expected at least 1")
        if request.temperature is not None:
            check_temperature(request.temperature)
        if request.top_p is not None:
            check_top_p(request.top_p)

    def generate(self, requests: Iterable[Request]) -> Generator[Result, None, None]:
        """Answer requests; the results come as they are finished, not in the order of the requests.

        The requests are taken as there is room for them. Those that follow each other with the same prompt have it
        computed once.

        Raises:
            AutoDecoError: a request that :meth:`check` refuses, before anything of it is drawn; llama.cpp fails; the
                engine is in the midst of another generation.
        """
        if self._busy:
            raise AutoDecoError("the engine is generating; finish or close that first")
        self._busy = True
        try:
            running = _Running(self, _Queue(requests))
            while running.admit():
                running.step()
                yield from running.finished()
        finally:
            self._busy = False

    def text(self, tokens: Iterable[int]) -> str:
        """The text of tokens, control tokens left out; what is no UTF-8 becomes U+FFFD."""
        pieces = self._pieces
        for token in (tokens := list(tokens)):
            if token not in pieces:
                pieces[token] = self.context.token_bytes(token, special=False)
        return b"".join(map(pieces.__getitem__, tokens)).decode("utf-8", "replace")

    def _evaluate(self, hidden: Float32Array, logits: Float32Array) -> Float32Array:
        """Predicted temperature and top-p [2, n]."""
        assert self._heads is not None
        # the heads run on up to four threads, but a single row on one, which is what one who asks for one gets
        n = 1 if self._n_threads == 1 else len(hidden)
        parts = [self._heads.evaluate(hidden[i : i + n], logits[i : i + n]) for i in range(0, len(hidden), n)]
        return np.concatenate(parts, axis=1)


# ---- one generation ----


class _Queue:
    """The requests to come, numbered, with a look at the next one."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = enumerate(requests)
        self.next = next(self._requests, None)

    def take(self) -> tuple[int, Request]:
        assert self.next is not None
        taken, self.next = self.next, next(self._requests, None)
        return taken


class _Running:
    """The sequences under way: row i of every array is sequence i of the context.

    Arrays instead of an object a sequence: a small model makes tens of thousands of tokens a second, and what Python
    does for each of them alone is then most of the time.
    """

    def __init__(self, engine: Engine, queue: _Queue) -> None:
        n, n_ctx = engine.n_parallel, engine.n_ctx
        self._engine, self._context, self._queue = engine, engine.context, queue
        self._index = np.full(n, -1)  # of the request; -1: the row is free
        self._token, self._position = np.zeros(n, np.int32), np.zeros(n, np.int32)  # the next to decode
        self._n, self._limit = np.zeros(n, np.int64), np.zeros(n, np.int64)  # drawn so far, at most
        self._key = np.zeros(n, np.uint64)
        self._fixed = np.ones((2, n), np.float32)  # temperature and top-p; NaN: predicted
        self._tokens = np.empty((n, n_ctx), np.int32)
        self._used = np.empty((2, n, n_ctx), np.float32)  # temperature and top-p of each draw
        self._shared: list[int] = []  # what the extra sequence holds
        self._context.clear()

    # ---- prompts ----

    def admit(self) -> bool:
        """Fill the free rows with requests; False when there is nothing left to do."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        for row in np.flatnonzero(self._index < 0).tolist():
            if self._queue.next is None:
                break
            head = self._start(row)
            if head and (head == self._shared or self._next_has(head)):
                self._share(head, row)
            else:
                tokens += head
                positions += range(len(head))
                sequences += [row] * len(head)
        self._context.fill(tokens, positions, sequences)
        return bool((self._index >= 0).any())

    def _start(self, row: int) -> list[int]:
        """Give the next request a row; the tokens of its prompt but the last, which is decoded with the others."""
        index, request = self._queue.take()
        try:
            self._engine.check(request)
        except AutoDecoError as e:
            raise AutoDecoError(f"request {index}: {e}") from e
        *head, last = map(int, request.tokens)
        room = self._engine.n_ctx - len(request.tokens)
        self._index[row], self._token[row], self._position[row] = index, last, len(head)
        self._n[row], self._limit[row] = 0, min(request.max_tokens or room, room)
        self._key[row] = _mix(np.array([request.seed], np.uint64))[0]
        for i, (name, value) in enumerate((("temperature", request.temperature), ("top_p", request.top_p))):
            absent = np.nan if name in self._engine.heads else 1.0
            self._fixed[i, row] = absent if value is None else value
        return head

    def _next_has(self, head: list[int]) -> bool:
        upcoming = self._queue.next
        return upcoming is not None and list(upcoming[1].tokens[:-1]) == head

    def _share(self, head: list[int], row: int) -> None:
        """Begin a row with a prompt that is computed once, in the extra sequence."""
        extra = self._engine.n_parallel
        if head != self._shared:
            self._context.remove(extra)
            self._context.fill(head, range(len(head)), [extra] * len(head))
            self._shared = head
        self._context.copy(extra, row)

    # ---- tokens ----

    def step(self) -> None:
        """Draw one token for every row in use."""
        rows = np.flatnonzero(self._index >= 0)
        for i in range(0, len(rows), self._context.n_outputs):
            self._step(rows[i : i + self._context.n_outputs])

    def _step(self, rows: npt.NDArray[np.intp]) -> None:
        fixed = self._fixed[:, rows]
        predicted = np.isnan(fixed).any(axis=0)
        logits, hidden = self._context.decode(
            self._token[rows], self._position[rows], rows, hidden=bool(predicted.any())
        )
        if hidden is not None:
            which = slice(None) if predicted.all() else predicted
            found = np.ones_like(fixed)
            found[:, which] = self._engine._evaluate(hidden[which], logits[which])
            fixed = np.where(np.isnan(fixed), found, fixed)
        n = self._n[rows]
        seeds = _draw_seeds(self._key[rows], n).tolist()
        draw = core.draw
        tokens = [draw(*row).item() for row in zip(logits, *fixed.tolist(), [1] * len(rows), seeds, strict=True)]
        self._token[rows] = self._tokens[rows, n] = tokens
        self._used[:, rows, n] = fixed
        self._position[rows] += 1
        self._n[rows] += 1

    def finished(self) -> list[Result]:
        """The results of the rows that are done, which are free afterwards."""
        ended = self._engine._ends[self._token]
        done = np.flatnonzero((self._index >= 0) & (ended | (self._n >= self._limit))).tolist()
        results = [self._result(row, bool(ended[row])) for row in done]
        for row in done:
            self._context.remove(row)
            self._index[row] = -1
        return results

    def _result(self, row: int, ended: bool) -> Result:
        n = int(self._n[row])
        tokens = self._tokens[row, : n - ended].tolist()
        temperature, top_p = self._used[:, row, :n].copy()
        text = self._engine.text(tokens)
        return Result(int(self._index[row]), tokens, text, "stop" if ended else "length", temperature, top_p)


def _mix(x: UInt64Array) -> UInt64Array:
    """The finalizer of splitmix64: a bijection in which every bit of x decides about every bit of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _draw_seeds(keys: UInt64Array, places: npt.NDArray[np.int64]) -> UInt64Array:
    """32 bits a row: of splitmix64, started at ``keys``, the number at ``places``."""
    steps = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return _mix(keys + steps) >> np.uint64(32)
