"""Ctrl-C while an answer comes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from autodeco_gguf.cli._answers import CtrlC, Show, answer


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """As in a terminal, where SIGINT raises KeyboardInterrupt: it is ignored where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_does_what_it_is_told_once() -> None:
    done: list[int] = []
    with CtrlC() as ctrl_c:
        signal.raise_signal(signal.SIGINT)
        with ctrl_c.doing(lambda: done.append(1)):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        with ctrl_c.doing(lambda: done.append(2)):
            signal.raise_signal(signal.SIGINT)
    assert done == [1, 2]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_second_one_is_an_ordinary_one_where_that_is_wanted() -> None:
    done: list[int] = []
    with CtrlC(once=True) as ctrl_c, ctrl_c.doing(lambda: done.append(1)):
        signal.raise_signal(signal.SIGINT)
        assert done == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_job_in_the_background_ignores_it_still() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with CtrlC() as ctrl_c, ctrl_c.doing(lambda: pytest.fail("not to be called")):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


class Given(SimpleNamespace):
    """An answer without tokens."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize(("before", "meanwhile", "times"), [(True, False, 0), (False, True, 1)])
def test_which_answer_it_ends(before: bool, meanwhile: bool, times: int) -> None:
    """The one whose prompt is being read, and not the next one where it came when nothing was under way."""
    cancelled: list[int] = []
    generation = SimpleNamespace(
        prompt=[1], n_reused=0, n_forgotten=0, finish_reason="stop", cancel=lambda: cancelled.append(1)
    )

    def ask(request: object) -> Given:
        if meanwhile:
            signal.raise_signal(signal.SIGINT)
        return Given(generation=generation, n_left_out=0, pieces=[], prompt="Hello", seed=7)

    conversation: Any = SimpleNamespace(ask=ask, keep=lambda given: None)
    request: Any = SimpleNamespace(max_tokens=None)
    with CtrlC() as ctrl_c:
        if before:
            signal.raise_signal(signal.SIGINT)
        answer(conversation, request, Show(), ctrl_c)
    assert len(cancelled) == times
