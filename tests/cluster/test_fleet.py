"""A fleet draws what one engine draws, whatever becomes of its nodes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from fake_cluster import SPEC, FakeActor, FakeCluster
from fake_engine import FakeEngine

from autodeco_gguf.cluster.crew import LIMIT
from autodeco_gguf.cluster.fleet import Fleet
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import AutoDecoError, Busy, InvalidInput, ModelFailed

ClusterOf = Callable[..., FakeCluster]


def requests(n: int, **kwargs: Any) -> list[Request]:
    engine = FakeEngine()
    return [Request(engine.prompt(f"sums {i % 7}"), seed=i, max_tokens=9, **kwargs) for i in range(n)]


def values(results: Iterable[Any]) -> dict[int, tuple[Any, ...]]:
    found = [(r.index, (r.text, r.finish_reason, r.temperature.tolist(), r.top_p.tolist())) for r in results]
    assert len(dict(found)) == len(found)  # none twice
    return dict(found)


def one_engine(asked: list[Request]) -> dict[int, tuple[Any, ...]]:
    return values(FakeEngine().as_completed(asked))


def not_for_ever(cluster: FakeCluster) -> None:
    """Fail where nothing happens any more."""
    assert cluster.now < 1000


@pytest.mark.parametrize("seed", range(40))
def test_the_same_results_whatever_comes_and_goes(cluster_of: ClusterOf, seed: int) -> None:
    cluster, asked = cluster_of(seed, nodes=2, cpus=2), requests(150)
    left, crashes = [5], [LIMIT - 1]  # more of these might be the fault of a request

    def happens() -> None:
        chance = cluster.random.random()
        if chance < 0.02 and left[0] and len(cluster.alive) > 1:
            left[0] -= 1
            cluster.remove(cluster.random.choice(cluster.alive))
        elif chance < 0.04:
            running = [actor for actor in cluster.actors if not actor.ended]
            if running and crashes[0]:
                crashes[0] -= 1
                cluster.crash(cluster.random.choice(running))
        elif chance < 0.06 and len(cluster.alive) < 5:
            cluster.add(cluster.random.randint(1, 3))

    with Fleet(cluster, SPEC) as fleet:
        cluster.happens = happens
        assert values(fleet.as_completed(asked)) == one_engine(asked)
        again = requests(30)[20:]
        assert values(fleet.as_completed(again)) == one_engine(again)


def test_every_request_is_drawn_once_and_shared_out(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(3, nodes=4)
    with Fleet(cluster, SPEC) as fleet:
        assert len(values(fleet.as_completed(requests(200)))) == 200
    drawn = [actor.drawn for actor in cluster.actors]
    assert Counter(i for one in drawn for i in one) == Counter(range(200))
    assert min(map(len, drawn)) > 25
    assert max(actor.most for actor in cluster.actors) <= 5  # four sequences, and one that waits for the next


def test_few_requests_go_to_all(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(1, nodes=4)
    with Fleet(cluster, SPEC) as fleet:
        while len([*fleet._crew.ready]) < 4:
            fleet._turn()
        assert len(values(fleet.as_completed(requests(8)))) == 8
    assert {actor.most for actor in cluster.actors} == {2}


def test_a_slow_node_holds_nobody_up(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(2, nodes=3)
    cluster.slow = {cluster.alive[0].id: 30}
    with Fleet(cluster, SPEC) as fleet:
        assert len(values(fleet.as_completed(requests(300)))) == 300
    slow, *others = [len(actor.drawn) for actor in cluster.actors]
    assert 0 < slow < 30
    assert min(others) > 100


def test_closing_cancels_and_the_next_job_is_another(cluster_of: ClusterOf) -> None:
    cluster, asked = cluster_of(4, nodes=2), requests(40)
    with Fleet(cluster, SPEC) as fleet:
        stream = fleet.as_completed(asked)
        next(stream)
        assert any(actor.under_way for actor in cluster.actors)
        stream.close()
        while cluster.calls:
            fleet._turn()
        assert not any(actor.under_way for actor in cluster.actors)
        other = requests(60)[40:]
        assert values(fleet.as_completed(other)) == one_engine(other)


def test_the_heads_go_with_the_job(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(5)
    with Fleet(cluster, SPEC) as fleet:
        fleet.enable(["top_p"])
        list(fleet.as_completed(requests(20)))
        assert fleet.heads == {"top_p"} == cluster.actors[0].heads
        with pytest.raises(InvalidInput, match="head"):
            fleet.enable(["nose"])
        fleet.enable(["temperature", "top_p"])
        cluster.add()
        list(fleet.as_completed(requests(200)))
    assert {actor.heads for actor in cluster.actors} == {frozenset(("temperature", "top_p"))}


@pytest.mark.parametrize("seed", range(40))
def test_requests_that_are_made_of_its_prompts(cluster_of: ClusterOf, seed: int) -> None:
    """Made when they are taken, while processes end."""
    cluster, asked, crashes = cluster_of(seed, nodes=3), requests(60), [LIMIT - 1]

    def happens() -> None:
        not_for_ever(cluster)
        running = [actor for actor in cluster.actors if not actor.ended]
        if running and crashes[0] and cluster.random.random() < 0.05:
            crashes[0] -= 1
            cluster.crash(cluster.random.choice(running))

    with Fleet(cluster, SPEC) as fleet:
        cluster.happens = happens
        made = (Request(next(fleet.prompts([f"sums {i % 7}"])), seed=i, max_tokens=9) for i in range(60))
        assert values(fleet.as_completed(made)) == one_engine(asked)


# ---- what cannot be drawn ----


def asked_for(cluster: FakeCluster, number: int) -> list[FakeActor]:
    """The actors that are about to be given a request."""
    return [call[0] for call in cluster.calls if call[2] == "draw" and number in dict(call[3][1])]


def test_a_request_that_cannot_be_met_is_named(cluster_of: ClusterOf) -> None:
    asked = requests(6)
    asked[3] = Request([60] * 48, max_tokens=9)
    with Fleet(cluster_of(), SPEC) as fleet:
        message = r"^request 3: the prompt has 48 tokens, the context holds 48; raise it$"
        with pytest.raises(InvalidInput, match=message):
            list(fleet.as_completed(asked))
        asked[2] = Request([60, 256], max_tokens=9)
        with pytest.raises(InvalidInput, match=r"^request 2: token 256, expected 0 to 255$"):
            list(fleet.as_completed(asked))
        with pytest.raises(InvalidInput, match="has tokens, and no grammar"):
            fleet.check(Request("text"))
        with pytest.raises(InvalidInput, match="top_k"):
            fleet.check(Request([60], top_k=-1))


def test_a_request_that_ends_every_process_is_given_up(cluster_of: ClusterOf) -> None:
    cluster, crashes = cluster_of(6, nodes=3), []

    def happens() -> None:
        for actor in asked_for(cluster, 17):
            crashes.append(actor)
            cluster.crash(actor)

    cluster.happens = happens
    with Fleet(cluster, SPEC) as fleet:
        message = r"^request 17: 3 processes have ended while they drew it$"
        with pytest.raises(ModelFailed, match=message):
            list(fleet.as_completed(requests(40)))
    assert len(crashes) == LIMIT


def test_a_request_under_suspicion_is_drawn_alone_and_others_after_it(cluster_of: ClusterOf) -> None:
    cluster, asked, seen = cluster_of(6, nodes=1), requests(40), list[set[int]]()

    def happens() -> None:
        not_for_ever(cluster)
        for actor in asked_for(cluster, 0):
            calls = [call for call in cluster.calls if call[0] is actor and call[2] == "draw"]
            together = {*actor.under_way, *(i for call in calls for i, _ in call[3][1])}
            if len(seen) < LIMIT - 1:
                seen.append(together)
                cluster.crash(actor)
            elif together not in seen:
                seen.append(together)

    cluster.happens = happens
    with Fleet(cluster, SPEC) as fleet:
        assert values(fleet.as_completed(asked)) == one_engine(asked)
    assert seen[LIMIT - 1 :] == [{0}]
    assert len(cluster.actors[-1].drawn) > 10


def test_that_nodes_go_says_nothing_about_a_request(cluster_of: ClusterOf) -> None:
    cluster, asked, gone = cluster_of(7, nodes=1), requests(20), []

    def happens() -> None:
        for actor in asked_for(cluster, 17) if len(gone) < 5 else ():
            gone.append(actor)
            cluster.remove(actor.node)
            cluster.add()

    cluster.happens = happens
    with Fleet(cluster, SPEC) as fleet:
        assert values(fleet.as_completed(asked)) == one_engine(asked)
    assert len(gone) == 5


def test_a_model_that_fails_is_replaced(cluster_of: ClusterOf) -> None:
    cluster, asked, said = cluster_of(8), requests(60), list[str]()
    failed: list[FakeActor] = []

    def fails(actor: FakeActor) -> Any:
        if len(actor.drawn) > 5 and not failed:
            failed.append(actor)
        return ModelFailed("out of memory on CUDA0") if actor in failed else None

    cluster.fails = fails
    with Fleet(cluster, SPEC, say=said.append) as fleet:
        assert values(fleet.as_completed(asked)) == one_engine(asked)
    assert len(failed) == 1
    assert failed[0].ended
    assert len(cluster.actors) == 3
    assert [line for line in said if "out of memory on CUDA0" in line and "answers to draw again: " in line]


def test_results_that_come_with_the_failure_are_drawn_again(cluster_of: ClusterOf) -> None:
    for seed in range(10):
        cluster, asked, failed = cluster_of(seed, nodes=1), requests(60), list[FakeActor]()

        def fails(actor: FakeActor, failed: list[FakeActor] = failed) -> Any:  # by one of its calls
            if len(actor.drawn) > 5 and not failed:
                failed.append(actor)
                return ModelFailed("out of memory on CUDA0")
            return None

        cluster.fails = fails
        with Fleet(cluster, SPEC) as fleet:
            assert values(fleet.as_completed(asked)) == one_engine(asked)
        assert failed


@pytest.mark.parametrize("seed", range(20))
def test_what_a_failed_model_had_is_not_of_the_next_job(cluster_of: ClusterOf, seed: int) -> None:
    cluster, said = cluster_of(seed), list[str]()
    cluster.happens = lambda: not_for_ever(cluster)
    cluster.fails = lambda actor: ModelFailed("no") if actor is cluster.actors[0] and len(actor.drawn) > 4 else None
    with Fleet(cluster, SPEC, say=said.append) as fleet:
        stream = fleet.as_completed(requests(200))
        for _ in stream:
            if any("a process is lost" in line for line in said):
                break
        stream.close()
        other = requests(60)[55:]
        assert values(fleet.as_completed(other)) == one_engine(other)


def test_an_interrupt_while_a_node_goes_leaves_the_next_job_alone(
    cluster_of: ClusterOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, other = cluster_of(3), requests(60)[57:]
    cluster.happens = lambda: not_for_ever(cluster)
    with Fleet(cluster, SPEC) as fleet:
        stream = fleet.as_completed(requests(40))
        for _ in range(5):
            next(stream)

        def interrupted(timeout: float) -> Any:
            if not timeout:
                return FakeCluster.next(cluster, timeout)
            raise KeyboardInterrupt

        cluster.remove(cluster.alive[0])
        fleet._crew._survey_at = 0.0  # what a turn does first
        with monkeypatch.context() as patch:
            patch.setattr(cluster, "next", interrupted)
            with pytest.raises(KeyboardInterrupt):
                list(stream)
        assert values(fleet.as_completed(other)) == one_engine(other)


def test_what_a_node_refuses_ends_the_run(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(9)
    cluster.fails = lambda actor: InvalidInput("no")
    with Fleet(cluster, SPEC) as fleet, pytest.raises(AutoDecoError, match=r"^no$"):
        list(fleet.as_completed(requests(3)))


def test_without_a_node_it_waits_and_gives_up(cluster_of: ClusterOf) -> None:
    cluster, said, drawn = cluster_of(10, nodes=1), list[str](), list[Any]()
    with Fleet(cluster, SPEC, say=said.append, wait_s=60) as fleet:
        stream = fleet.as_completed(requests(40))
        drawn += itertools.islice(stream, 10)
        cluster.remove(cluster.alive[0])
        with pytest.raises(Busy, match=r"for 1 minutes; add one"):
            drawn.extend(stream)
    assert 10 <= len(drawn) < 40
    assert said[-1] == "no node to draw on: waiting, at most 1 minutes"


def test_an_interrupt_before_the_first_node_is_ready_ends_the_processes(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(14, nodes=2)

    def happens() -> None:
        if any(call[2] == "load" for call in cluster.calls):
            raise KeyboardInterrupt

    cluster.happens = happens
    with pytest.raises(KeyboardInterrupt), Fleet(cluster, SPEC):
        pass
    assert [actor.ended for actor in cluster.actors] == [True, True]


# ---- prompts ----


def test_prompts(cluster_of: ClusterOf) -> None:
    messages = [f"sums {i}" for i in range(150)]
    cluster = cluster_of(11)
    with Fleet(cluster, SPEC) as fleet:
        assert list(fleet.prompts(messages)) == [FakeEngine().prompt(message) for message in messages]
        cluster.calls = []
        cluster.call = None  # type: ignore[method-assign, assignment]  # nobody is asked again
        assert fleet.render("sums 149") == "<sums 149>"


def test_a_message_that_is_refused(cluster_of: ClusterOf) -> None:
    with Fleet(cluster_of(12), SPEC) as fleet:
        found = fleet.prompts(["sums 1", "refused", "sums 2"])
        assert next(found) == FakeEngine().prompt("sums 1")
        with pytest.raises(InvalidInput, match=r"^the template refuses$"):
            next(found)
        with pytest.raises(InvalidInput, match=r"^the template refuses$"):
            fleet.render("refused")


def test_a_worker_that_is_lost_while_it_is_asked(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(13, nodes=1)
    with Fleet(cluster, SPEC) as fleet:
        crashes = [2]

        def happens() -> None:
            asked = [call for call in cluster.calls if call[2] == "prompts"]
            if asked and crashes[0]:
                crashes[0] -= 1
                cluster.crash(asked[0][0])

        cluster.happens = happens
        assert fleet.render("sums 1") == "<sums 1>"
        crashes[0] = 99
        with pytest.raises(ModelFailed, match=r"^3 processes have ended when they were asked for prompts$"):
            fleet.render("sums 2")
