"""One thread that runs the engine for all requests, and hands what comes to asyncio."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import Piece, Request, Result
from autodeco_gguf.errors import AutoDecoError, Busy, Closed, ModelFailed
from autodeco_gguf.server.revival import Revival

_log = logging.getLogger("autodeco_gguf.server")

Event = tuple[int, Piece | Result | AutoDecoError]
"""Of which request of a job, and what: a token, the end, or why there is none."""


class _Mailbox:
    """Wakes jobs in their event loop: once for all that came in the meantime, since waking costs a system call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._jobs: deque[Job] = deque()
        self._rung = False

    def ring(self, job: Job) -> None:
        """From any thread."""
        self._jobs.append(job)
        if not self._rung:
            self._rung = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._rung = False  # before it is emptied: who comes now rings again
        while self._jobs:
            self._jobs.popleft().news.set()


class Job:
    """The answers to one HTTP request, as they come.

    Attributes:
        requests: what the engine is asked.
        news: set when there is something.
    """

    def __init__(self, driver: Driver, requests: Sequence[Request], mailbox: _Mailbox, pieces: bool) -> None:
        """Made by :meth:`Driver.start`; ``pieces``: every token is wanted, not the results alone."""
        self.requests, self.news = requests, asyncio.Event()
        self._driver, self._mailbox, self._pieces = driver, mailbox, pieces
        self._events: deque[Event] = deque()
        self._left = len(requests)
        # for the driver, under its lock
        self.next, self.running = 0, dict[int, Generation]()
        self.n_ended = 0  # tokens drawn by those that have ended

    async def events(self) -> AsyncIterator[list[Event]]:
        """What has come, all of it at once, until every request has its end."""
        while self._left:
            await self.news.wait()
            self.news.clear()
            events = []
            while self._events:
                index, event = self._events.popleft()
                self._left -= not isinstance(event, Piece)
                events.append((index, event))
            if events:
                yield events

    def cancel(self) -> None:
        """End what is under way, within a token; nothing comes any more. From any thread, and again."""
        self._driver.cancel(self)

    @property
    def n_drawn(self) -> int:
        """Tokens drawn so far, those of answers that never end included."""
        return self._driver.drawn(self)

    def put(self, index: int, event: Piece | Result | AutoDecoError) -> None:
        """For the driver."""
        self._events.append((index, event))
        self._mailbox.ring(self)

    def submit_next(self, engine: Engine) -> None:
        """For the driver: give the engine one more request."""
        index = self.next
        self.next += 1
        on_token = (lambda piece: self.put(index, piece)) if self._pieces else None
        self.running[index] = engine.submit(self.requests[index], on_token)


class Driver:
    """Runs an engine while there is something to do.

    Attributes:
        engine: the engine; its own queue must be long enough.
        revival: brings it back when it has lost a worker.
        failure: why the last step failed for the whole batch; None once one has succeeded again.
    """

    def __init__(self, engine: Engine, max_queue: int) -> None:
        """Begin to run; ``max_queue`` answers may wait for a sequence, of one job at most ``n_parallel``."""
        self.engine, self.revival = engine, Revival(engine)
        self.failure: str | None = None
        self._max_queue = max_queue
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._jobs: dict[Job, None] = {}
        self._failed = False  # in the last step, for the whole batch
        self._starting = 0  # answers of jobs that are about to be queued
        self._mailbox: _Mailbox | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="autodeco-engine", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> tuple[int, int]:
        """Answers that have a sequence, and those that wait for one."""
        with self._lock:
            n = self._starting + sum(len(job.requests) - job.next + len(job.running) for job in self._jobs)
        return min(n, self.engine.n_parallel), max(0, n - self.engine.n_parallel)

    def start(self, requests: Sequence[Request], loop: asyncio.AbstractEventLoop, *, pieces: bool) -> Job:
        """Queue the requests of a job, whose events come in ``loop``. May take its time: grammars are compiled.

        Raises:
            InvalidInput: one of them cannot be met.
            Busy: the queue is full.
            Closed: the driver is.
        """
        for request in requests:  # first: what can never be answered is not to try again later
            self.engine.check(request)
        # not all at once: each holds scratch space as wide as the vocabulary
        n = min(len(requests), self.engine.n_parallel)
        with self._lock:
            if self._closing:
                raise Closed("the server is shutting down")
            # what a job has not begun waits for what it has, behind all others
            waiting = self._starting + sum(len(job.running) for job in self._jobs) - self.engine.n_parallel
            if waiting >= self._max_queue:
                raise Busy(f"{waiting} requests are waiting already; try again later")
            if self._mailbox is None or self._mailbox.loop is not loop:
                self._mailbox = _Mailbox(loop)
            job = Job(self, requests, self._mailbox, pieces)
            self._starting += n
        try:
            for _ in range(n):
                job.submit_next(self.engine)
            with self._lock:
                if self._closing:
                    raise Closed("the server is shutting down")
                self._jobs[job] = None
                self._starting, n = self._starting - n, 0  # it counts as one of those from now on
                self._changed.notify()
        except BaseException:
            self.cancel(job)
            raise
        finally:
            with self._lock:
                self._starting -= n
        return job

    def cancel(self, job: Job) -> None:
        """See :meth:`Job.cancel`."""
        with self._lock:
            self._jobs.pop(job, None)
            for generation in job.running.values():
                generation.cancel()

    def drawn(self, job: Job) -> int:
        """See :attr:`Job.n_drawn`."""
        with self._lock:
            return job.n_ended + sum(generation.n_drawn for generation in job.running.values())

    def cut(self) -> None:
        """Take no more jobs, and end those under way with an error."""
        with self._lock:
            self._closing = True
            under_way = [generation for job in self._jobs for generation in job.running.values()]
            self._give_up(Closed("the server is shutting down"))
            for generation in under_way:
                generation.cancel()
            self._changed.notify()

    def close(self, *, cut: bool = False) -> None:
        """Take no more jobs, and wait for those under way, or cut them off."""
        with self._lock:
            self._closing = self.revival.ended = True
            self._changed.notify()
        if cut:
            self.cut()
        self._thread.join()

    # ---- its thread ----

    def _run(self) -> None:
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._jobs or self._closing, self.revival.interval)
                is_idle = not self._jobs
                if is_idle and self._closing:
                    return
            if is_idle:
                if self.revival.look():
                    self.failure = None
                continue
            try:
                self.engine.run_until(self._settle)
            except Exception as e:  # whatever fails, others are to be served
                self.failure, self._failed = str(e) or type(e).__name__, True
                _log.error("the engine failed: %s", self.failure, exc_info=not isinstance(e, AutoDecoError))
                if isinstance(e, Closed):
                    self._give_up(e)

    def _settle(self) -> bool:
        """Hand over what has ended, and start what follows; whether nothing is left to do. After every step."""
        with self._lock:
            failed, self._failed = self._failed, False
            for job in list(self._jobs):
                ended = [index for index, g in job.running.items() if g.finish_reason is not None]
                for index in ended:
                    result = job.running[index].result()
                    lost = failed and result.error is not None
                    key = None if self.engine.lost is None else "rpc"
                    job.put(index, ModelFailed(f"the model failed: {result.error}", key=key) if lost else result)
                    del job.running[index]  # only now
                    job.n_ended += len(result.trace)
                    if result.finish_reason != "error":
                        self.failure = None
                while job.next < len(job.requests) and len(job.running) < self.engine.n_parallel:
                    index = job.next
                    try:
                        job.submit_next(self.engine)
                    except AutoDecoError as e:
                        job.put(index, e)
                    except Exception as e:  # there is no memory, or no thread: that answer ends, and others go on
                        _log.exception("an answer cannot begin")
                        job.put(index, ModelFailed(f"the answer cannot begin: {str(e) or type(e).__name__}"))
                if not job.running and job.next == len(job.requests):
                    del self._jobs[job]
            return not self._jobs

    def _give_up(self, error: AutoDecoError) -> None:
        with self._lock:
            for job in self._jobs:
                for index in (*job.running, *range(job.next, len(job.requests))):
                    job.put(index, error)
            self._jobs.clear()
