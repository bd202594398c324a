"""Ctrl-C while an answer comes."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from autodeco_gguf.cli._answers import CtrlC


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
