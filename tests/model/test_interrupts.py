"""An interrupt at every line of a Llama: other threads go on, and what is asked afterwards is answered right."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conftest
import llama_cpp
import pytest
from engine_helpers import within

import autodeco_gguf as ad
from autodeco_gguf.model import completion, methods, turns
from autodeco_gguf.model import llama as module
from model.interrupting import Tracer, moments

load = functools.partial(conftest.load, n_threads=1, n_threads_batch=1)

LINES = tuple(str(m.__file__) for m in (completion, methods, turns, module, llama_cpp.llama))
PROMPT = [0, 284, 97, 12, 301, 55, 170, 8]
OTHER = [*PROMPT[:5], 9, 10]


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what comes while a generator is dropped, which Python tells and forgets."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


def answer(llm: ad.Llama, prompt: list[int]) -> list[tuple[int, float, float]]:
    """Tokens with their T and P, of which the last bits depend on what is computed together."""
    llm(prompt, max_tokens=2, seed=1)
    return [(t.id, t.temperature, t.top_p) for t in llm.trace]


def answers(llm: ad.Llama) -> list[tuple[int, float, float]]:
    return [token for prompt in (PROMPT, OTHER) for token in answer(llm, prompt)]


def stream(llm: ad.Llama) -> None:
    chunks: Any = llm(OTHER, max_tokens=3, seed=2, stream=True)
    next(chunks)
    llm.save_state()
    next(chunks)


def load_state(llm: ad.Llama) -> None:
    llm.load_state(llm.save_state())
    answer(llm, OTHER)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that was interrupted is taken for left."""
    monkeypatch.setattr(turns, "OWN_SECONDS", 0.0)


USES: list[tuple[str, Callable[[ad.Llama], object]]] = [
    ("call", answers),
    ("the same again", lambda m: answer(m, PROMPT)),
    ("stream", stream),
    ("predict", lambda m: m.predict(OTHER)),
    ("load_state", load_state),
    ("embed", lambda m: m.embed("x")),
]


@pytest.mark.parametrize("use", [u[1] for u in USES], ids=[u[0] for u in USES])
def test_interrupted_at_every_line(merged: Path, use: Callable[[ad.Llama], object]) -> None:
    llm = load(merged, f32_cache=True, embedding=use is USES[-1][1])
    expected = [pytest.approx(token, abs=1e-5) for token in answers(llm)]
    answer(llm, PROMPT)
    for at in list(moments(LINES, lambda: use(llm))):
        answer(llm, PROMPT)
        tracer = Tracer(LINES, at)
        tracer.run(lambda: use(llm))  # where Python drops a generator, what is raised is ignored
        assert len(tracer.places) >= at
        where = f"interrupted at {tracer.places[at - 1]}"
        assert within(10, lambda: answers(llm), where) == expected, where


def test_the_same_again_after_an_interrupted_decode(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(merged)
    expected = answer(llm, PROMPT)
    llm.reset()
    decode = module.core.decode_next  # of the first that was drawn

    def interrupted(*args: Any) -> bool:
        decode(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(module.core, "decode_next", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer(llm, PROMPT)
    monkeypatch.undo()
    assert answer(llm, PROMPT) == [pytest.approx(token, abs=1e-5) for token in expected]


def test_interrupted_at_every_line_of_closing(merged: Path) -> None:
    def begin() -> ad.Llama:
        llm = load(merged)
        next(llm.generate(PROMPT))
        return llm

    for at in moments((turns.__file__, module.__file__), begin().close, 20):
        llm = begin()
        tracer = Tracer((turns.__file__, module.__file__), at)
        assert not tracer.run(llm.close)
        where = f"interrupted at {tracer.places[-1]}"
        try:
            within(10, lambda llm=llm: answer(llm, PROMPT), where)  # type: ignore[misc]
        except ad.Closed:
            assert repr(llm)
        within(10, llm.close, where)
        with pytest.raises(ad.Closed):
            llm.n_ctx()


def test_a_handler_closes_at_every_line(merged: Path) -> None:
    """It is freed where the turn ends that the handler came upon."""

    def use(llm: ad.Llama) -> None:
        with contextlib.suppress(ad.Closed):
            stream(llm)

    whole = load(merged)
    for at in list(moments((turns.__file__,), lambda: use(whole), 30)):
        llm = load(merged)
        tracer = Tracer((turns.__file__,), at, lambda llm=llm: llm.close())  # type: ignore[misc]
        tracer.run(lambda llm=llm: use(llm))  # type: ignore[misc]
        assert llm._turns.closed, f"closed at {tracer.places[at - 1]}"
        with pytest.raises(ad.Closed):
            llm.n_ctx()


INTRUDERS: dict[str, Callable[[ad.Llama], object]] = {
    "a completion": lambda m: m.create_completion(OTHER, max_tokens=2, temperature=0),
    "a stream": lambda m: next(m.generate(OTHER)),
    "eval": lambda m: m.eval(OTHER),
}


@pytest.mark.parametrize("intruder", INTRUDERS.values(), ids=INTRUDERS)
def test_a_handler_computes_at_every_line(intruder: Callable[[ad.Llama], object], merged: Path) -> None:
    """Of two texts that would be mixed, at least one ends with an error."""
    llm = load(merged)

    def use() -> object:
        return llm.create_completion(PROMPT, max_tokens=4, temperature=0)["choices"][0]["text"]

    expected, refused = use(), 0
    for at in list(moments(LINES, use)):
        llm.reset()
        texts: list[object] = []
        tracer = Tracer(LINES, at, lambda: intruder(llm))
        try:
            tracer.run(lambda texts=texts: texts.append(use()))  # type: ignore[misc]
        except (ad.Busy, RuntimeError):  # the latter in the midst of a decode of llama_cpp's
            refused += 1
        else:
            assert texts == [expected], f"{intruder} at {tracer.places[at - 1]}"
    assert refused > 20


def test_nothing_computes_on_what_a_handler_has_freed() -> None:
    def use(model: turns.Turns, work: Callable[[], None]) -> None:
        with contextlib.suppress(ad.Closed):
            model.run(work)
            list(model.stream(work() for _ in range(3)))

    whole = turns.Turns("a model")
    for at in list(moments((turns.__file__,), lambda: use(whole, lambda: None), 30)):
        model, freed, ran = turns.Turns("a model"), list[bool](), list[bool]()
        tracer = Tracer((turns.__file__,), at, functools.partial(model.close, functools.partial(freed.append, True)))
        tracer.run(functools.partial(use, model, lambda freed=freed, ran=ran: ran.append(bool(freed))))  # type: ignore[misc]
        where = f"closed at {tracer.places[at - 1]}"
        assert (freed, any(ran)) == ([True], False), where
