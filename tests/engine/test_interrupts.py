"""An interrupt at every line of the engine: no request is lost, and what is asked afterwards is answered right."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_helpers import make, no_end, within
from model import interrupting

import autodeco_gguf.engine
from autodeco_gguf.engine import turn as module
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import Request
from autodeco_gguf.engine.turn import Turn
from autodeco_gguf.errors import Busy, Closed, ModelFailed
from autodeco_gguf.model import turns
from autodeco_gguf.model.context import Context

LINES = (str(Path(autodeco_gguf.engine.__file__).parent), turns.__file__)
LONG = list(range(3, 43))
AFTERWARDS = [Request([*LONG, 9], seed=7, max_tokens=4), Request([5, 6], seed=8, max_tokens=4)]


def moments(function: Callable[[], object]) -> Iterator[int]:
    return interrupting.moments(LINES, function)


def requests(engine: Engine) -> list[Request]:
    """Some that share much of their prompts, more than there are sequences for."""
    bias = no_end(engine)
    prompts: list[list[int]] = [[*LONG, 1], [*LONG, 2], [7], [8]]
    stops: list[list[str]] = [[], ["no such"], [], []]
    return [
        Request(prompt, seed=i, max_tokens=2 + i, logit_bias=bias, stop=stop, top=i, prompt_logprobs=i == 1)
        for i, (prompt, stop) in enumerate(zip(prompts, stops, strict=True))
    ]


def use(engine: Engine, asked: list[Request], handles: list[Generation]) -> None:
    """A bit of everything."""
    told: list[str] = []
    for request in asked:
        handles.append(engine.submit(request, on_token=lambda piece: told.append(piece.text)))
    next(iter(handles[0]))
    handles[1].cancel()
    assert "".join(piece.text for piece in handles[2]) == handles[2].result().text
    list(engine.as_completed(Request([5], seed=i, max_tokens=1) for i in range(3)))
    handles[3].result()
    engine.forget()


def answers(engine: Engine) -> list[list[int]]:
    return [result.tokens for result in engine.generate(AFTERWARDS)]


@pytest.mark.parametrize("where", ["attach", "_check", "clear"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelFailed("no memory")], ids=["interrupt", "failure"])
def test_the_first_step_looks_whether_heads_go_into_the_graph(
    error: BaseException, where: str, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes in between leaves them in none."""
    engine = make(merged)
    with monkeypatch.context() as patch:
        method = getattr(Context, where)

        def then_fail(*args: object) -> None:
            method(*args)
            patch.undo()
            raise error

        patch.setattr(Context, where, then_fail)
        with pytest.raises(type(error)):
            engine.generate(AFTERWARDS)
    assert answers(engine) == answers(make(merged))


def test_interrupted_at_every_line(merged: Path) -> None:
    engine = make(merged, n_parallel=2)
    asked = requests(engine)
    expected, whole = answers(engine), engine.generate(asked)
    use(engine, asked, [])
    for at in list(moments(lambda: use(engine, asked, []))):
        handles: list[Generation] = []
        tracer = interrupting.Tracer(LINES, at)
        ended = tracer.run(lambda handles=handles: use(engine, asked, handles))  # type: ignore[misc]
        assert not ended, "every moment is within"
        where = f"interrupted at {tracer.places[-1]}"
        # in another thread: one that waits for what the interrupted one has not given back waits for ever
        results = within(10, lambda handles=handles: [handle.result() for handle in handles], where)  # type: ignore[misc]
        for result, full in zip(results, whole, strict=False):
            assert result.finish_reason in ("error", "cancelled", full.finish_reason), where
            assert result.tokens == full.tokens[: None if result.finish_reason == "length" else len(result.tokens)]
        assert within(10, lambda: answers(engine), where) == expected, where
        within(10, engine.forget, where)
    within(10, engine.close, "closing")


def test_interrupted_at_every_line_of_closing(merged: Path) -> None:
    def begin() -> tuple[Engine, list[Generation]]:
        engine = make(merged, n_parallel=2)
        handles = [engine.submit(Request(LONG, seed=i, logit_bias=no_end(engine))) for i in range(3)]
        next(iter(handles[0]))
        return engine, handles

    expected = answers(begin()[0])
    for at in moments(begin()[0].close):
        engine, handles = begin()
        tracer = interrupting.Tracer(LINES, at)
        assert not tracer.run(engine.close)
        where = f"interrupted at {tracer.places[-1]}"
        try:
            assert within(10, lambda engine=engine: answers(engine), where) == expected, where  # type: ignore[misc]
        except Closed:
            assert "closed" in repr(engine)
        within(10, engine.close, where)
        results = within(10, lambda handles=handles: [handle.result() for handle in handles], where)  # type: ignore[misc]
        assert {result.finish_reason for result in results} <= {"cancelled", "error", "length"}, where
        with pytest.raises(Closed):
            engine.prompt("x")


def test_nothing_steps_on_what_a_handler_has_freed() -> None:
    def use(turn: Turn, step: Callable[[], None], n: list[bool]) -> None:
        with contextlib.suppress(Closed):
            turn.run_until(lambda: len(n) > 1, step)
            turn.use(step)

    files, none = (str(module.__file__),), list[bool]()
    whole = Turn("an engine", lambda: None, lambda: None)
    for at in list(interrupting.moments(files, lambda: use(whole, lambda: none.append(False), none), 20)):
        freed, ran = list[bool](), list[bool]()
        turn = Turn("an engine", lambda: None, functools.partial(freed.append, True))

        def close(turn: Turn = turn) -> None:
            with contextlib.suppress(Busy):  # in its own turn or use
                turn.close()

        tracer = interrupting.Tracer(files, at, close)
        step = functools.partial(lambda ran, freed: ran.append(bool(freed)), ran, freed)
        within(10, functools.partial(tracer.run, functools.partial(use, turn, step, ran)))
        assert not any(ran), f"closed at {tracer.places[at - 1]}"
        within(10, turn.close)
        assert freed == [True]
