"""Who uses a llama_context now: one thread at a time, and nobody once it is freed."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

from autodeco_gguf._native import core
from autodeco_gguf.errors import Busy, Closed, ModelFailed

IDLE_SECONDS = 10.0
"""How long another thread waits for a stream that nobody reads."""

EXIT_SECONDS = 10.0
"""How long the interpreter's exit waits for a decode to end, or for a step of an engine with what it calls."""

T = TypeVar("T")


def undoing(function: Callable[[], T], undo: Callable[[], object]) -> T:
    """What ``function`` returns; ``undo`` is called afterwards in any case.

    An interrupt (KeyboardInterrupt, or what another signal handler raises) may come at any line, that of a ``finally``
    or at the end of a ``with`` included. So ``undo`` is called twice, and must bear it: one interrupt can prevent one.
    """
    try:
        try:
            return function()
        finally:
            undo()
    finally:
        undo()


def locked(changed: threading.Condition, function: Callable[[], T]) -> T:
    """What ``function`` returns, called with the lock, which no interrupt leaves taken."""
    owned: Callable[[], bool] = changed._is_owned  # type: ignore[attr-defined]  # noqa: SLF001  no other tells
    if owned():  # a signal's handler, that came meanwhile
        return function()

    def work() -> T:
        changed.acquire()
        return function()

    def unlock() -> None:
        if owned():
            changed.release()

    return undoing(work, unlock)


class _Stream:
    """A generation that is read piece by piece; between the pieces nobody computes."""

    def __init__(self) -> None:
        self.begun = False
        self.reader: threading.Thread | None = None
        self.read_at = 0.0


class Turns:
    """The turns at a context.

    Whoever computes has the turn, other threads wait. A stream keeps the context between two of its pieces: other
    threads wait for it as well, while its own thread, which would wait for itself, takes the context away from it. A
    stream that goes on without its context would mix two texts, so that is an error. An interrupt may come at any line:
    what is taken is given back, and what it comes upon is the error.

    Attributes:
        n_threads: of a decode.
        closed: everything is freed.
    """

    def __init__(self, name: str) -> None:
        """Args: the model's name, for messages."""
        self._name = name
        self.n_threads = 1
        self._changed = threading.Condition()
        self._running: threading.Thread | None = None
        self._calling_back = False
        self._stream: _Stream | None = None
        self._queue: list[object] = []  # who waits, in the order of coming; a stream that goes on need not
        self._holders: dict[object, threading.Thread] = {}  # one for each use
        self._stopped = False
        self._free: Callable[[], None] | None = None
        self.closed = self._torn = False
        watch(self)

    def run(self, function: Callable[[], T], stream: _Stream | None = None, *, changes: bool = True) -> T:
        """What ``function`` returns, which has the context meanwhile; a call within another's turn is part of it.

        Args:
            function: what computes.
            stream: the one that goes on.
            changes: what the context holds; else a stream between two pieces may go on afterwards.

        Raises:
            Closed: the model is.
            Busy: waiting would never end, or the stream's context has been used for something else.
            ModelFailed: the process has forked.
        """
        if self._running is threading.current_thread():
            if self._calling_back and changes:
                raise Busy(f"{self._name}: what it calls while it generates cannot use the same model to compute")
            self.check()
            return function()
        ticket = object()

        def work() -> T:
            locked(self._changed, lambda: self._take(stream, changes, ticket))
            return function()

        return undoing(work, lambda: self._end(stream, ticket))

    def _end(self, stream: _Stream | None, ticket: object) -> None:
        if ticket in self._queue or self._running is threading.current_thread():
            locked(self._changed, lambda: self._release(stream, ticket))

    def _take(self, stream: _Stream | None, changes: bool, ticket: object) -> None:
        self._queue.append(ticket)
        while not self._may_go(stream, ticket):
            self._changed.wait(1.0)
        check_fork(self.n_threads)
        self._running = threading.current_thread()
        self._queue.remove(ticket)
        if stream is not None:
            self._stream, stream.begun = stream, True
        elif changes:
            self._stream = None

    def _may_go(self, stream: _Stream | None, ticket: object) -> bool:
        self.check()
        goes_on = stream is not None and stream.begun
        if goes_on and self._stream is not stream:
            raise Busy(f"{self._name}: this stream cannot go on, since the model was used for something else")
        if self._running is not None or self._stopped:
            return False
        return goes_on or (self._queue[0] is ticket and not self._must_wait())

    def _must_wait(self) -> bool:
        """Whether another thread is between two pieces of its stream."""
        other = self._stream
        if other is None or other.reader is None:
            return False
        if other.reader is threading.current_thread() or not other.reader.is_alive():
            return False
        if time.monotonic() - other.read_at > IDLE_SECONDS:
            raise Busy(f"{self._name}: a stream of another thread is not read on; read it to its end, or close() it")
        return True

    def _release(self, stream: _Stream | None, ticket: object) -> None:
        if ticket in self._queue:
            self._queue.remove(ticket)
        self._changed.notify_all()
        if self._running is threading.current_thread():
            if stream is not None:
                stream.reader, stream.read_at = self._running, time.monotonic()
            self._calling_back = False
            self._free_if_closed()
            self._running = None  # only now

    def stream(self, steps: Generator[T, Any, None]) -> Generator[T, Any, None]:
        """The same generator, of which every step is a turn."""
        stream, sent = _Stream(), None

        def step() -> T:
            return steps.send(sent)

        def leave() -> None:
            steps.close()
            locked(self._changed, lambda: self._leave(stream))

        try:  # as in undoing
            try:
                while True:
                    sent = yield self.run(step, stream)
            except StopIteration:
                return
            finally:
                leave()
        finally:
            leave()

    def _leave(self, stream: _Stream) -> None:
        if self._stream is stream:
            self._changed.notify_all()
            self._stream = None

    def hold(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, which reads what no turn changes; the model is not freed meanwhile.

        Raises:
            Closed: the model is.
            ModelFailed: the process has forked.
        """
        key = object()

        def begin() -> None:
            self.check()
            self._holders[key] = threading.current_thread()

        def work() -> T:
            locked(self._changed, begin)
            return function()

        return undoing(work, lambda: locked(self._changed, lambda: self._let_go(key)))

    def _let_go(self, key: object) -> None:
        self._holders.pop(key, None)
        if self._running is None:
            self._free_if_closed()
        self._changed.notify_all()

    def calling_back(self, function: Callable[..., T]) -> Callable[..., T]:
        """The same function, that must not take a turn within the one it is called in."""

        def wrapper(*args: Any, **kwargs: Any) -> T:
            self._calling_back = True
            try:
                return function(*args, **kwargs)
            finally:
                self._calling_back = False

        return wrapper

    def check(self) -> None:
        """Raise Closed once the model is, ModelFailed in the child of a fork that came in the midst of a turn."""
        if self._free is not None or self.closed:
            raise Closed(f"{self._name}: the model is closed", file=self._name)
        if self._torn:
            raise torn_by_fork(self._name)

    def close(self, free: Callable[[], None]) -> None:
        """Call ``free`` once nobody computes any more: at the end of the caller's own turn, if it has it.

        Again, it does what an interrupt has left undone; so ``free`` must bear to be called twice.
        """
        locked(self._changed, lambda: self._close(free))

    def _close(self, free: Callable[[], None]) -> None:
        if (self.closed and self._free is None) or self._stopped:  # at the end what it consists of frees itself
            return
        first, self._free = self._free is None, self._free or free
        self._changed.notify_all()
        while first and any(map(threading.Thread.is_alive, self._others())):
            self._changed.wait(1.0)
        if self._running is None or not self._running.is_alive():  # two interrupts while it freed
            self._free_if_closed()

    def _others(self) -> set[threading.Thread]:
        return {t for t in (self._running, *self._holders.values()) if t not in (None, threading.current_thread())}

    def _free_if_closed(self) -> None:
        if self._free is not None and not self._holders:
            self.closed = True  # before anything is freed, which may be interrupted
            self._free()
            self._free = None

    # ---- the process ----

    def at_exit(self) -> None:
        """Take the turn for good: threads that the end of the interpreter kills must not compute then."""
        locked(self._changed, self._stop)

    def _stop(self) -> None:
        self._stopped = True
        self._changed.wait_for(lambda: self._running in (None, threading.current_thread()), EXIT_SECONDS)
        self._running = threading.current_thread()

    def after_fork(self) -> None:
        """Other threads are gone, and what they had locked stays locked."""
        self._torn = self._torn or self._running not in (None, threading.current_thread())
        self._changed, self._queue, self._holders = threading.Condition(), [], {}
        self._running = self._running if self._running is threading.current_thread() else None


class _Watched(Protocol):
    def after_fork(self) -> None: ...

    def at_exit(self) -> None: ...


_watched: weakref.WeakSet[_Watched] = weakref.WeakSet()
_SPAWN = "start processes with multiprocessing.get_context('spawn')"
_threads_used = False  # more than one, which OpenMP keeps for the next time
_threads_lost = False  # to a fork


def watch(turns: _Watched) -> None:
    """Tell it, as long as it is there, when the process was forked, in the child, and when the interpreter ends."""
    _watched.add(turns)


def torn_by_fork(name: str) -> ModelFailed:
    """The error in the child of a fork that came while another thread computed: nobody knows what the model holds."""
    return ModelFailed(f"{name}: the process forked while the model was computing; {_SPAWN}")


def check_fork(n_threads: int) -> None:
    """Raise ModelFailed where more than one thread would wait for threads that a fork has not copied."""
    global _threads_used
    if _threads_lost and n_threads > 1:
        raise ModelFailed(
            f"llama.cpp ran with several threads before this process forked, and would hang here with {n_threads}; "
            f"{_SPAWN}, or load with n_threads=1 and n_threads_batch=1"
        )
    _threads_used = _threads_used or n_threads > 1


def _after_fork() -> None:
    global _threads_lost
    _threads_lost = _threads_lost or _threads_used or core.heads_used_threads()
    for turns in _watched:
        turns.after_fork()


def _at_exit() -> None:
    for turns in list(_watched):
        turns.at_exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
