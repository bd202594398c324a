"""Who runs an engine: one thread at a time, and nobody once it is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from autodeco_gguf.errors import AutoDecoError, Busy, Closed
from autodeco_gguf.model.turns import EXIT_SECONDS, locked, torn_by_fork, undoing, watch

_POLL_SECONDS = 0.005
"""How often who closes looks whether others are done."""

T = TypeVar("T")


class Turn:
    """The turn at something that one thread at a time may run, that any thread may use, and that is closed in the end.

    Attributes:
        closed: it is freed, or about to be.
    """

    def __init__(self, name: str, end: Callable[[], None], free: Callable[[], None]) -> None:
        """Args: a name for messages, and what closing calls: ``end``, for what is under way, and ``free``."""
        self._name, self._end, self._free = name, end, free
        self._changed = threading.Condition()
        self._runner = 0  # the thread that has the turn
        self._inside: dict[object, int] = {}  # the thread of each use
        self._closing: type[AutoDecoError] | None = None  # what others get meanwhile
        self.closed = self._torn = False
        watch(self)

    def check_outside(self) -> None:
        """Raise Busy in the thread that has the turn."""
        if self._runner == threading.get_ident():
            raise Busy("the engine cannot be waited for within on_token, which it waits for; submit only")

    def _check_unused(self) -> None:
        """Raise Busy where a thread would wait for itself: one that has the turn, or is in the midst of a use."""
        self.check_outside()
        if threading.get_ident() in list(self._inside.values()):  # a signal's handler came upon it
            raise Busy("the engine is in use by the thread that would free it")

    def run_until(self, ready: Callable[[], bool], step: Callable[[], None]) -> None:
        """Take the turn for one step after the other until ``ready()``, or let another thread that does so go on.

        Raises:
            Busy: the thread has the turn.
            Closed: it is, and not ready.
            ModelFailed: the process has forked in the midst of a turn.
        """

        def run() -> None:
            if self._locked(lambda: self._take(ready)):
                step()

        while not ready():
            self.check_outside()
            undoing(run, self._leave)

    def use(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, which uses what closing frees; whoever has the turn goes on meanwhile.

        Raises:
            Closed: it is, or is about to be and the thread does not have the turn.
            Busy: it is being loaded again.
            ModelFailed: the process has forked in the midst of a turn.
        """
        key = object()

        def work() -> T:
            self._inside[key] = threading.get_ident()
            if self.closed or (self._closing and self._runner != threading.get_ident()):
                raise self._error()
            return function()

        return undoing(work, lambda: self._inside.pop(key, None))

    def alone(self, function: Callable[[], None]) -> None:
        """Have a turn in which nobody uses what ``function`` frees; who begins to meanwhile gets Busy.

        Raises Busy in a thread that has the turn or is in the midst of a use, Closed where it is.
        """
        self._check_unused()
        undoing(lambda: self._alone(function), self._reopen)

    def _alone(self, function: Callable[[], None]) -> None:
        self._locked(lambda: self._take_last(float("inf"), Busy))
        if self.closed:
            raise self._error()
        function()

    def close(self, limit: float = float("inf")) -> None:
        """Have the next turn, which is the last: end what is under way, and free everything. Again, it does nothing.

        ``limit`` is the seconds to wait for others. Raises Busy in a thread that has the turn or is in a use.
        """
        self._check_unused()
        undoing(lambda: self._close(time.monotonic() + limit), self._reopen)

    def _close(self, deadline: float) -> None:
        if self._locked(lambda: self._take_last(deadline, Closed)):
            if not self.closed:
                self._end()
            self.closed = True  # before anything is freed, which may be interrupted
            self._free()
            self._end = self._free = lambda: None  # and what they belong to is not held any more

    # ---- with the lock ----

    def _locked(self, function: Callable[[], T]) -> T:
        return locked(self._changed, function)

    def _take(self, ready: Callable[[], bool]) -> bool:
        """Whether it is the caller's turn; False once ``ready()``."""
        self._changed.wait_for(lambda: ready() or self.closed or not (self._runner or self._closing))
        if ready():
            return False
        self._runner = threading.get_ident()
        if self.closed:  # asked with the turn: until then a handler may close it
            raise self._error()
        return True

    def _take_last(self, deadline: float, others: type[AutoDecoError]) -> bool:
        self._closing = others  # nobody begins anything
        while self._runner or self._inside:
            if time.monotonic() > deadline:
                return False
            self._changed.wait(_POLL_SECONDS)
            self._closing = others  # another that closes may have been interrupted
        self._runner = threading.get_ident()
        return True

    def _leave(self) -> None:
        if self._runner == threading.get_ident():
            self._locked(self._pass_on)

    def _pass_on(self) -> None:
        self._changed.notify_all()
        self._runner = 0

    def _reopen(self) -> None:
        """After closing: that was it, or it was interrupted and all goes on."""
        self._closing = None
        self._leave()
        self._locked(self._changed.notify_all)

    def after_fork(self) -> None:
        """Other threads are gone: what they had locked stays locked, and what they were about stays half done."""
        self._changed = threading.Condition()
        self._inside, self._closing = {}, None
        if self._runner not in (0, threading.get_ident()):
            self._runner, self.closed, self._torn = 0, True, True
            self._end = self._free = lambda: None  # which nobody can say the state of

    def at_exit(self) -> None:
        """Close: threads that the interpreter's end stops must not be in llama.cpp then, nor find the model freed."""
        self.close(EXIT_SECONDS)

    def _error(self) -> AutoDecoError:
        if self._torn:
            return torn_by_fork(self._name)
        if self._closing is Busy and not self.closed:
            return Busy(f"{self._name}: the model is being loaded again; try again later")
        return Closed(f"{self._name}: the model is closed", file=self._name)
