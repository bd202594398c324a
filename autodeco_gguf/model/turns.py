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

OWN_SECONDS = 0.2
"""How long its own does: of a pool's threads any may read on."""

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


def owned_by_me(lock: Any) -> Callable[[], bool]:
    """Whether the calling thread has an RLock or a Condition."""
    return lock._is_owned  # type: ignore[no-any-return]  # noqa: SLF001  no other tells


def locked(changed: threading.Condition, function: Callable[[], T]) -> T:
    """What ``function`` returns, called with the lock, which no interrupt leaves taken."""
    owned = owned_by_me(changed)
    if owned():  # a signal's handler, that came meanwhile
        return function()

    def work() -> T:
        changed.acquire()
        return function()

    def unlock() -> None:
        if owned():
            changed.release()

    return undoing(work, unlock)


class _Ticket:
    """Of one who waits."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class _Stream:
    """A generation that is read piece by piece; between the pieces nobody computes."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.inner: _Stream | None = None
        self.begun = False
        self.reader: threading.Thread | None = None
        self.read_at = 0.0

    def note_read(self) -> None:
        self.read_at, self.reader = time.monotonic(), threading.current_thread()


class Turns:
    """The turns at a context.

    Whoever computes has the turn, other threads wait. A stream keeps the context between two of its pieces: other
    threads wait for it as well, while its own thread, which would wait for itself, soon takes the context away. A
    stream that goes on without its context would mix two texts, so that is an error. An interrupt may come at any line:
    what is taken is given back, and what it comes upon is the error.

    A token is a turn, and all that it touches has left the cache since the last: so a stream that goes on while nobody
    else wants anything takes the gate, which is what having the turn means, and leaves the rest alone.

    Attributes:
        n_threads: of a decode.
        closed: everything is freed.
    """

    def __init__(self, name: str) -> None:
        """Args: the model's name, for messages."""
        self._name = name
        self.n_threads = 1
        self._gate = threading.RLock()  # whoever has it has the turn; never twice
        self._owned = owned_by_me(self._gate)
        self._changed = threading.Condition()  # guards what follows
        self._calling_back = False
        self._stream: _Stream | None = None
        self._queue: list[_Ticket] = []  # who waits, in the order of coming; a stream that goes on need not
        self._holders: dict[object, threading.Thread] = {}  # one for each use
        self._stopped = False
        self._free: Callable[[], None] | None = None
        self.closed = self._torn = False
        watch(self)

    def run(self, function: Callable[..., T], *args: Any, stream: _Stream | None = None, changes: bool = True) -> T:
        """What ``function(*args)`` returns, which has the context meanwhile; a call within a turn is part of it.

        Args:
            function: what computes.
            *args: its arguments.
            stream: the one that goes on.
            changes: what the context holds; else a stream between two pieces may go on afterwards.

        Raises:
            Closed: the model is.
            Busy: waiting would never end, or the stream's context has been used for something else.
            ModelFailed: the process has forked.
        """
        if self._owned():
            if self._calling_back and changes:
                raise self.within()
            if stream is not None and not stream.begun:
                self._begin_within(stream)
            if self._free is not None:  # a handler has closed it meanwhile
                self.check()
            return function(*args)
        ticket = _Ticket()
        try:  # as in undoing
            try:
                if stream is None or not self._go_on(stream):
                    locked(self._changed, lambda: self._take(stream, changes, ticket))
                return function(*args)
            finally:
                self._end(stream, ticket)
        finally:
            if self._owned() or ticket in self._queue:
                self._end(stream, ticket)

    def within(self) -> Busy:
        """The error of who would compute in the midst of a generation, whose context it is."""
        reason = "what it calls while it generates, or a signal's handler, cannot use the same model to compute"
        return Busy(f"{self._name}: {reason}")

    def _begin_within(self, stream: _Stream) -> None:
        """Only a completion has one within it, the tokens that it reads."""
        outer = self._stream
        if stream.whole or outer is None or not outer.whole or outer.inner is not None:
            raise self.within()
        outer.inner, stream.begun = stream, True

    def _go_on(self, stream: _Stream) -> bool:
        """Whether the stream has its turn, which takes nothing but the gate while all is calm."""
        if self._stream is not stream or not self._gate.acquire(blocking=False):
            return False
        if self._stream is stream and self._is_calm():  # still: others say that they are there before they try the gate
            check_fork(self.n_threads)
            return True
        self._gate.release()
        return False

    def _is_calm(self) -> bool:
        """Whether nobody waits or closes, so that who gives the gate back need not tell."""
        return not self._queue and self._free is None and not self._stopped

    def _end(self, stream: _Stream | None, ticket: _Ticket) -> None:
        if self._owned():
            if stream is not None:
                stream.note_read()
            self._calling_back = False
            self._gate.release()
            if self._is_calm():
                return
        locked(self._changed, lambda: self._tell(ticket))

    # ---- with the lock ----

    def _take(self, stream: _Stream | None, changes: bool, ticket: _Ticket) -> None:
        if any(other.thread == ticket.thread for other in self._queue):  # it waits below, where a handler came upon it
            raise self.within()
        self._queue.append(ticket)
        while not self._may_go(stream, ticket, changes):
            self._changed.wait(OWN_SECONDS)
        self.check()  # a handler has closed it before it had the gate; later it waits for the end of the turn
        check_fork(self.n_threads)
        self._queue.remove(ticket)
        if stream is not None:
            self._stream, stream.begun = stream, True
        elif changes:
            self._stream = None

    def _may_go(self, stream: _Stream | None, ticket: _Ticket, changes: bool) -> bool:
        """Whether it is its turn, and the gate is taken."""
        self.check()
        goes_on = stream is not None and stream.begun
        if goes_on and self._stream is not stream:
            raise Busy(f"{self._name}: this stream cannot go on, since the model was used for something else")
        may = not self._stopped and (goes_on or (self._queue[0] is ticket and not self._must_wait(changes)))
        return may and self._gate.acquire(blocking=False)

    def _must_wait(self, changes: bool) -> bool:
        """Whether another thread is between two pieces of its stream, or may be."""
        other = self._stream
        if other is None or other.reader is None:
            return False
        idle, own = time.monotonic() - other.read_at, other.reader is threading.current_thread()
        if not other.reader.is_alive() or (own and (idle > OWN_SECONDS or not changes)):
            return False
        if idle > IDLE_SECONDS:
            raise Busy(f"{self._name}: a stream of another thread is not read on; read it to its end, or close() it")
        return True

    def _tell(self, ticket: _Ticket | None = None) -> None:
        """Tell whoever waits that something has ended; free the model if it is closed and nobody uses it any more."""
        if ticket in self._queue:
            self._queue.remove(ticket)
        self._changed.notify_all()
        if self._free is not None and not self._holders and not self._owned():
            undoing(self._free_all, self._give_gate_back)

    def _free_all(self) -> None:
        if self._gate.acquire(blocking=False) and self._free is not None:
            self.closed, self._stream = True, None  # before anything is freed, which may be interrupted
            self._free()
            self._free = None

    def _give_gate_back(self) -> None:
        if self._owned():
            self._gate.release()

    # ---- more than one turn, and none ----

    def stream(self, steps: Generator[T, Any, None], *, whole: bool = False) -> Generator[T, Any, None]:
        """The same generator, of which every step is a turn; ``whole``: it has another one within it."""
        stream, sent = _Stream(whole), None

        def leave() -> None:
            steps.close()
            locked(self._changed, lambda: self._leave(stream))

        try:  # as in undoing
            try:
                while True:
                    sent = yield self.run(steps.send, sent, stream=stream)
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

        def let_go() -> None:
            self._holders.pop(key, None)
            self._tell()

        return undoing(work, lambda: locked(self._changed, let_go))

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
        self._tell()
        while first and self._free is not None and not self._owned() and self._others_use():
            self._changed.wait(1.0)
            self._tell()

    def _others_use(self) -> bool:
        """Whether, where it is not freed, others are the reason."""
        me = threading.current_thread()
        return not self._holders or any(other.is_alive() for other in self._holders.values() if other is not me)

    # ---- the process ----

    def at_exit(self) -> None:
        """Take the turn for good: threads that the end of the interpreter kills must not compute then."""
        locked(self._changed, self._stop)

    def _stop(self) -> None:
        self._stopped = True
        self._changed.wait_for(lambda: self._gate.acquire(blocking=False), EXIT_SECONDS)

    def after_fork(self) -> None:
        """Other threads are gone, and what they had locked stays locked."""
        if not self._gate.acquire(blocking=False):
            self._torn, self._gate = True, threading.RLock()
            self._owned = owned_by_me(self._gate)
        else:
            self._gate.release()
        self._changed, self._queue, self._holders = threading.Condition(), [], {}


class _Watched(Protocol):
    def after_fork(self) -> None: ...

    def at_exit(self) -> None: ...


_watched: weakref.WeakSet[_Watched] = weakref.WeakSet()
SPAWN = "start processes with multiprocessing.get_context('spawn')"
"""What to do instead of forking."""
_threads_used = False  # more than one, which OpenMP keeps for the next time
_threads_lost = False  # to a fork


def watch(turns: _Watched) -> None:
    """Tell it, as long as it is there, when the process was forked, in the child, and when the interpreter ends."""
    _watched.add(turns)


def torn_by_fork(name: str) -> ModelFailed:
    """The error in the child of a fork that came while another thread computed: nobody knows what the model holds."""
    return ModelFailed(f"{name}: the process forked while the model was computing; {SPAWN}")


def check_fork(n_threads: int) -> None:
    """Raise ModelFailed where more than one thread would wait for threads that a fork has not copied."""
    global _threads_used
    if _threads_lost and n_threads > 1:
        raise ModelFailed(
            f"llama.cpp ran with several threads before this process forked, and would hang here with {n_threads}; "
            f"{SPAWN}, or load with n_threads=1 and n_threads_batch=1"
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
