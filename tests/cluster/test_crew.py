"""The workers of a fleet: where they are started, what is refused, and what is said."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fake_cluster import SPEC, FakeCluster, about

from autodeco_gguf.cluster.crew import LIMIT, Crew
from autodeco_gguf.errors import AutoDecoError, BadFile, Busy, InvalidInput, ModelFailed
from autodeco_gguf.model.machine import Machine

ClusterOf = Callable[..., FakeCluster]


def crew_of(cluster: FakeCluster, turns: int = 30, **changes: Any) -> tuple[Crew, list[str]]:
    """A crew after some turns, and what it has said."""
    said: list[str] = []
    crew = Crew(cluster, replace(SPEC, **changes), said.append, wait_s=120)
    for _ in range(turns):
        crew.turn()
    return crew, said


def many_turns(crew: Crew) -> None:
    for _ in range(100):
        crew.turn()


def ready(crew: Crew) -> list[str]:
    return sorted(worker.node.id for worker in crew.ready)


def test_as_many_as_fit_and_each_node_is_introduced(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(nodes=0)
    big, small = cluster.add(cpus=9), cluster.add(cpus=2)
    cluster.says = lambda node: about(threads=2)
    crew, said = crew_of(cluster, machine=Machine(n_threads=2))
    assert ready(crew) == [big.id] * 4 + [small.id]
    assert {actor.needs for actor in cluster.actors} == {(2, 0)}
    assert sorted(said) == [
        "node 10.0.0.1 (000001): 4 at a time, each with 2 threads, on the CPU",
        "node 10.0.0.2 (000002): 1 at a time, each with 2 threads, on the CPU",
    ]


def test_a_gpu_is_asked_for_and_its_loss_is_said(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(nodes=0)
    good, _ = cluster.add(cpus=8, gpus=2), cluster.add(cpus=8, gpus=1)
    cluster.says = lambda node: about(devices=("CUDA0",) if node == good else ())
    _, said = crew_of(cluster)
    assert [actor.needs for actor in cluster.actors] == [(1, 1)] * 3
    assert sorted(said) == [
        "node 10.0.0.1 (000001): 2 at a time, each with 1 thread, on CUDA0",
        "node 10.0.0.2 (000002): 1 at a time, each with 1 thread, on the CPU",
        "node 10.0.0.2 (000002): Ray has a GPU there, llama.cpp finds none (is it built for it?): it is not used",
    ]


def test_nodes_come_and_go(cluster_of: ClusterOf) -> None:
    cluster = cluster_of()
    crew, said = crew_of(cluster)
    first, second = cluster.alive
    cluster.remove(first)
    third = cluster.add()
    for _ in range(30):
        crew.turn()
    assert ready(crew) == [second.id, third.id]
    assert crew.alive(third.id)
    assert not crew.alive(first.id)
    assert said[-1].startswith(third.name)
    cluster.remove(third)
    crew.lose(next(worker for worker in crew.ready if worker.node == third), "connection reset")
    assert not crew.alive(third.id)  # at once, so that no request is blamed for it


def test_a_node_that_is_too_small(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(nodes=0)
    small, big = cluster.add(cpus=2), cluster.add(cpus=4)
    crew, said = crew_of(cluster, machine=Machine(n_threads=4))
    assert ready(crew) == [big.id]
    assert said.count(f"{small.name} takes no part: it has 2 CPUs and 0 GPUs, a process asks for 4 and 0") == 1
    cluster = cluster_of(nodes=2)
    with pytest.raises(InvalidInput, match=r"^node 10\.0\.0\.1 \(000001\): it has 1 CPUs and 0 GPUs, a process"):
        crew_of(cluster, machine=Machine(n_threads=4))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (BadFile("m.gguf: no such file"), "m.gguf: no such file"),
        (
            about(fingerprint=f"{'a' * 64} {'fedcba9876543210' * 4}"),
            "m.gguf: another model, or other heads: digests aaaaaaaaaaaaaaaa and fedcba9876543210, elsewhere "
            "0123456789abcdef and fedcba9876543210",
        ),
        (about(versions="autodeco-gguf 0.0.9"), "has autodeco-gguf 0.0.9, expected autodeco-gguf 0.1.0 with "),
        (about(n_ctx=47), "decodes otherwise: (47, "),
    ],
)
def test_a_node_with_something_else_takes_no_part(cluster_of: ClusterOf, other: Any, reason: str) -> None:
    cluster = cluster_of(nodes=1)
    cluster.says = lambda node: about() if node.id == "000001" else other
    crew, _ = crew_of(cluster)
    cluster.add()
    crew, said = crew_of(cluster, turns=0)
    cluster.slow = {"000002": 10}  # the first is ready first
    for _ in range(300):
        crew.turn()
    assert ready(crew) == ["000001"]
    told = [line for line in said if line.startswith(f"node 10.0.0.2 (000002) takes no part: {reason}")]
    assert len(told) == 1
    assert len([actor for actor in cluster.actors if actor.node.id == "000002"]) == 1  # not tried again


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_node_whose_model_was_on_a_worker_that_is_lost_is_tried_again(cluster_of: ClusterOf, cpus: int) -> None:
    cluster = cluster_of(nodes=1, cpus=cpus)
    crew, said = crew_of(cluster)
    gone = ModelFailed("worker 10.0.0.9:50052: connection refused", key="rpc")
    answers = [gone, about()]
    cluster.says = lambda node: answers.pop(0)
    crew.lose(next(iter(crew.ready)), "worker 10.0.0.9:50052: lost: it closed the connection")
    for _ in range(50):
        crew.turn()
    assert ready(crew) == ["000001"] * cpus
    assert answers == []
    assert said[-1].endswith("a process is lost: worker 10.0.0.9:50052: connection refused")


def test_a_node_that_cannot_reach_a_worker_at_all(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(nodes=1)
    cluster.says = lambda node: ModelFailed("worker 10.0.0.9:50052: connection refused", key="rpc")
    with pytest.raises(
        ModelFailed, match=r"^node 10\.0\.0\.1 \(000001\): worker 10\.0\.0\.9:50052: connection refused$"
    ):
        crew_of(cluster)


NO_MEMORY = ModelFailed("not enough memory")


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_process_that_finds_no_room_beside_others(failing: int, cluster_of: ClusterOf) -> None:
    cluster, asked = cluster_of(nodes=1, cpus=3), itertools.count(1)
    cluster.says = lambda node: NO_MEMORY if next(asked) == failing else about()
    crew, said = crew_of(cluster)
    name = cluster.alive[0].name
    assert (len(ready(crew)), said.count(f"{name}: one process fewer: not enough memory")) == (2, 1)
    crew.lose(next(iter(crew.ready)), "bad luck")
    assert len(ready(crew)) == 1
    for _ in range(20):
        crew.turn()
    assert len(ready(crew)) == 2


def test_a_node_that_can_load_no_more(cluster_of: ClusterOf) -> None:
    """It is tried a few times, and what was wrong is said at the end."""
    cluster, asked = cluster_of(nodes=1), itertools.count(1)
    cluster.says = lambda node: about() if next(asked) == 1 else NO_MEMORY
    crew, said = crew_of(cluster)
    name = cluster.alive[0].name
    crew.lose(next(iter(crew.ready)), "bad luck")
    with pytest.raises(
        Busy, match=r"run the same command again; node 10\.0\.0\.1 .*: processes end there again and again"
    ):
        many_turns(crew)
    assert said.count(f"{name}: a process is lost: not enough memory") == LIMIT - 1


def test_what_all_refuse_is_the_error(cluster_of: ClusterOf) -> None:
    cluster = cluster_of()
    cluster.says = lambda node: BadFile("m.gguf: no such file", file="m.gguf")
    with pytest.raises(BadFile, match=r"^node 10\.0\.0\.\d \(00000\d\): m\.gguf: no such file$"):
        crew_of(cluster)


def test_a_node_whose_processes_end_again_and_again(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(nodes=2, cpus=2)
    bad = cluster.alive[0]

    def happens() -> None:
        for actor in cluster.actors:
            if actor.node == bad and not actor.ended and any(call[0] is actor for call in cluster.calls):
                cluster.crash(actor)

    cluster.happens = happens
    crew, said = crew_of(cluster, turns=100)
    assert ready(crew) == [cluster.alive[1].id] * 2
    assert said.count(f"{bad.name} takes no part: processes end there again and again without a result") == 1
    started = sum(actor.node == bad for actor in cluster.actors)
    assert 2 * LIMIT <= started <= 2 * LIMIT + 2
    cluster.alive = [bad]
    cluster.actors, cluster.calls, cluster.lost = [], [], []
    with pytest.raises(ModelFailed, match="again and again"):
        crew_of(cluster, turns=100)


def test_results_clear_a_node_of_suspicion(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(nodes=1)
    crew, said = crew_of(cluster)
    for _ in range(3 * LIMIT):
        crew.praise(next(iter(crew.ready)))
        cluster.crash(cluster.actors[-1])
        crew.lose(next(iter(crew.ready)), "bad luck")
        for _ in range(20):
            crew.turn()
    assert ready(crew) == [cluster.alive[0].id]
    assert said.count(f"{cluster.alive[0].name}: a process is lost: bad luck") == 3 * LIMIT


def test_a_process_is_lost_once(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(nodes=1)
    crew, said = crew_of(cluster)
    worker = next(iter(crew.ready))
    for _ in range(LIMIT):  # as one whose model has failed answers every call that waits
        crew.lose(worker, "out of memory")
    many_turns(crew)
    assert ready(crew) == [cluster.alive[0].id]
    assert said[1:] == [f"{cluster.alive[0].name}: a process is lost: out of memory"]


def test_waiting_for_a_first_node(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(nodes=0)
    cluster.add(cpus=0)  # a head, of which nothing is said
    crew, said = crew_of(cluster, turns=10)
    assert said == ["no node to draw on: waiting, at most 2 minutes"]
    cluster.add()
    for _ in range(20):
        crew.turn()
    assert ready(crew) == ["000002"]
    cluster.remove(cluster.alive[1])
    with pytest.raises(
        Busy, match=r"^--ray: no node to draw on for 2 minutes; add one and run the same command again$"
    ):
        many_turns(crew)
    assert said.count("no node to draw on: waiting, at most 2 minutes") == 2


def test_nodes_that_others_use(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(nodes=1)
    cluster.slow = {"000001": 10**9}  # its actor does not start
    crew, said = crew_of(cluster, turns=5)
    assert said == []
    for _ in range(20):
        crew.turn()
    assert said == ["none of the nodes has room yet, which others may use: waiting, at most 2 minutes"]
    with pytest.raises(Busy, match=r"no node to draw on for 2 minutes"):
        many_turns(crew)


def test_closing_ends_all(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(nodes=3)
    crew, _ = crew_of(cluster)
    crew.close()
    assert all(actor.ended for actor in cluster.actors)
    assert ready(crew) == []


def test_errors_are_those_of_one_process() -> None:
    assert isinstance(BadFile("x").within("node"), AutoDecoError)
    assert type(InvalidInput("x").within("node")) is InvalidInput
