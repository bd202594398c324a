"""Closing an engine: at any time, whatever uses it, and what is left afterwards."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import load
from engine_helpers import PROMPTS, make, no_end, within

from autodeco_gguf.engine.conversation import Conversation
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import Closed
from autodeco_gguf.model.context import Context


def test_closing(merged: Path) -> None:
    with make(merged, n_parallel=2) as engine:
        handles = [
            engine.submit(Request(PROMPTS[i], seed=i, max_tokens=50, logit_bias=no_end(engine))) for i in range(4)
        ]
        next(iter(handles[0]))
    assert [handle.result().finish_reason for handle in handles] == ["cancelled"] * 4
    assert [len(handle.result().tokens) for handle in handles] == [1, 1, 0, 0]
    engine.close()
    uses: list[Callable[[], object]] = [
        lambda: engine.submit(Request([1])),
        lambda: engine.prompt("x"),
        lambda: engine.check(Request([1])),
        lambda: engine.generate([Request([1])]),
        lambda: next(engine.as_completed([Request([1])])),
        lambda: engine.run_until(lambda: False),
        engine.forget,
    ]
    for use in uses:
        with pytest.raises(Closed, match=r"the model is closed$"):
            within(10, use)
    assert engine.render("x") == "x"
    assert engine.heads == {"temperature", "top_p"}
    assert repr(engine) == f"<Engine {merged}: heads temperature and top_p, 2 sequences of 128 tokens, closed>"


ASKING: list[Callable[[Engine], object]] = [
    lambda engine: engine.submit(Request("and so on", max_tokens=2, stop=["x"], logit_bias={5: 1.0})).result(),
    lambda engine: engine.prompt("a longer text " * 20),
    lambda engine: list(engine.submit(Request([5], max_tokens=9))),
    lambda engine: engine.context.tokenize("a longer text " * 20),
    lambda engine: engine.context.text(range(300)),
    lambda engine: Conversation(engine).ask(Request("go on", max_tokens=1)),
]


def for_ever(use: Callable[[Engine], object], engine: Engine) -> None:
    while True:
        use(engine)


def ask_until_closed(engine: Engine, use: Callable[[Engine], object], begun: threading.Barrier) -> None:
    begun.wait(10)
    with pytest.raises(Closed):
        for_ever(use, engine)
    begun.wait(10)


def test_closing_while_threads_ask(merged: Path) -> None:
    """Whatever they do, they are told that it is closed, or have the answer."""
    for _ in range(20):
        engine, begun = make(merged, n_parallel=2), threading.Barrier(1 + 2 * len(ASKING))
        for use in ASKING * 2:
            threading.Thread(target=ask_until_closed, args=(engine, use, begun), daemon=True).start()
        begun.wait(10)
        within(10, engine.close)
        begun.wait(10)  # all were told


def test_closing_does_not_wait_for_a_request(merged: Path) -> None:
    """Again and again, since a thread that runs the engine without a break may let another in by chance."""
    for i in range(5):
        engine = make(merged, n_parallel=2, n_ctx=8192)
        handle = engine.submit(Request([5], seed=i, logit_bias=no_end(engine)))
        reader = threading.Thread(target=handle.result, daemon=True)
        reader.start()
        engine.run_until(lambda handle=handle: handle.n_drawn > 3)  # type: ignore[misc]
        before = handle.n_drawn
        within(10, engine.close)
        reader.join(10)
        assert not reader.is_alive()
        assert handle.finish_reason == "cancelled"
        assert handle.n_drawn - before < 2000  # of 8191


def test_what_came_of_requests_outlives_the_engine(merged: Path) -> None:
    engine = make(merged)
    request = Request(PROMPTS[0], seed=3, max_tokens=12, entropy=True)
    handle = engine.submit(request)
    pieces = list(handle)
    before = (list(handle.result().trace), handle.result().text)
    engine.close()
    assert list(handle) == pieces
    assert (list(handle.result().trace), handle.result().text) == before
    assert b"".join(token.text for token in before[0]) != b""


@pytest.mark.parametrize("copied", [lambda result: pickle.loads(pickle.dumps(result)), copy.deepcopy])
def test_results_can_be_copied(copied: Callable[[Any], Any], engine: Engine) -> None:
    result = engine.submit(Request(PROMPTS[0], seed=3, max_tokens=12)).result()
    other = copied(result)
    assert list(map(repr, other.trace)) == list(map(repr, result.trace))
    np.testing.assert_array_equal(other.trace.parameters, result.trace.parameters)
    for name in ("index", "tokens", "text", "finish_reason", "error"):
        assert getattr(other, name) == getattr(result, name)
    np.testing.assert_array_equal((other.temperature, other.top_p), (result.temperature, result.top_p))


def abandoned(engine: Engine) -> None:
    results = engine.as_completed(
        Request([5], seed=i, max_tokens=1 + 20 * i, logit_bias=no_end(engine)) for i in range(3)
    )
    next(results)


USES: dict[str, Callable[[Engine], object]] = {
    "not at all": lambda engine: None,
    "done": lambda engine: engine.generate([Request([5], max_tokens=2)]),
    "its handle is kept": lambda engine: (handle := engine.submit(Request([5], max_tokens=2)), handle.result()),
    "abandoned": abandoned,
    "asked": lambda engine: engine.prompt("x"),
    "forgotten": lambda engine: engine.forget(),
}


@pytest.mark.parametrize("how", USES)
def test_an_engine_that_nobody_holds_is_closed(how: str, merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close = Context.close
    monkeypatch.setattr(Context, "close", lambda context: (closed.append(1), close(context)))
    gc.disable()
    try:
        engine = make(merged, n_parallel=2)
        kept = USES[how](engine)
        there = weakref.ref(engine), weakref.ref(engine.context)
        del engine
        assert [ref() for ref in there] == [None, None]
        assert closed
        del kept
    finally:
        gc.enable()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_engine_is_not_copied(copied: Callable[[Any], Any], merged: Path) -> None:
    with make(merged, n_parallel=1) as engine:
        with pytest.raises(TypeError, match=r"^an Engine cannot be copied or pickled; load another$"):
            copied(engine)
        gc.collect()
        assert engine.prompt("x")  # is open


def test_a_handle_keeps_its_engine(merged: Path) -> None:
    handle = make(merged).submit(Request([5], seed=1, max_tokens=5, logit_bias={0: -np.inf, 2: -np.inf}))
    gc.collect()
    assert len(handle.result().tokens) == 5


def test_what_is_left_when_the_interpreter_takes_its_modules_apart(
    merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = load(merged), make(merged)
    for module in ("model.llama", "engine.engine"):
        monkeypatch.setattr(f"autodeco_gguf.{module}.off_relays", None)
    for one in kept:
        one.__del__()
    monkeypatch.undo()
    for one in kept:
        one.close()


def test_closing_frees_the_heads(merged: Path) -> None:
    """Which may lie on a device, or a worker that serves nobody else meanwhile."""
    for user in (make(merged), load(merged)):
        names, freed = user.heads, weakref.ref(user._predictor.heads)
        user.close()
        assert freed() is None
        assert user.heads == names == {"temperature", "top_p"}
        with pytest.raises(Closed):
            user.predict([[0.0]], [[0.0]]) if isinstance(user, Engine) else user.predict([5])
