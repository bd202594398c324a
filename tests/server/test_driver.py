"""The thread that runs the engine."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from server_helpers import Loop, demo_engine, wait_until

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Piece, Request, Result
from autodeco_gguf.errors import AutoDecoError, Busy, Closed, InvalidInput, ModelFailed
from autodeco_gguf.server.driver import Driver, Event, Job, _Mailbox

ENDLESS = {"max_tokens": 400, "logit_bias": {0: -100, 2: -100}}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with demo_engine(2) as engine:
        yield engine


@pytest.fixture
def driver(engine: Engine) -> Iterator[Driver]:
    driver = Driver(engine, max_queue=3)
    yield driver
    driver.close()


def requests(engine: Engine, n: int, **fields: object) -> list[Request]:
    tokens = engine.prompt("Tell a story about Mia")
    return [Request(tokens, seed=i, **{"max_tokens": 5, **fields}) for i in range(n)]  # type: ignore[arg-type]


async def read(job: Job) -> list[Event]:
    return [event async for events in job.events() for event in events]


def test_results_are_the_engine_s(engine: Engine, driver: Driver, loop: Loop) -> None:
    asked = requests(engine, 7)
    expected = [result.text for result in engine.generate(asked)]
    found = loop.run(read(driver.start(asked, loop.loop, pieces=False)))
    results = {index: event for index, event in found if isinstance(event, Result)}
    assert [results[i].text for i in range(7)] == expected
    assert len(found) == 7  # pieces were not asked for
    pieces = loop.run(read(driver.start(asked[:1], loop.loop, pieces=True)))
    assert "".join(event.text for _, event in pieces if isinstance(event, Piece)) == expected[0]


def test_the_queue_is_bounded(engine: Engine, driver: Driver, loop: Loop) -> None:
    jobs = [driver.start(requests(engine, 1, **ENDLESS), loop.loop, pieces=True) for _ in range(5)]
    assert driver.counts == (2, 3)
    with pytest.raises(Busy, match="3 requests are waiting"):
        driver.start(requests(engine, 1), loop.loop, pieces=False)
    for job in jobs:
        job.cancel()
    assert driver.counts == (0, 0)
    loop.run(read(driver.start(requests(engine, 1), loop.loop, pieces=False)))


def test_what_is_about_to_be_queued_counts(
    engine: Engine, driver: Driver, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grammar may take seconds to be compiled, and others come meanwhile."""

    def another(*_: Any) -> Any:
        driver.start(requests(engine, 1), loop.loop, pieces=False)

    monkeypatch.setattr(engine, "submit", another)
    with pytest.raises(Busy, match="3 requests are waiting"):
        another()
    assert driver.counts == (0, 0)


def test_who_has_begun_counts_once(engine: Engine, driver: Driver, loop: Loop) -> None:
    """Else another is refused for a queue in which nobody is."""
    lock, counted = driver._lock, set[int]()

    class Watched:
        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            counted.add(driver._starting + sum(len(job.running) for job in driver._jobs))
            lock.release()

    driver._lock = Watched()  # type: ignore[assignment]
    driver.start(requests(engine, 1, **ENDLESS), loop.loop, pieces=False).cancel()
    assert counted == {0, 1}


def test_who_comes_while_others_are_woken_is_woken_too() -> None:
    """By another thread, between the look at who is left and the end."""
    late, called = [SimpleNamespace(news=asyncio.Event())], list[Any]()
    mailbox = _Mailbox(SimpleNamespace(call_soon_threadsafe=called.append))  # type: ignore[arg-type]
    first, last = SimpleNamespace(news=asyncio.Event()), late[0]

    class Jobs(deque[Any]):
        def __bool__(self) -> bool:
            left = len(self) > 0
            if not left and late:
                mailbox.ring(late.pop())  # type: ignore[arg-type]
            return left

    mailbox._jobs = Jobs()
    mailbox.ring(first)  # type: ignore[arg-type]
    while called:
        called.pop()()
    assert (first.news.is_set(), last.news.is_set()) == (True, True)


def test_jobs_of_two_loops(engine: Engine, driver: Driver, loop: Loop) -> None:
    with closing(Loop()) as other:
        for one in (loop, other, loop):
            assert len(one.run(read(driver.start(requests(engine, 1), one.loop, pieces=False)), 10)) == 1


def test_a_large_job_shuts_nobody_out(engine: Engine, driver: Driver, loop: Loop) -> None:
    """Nor has another to wait for more than what it has begun."""
    large = driver.start(requests(engine, 60), loop.loop, pieces=False)
    others = [driver.start(requests(engine, 1), loop.loop, pieces=False) for _ in range(2)]
    for job in others:
        loop.run(read(job))
    assert large.next < 30
    assert len(loop.run(read(large))) == 60


def test_what_is_refused_leaves_nothing(engine: Engine, driver: Driver, loop: Loop) -> None:
    good, bad = requests(engine, 1)[0], Request([1] * 600)
    for asked in ([bad], [good, bad], [good, good, good, bad]):
        with pytest.raises(InvalidInput, match="600"):
            driver.start(asked, loop.loop, pieces=False)
        assert driver.counts == (0, 0)


def test_a_job_that_cannot_begin_leaves_nothing_to_compute(
    engine: Engine, driver: Driver, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, begun = engine.submit, []

    def once(request: Request, on_token: Any) -> Any:
        if begun:
            raise ModelFailed("no memory")
        begun.append(submit(request, on_token))
        return begun[0]

    monkeypatch.setattr(engine, "submit", once)
    with pytest.raises(ModelFailed, match="no memory"):
        driver.start(requests(engine, 2), loop.loop, pieces=False)
    assert begun[0].cancelled
    assert driver.counts == (0, 0)


def test_a_job_that_begins_while_the_driver_ends(
    engine: Engine, driver: Driver, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, begun = engine.submit, list[Any]()

    def late(*arguments: Any) -> Any:
        driver.close()
        begun.append(submit(*arguments))
        return begun[0]

    monkeypatch.setattr(engine, "submit", late)
    with pytest.raises(Closed):
        driver.start(requests(engine, 1), loop.loop, pieces=False)
    assert begun[0].cancelled


def test_a_failure_ends_what_runs_and_no_more(
    engine: Engine, driver: Driver, loop: Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    draw, failures = engine._scheduler._draw, [RuntimeError("gone")]

    def once() -> None:
        if failures:
            raise failures.pop()
        draw()

    monkeypatch.setattr(engine._scheduler, "_draw", once)
    found = loop.run(read(driver.start(requests(engine, 4), loop.loop, pieces=False)))
    reasons = sorted((i, event.finish_reason) for i, event in found if isinstance(event, Result))
    assert reasons == [(2, "length"), (3, "length")]
    errors = sorted((i, str(event)) for i, event in found if isinstance(event, ModelFailed))
    assert errors == [(0, "the model failed: gone"), (1, "the model failed: gone")]
    assert driver.failure is None  # an answer came after it
    (record,) = caplog.records
    assert record.exc_info  # where the fault lies


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()], ids=["thread", "memory"])
def test_each_answer_has_its_end(
    error: Exception, engine: Engine, driver: Driver, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot begin, for whatever reason, had none, and whoever had asked waited for ever."""
    submit, failing = engine.submit, (2, 3, 5)

    def once(request: Request, on_token: Any) -> Any:
        if request.seed in failing:
            raise error
        return submit(request, on_token)

    monkeypatch.setattr(engine, "submit", once)
    found = dict(loop.run(read(driver.start(requests(engine, 6), loop.loop, pieces=False))))
    assert sorted(found) == list(range(6))
    assert tuple(i for i in sorted(found) if isinstance(found[i], ModelFailed)) == failing
    assert str(found[2]) == f"the answer cannot begin: {str(error) or 'MemoryError'}"


def test_what_fails_between_steps(engine: Engine, driver: Driver, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice ended the thread, and with it all that was ever asked."""
    put, failures = Job.put, [MemoryError(), MemoryError()]

    def failing(job: Job, index: int, event: Any) -> None:
        if failures:
            raise failures.pop()
        put(job, index, event)

    monkeypatch.setattr(Job, "put", failing)
    jobs = [driver.start(requests(engine, 1), loop.loop, pieces=False) for _ in range(3)]
    assert [[index for index, _ in loop.run(read(job))] for job in jobs] == [[0]] * 3


def test_an_engine_that_is_closed(loop: Loop) -> None:
    with demo_engine(2) as engine:
        driver = Driver(engine, max_queue=3)
        job = driver.start(requests(engine, 5, max_tokens=None), loop.loop, pieces=False)
    found = loop.run(read(job))
    assert len(found) == 5
    assert all(isinstance(event, AutoDecoError | Result) for _, event in found)
    driver.close()
    with pytest.raises(Closed):
        driver.start([], loop.loop, pieces=False)


def test_closing_waits(engine: Engine, loop: Loop) -> None:
    driver = Driver(engine, max_queue=3)
    job = driver.start(requests(engine, 3), loop.loop, pieces=False)
    driver.close()
    assert [event.finish_reason for _, event in loop.run(read(job)) if isinstance(event, Result)] == ["length"] * 3
    with pytest.raises(Closed):
        driver.start(requests(engine, 1), loop.loop, pieces=False)
    assert driver.revival.ended  # a load that is under way comes to nothing


def test_cut_ends_what_has_not_begun_too(
    engine: Engine, driver: Driver, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, draw = threading.Event(), engine._scheduler._draw
    monkeypatch.setattr(engine._scheduler, "_draw", lambda: (goes_on.wait(20), draw()))
    job = driver.start(requests(engine, 5, **ENDLESS), loop.loop, pieces=False)
    under_way = list(job.running.values())
    driver.cut()
    goes_on.set()
    assert [generation.cancelled for generation in under_way] == [True, True]  # nobody computes them any more
    found = loop.run(read(job), 10)
    assert sorted(index for index, _ in found) == [0, 1, 2, 3, 4]
    assert all(isinstance(event, Closed) for _, event in found)


def test_a_loop_that_is_gone(engine: Engine, driver: Driver) -> None:
    gone = asyncio.new_event_loop()
    driver.start(requests(engine, 2), gone, pieces=True)
    gone.close()
    wait_until(lambda: driver.counts == (0, 0))
