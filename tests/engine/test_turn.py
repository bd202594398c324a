"""Who has the turn: one thread at a time, and closing, which nothing may hold up or survive."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from engine_helpers import within

from autodeco_gguf.engine.turn import Turn
from autodeco_gguf.errors import Busy, Closed, ModelFailed


def soon(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(1e-3)


class Recorded(Turn):
    """Notes what it is told to do."""

    def __init__(self) -> None:
        self.did: list[str] = []
        super().__init__("m.gguf", lambda: self.did.append("end"), lambda: self.did.append("free"))


def start(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_steps_until_ready() -> None:
    turn, steps = Recorded(), list[int]()
    turn.run_until(lambda: len(steps) == 3, lambda: steps.append(1))
    turn.run_until(lambda: True, lambda: steps.append(1))
    assert len(steps) == 3


def test_one_thread_at_a_time() -> None:
    turn, inside, most, steps = Recorded(), list[int](), list[int](), list[int]()

    def step() -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(1e-4)
        steps.append(1)
        inside.pop()

    threads = [start(lambda: turn.run_until(lambda: len(steps) >= 60, step)) for _ in range(4)]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert (len(steps), max(most)) == (60, 1)


def test_within_its_own_turn_nobody_waits() -> None:
    turn = Recorded()
    for wait in (turn.close, lambda: turn.run_until(lambda: False, lambda: None)):
        with pytest.raises(Busy, match="within on_token"):
            turn.run_until(lambda: False, wait)
    assert turn.use(lambda: turn.did) == []
    within(5, turn.close)


def test_a_step_that_fails_gives_the_turn_back() -> None:
    turn = Recorded()
    with pytest.raises(KeyError):
        turn.run_until(lambda: False, lambda: {}["x"])
    within(5, turn.close)
    assert turn.did == ["end", "free"]


def test_closing() -> None:
    turn = Recorded()
    turn.close()
    assert (turn.closed, turn.did) == (True, ["end", "free"])
    turn.close()
    assert turn.did == ["end", "free"]
    for use in (lambda: turn.use(lambda: 1), lambda: turn.run_until(lambda: False, lambda: None)):
        with pytest.raises(Closed, match=r"^m.gguf: the model is closed$"):
            use()
    turn.run_until(lambda: True, lambda: None)


def test_closing_waits_for_uses_and_lets_none_begin() -> None:
    turn, go_on, begun = Recorded(), threading.Event(), threading.Event()
    user = start(lambda: turn.use(lambda: (begun.set(), go_on.wait(10), turn.did.append("used"))))
    assert begun.wait(10)
    closer = start(turn.close)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            turn.use(lambda: None)
        except Closed:
            break
    assert turn.did == []
    go_on.set()
    closer.join(10)
    user.join(10)
    assert turn.did == ["used", "end", "free"]


def test_closing_is_the_next_turn() -> None:
    """However many others run one step after the other, and wait for what never comes."""
    turn, told = Recorded(), list[type]()

    def run() -> None:
        try:
            turn.run_until(lambda: False, lambda: time.sleep(1e-3))
        except Closed as e:
            told.append(type(e))

    runners = [start(run) for _ in range(4)]
    closers = [start(turn.close) for _ in range(2)]
    for thread in (*closers, *runners):
        thread.join(10)
        assert not thread.is_alive()
    assert turn.did == ["end", "free"]
    assert told == [Closed] * 4


def test_nobody_closes_within_its_own_use() -> None:
    """As a signal's handler may try."""
    turn = Recorded()
    for close in (lambda: turn.close(0.1), lambda: turn.alone(lambda: None)):
        with pytest.raises(Busy, match=r"^the engine is in use by the thread that would free it$"):
            turn.use(close)
    turn.close()
    assert turn.did == ["end", "free"]


def test_what_ends_all_may_use_what_is_freed_after_it() -> None:
    turn, did = Recorded(), list[str]()
    turn._end = lambda: turn.use(lambda: did.append("used"))
    turn.close()
    assert (did, turn.did) == (["used"], ["free"])


def test_who_waits_for_a_close_that_gives_up_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    turn, inside, go_on, steps = Recorded(), threading.Event(), threading.Event(), list[int]()
    user = start(lambda: turn.use(lambda: (inside.set(), go_on.wait(20))))
    assert inside.wait(10)
    now = 0.0
    monkeypatch.setattr("autodeco_gguf.engine.turn.time", SimpleNamespace(monotonic=lambda: now))
    closing = start(lambda: turn.close(1.0))
    soon(lambda: turn._closing)
    waiting = start(lambda: turn.run_until(lambda: bool(steps), lambda: steps.append(1)))
    soon(lambda: len(turn._changed._waiters) == 2)  # type: ignore[attr-defined]
    now = 2.0
    for thread in (closing, waiting):
        thread.join(10)
        assert not thread.is_alive()
    go_on.set()
    user.join(10)
    assert (steps, turn.did) == ([1], [])


def test_closing_may_give_up() -> None:
    turn, go_on, begun = Recorded(), threading.Event(), threading.Event()
    done = list[int]()
    runner = start(lambda: turn.run_until(lambda: bool(done), lambda: (begun.set(), go_on.wait(10), done.append(1))))
    assert begun.wait(10)
    turn.close(0.01)
    assert (turn.closed, turn.did) == (False, [])
    go_on.set()
    runner.join(10)
    assert turn.use(lambda: 5) == 5
    turn.close()
    assert turn.closed


@pytest.mark.parametrize("failing", ["end", "free"])
def test_closing_that_fails_may_be_tried_again(failing: str) -> None:
    did: list[str] = []

    def do(what: str) -> None:
        did.append(what)
        if what == failing and did.count(what) == 1:
            raise InterruptedError

    turn = Turn("m.gguf", lambda: do("end"), lambda: do("free"))
    with pytest.raises(InterruptedError):
        turn.close()
    assert turn.closed == (failing == "free")  # half freed is closed, half ended goes on
    if failing == "end":
        assert within(5, lambda: turn.use(lambda: 5)) == 5
    within(5, turn.close)
    assert (turn.closed, did) == (True, ["end", "end", "free"] if failing == "end" else ["end", "free", "free"])


EXIT = """
import sys, threading, time
from contextlib import suppress
from autodeco_gguf import Closed, Engine, Request
from autodeco_gguf.model.shipped import DEMO_MODEL
engine = Engine(DEMO_MODEL, n_parallel=4)
begun = threading.Event()

def generate():
    bias = {token: float("-inf") for token in range(engine.context.n_vocab) if engine.context.is_eog(token)}
    with suppress(Closed):  # Python ends by a signal where a daemon thread writes a traceback meanwhile
        while True:
            for piece in engine.submit(Request("Tell a story about Mia", logit_bias=bias)):
                begun.set()

for _ in range(3):
    threading.Thread(target=generate, daemon=True).start()
begun.wait(30)
print("done")
"""


def test_the_interpreter_ends_while_threads_generate() -> None:
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr


# ---- forks ----


def test_a_fork_in_the_midst_of_another_threads_step() -> None:
    turn, locked = Recorded(), threading.Event()

    def hold() -> None:
        with turn._changed:
            locked.set()
            time.sleep(30)

    def step() -> None:
        start(hold)  # a thread that the child does not have
        assert locked.wait(10)
        start(turn.after_fork).join(10)  # what the child runs, in the thread that has forked

    message = r"^m\.gguf: the process forked while the model was computing; start processes with .*'spawn'"
    with pytest.raises(ModelFailed, match=message):
        within(10, lambda: turn.run_until(lambda: False, step))
    with pytest.raises(ModelFailed, match=message):
        within(10, lambda: turn.use(int))
    within(10, turn.close)
    assert turn.did == []  # of what nobody knows the state


def test_a_fork_between_two_steps_or_within_ones_own() -> None:
    turn, steps = Recorded(), list[int]()
    turn.after_fork()

    def step() -> None:
        turn.after_fork()
        steps.append(1)

    within(10, lambda: turn.run_until(lambda: len(steps) == 2, step))
    assert within(10, lambda: turn.use(lambda: 5)) == 5
    within(10, turn.close)
    assert turn.did == ["end", "free"]


def test_a_fork_leaves_uses_and_closing_of_other_threads_behind() -> None:
    turn = Recorded()
    turn._inside[object()], turn._closing = 0, Closed  # as threads have it that the child does not have
    turn.after_fork()
    assert turn.use(lambda: 5) == 5
    turn.close(0.1)
    assert turn.did == ["end", "free"]


def test_alone_waits_for_who_uses_it_and_keeps_others_out() -> None:
    turn, done = Turn("m.gguf", lambda: None, lambda: None), list[str]()
    inside, go_on, alone, finish = (threading.Event() for _ in range(4))

    def use() -> None:
        inside.set()
        go_on.wait(10)
        done.append("used")

    def change() -> None:
        alone.set()
        finish.wait(10)
        done.append("changed")

    user = threading.Thread(target=lambda: turn.use(use))
    user.start()
    inside.wait(10)
    changer = threading.Thread(target=lambda: turn.alone(change))
    changer.start()
    assert not alone.wait(0.1)
    go_on.set()
    assert alone.wait(10)
    with pytest.raises(Busy, match=r"^m\.gguf: the model is being loaded again; try again later$"):
        turn.use(lambda: None)
    finish.set()
    changer.join(10)
    assert done == ["used", "changed"]
    assert turn.use(lambda: 5) == 5
    turn.close()
    with pytest.raises(Closed):
        turn.alone(lambda: done.append("too late"))
    assert done == ["used", "changed"]
