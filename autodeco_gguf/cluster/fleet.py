"""Many models, on the nodes of a cluster, that draw as one engine does."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from autodeco_gguf.cluster.actor import About, Job, Spec
from autodeco_gguf.cluster.crew import LIMIT, WAIT_S, Cluster, Crew, Event, Worker
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.errors import AutoDecoError, InvalidInput, ModelFailed
from autodeco_gguf.heads.weights import check_enabled
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.token_text import check_token

_MESSAGES: Final = 64
"""Messages that are tokenized by one call."""

_CALLS: Final = 2
"""Of a worker that wait for results: while those of one are on their way, the model draws for the other."""

Numbered = tuple[int, Request]


class Fleet:
    """Draws on all nodes of a cluster what an Engine draws, with the same results; a context manager.

    A :class:`~autodeco_gguf.answers.drawer.Drawer`. Each actor takes the next request as it has room, so that a slow
    node holds nobody up. What was under way where a process or a node is lost is drawn again elsewhere, from the same
    seeds; nodes that come take part. Nothing runs here in the background: who waits for a result looks after all.

    Attributes:
        heads: those that predict.
    """

    def __init__(
        self, cluster: Cluster, spec: Spec, *, say: Callable[[str], None] = lambda line: None, wait_s: float = WAIT_S
    ) -> None:
        """Args: the cluster, connected; what to load; who is told of nodes; seconds to wait where there is no node."""
        self._crew = Crew(cluster, spec, say, wait_s)
        self._room = spec.n_parallel + max(1, spec.n_parallel // 4)  # so that a sequence that is free finds a request
        self._numbers = itertools.count()
        self._job: Job = (-1, frozenset())
        self._source: Iterator[Numbered] = iter(())
        self._exhausted = False
        self._again: list[Numbered] = []  # a heap: what was lost
        self._suspects: list[Numbered] = []  # lost so often that each is to be drawn alone
        self._losses: dict[int, list[str]] = {}  # request -> nodes of the processes that were lost with it
        self._n_under_way = 0
        self._hungry = set[Worker]()
        self._results = deque[Result]()
        self._answers: dict[int, Any] = {}  # to questions
        self._asked: dict[int, Worker] = {}
        self._texts: dict[str, str] = {}  # message -> rendered

    def __enter__(self) -> Fleet:
        """Wait for the first node.

        Raises:
            AutoDecoError: what every node says that cannot take part; Busy: there is none.
        """
        try:
            while self._crew.about is None:
                self._turn()
        except BaseException:
            self._crew.close()
            raise
        self.heads = self._about.heads
        return self

    def __exit__(self, *_: object) -> None:
        self._crew.close()

    # ---- what the nodes have loaded ----

    @property
    def _about(self) -> About:
        assert self._crew.about is not None  # there was a first node
        return self._crew.about

    @property
    def n_ctx(self) -> int:
        """Tokens of one sequence, its prompt included."""
        return self._about.n_ctx

    @property
    def fingerprint(self) -> str:
        """Of the base model and the heads."""
        return self._about.fingerprint

    @property
    def machine(self) -> Machine:
        """What the first node runs on; the cache and flash attention are those of all."""
        return self._about.machine

    @property
    def heads_file(self) -> Path | None:
        """The file that the heads are from, None where they are the model's own."""
        return self._about.heads_file

    @property
    def model_name(self) -> str:
        """Name of the model's file."""
        return self._about.model_name

    @property
    def metadata(self) -> Mapping[str, str]:
        """Of the model's GGUF."""
        return self._about.metadata

    @property
    def size(self) -> int:
        """How many models are ready."""
        return sum(1 for _ in self._crew.ready)

    def look(self) -> None:
        """Wait a moment for nodes that come or go, while nothing is drawn."""
        self._turn()

    @property
    def draws_on(self) -> bool:
        """Whether it goes on while nobody waits: it does."""
        return True

    # ---- prompts ----

    def render(self, message: str) -> str:
        """A user's message as the model expects it; raises InvalidInput where it is refused."""
        if message not in self._texts:
            list(self.prompts([message]))
        return self._texts[message]

    def prompts(self, messages: Iterable[str]) -> Iterator[list[int]]:
        """The tokens of messages, rendered, in their order; raises InvalidInput at the first that is refused."""
        rest = iter(messages)
        while some := list(itertools.islice(rest, _MESSAGES)):
            found, error = self._ask("prompts", some)
            for message, (text, tokens) in zip(some, found, strict=False):
                self._texts[message] = text
                yield tokens
            if error is not None:
                raise error

    def check(self, request: Request) -> None:
        """Raise InvalidInput for a request that cannot be met."""
        request.check()
        if isinstance(request.prompt, str) or request.grammar is not None:
            raise InvalidInput("a request for a cluster has tokens, and no grammar", key="prompt")
        for token in request.prompt:
            check_token(token, self._about.n_vocab)
        request.check_room(len(request.prompt), self.n_ctx)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """What some worker says, another one where it is lost."""
        for _ in range(LIMIT):
            while (worker := next(self._crew.ready, None)) is None:
                self._turn()
            question = next(self._numbers)
            self._asked[question] = worker
            self._crew.call(worker, ("ask", question), method, *arguments)
            while question in self._asked:
                self._turn()
            if question in self._answers:
                return self._answers.pop(question)
        raise ModelFailed(f"{LIMIT} processes have ended when they were asked for {method}")

    # ---- answers ----

    def enable(self, heads: Collection[str]) -> None:
        """Predict with these of the model's heads from now on; raises InvalidInput for a name that is no head."""
        self.heads = check_enabled(heads) & self._about.heads

    def as_completed(self, requests: Iterable[Request]) -> Generator[Result, None, None]:
        """The results as they are finished; the requests are taken as there is room. Closing it cancels the rest.

        Raises:
            InvalidInput: a request that :meth:`check` or a node refuses, named by its place.
            ModelFailed: one with which process after process ends.
            Busy: there is no node for too long.
        """
        self._begin(enumerate(requests))
        try:
            while True:
                self._hand_out()
                if not self._results:  # some may have come while requests were made
                    if self._exhausted and not (self._n_under_way or self._again or self._suspects):
                        return
                    self._turn()
                while self._results:
                    yield self._results.popleft()
        finally:
            self._begin(iter(()))

    def _begin(self, source: Iterator[Numbered]) -> None:
        """A new job, whose number ends the one before wherever it is heard of."""
        self._job, self._source, self._exhausted = (self._job[0] + 1, self.heads), source, False
        self._again, self._suspects, self._losses, self._n_under_way = [], [], {}, 0
        self._results.clear()
        for worker in self._crew.ready:
            worker.calls, worker.alone = 0, False
            if worker.under_way:
                worker.under_way = {}
                self._draw(worker, [])
            self._hungry.add(worker)

    def _next(self) -> Numbered | None:
        """The next request: first what was lost."""
        if not self._again:
            upcoming = next(self._source, None)
            self._exhausted = upcoming is None
            if upcoming is not None:
                try:
                    self.check(upcoming[1])
                except InvalidInput as e:
                    raise e.within(f"request {upcoming[0]}") from e
            return upcoming
        return heapq.heappop(self._again)

    def _hand_out(self) -> None:
        """Give requests to who has room, first to who has least.

        The caller makes a request when it is taken, and may ask this fleet for its prompt: workers come and go then.
        """
        self._single_out()
        hungry, self._hungry = self._hungry, set()
        free = (worker for worker in hungry if worker.calls <= _CALLS and not worker.alone)
        room = [(len(worker.under_way), worker.number, worker) for worker in free]
        heapq.heapify(room)
        fresh: dict[Worker, list[Numbered]] = {}
        while room and room[0][0] < self._room and (upcoming := self._next()) is not None:
            n, number, worker = room[0]
            fresh.setdefault(worker, []).append(upcoming)
            heapq.heapreplace(room, (n + 1, number, worker))
        ready = dict.fromkeys(self._crew.ready)  # in their order; a set has that of addresses
        for worker in filter(hungry.__contains__, ready):
            if worker in fresh:
                self._draw(worker, fresh[worker])
            while worker.under_way and worker.calls < _CALLS:
                self._draw(worker, [])
        for worker in fresh.keys() - ready:  # lost since
            for one in fresh[worker]:
                heapq.heappush(self._again, one)
            self._hungry.update(ready)

    def _single_out(self) -> None:
        """Have a request that was lost again and again drawn alone, so that no other is lost with it.

        Raises:
            ModelFailed: it was lost then too.
        """
        lost = [number for number, _ in self._again]
        # that a process ends with its node says nothing about the request
        times = {number: sum(map(self._crew.alive, self._losses.get(number, ()))) for number in lost}
        guilty = next((number for number in lost if times[number] >= LIMIT), None)
        if guilty is not None:
            raise ModelFailed(f"request {guilty}: {LIMIT} processes have ended while they drew it")
        self._suspects += [one for one in self._again if times[one[0]] == LIMIT - 1]
        self._again = [one for one in self._again if times[one[0]] < LIMIT - 1]
        heapq.heapify(self._again)
        idle = [worker for worker in self._crew.ready if not worker.under_way] if self._suspects else []
        for worker, suspect in zip(idle, list(self._suspects), strict=False):
            self._suspects.remove(suspect)
            worker.alone = True
            self._draw(worker, [suspect])

    def _draw(self, worker: Worker, requests: list[Numbered]) -> None:
        worker.calls += 1
        worker.job = self._job[0]
        worker.under_way.update(requests)
        self._n_under_way += len(requests)
        self._crew.call(worker, ("draw", self._job[0]), "draw", self._job, requests)

    def _turn(self) -> None:
        """Take what has come."""
        for event in self._crew.turn():
            if event.tag == "ready":
                self._hungry.add(event.worker)
            elif event.tag == "lost":
                self._lost(event.worker)
            elif event.tag[0] == "ask":
                if self._asked.pop(event.tag[1], None) is not None:
                    self._answers[event.tag[1]] = event.value
                    self._crew.praise(event.worker)
            elif event.tag[1] == self._job[0]:
                self._drawn(event)

    def _drawn(self, event: Event) -> None:
        worker, value = event.worker, event.value
        if not worker.calls:  # lost just now: what it had under way is drawn again
            return
        worker.calls -= 1
        if isinstance(value, ModelFailed):  # of all that it had under way; a new process may do better
            self._crew.lose(worker, str(value))
            self._lost(worker)  # its event comes with the next turn, maybe in another job
        elif isinstance(value, AutoDecoError):
            raise value
        else:
            for result in value:
                del worker.under_way[result.index]
                self._n_under_way -= 1
            self._results.extend(value)
            if value:
                self._crew.praise(worker)
            worker.alone = worker.alone and bool(worker.under_way)
            self._hungry.add(worker)

    def _lost(self, worker: Worker) -> None:
        """Draw again what a worker had under way of this job, wherever there is room."""
        self._hungry.discard(worker)
        for question in [question for question, of in self._asked.items() if of is worker]:
            del self._asked[question]
        if worker.job == self._job[0]:
            for number, request in worker.under_way.items():
                heapq.heappush(self._again, (number, request))
                self._losses.setdefault(number, []).append(worker.node.id)
            self._n_under_way -= len(worker.under_way)
        worker.calls, worker.under_way = 0, {}
        self._hungry.update(self._crew.ready)
