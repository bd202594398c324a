"""A cluster that is made up: nodes, actors and a clock, all in this process, and what happens on it is drawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_engine import BOTH, FakeEngine

from autodeco_gguf.cluster.actor import VERSIONS, About, Spec
from autodeco_gguf.cluster.connection import Outcome
from autodeco_gguf.cluster.nodes import Needs, Node
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.machine import Machine

SPEC = Spec(model="m.gguf", n_parallel=4, machine=Machine(n_threads=1))


def about(**changes: Any) -> About:
    """What a node of the made-up engine says of itself."""
    engine = FakeEngine()
    fields: dict[str, Any] = {
        "versions": VERSIONS, "fingerprint": engine.fingerprint, "n_ctx": engine.n_ctx, "n_vocab": 256,
        "heads": BOTH, "machine": engine.machine, "heads_file": engine.heads_file, "model_name": engine.model_name,
        "metadata": {}, "threads": 1, "omp_threads": "1", "devices": (),
    }  # fmt: skip
    return About(**{**fields, **changes})


class FakeActor:
    """Answers as the real one does, a few results at a time."""

    def __init__(self, cluster: FakeCluster, node: Node, needs: Needs) -> None:
        self.cluster, self.node, self.needs = cluster, node, needs
        self.job, self.heads = -1, BOTH
        self.under_way: dict[int, Request] = {}
        self.drawn: list[int] = []
        self.most = 0  # under way at once
        self.ended = False

    def hello(self) -> int:
        return 1

    def load(self, spec: Spec) -> Any:
        return self.cluster.says(self.node)

    def prompts(self, messages: list[str]) -> Any:
        engine, found = FakeEngine(), []
        for message in messages:
            if message == "refused":
                return found, InvalidInput("the template refuses")
            found.append((f"<{message}>", engine.prompt(message)))
        return found, None

    def draw(self, job: tuple[int, frozenset[str]], requests: list[tuple[int, Request]]) -> Any:
        if job[0] > self.job:
            (self.job, self.heads), self.under_way = job, {}
        if job[0] < self.job:
            return []
        self.under_way.update(requests)
        self.most = max(self.most, len(self.under_way))
        failed = self.cluster.fails(self)
        if failed is not None:
            return failed
        n = min(len(self.under_way), self.cluster.random.randint(1, 3))
        done = self.cluster.random.sample(sorted(self.under_way), n)
        self.drawn += done
        return [FakeEngine()._result(i, self.under_way.pop(i)) for i in done]


class FakeCluster:
    """A cluster whose calls are answered in any order. ``happens`` is called before each outcome, and may change it.

    Attributes:
        now: its clock, in seconds; a survey of an idle cluster takes as long as it may.
        slow: how often a node is passed over.
    """

    def __init__(self, seed: int = 0, nodes: int = 2, cpus: int = 1, gpus: int = 0) -> None:
        self.random = random.Random(seed)
        self.now, self.n = 100.0, 0
        self.alive: list[Node] = []
        self.actors: list[FakeActor] = []
        self.calls: list[tuple[FakeActor, Any, str, tuple[Any, ...]]] = []
        self.lost: list[Outcome] = []
        self.slow: dict[str, int] = {}
        self.happens: Callable[[], object] = lambda: None
        self.says: Callable[[Node], Any] = lambda node: about()
        self.fails: Callable[[FakeActor], Any] = lambda actor: None
        for _ in range(nodes):
            self.add(cpus, gpus)

    def add(self, cpus: int = 1, gpus: int = 0) -> Node:
        self.n += 1
        self.alive.append(Node(f"{self.n:06x}", f"10.0.0.{self.n}", cpus, gpus))
        return self.alive[-1]

    def remove(self, node: Node, *, seen: bool = True) -> None:
        """A node goes; it may be some time until that is seen."""
        if seen:
            self.alive.remove(node)
        for actor in [actor for actor in self.actors if actor.node == node]:
            self.crash(actor)

    def crash(self, actor: FakeActor) -> None:
        """An actor's process ends: every call of it does."""
        actor.ended = True
        mine = [call for call in self.calls if call[0] is actor]
        self.calls = [call for call in self.calls if call[0] is not actor]
        self.lost += [Outcome(tag, None, "connection reset") for _, tag, _, _ in mine]

    # ---- as fleets see it ----

    def nodes(self) -> list[Node]:
        return list(self.alive)

    def start(self, node: Node, needs: Needs) -> FakeActor:
        self.actors.append(FakeActor(self, node, needs))
        return self.actors[-1]

    def call(self, handle: FakeActor, tag: Any, method: str, *arguments: Any) -> None:
        if handle.ended:
            self.lost.append(Outcome(tag, None, "connection reset"))
        else:
            self.calls.append((handle, tag, method, arguments))

    def next(self, timeout: float) -> Outcome | None:
        self.happens()
        self.now += 0.01
        if self.lost:
            return self.lost.pop(0)
        if timeout == 0 and self.random.random() < 0.5:
            return None
        for _ in range(len(self.calls)):
            actor, tag, method, arguments = call = self.random.choice(self.calls)
            if self.random.randrange(1 + self.slow.get(actor.node.id, 0)) == 0:
                self.calls.remove(call)
                return Outcome(tag, getattr(actor, method)(*arguments))
        self.now += timeout
        return None

    def end(self, handle: FakeActor) -> None:
        handle.ended = True
        self.calls = [call for call in self.calls if call[0] is not handle]


HERE = Path(__file__).parent
