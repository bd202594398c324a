"""The actors of a fleet: started where there is room, checked, and replaced when they are lost."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from autodeco_gguf.cluster.actor import VERSIONS, About, Spec
from autodeco_gguf.cluster.nodes import Needs, Node, fitting, needs_of
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import AutoDecoError, BadFile, Busy, InvalidInput, ModelFailed

WAIT_S: Final = 600.0
"""Seconds without a node after which a fleet gives up."""

LIMIT: Final = 3
"""Times that all processes of a node may end without a result, or some with a request, before no more are tried."""

_SURVEY_S: Final = 2.0
"""How often nodes are looked for that have come or gone."""

_START_S: Final = 30.0
"""How long processes may take to start before somebody is told that they are waited for."""


class Cluster(Protocol):
    """What :class:`~autodeco_gguf.cluster.connection.Connection` has of this, and means by it."""

    def nodes(self) -> list[Node]:
        """Those that are alive."""

    def start(self, node: Node, needs: Needs) -> Any:
        """An actor, by a handle."""

    def call(self, handle: Any, tag: Any, method: str, *arguments: Any) -> None:
        """Call a method of it."""

    def next(self, timeout: float) -> Any:
        """An outcome, with a tag, a value, and why the actor is lost, or None."""

    def end(self, handle: Any) -> None:
        """End it."""


@dataclass(eq=False)
class Worker:
    """An actor: "asked" for, "loading", or "ready"; and what it is about, which its fleet keeps."""

    number: int
    node: Node
    handle: Any
    state: str = "asked"
    calls: int = 0
    alone: bool = False
    job: int = 0
    under_way: dict[int, Request] = field(default_factory=dict)


class Event(NamedTuple):
    """What a worker that is ready has answered: the tag and the value of a call. Or its tag is "ready", or "lost"."""

    worker: Worker
    tag: Any
    value: Any = None


class Crew:
    """The workers. Nothing happens but within :meth:`turn`, which who waits for something calls again and again.

    Attributes:
        about: what all have loaded; None until the first has.
    """

    def __init__(self, cluster: Cluster, spec: Spec, say: Callable[[str], None], wait_s: float) -> None:
        """Args: as :class:`~autodeco_gguf.cluster.fleet.Fleet` takes them."""
        self.about: About | None = None
        self._cluster, self._spec, self._say, self._wait_s = cluster, spec, say, wait_s
        self._workers: dict[int, Worker] = {}
        self._numbers = itertools.count()
        self._nodes: dict[str, Node] = {}
        self._out: dict[str, AutoDecoError] = {}  # nodes that take no part, and why
        self._failures = Counter[str]()  # by node, since its last result
        self._fewer = Counter[str]()  # by node, processes that found no room beside others
        self._loaded = set[str]()  # nodes that had the model once
        self._introduced = set[str]()
        self._events: list[Event] = []
        self._survey_at = 0.0
        self._alone_since: float | None = None
        self._said_alone = False

    @property
    def ready(self) -> Iterator[Worker]:
        """The workers that can be asked."""
        return (worker for worker in self._workers.values() if worker.state == "ready")

    def alive(self, node: str) -> bool:
        """Whether a node was there when last looked for."""
        return node in self._nodes

    def call(self, worker: Worker, tag: Any, method: str, *arguments: Any) -> None:
        """Call a method of a worker: a later turn has its value."""
        self._cluster.call(worker.handle, (worker.number, tag), method, *arguments)

    def praise(self, worker: Worker) -> None:
        """It has answered: its node works."""
        self._failures.pop(worker.node.id, None)

    def turn(self) -> list[Event]:
        """Wait a moment for something to happen, and see to nodes that have come or gone.

        Raises:
            AutoDecoError: no node ever took part, and this is why; Busy: there was none for too long.
        """
        now = time.monotonic()
        if now >= self._survey_at:
            self._survey_at = now + _SURVEY_S
            self._survey()
        self._look_after(now)
        outcome = self._cluster.next(_SURVEY_S)
        while outcome is not None:
            self._take(outcome)
            outcome = self._cluster.next(0.0)
        events, self._events = self._events, []
        return events

    def lose(self, worker: Worker, reason: str) -> None:
        """Give up a worker, unless it is already; its node gets another one, a few times."""
        if worker.number not in self._workers:
            return
        node, n = worker.node, len(worker.under_way)
        again = f"; answers to draw again: {n}" if n else ""
        self._say(f"{node.name}: a process is lost{again}: {reason}")
        self._drop(worker)
        self._failures[node.id] += 1
        self._look()  # has the node gone with it?
        self._survey_at = 0.0

    def close(self) -> None:
        """End all of them."""
        for worker in list(self._workers.values()):
            self._cluster.end(worker.handle)
        self._workers.clear()

    # ---- nodes ----

    def _look(self) -> None:
        self._nodes = {node.id: node for node in self._cluster.nodes()}

    def _survey(self) -> None:
        """Give up the workers of nodes that have gone, and start what there is room for."""
        self._look()
        for worker in [worker for worker in self._workers.values() if worker.node.id not in self._nodes]:
            self.lose(worker, "its node has gone")
        there = Counter(worker.node.id for worker in self._workers.values())
        for node in self._nodes.values():
            if node.id in self._out or not node.cpus:  # as a head that only looks after the others
                continue
            needs = needs_of(self._spec.machine, node)
            n = fitting(needs, node) - self._fewer[node.id]
            if n <= 0:
                has, asked = f"{node.cpus} CPUs and {node.gpus} GPUs", f"{needs.cpus} and {needs.gpus}"
                self._leave_out(node, InvalidInput(f"it has {has}, a process asks for {asked}", key="n_threads"))
            elif self._failures[node.id] >= LIMIT * n:
                self._leave_out(node, ModelFailed("processes end there again and again without a result"))
                continue
            for _ in range(n - there[node.id]):
                worker = Worker(next(self._numbers), node, self._cluster.start(node, needs))
                self._workers[worker.number] = worker
                self.call(worker, "hello", "hello")

    def _leave_out(self, node: Node, error: AutoDecoError) -> None:
        self._out[node.id] = error.within(node.name)
        self._say(f"{node.name} takes no part: {error}")
        for worker in [worker for worker in self._workers.values() if worker.node.id == node.id]:
            self._drop(worker)

    def _cannot_load(self, worker: Worker, error: AutoDecoError) -> None:
        """Do without a worker, try another where its node has loaded the model before, or leave the node out."""
        node = worker.node
        alone = all(other is worker or other.node.id != node.id for other in self._workers.values())
        if not alone and error.key != "rpc":
            self._fewer[node.id] += 1  # as where there is no more memory
            self._say(f"{node.name}: one process fewer: {error}")
            self._drop(worker)
        elif node.id in self._loaded:
            self.lose(worker, str(error))  # what the model was on may come back
        else:
            self._leave_out(node, error)

    def _drop(self, worker: Worker) -> None:
        if self._workers.pop(worker.number, None) is not None:
            self._cluster.end(worker.handle)
            self._events.append(Event(worker, "lost"))

    def _look_after(self, now: float) -> None:
        """Say that there is no node, and give up where that lasts too long."""
        if any(worker.state != "asked" for worker in self._workers.values()):
            self._alone_since, self._said_alone = None, False
            return
        reasons = [self._out.get(node.id) for node in self._nodes.values() if node.cpus]
        if self.about is None and reasons and reasons[0] is not None and None not in reasons:
            raise reasons[0]
        self._alone_since = self._alone_since or now
        alone_s, minutes = now - self._alone_since, f"{self._wait_s / 60:g} minutes"
        if alone_s > self._wait_s:
            why = "".join(f"; {error}" for error in [*self._out.values()][-1:])
            raise Busy(
                f"--ray: no node to draw on for {minutes}; add one and run the same command again{why}", key="ray"
            )
        if not self._said_alone and (not self._workers or alone_s > _START_S):
            self._said_alone = True
            why = "none of the nodes has room yet, which others may use" if self._workers else "no node to draw on"
            self._say(f"{why}: waiting, at most {minutes}")

    # ---- what they say ----

    def _take(self, outcome: Any) -> None:
        number, tag = outcome.tag
        worker = self._workers.get(number)
        if worker is None:  # given up
            return
        if outcome.lost is not None:
            self.lose(worker, outcome.lost)
        elif tag == "hello":
            worker.state = "loading"
            self.call(worker, "load", "load", self._spec)
        elif tag == "load":
            if isinstance(outcome.value, AutoDecoError):
                self._cannot_load(worker, outcome.value)
                return
            error = self._misfit(outcome.value)
            if error is not None:
                self._leave_out(worker.node, error)
                return
            self._loaded.add(worker.node.id)
            self.about = self.about or outcome.value
            worker.state = "ready"
            self._introduce(worker.node, outcome.value)
            self._events.append(Event(worker, "ready"))
        else:
            self._events.append(Event(worker, tag, outcome.value))

    def _misfit(self, about: About) -> AutoDecoError | None:
        """Why what a node has loaded is not what the others have."""
        if about.versions != VERSIONS:
            return AutoDecoError(f"has {about.versions}, expected {VERSIONS}", expected=VERSIONS, found=about.versions)
        others = self.about
        if others is None or about.identity == others.identity:
            return None
        if about.fingerprint != others.fingerprint:
            digests = [" and ".join(part[:16] for part in one.fingerprint.split()) for one in (about, others)]
            reason = f"another model, or other heads: digests {digests[0]}, elsewhere {digests[1]}"
            return BadFile.of(about.model_name, reason)
        return AutoDecoError(f"decodes otherwise: {about.identity[2:]}, elsewhere {others.identity[2:]}")

    def _introduce(self, node: Node, about: About) -> None:
        """Say, once, how a node takes part."""
        if node.id in self._introduced:
            return
        self._introduced.add(node.id)
        needs = needs_of(self._spec.machine, node)
        where = ", ".join(about.devices) or "the CPU"
        each = f"{about.threads} thread{'s' * (about.threads > 1)}"
        self._say(f"{node.name}: {fitting(needs, node)} at a time, each with {each}, on {where}")
        if needs.gpus > len(about.devices):
            self._say(f"{node.name}: Ray has a GPU there, llama.cpp finds none (is it built for it?): it is not used")
