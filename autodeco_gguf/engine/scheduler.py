"""Which request has which sequence of the context, and what is decoded next."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import index as as_int

from autodeco_gguf._native import core
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import FinishReason
from autodeco_gguf.errors import Busy, Closed, InvalidInput
from autodeco_gguf.model.context import BATCH, SHARED, Context
from autodeco_gguf.model.sampler import Predictor
from autodeco_gguf.model.sampling import check_size

SCORED = 32
"""Outputs of one decode where the log-probabilities of a prompt are wanted: more would cost memory, fewer time."""

PIECE = 128
"""Tokens of a prompt that are computed together, where an answer is to be the same to the last bit."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How requests share a model.

    Attributes:
        prompt_chunk: tokens of new prompts that are computed between two tokens of the running sequences.
        max_waiting: requests that may wait for a sequence.
        batch_invariant: on the CPU llama.cpp computes a lone token in another way than several, and with flash
            attention few of a prompt in another way than many, with other rounding. Let none be alone, and prompts be
            computed in pieces that depend on nothing else, so that an answer is the same to the last bit whatever runs
            beside it or ran before; costs speed where a single sequence runs, computes the drawn tokens of a
            conversation anew with its next message, and needs two sequences or more.
    """

    prompt_chunk: int = 128
    max_waiting: int = 4096
    batch_invariant: bool = False

    def check(self, n_parallel: int) -> None:
        """Raise InvalidInput for a value out of range."""
        if self.batch_invariant and n_parallel == 1:
            raise InvalidInput("batch_invariant needs n_parallel of 2 or more, it is 1", key="batch_invariant")
        for name in ("prompt_chunk", "max_waiting"):
            check_size(name, getattr(self, name))


class Scheduler:
    """The sequences of the context and who has them.

    Those in use are always the first ones, so that llama.cpp computes them in one piece: when one ends and nobody is
    waiting, the last one moves into its place. What a sequence held stays until it is used again, for prompts that
    begin with the same tokens.

    Attributes:
        waiting: those that have no sequence yet, the next first.
    """

    def __init__(self, context: Context, predictor: Predictor, n_parallel: int, batching: Batching) -> None:
        """Share the first ``n_parallel`` sequences of a context."""
        self.waiting: deque[Generation] = deque()
        self._context, self._predictor, self._n_parallel, self._batching = context, predictor, n_parallel, batching
        self._least = 2 if batching.batch_invariant else 1
        self._same_bits = batching.batch_invariant
        self._host_way: bool | None = None  # see _find_way
        self._users: list[Generation | None] = []
        self._held: list[tuple[int, ...]] = [()] * n_parallel  # tokens of those not in use
        self._unsure = False  # what is under way: an interrupt has come in the midst of a change

    @property
    def has_room(self) -> bool:
        """Whether one more may wait."""
        most = as_int(self._batching.max_waiting)
        return len(self.waiting) < most or sum(not generation.cancelled for generation in list(self.waiting)) < most

    def __str__(self) -> str:
        return f"{len(self._in_use())} running, {len(self.waiting)} waiting"

    def step(self) -> None:
        """One token for every sequence in use, and a stretch of the prompts that are new.

        An interrupt may come at any line. Until a request has ended, it waits or has a sequence at each of them.

        Raises:
            ModelFailed: llama.cpp fails; then all that was under way has ended with an error.
        """
        if self._unsure:
            self._give_up("interrupted")
        self._drop()
        self._unsure = True
        try:
            if self._host_way is None:
                self._host_way = self._find_way()
            for generation in self._in_use():
                if generation.cancelled:
                    self._end(generation, "cancelled")
            self._admit()
            self._close_gaps()
            ready = bool(self._users) and self._read_prompts()
            for generation in self._in_use():
                if generation.complete:
                    self._end(generation, "length")
            self._close_gaps()
            if ready and self._users:
                self._attach()
                self._shift()
                self._draw()
        except BaseException as e:
            self._give_up(str(e) or type(e).__name__)
            raise
        self._unsure = False

    @property
    def _alone(self) -> bool:
        """Whether tokens are computed in the pieces that Llama has, to the last bits."""
        return self._n_parallel == 1 and not self._host_way

    def _find_way(self) -> bool:
        """Whether the heads do not go into the graph.

        That takes decoding a token, so it is not done before there is a thread that runs: libgomp keeps threads for
        each thread that has ever computed, and once they are more than the cores, they wait in a slower way.
        """
        return bool(self._predictor.names) and not self._context.takes(self._predictor)

    def _give_up(self, error: str) -> None:
        """End what has a sequence: what the context holds is unknown."""
        for generation in self._in_use():
            generation.end("error", error)
        self._predictor.detach()
        self._clear()

    def _clear(self) -> None:
        self._users.clear()
        self._held = [()] * self._n_parallel
        with suppress(Closed):  # where a reload has failed
            self._context.clear()
        self._unsure = False

    def end_all(self) -> None:
        """Cancel all that is under way, and take the heads out of the graph, before the context is freed.

        It may be already, where both are garbage that is collected in whatever order: nothing is asked of it.
        """
        self._unsure = True
        self._predictor.detach()
        for generation in (*self._in_use(), *self.waiting):
            generation.end("cancelled")
        self.waiting.clear()
        self._users.clear()

    def free(self) -> None:
        """Free the heads and the context."""
        self._predictor.close()
        self._context.close()

    def forget(self) -> None:
        """Empty the sequences, and take the heads out of the graph; Busy where one is in use that is not cancelled."""
        known = (*self._in_use(), *self.waiting)
        if any(generation.finish_reason is None and not generation.cancelled for generation in known):
            raise Busy("the engine has requests under way")
        for generation in known:
            generation.end("cancelled")
        self._drop()  # but what has come meanwhile
        self._predictor.detach()
        self._clear()

    def replace(self, predictor: Predictor) -> None:
        """Predict with other heads of the same kind; Busy where a sequence is in use."""
        self.forget()
        self._predictor, self._host_way = predictor, None

    def _in_use(self) -> list[Generation]:
        return [user for user in self._users if user is not None]

    # ---- who has which sequence ----

    def _drop(self) -> None:
        """End those that wait and are cancelled; what an interrupt has left here waits no more."""
        for generation in list(self.waiting):
            if generation.cancelled:
                generation.end("cancelled")
            if generation.finish_reason is not None:
                self.waiting.remove(generation)  # only now

    def _admit(self) -> None:
        """Give free sequences to those that wait; one whose prompt is being read for another waits on."""
        passed = 0
        while passed < min(len(self.waiting), self._n_parallel) and self._free() is not None:
            if self._start(self.waiting[passed]):
                del self.waiting[passed]  # only now
            else:
                passed += 1

    def _free(self) -> int | None:
        """The first sequence that nobody has."""
        if None in self._users:
            return self._users.index(None)
        return len(self._users) if len(self._users) < self._n_parallel else None

    def _start(self, generation: Generation) -> bool:
        """Give a sequence to a request, with what is known of its prompt; False where more of it soon will be."""
        place = self._free()
        assert place is not None
        source, shared = (place, 0) if generation.request.prompt_logprobs else self._source(generation.head)
        user = self._users[source] if source < len(self._users) else None
        if user is not None and user.n_decoded < shared:
            return False
        if source != place and shared:
            self._context.remove(place)
            self._context.copy(source, place)
        if not self._context.remove(place, shared):
            self._context.remove(place)
            shared = 0
        generation.n_decoded = generation.n_reused = shared
        if place == len(self._users):
            self._users.append(generation)
        else:
            self._users[place] = generation
        return True

    def _source(self, head: tuple[int, ...]) -> tuple[int, int]:
        """The sequence that holds, or will hold, most of the beginning of a prompt, and how many tokens of it."""
        for place, user in enumerate(self._users):
            if user is not None and self._beginning(user) == head:
                return place, len(head)
        best = 0, 0
        for place, held in enumerate(self._held):
            user = self._users[place] if place < len(self._users) else None
            there = held if user is None else self._beginning(user)
            n = common_beginning(head, there)
            if self._same_bits and not n == len(head) == len(there):
                n -= n % PIECE  # what is behind is in another piece here
            if n > best[1] and n >= min(len(head), SHARED):
                best = place, n
        return best

    def _end(self, generation: Generation, reason: FinishReason, error: str | None = None) -> None:
        generation.end(reason, error)
        place = self._users.index(generation)
        self._users[place] = None
        self._held[place] = self._kept(generation)

    def _beginning(self, generation: Generation) -> tuple[int, ...]:
        """What its sequence holds, or will, that others may begin with; scored prompts are computed in other pieces."""
        beginning = generation.beginning
        if self._same_bits and generation.request.prompt_logprobs:
            return ()
        if self._same_bits and beginning != generation.head:  # the rest of its last piece is forgotten
            return beginning[: len(beginning) // PIECE * PIECE]
        return beginning

    def _kept(self, generation: Generation) -> tuple[int, ...]:
        """The same, once it has ended."""
        decoded = generation.decoded()
        return decoded[: len(self._beginning(generation))] if self._same_bits else decoded

    def _close_gaps(self) -> None:
        while None in self._users:
            last = self._users[-1]
            if last is not None:
                source, gap = len(self._users) - 1, self._users.index(None)
                self._context.remove(gap)
                self._context.copy(source, gap)
                self._users[gap], self._held[source] = last, self._kept(last)
            self._users.pop()  # only now

    # ---- tokens ----

    def _read_prompts(self) -> bool:
        """Decode a stretch of the prompts, all but the last token of each: a short one where others draw meanwhile.

        False where a long prompt is to be read on before anything is drawn.
        """
        users = self._in_use()
        if self._alone:
            left = len(users[0].head) - users[0].n_decoded
            if left < (1 if users[0].request.prompt_logprobs else BATCH):
                return True  # what is left goes with the last token
        drawing = any(user.n_decoded >= len(user.head) for user in users)
        budget = as_int(self._batching.prompt_chunk) if drawing else BATCH
        for place, user in enumerate(users):
            part = self._part(user, budget)
            if len(part) > 1 - self._alone:  # a single one goes with the others
                self._read(user, place, part)
                budget -= len(part)
        return not self._alone and any(map(self._goes_on, self._in_use()))

    def _part(self, user: Generation, budget: int = BATCH) -> tuple[int, ...]:
        """The tokens of a prompt that are to be computed together next."""
        n = user.n_decoded
        size = PIECE - n % PIECE if self._same_bits and budget > 0 else budget
        return user.head[n : n + max(size, 0)]

    def _goes_on(self, user: Generation) -> bool:
        """Whether its next token may be computed with those of others."""
        return not self._same_bits or len(self._part(user)) <= 1

    def _read(self, user: Generation, place: int, part: tuple[int, ...]) -> None:
        """Decode a part of a prompt, with its log-probabilities where they are asked for."""
        if not user.request.prompt_logprobs:
            self._context.fill(part, range(user.n_decoded, user.n_decoded + len(part)), [place] * len(part))
            user.n_decoded += len(part)
            return
        for i in range(0, len(part), self._context.n_outputs):
            tokens = part[i : i + self._context.n_outputs]
            if len(tokens) == 1 and not self._alone:
                return  # goes with the others
            positions = range(user.n_decoded, user.n_decoded + len(tokens))
            self._context.decode(tokens, positions, [place] * len(tokens), hidden=False)
            if not self._score(user, 0, len(tokens)):
                return
            user.n_decoded += len(tokens)

    def _score(self, user: Generation, first: int, n: int) -> bool:
        """Take down how likely the next tokens of a prompt are after outputs ``first``, ... of the last decode.

        False where that cannot be said, and the request has ended.
        """
        following = user.prompt[user.n_decoded + 1 : user.n_decoded + 1 + n]
        likelihoods = core.likelihoods(self._context.address, first, following, user.request.top or 0)
        if any(math.isnan(logprob) for logprob, _ in likelihoods):
            self._end(user, "error", "a logit of the prompt is NaN or +inf, or all of a token are -inf")
            return False
        user.scored(following, likelihoods)
        return True

    def _attach(self) -> None:
        """Have the heads in the graph where somebody needs them."""
        if not self._predictor.names or self._host_way:
            return
        needed = any(user.sampler.predicts for user in self._in_use())
        if needed and not self._predictor.attached:
            self._context.attach(self._predictor)
        elif (
            not needed
            and self._predictor.attached
            and not any(generation.sampler.predicts for generation in list(self.waiting))  # to which others add
        ):
            self._predictor.detach()

    def _shift(self) -> None:
        """Make room in the sequences that are full: their beginning stays, of the others the older half goes."""
        for place, user in enumerate(self._in_use()):
            if user.position == self._context.n_ctx:
                assert user.request.n_keep is not None  # else it has ended before
                begin = as_int(user.request.n_keep)
                n = max(1, (user.position - begin) // 2)
                self._context.shift(place, begin, n)
                user.n_forgotten += n

    def _draw(self) -> None:
        """Decode one token of every sequence; where that was the last of its prompt or a drawn one, draw the next."""
        users = self._in_use()
        drawing = [self._alone or user.n_decoded >= len(user.head) for user in users]
        samplers = [user.sampler if draws else None for user, draws in zip(users, drawing, strict=True)]
        goes_on = [self._goes_on(user) for user in users]  # else a token keeps its place, so that all are in one piece
        if self._alone:
            (user,), rest = users, users[0].head[users[0].n_decoded :]
            tokens = [*rest, user.last]
            positions, sequences, hidden = [user.position + i for i in range(len(tokens))], [0] * len(tokens), False
        else:
            rest = ()
            tokens = [u.last if draws else u.head[u.n_decoded] for u, draws in zip(users, drawing, strict=True)]
            positions = [user.position for user in users]
            for idle in range(len(users), self._least):
                self._context.remove(idle)
                self._held[idle] = ()
                tokens, positions, samplers = [*tokens, 0], [*positions, 0], [*samplers, None]
            sequences = list(range(len(tokens)))
            hidden = self._host_way is True and any(user.sampler.predicts for user in users)
        drawn = self._context.draw(tokens, positions, sequences, samplers, self._predictor, hidden=hidden)
        for i, user in enumerate(users):
            if not goes_on[i]:
                self._context.remove(i, user.n_decoded)
                continue
            if user.request.prompt_logprobs and not drawing[i] and not self._score(user, i, 1):
                continue
            user.n_decoded += len(rest) + 1
            if i in drawn.errors:
                self._end(user, "error", drawn.errors[i])
            elif drawing[i]:
                self._note(user, drawn.tokens[i], drawn.ends[i])

    def _note(self, user: Generation, token: int, ends: bool) -> None:
        if (reason := user.drawn(token, ends)) is not None:
            self._end(user, reason, user.error)


def common_beginning(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
