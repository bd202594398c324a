"""The connection to a Ray cluster: its nodes, and calls to actors on them whose outcomes come to one queue."""

from __future__ import annotations

import logging
import os
import queue
import re
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from autodeco_gguf.cluster.actor import Actor
from autodeco_gguf.cluster.nodes import Needs, Node
from autodeco_gguf.errors import AutoDecoError, InvalidInput, not_installed
from autodeco_gguf.model.rpc.address import parse_address

AUTO, LOCAL = "auto", "local"
"""Addresses: the cluster that RAY_ADDRESS names, or that was started on this machine; one of this process alone."""

_CALLS = 16
"""An actor's threads: those of a job that is over may still be there when the next begins."""


_KNOCK_S = 10.0
"""How long a cluster may take to answer at all."""


class Outcome(NamedTuple):
    """What became of a call: its value, or why the actor is lost."""

    tag: Any
    value: Any
    lost: str | None = None


def check_address(address: str) -> None:
    """Raise InvalidInput for what cannot be the address of a cluster.

    Examples:
        >>> check_address("10.0.0.1:6379")
        >>> check_address("model.gguf")
        Traceback (most recent call last):
        autodeco_gguf.errors.InvalidInput: ray 'model.gguf', expected HOST:PORT, auto or local
    """
    is_one = address in (AUTO, LOCAL)
    with suppress(InvalidInput):
        is_one = is_one or ("/" not in address and bool(parse_address(address, key="ray")))
    if not is_one:
        raise InvalidInput.of("ray", repr(address), f"HOST:PORT, {AUTO} or {LOCAL}")


class Connection:
    """A context manager; where this process has a connection already, that one is used and stays.

    Raises:
        InvalidInput: no address.
        AutoDecoError: Ray is not installed, or there is no cluster; names the extra, or the address.
    """

    def __init__(self, address: str = AUTO, *, verbose: bool = False, actor: type = Actor) -> None:
        """Args: where the cluster is, whether to show what the nodes' processes print, and what these are made of."""
        check_address(address)
        self._address, self._verbose, self._kind = address, verbose, actor
        self._ours = False
        self._outcomes: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()

    def __enter__(self) -> Connection:
        try:
            import ray
            import ray.exceptions
            import ray.util.scheduling_strategies
            from ray._private import worker
        except ImportError as e:
            raise not_installed("several machines need ray", "ray", "cluster") from e
        self._ray: Any = ray
        if not ray.is_initialized():
            how = {"log_to_driver": self._verbose, "logging_level": logging.WARNING, "include_dashboard": False}
            if self._address != LOCAL:
                del how["include_dashboard"]  # is for a cluster that is started
            try:
                _knock(self._address)
                with _our_signals(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # tips for those who write programs for Ray
                    ray.init(address=self._address, **how)
            except (RuntimeError, ValueError, OSError, OverflowError) as e:
                reason = " ".join(str(e).split()).rstrip(".") or type(e).__name__
                hint = "start one with: ray start --head"
                raise AutoDecoError(f"--ray {self._address}: no Ray cluster: {reason}; {hint}", key="ray") from e
            self._ours = True
        self._actor: Any = ray.remote(self._kind)
        self._worker = vars(worker)
        self._print = self._worker["print_to_stdstream"]
        if not self._verbose:  # the log of each node that dies, to standard output; there is no option against it
            self._worker["print_to_stdstream"] = lambda *_, **__: None
        return self

    def __exit__(self, *_: object) -> None:
        self._worker["print_to_stdstream"] = self._print
        if self._ours:
            self._ray.shutdown()

    def nodes(self) -> list[Node]:
        """Those that are alive.

        Raises:
            AutoDecoError: the node that keeps the list is not.
        """
        found = []
        try:
            nodes = self._ray.nodes()
        except self._ray.exceptions.RayError as e:
            raise AutoDecoError(f"--ray {self._address}: the cluster's head does not answer any more", key="ray") from e
        for node in nodes:
            if node["Alive"]:
                has = node["Resources"]
                counts = int(has.get("CPU", 0)), int(has.get("GPU", 0))
                found.append(Node(node["NodeID"], node["NodeManagerAddress"], *counts))
        return found

    def start(self, node: Node, needs: Needs) -> Any:
        """An actor there, as soon as there is room for it: a handle."""
        there = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.id, soft=False)
        options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "max_concurrency": _CALLS, "max_restarts": 0}
        return self._actor.options(scheduling_strategy=there, **options).remote(needs.cpus)

    def call(self, handle: Any, tag: Any, method: str, *arguments: Any) -> None:
        """Call a method of an actor; :meth:`next` gives its outcome with the tag."""
        future = getattr(handle, method).remote(*arguments).future()
        future.add_done_callback(lambda done: self._outcomes.put((tag, done)))

    def next(self, timeout: float) -> Outcome | None:
        """The outcome of a call, None where there is none for so many seconds. Raises what a method has raised."""
        try:
            tag, future = self._outcomes.get(timeout=timeout)
        except queue.Empty:
            return None
        error = future.exception()
        if error is None:
            return Outcome(tag, future.result())
        if isinstance(error, self._ray.exceptions.RayTaskError) or not isinstance(error, self._ray.exceptions.RayError):
            raise error
        return Outcome(tag, None, reason_of(error))

    def end(self, handle: Any) -> None:
        """End an actor, whatever it does."""
        self._ray.kill(handle)


def _knock(address: str) -> None:
    """Raise OSError where nobody listens, of which Ray takes minutes to make sure."""
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS", AUTO)
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


_REASONS = {
    "ActorUnavailableError": "it cannot be reached",
    "ActorUnschedulableError": "its node has gone",
    "OutOfMemoryError": "Ray has ended it, as the memory of its node was full",
}


def reason_of(error: BaseException) -> str:
    """Why an actor is lost, by Ray's error, in a line."""
    detail = re.search(r"Worker exit detail: (.*?)(?:\. |\.?$)", str(error), re.M)
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    said = detail[1] if detail else lines[-1] if lines else type(error).__name__
    return _REASONS.get(type(error).__name__, " ".join(said.split())[:300])


@contextmanager
def _our_signals() -> Iterator[None]:
    """Keep what handles SIGTERM, for which Ray has a handler of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
