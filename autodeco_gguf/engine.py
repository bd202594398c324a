"""Generates many sequences at once: requests join while others run, each with its own way of sampling."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from pathlib import Path

from autodeco_gguf._native import core
from autodeco_gguf.context import BATCH, MAX_SEQUENCES, Context, default_context
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.heads import Heads, check_enabled
from autodeco_gguf.model_file import ModelFile
from autodeco_gguf.request import FinishReason, Handle, OnToken, Request, Result
from autodeco_gguf.sampler import Predictor, build_sampler

MAX_PARALLEL = MAX_SEQUENCES
"""Sequences at once."""

_SHARED = 32
"""Tokens from which on a common beginning of two prompts is copied, not computed again; the whole of one always is."""


class Engine:
    """A model that answers up to ``n_parallel`` requests at once and takes the next as soon as one is done.

    Attributes:
        n_parallel: sequences at once.
        n_ctx: tokens of one sequence, its prompt included.
        context: what decodes.
        fingerprint: of the base model and the heads.

    Nothing runs in the background: who waits for a token or a result runs the engine meanwhile, for all requests. Any
    thread may submit and wait.

    Examples:
        >>> engine = Engine("model-autodeco.gguf", n_parallel=16)  # doctest: +SKIP
        >>> _, tokens = engine.prompt("Why is the sky blue?")  # doctest: +SKIP
        >>> for result in engine.generate([Request(tokens, seed=i) for i in range(16)]):  # doctest: +SKIP
        ...     print(result.text)
        >>> for piece in engine.submit(Request(tokens, stop=["."])):  # doctest: +SKIP
        ...     print(piece.text, piece.token.temperature)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_parallel: int = 8,
        n_ctx: int | None = None,
        heads: str | os.PathLike[str] | None = None,
        heads_enabled: Collection[str] | None = None,
        n_threads: int | None = None,
        n_gpu_layers: int = -1,
        f32_cache: bool = False,
        flash_attn: bool | None = None,
        prompt_chunk: int = 128,
        max_waiting: int = 4096,
        batch_invariant: bool = False,
        verbose: bool = False,
    ) -> None:
        """Load a model and its heads, if it has any.

        Args:
            path: a plain or merged GGUF.
            n_parallel: sequences at once, 1 to 256.
            n_ctx: tokens of one sequence, its prompt included; by default as in :func:`default_context`.
            heads: an adapter, or a merged file whose heads to take; by default those of the model itself.
            heads_enabled: the heads to use, of "temperature" and "top_p"; what another would predict is 1.
            n_threads: CPU threads; by default one a core, half of them above four.
            n_gpu_layers: layers on the GPU; -1: all.
            f32_cache: keep keys and values in 32 bits instead of 16.
            flash_attn: llama.cpp's flash attention where the device has it: several times as fast for many short
                sequences, and off by up to 1e-3 in T and P. By default on, but not with ``f32_cache``.
            prompt_chunk: tokens of new prompts that are computed between two tokens of the running sequences.
            max_waiting: requests that may wait for a sequence.
            batch_invariant: on the CPU llama.cpp computes a lone token in another way than several, with other
                rounding. Let it never be alone, so that an answer is the same to the last bit whatever runs beside it;
                costs speed where a single sequence runs, and needs ``n_parallel`` of 2 or more.
            verbose: show llama.cpp's own log.

        Raises:
            AutoDecoError: a parameter out of range, a broken file, heads that do not fit, or llama.cpp fails.
        """
        if not 1 <= n_parallel <= MAX_PARALLEL:
            raise AutoDecoError(f"n_parallel {n_parallel}, expected 1 to {MAX_PARALLEL}")
        if batch_invariant and n_parallel == 1:
            raise AutoDecoError("batch_invariant needs n_parallel of 2 or more, it is 1")
        for name, value in (("n_ctx", n_ctx), ("prompt_chunk", prompt_chunk), ("max_waiting", max_waiting)):
            if value is not None and value < 1:
                raise AutoDecoError(f"{name} {value}, expected at least 1")
        self.n_parallel, self.n_ctx = n_parallel, n_ctx or default_context(path)
        self.prompt_chunk, self.max_waiting = prompt_chunk, max_waiting
        model = ModelFile.open(Path(path))
        enabled = check_enabled(heads_enabled)
        found = model.fitting_heads(heads) if heads is not None or (enabled and model.head_tensors) else None
        self._predictor = Predictor(Heads(found) if found is not None else None, enabled)
        self.fingerprint = f"{model.base().fingerprint()} {found.fingerprint() if found is not None else ''}"
        self.context = Context(
            path,
            n_ctx=self.n_ctx,
            n_seq=n_parallel,
            n_outputs=n_parallel,
            n_threads=n_threads,
            n_gpu_layers=n_gpu_layers,
            f32_cache=f32_cache,
            flash_attn=not f32_cache if flash_attn is None else flash_attn,
            verbose=verbose,
        )
        self._host_way = bool(self._predictor.names) and not self.context.takes(self._predictor)
        self._pieces: dict[int, bytes] = {}
        self._chat = self.context.chat()
        self._waiting: deque[Handle] = deque()
        self._numbers = itertools.count()
        self._turn = threading.Condition()  # who waits here runs the engine, or is told that it has run
        self._running = 0  # the thread that runs it
        self._sequences = _Sequences(self, batch_invariant)

    @property
    def heads(self) -> frozenset[str]:
        """The heads that predict where a request asks for it: some of "temperature" and "top_p"."""
        return self._predictor.names

    def close(self) -> None:
        """Cancel what is under way, and free the context and the model."""
        self._check_outside()
        with self._turn:
            self._turn.wait_for(lambda: not self._running)
            self._sequences.end_all("cancelled")
            while self._waiting:
                self._waiting.popleft().end("cancelled")
            self.context.close()
            self._turn.notify_all()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- requests ----

    def prompt(self, message: str) -> tuple[str, list[int]]:
        """A user's message as the model expects it, text and tokens; without a chat template, the message itself.

        Raises:
            AutoDecoError: the chat template refuses, or the message is not to be written as UTF-8.
        """
        if self._chat is None:
            return message, self.context.tokenize(message, add_bos=True)
        text = self._chat.render([{"role": "user", "content": message}])
        return text, self.context.tokenize(text)

    def token_bytes(self, token: int) -> bytes:
        """The text piece of a token; control tokens give nothing."""
        if token not in self._pieces:
            self._pieces[token] = self.context.token_bytes(token, special=False)
        return self._pieces[token]

    def text(self, tokens: Iterable[int]) -> str:
        """The text of tokens, control tokens left out; what is no UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")

    def check(self, request: Request) -> None:
        """Raise AutoDecoError for a request that cannot be met: its prompt does not fit, a value out of range."""
        request.check()
        self._tokens(request)

    def _tokens(self, request: Request) -> list[int]:
        """The tokens of a request's prompt, known to fit."""
        self.context.check_open()
        prompt = request.prompt
        tokens = self.context.tokenize(prompt, add_bos=True) if isinstance(prompt, str) else [int(t) for t in prompt]
        n, n_vocab = len(tokens), self.context.n_vocab
        if n == 0:
            raise AutoDecoError("the prompt is empty")
        if n >= self.n_ctx:
            raise AutoDecoError(f"the prompt has {n} tokens, the context holds {self.n_ctx}; raise it")
        if not (min(tokens) >= 0 and max(tokens) < n_vocab):
            bad = next(token for token in tokens if not 0 <= token < n_vocab)
            raise AutoDecoError(f"token {bad}, expected 0 to {n_vocab - 1}")
        return tokens

    def submit(self, request: Request, on_token: OnToken | None = None) -> Handle:
        """Queue a request; it is answered while somebody waits for it or for another.

        Args:
            request: what to generate.
            on_token: called with every :class:`Piece` as it comes, by the thread that runs the engine. It may submit
                and cancel, but not wait.

        Raises:
            AutoDecoError: the request cannot be met, or ``max_waiting`` others wait already.
        """
        return self._submit(request, next(self._numbers), on_token)

    def _submit(self, request: Request, index: int, on_token: OnToken | None = None) -> Handle:
        tokens = self._tokens(request)
        if not self._has_room():
            raise AutoDecoError(f"too many requests: {self.max_waiting} are waiting already; try again later")
        sampler = build_sampler(self._predictor, request, self.context.vocab, entropy=request.entropy)
        handle = Handle(self, request, index, tokens, sampler, on_token)
        self._waiting.append(handle)
        return handle

    def generate(self, requests: Iterable[Request]) -> list[Result]:
        """Answer requests; the results in their order.

        Raises:
            AutoDecoError: as :meth:`as_completed`.
        """
        return sorted(self.as_completed(requests), key=lambda result: result.index)

    def as_completed(self, requests: Iterable[Request]) -> Generator[Result, None, None]:
        """Answer requests; the results as they are finished, not in the order of the requests.

        The requests are taken as there is room for them. Closing the generator cancels what is under way.

        Raises:
            AutoDecoError: a request that :meth:`check` refuses, named by its place, before anything of it is drawn; or
                llama.cpp fails for the whole batch.
        """
        source, done = enumerate(requests), deque[Handle]()
        under_way: set[Handle] = set()
        upcoming = next(source, None)
        try:
            while upcoming is not None or under_way:
                while upcoming is not None and len(under_way) < 2 * self.n_parallel and self._has_room():
                    under_way.add(self._take(*upcoming, done.append))
                    upcoming = next(source, None)
                self._wait(lambda: bool(done) or (not under_way and self._has_room()))
                while done:
                    handle = done.popleft()
                    under_way.remove(handle)
                    yield handle.result()
        finally:
            for handle in under_way:
                handle.cancel()

    def _has_room(self) -> bool:
        return len(self._waiting) < self.max_waiting

    def _take(self, index: int, request: Request, on_done: Callable[[Handle], None]) -> Handle:
        try:
            handle = self._submit(request, index)
        except AutoDecoError as e:
            raise AutoDecoError(f"request {index}: {e}") from e
        handle.on_done = on_done
        return handle

    # ---- running ----

    def _check_outside(self) -> None:
        if self._running == threading.get_ident():
            raise AutoDecoError("the engine cannot be waited for within on_token, which it waits for; submit only")

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Run the engine until ``ready()``, or let another thread that does so go on."""
        while not ready():
            self._check_outside()
            with self._turn:
                self._turn.wait_for(lambda: ready() or not self._running)
                if ready():
                    return
                self._running = threading.get_ident()
            try:
                self._sequences.step(self._waiting)
            finally:
                with self._turn:
                    self._running = 0
                    self._turn.notify_all()


class _Sequences:
    """The sequences of the context and who has them.

    Those in use are always the first ones, so that llama.cpp computes them in one piece: when one ends and nobody is
    waiting, the last one moves into its place. What a sequence held stays until it is used again, for prompts that
    begin with the same tokens.
    """

    def __init__(self, engine: Engine, batch_invariant: bool) -> None:
        self._engine, self._context, self._predictor = engine, engine.context, engine._predictor
        self._least = 2 if batch_invariant else 1
        self._users: list[Handle | None] = []
        self._held: list[tuple[int, ...]] = [()] * engine.n_parallel  # tokens of those not in use

    def step(self, waiting: deque[Handle]) -> None:
        """One token for every sequence in use, and a stretch of the prompts that are new.

        Raises:
            AutoDecoError: llama.cpp fails; then all that was under way has ended with an error.
        """
        try:
            for handle in self._in_use():
                if handle.cancelled:
                    self._end(handle, "cancelled")
            self._admit(waiting)
            self._close_gaps()
            if self._users:
                self._read_prompts()
                self._attach(waiting)
                self._draw()
        except BaseException as e:  # also an interrupt: what the context holds is unknown
            self.end_all("error", str(e) or type(e).__name__)
            self._context.clear()
            raise

    def end_all(self, reason: FinishReason, error: str | None = None) -> None:
        """End what is under way; the sequences hold nothing that could be used again."""
        for handle in self._in_use():
            self._end(handle, reason, error)
        self._users.clear()
        self._held = [()] * self._engine.n_parallel

    def _in_use(self) -> list[Handle]:
        return [user for user in self._users if user is not None]

    # ---- who has which sequence ----

    def _admit(self, waiting: deque[Handle]) -> None:
        """Give free sequences to those that wait; one whose prompt is being read for another waits on."""
        passed: list[Handle] = []
        while waiting and len(passed) < self._engine.n_parallel and self._free() is not None:
            handle = waiting.popleft()
            if handle.cancelled:
                handle.end("cancelled")
            elif not self._start(handle):
                passed.append(handle)
        waiting.extendleft(reversed(passed))

    def _free(self) -> int | None:
        """The first sequence that nobody has."""
        if None in self._users:
            return self._users.index(None)
        return len(self._users) if len(self._users) < self._engine.n_parallel else None

    def _start(self, handle: Handle) -> bool:
        """Give a sequence to a request, with what is known of its prompt; False where more of it soon will be."""
        place = self._free()
        assert place is not None
        source, shared = self._source(handle.head)
        user = self._users[source] if source < len(self._users) else None
        if user is not None and user.n_decoded < shared:
            return False
        if source != place and shared:
            self._context.remove(place)
            self._context.copy(source, place)
        if not self._context.remove(place, shared):
            self._context.remove(place)
            shared = 0
        handle.n_decoded = shared
        if place == len(self._users):
            self._users.append(handle)
        else:
            self._users[place] = handle
        return True

    def _source(self, head: tuple[int, ...]) -> tuple[int, int]:
        """The sequence that holds, or will hold, most of the beginning of a prompt, and how many tokens of it."""
        for place, user in enumerate(self._users):
            if user is not None and user.head == head:
                return place, len(head)
        best = 0, 0
        for place, held in enumerate(self._held):
            user = self._users[place] if place < len(self._users) else None
            n = _common(head, held if user is None else user.head)
            if n > best[1] and n >= min(len(head), _SHARED):
                best = place, n
        return best

    def _end(self, handle: Handle, reason: FinishReason, error: str | None = None) -> None:
        place = self._users.index(handle)
        self._users[place] = None
        self._held[place] = handle.decoded()
        handle.end(reason, error)

    def _close_gaps(self) -> None:
        while None in self._users:
            last = self._users.pop()
            if last is not None:
                source, gap = len(self._users), self._users.index(None)
                self._context.remove(gap)
                self._context.copy(source, gap)
                self._users[gap], self._held[source] = last, last.decoded()

    # ---- tokens ----

    def _read_prompts(self) -> None:
        """Decode a stretch of the prompts, all but the last token of each: a short one where others draw meanwhile."""
        users = self._in_use()
        drawing = any(user.n_decoded >= len(user.head) for user in users)
        budget = self._engine.prompt_chunk if drawing else BATCH
        for place, user in enumerate(users):
            part = user.head[user.n_decoded : user.n_decoded + budget]
            if len(part) > 1:  # a single one goes with the others
                self._context.fill(part, range(user.n_decoded, user.n_decoded + len(part)), [place] * len(part))
                user.n_decoded += len(part)
                budget -= len(part)

    def _attach(self, waiting: deque[Handle]) -> None:
        """Have the heads in the graph where somebody needs them."""
        if not self._predictor.names or self._engine._host_way:
            return
        needed = any(user.sampler.predicts for user in self._in_use())
        if needed and not self._predictor.attached:
            self._context.attach(self._predictor)
        elif not needed and self._predictor.attached and not any(handle.sampler.predicts for handle in waiting):
            self._predictor.detach()

    def _draw(self) -> None:
        """Decode one token of every sequence; where that was the last of its prompt or a drawn one, draw the next."""
        users = self._in_use()
        drawing = [user.n_decoded >= len(user.head) for user in users]
        tokens = [user.last if draws else user.head[user.n_decoded] for user, draws in zip(users, drawing, strict=True)]
        positions = [user.n_decoded for user in users]
        samplers = [user.sampler.native if draws else None for user, draws in zip(users, drawing, strict=True)]
        for idle in range(len(users), self._least):
            self._context.remove(idle)
            self._held[idle] = ()
            tokens, positions, samplers = [*tokens, 0], [*positions, 0], [*samplers, None]
        hidden = self._engine._host_way and any(user.sampler.predicts for user in users)
        self._context.decode(tokens, positions, range(len(tokens)), hidden=hidden)
        tokens, ends, errors = core.sample_rows(samplers, self._predictor.native, self._context.address)
        for i, user in enumerate(users):
            user.n_decoded += 1
            if i in errors:
                self._end(user, "error", errors[i])
            elif drawing[i]:
                self._note(user, tokens[i], ends[i])

    def _note(self, user: Handle, token: int, ends: bool) -> None:
        try:
            reason = user.drawn(token, ends)
        except Exception as e:  # its callback's, which is no reason for the others to end
            self._end(user, "error", f"on_token: {type(e).__name__}: {e}")
        else:
            if reason is not None:
                self._end(user, reason)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
