"""What runs on a node: a model that answers requests, several calls at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodeco_gguf import __version__
from autodeco_gguf._build_info import LLAMA_CPP_PYTHON_VERSION
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.errors import AutoDecoError, InvalidInput
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.trace import Trace

if TYPE_CHECKING:
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.generation import Generation

VERSIONS = f"autodeco-gguf {__version__} with llama-cpp-python {LLAMA_CPP_PYTHON_VERSION}"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every node loads; values alone, so that they can be sent.

    Attributes:
        model: a path on the node, a name or an id of the hub; None: the demo that comes with the package.
        heads: a path on the node, None for the model's own.
        n_parallel: sequences at once.
        n_ctx: as :class:`~autodeco_gguf.engine.engine.Engine` takes it.
        machine: likewise.
        chat_template_kwargs: likewise.
        traces: whether the traces of answers are sent back: tens of bytes a token.
        offline: download nothing.
    """

    model: str | None
    heads: str | None = None
    n_parallel: int = 16
    n_ctx: int | None = None
    machine: Machine = field(default_factory=Machine)
    chat_template_kwargs: Mapping[str, Any] | None = None
    traces: bool = False
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class About:
    """What a node has loaded, and what it runs on."""

    versions: str
    fingerprint: str
    n_ctx: int
    n_vocab: int
    heads: frozenset[str]
    machine: Machine
    heads_file: Path | None
    model_name: str
    metadata: Mapping[str, str]
    threads: int
    omp_threads: str | None
    """OMP_NUM_THREADS, as the process has it."""
    devices: tuple[str, ...]
    """Those that have layers, besides the CPU."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What the answers depend on."""
        machine = self.machine.cache_type, self.machine.flash_attn
        return self.versions, self.fingerprint, self.n_ctx, self.heads, machine


Job = tuple[int, frozenset[str]]
"""Its number, and the heads that predict in it. A job of a larger number ends the one before."""


class Actor:
    """A model in a process of its own on a node. What is refused is returned, so that anything raised is a bug."""

    def __init__(self, threads: int) -> None:
        """Args: the CPUs that are ours. Nothing is loaded yet."""
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before what reads it is loaded
        self._threads = threads
        self._engine: Engine | None = None
        self._traces = False
        self._job = -1
        self._under_way: dict[int, Generation] = {}
        self._failed: AutoDecoError | None = None
        self._entry, self._running = threading.Lock(), threading.Lock()

    def hello(self) -> int:
        """That there is such a process: its id."""
        return os.getpid()

    def load(self, spec: Spec) -> About | AutoDecoError:
        """Load what is asked for."""
        if spec.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        try:
            self._engine = engine = _load(spec, self._threads)
        except AutoDecoError as e:
            return e
        self._traces = spec.traces
        return About(
            versions=VERSIONS,
            fingerprint=engine.fingerprint,
            n_ctx=engine.n_ctx,
            n_vocab=engine.context.n_vocab,
            heads=engine.heads,
            machine=engine.machine,
            heads_file=engine.heads_file,
            model_name=engine.model_name,
            metadata=dict(engine.metadata),
            threads=engine.machine.threads,
            omp_threads=os.environ.get("OMP_NUM_THREADS"),
            devices=_devices(engine.machine),
        )

    def prompts(self, messages: Sequence[str]) -> tuple[list[tuple[str, list[int]]], AutoDecoError | None]:
        """Each message rendered, with its tokens, up to the first that is refused, and why it is."""
        engine, found = self._loaded, list[tuple[str, list[int]]]()
        try:
            for message in messages:
                found.append((engine.render(message), engine.prompt(message)))
        except AutoDecoError as e:
            return found, e
        return found, None

    def draw(self, job: Job, requests: Sequence[tuple[int, Request]]) -> list[Result] | AutoDecoError:
        """Take more requests, each with its number; the results that are finished, once there are some.

        None where nothing of the job is under way, or another has begun. Several calls at a time may wait: then the
        model goes on while the results of one are on their way.
        """
        number, heads = job
        try:
            with self._entry:
                if number > self._job:
                    self._begin(number, heads)
                if number == self._job:
                    for i, request in requests:  # one by one: what was taken before one is refused is known
                        try:
                            self._under_way[i] = self._loaded.submit(request)
                        except InvalidInput as e:
                            raise e.within(f"request {i}") from e
            with self._running:
                return self._finish(number)
        except AutoDecoError as e:
            return e

    def _begin(self, number: int, heads: Collection[str]) -> None:
        """Cancel what is under way, and begin anew."""
        self._job = number  # whoever runs the model lets go
        with self._running:
            cancelled = list(self._under_way.values())
            for generation in cancelled:
                generation.cancel()
            self._loaded.run_until(lambda: all(generation.finish_reason is not None for generation in cancelled))
            self._under_way.clear()
            self._loaded.enable(heads)

    def _finish(self, number: int) -> list[Result]:
        """Run the model until something of a job is finished, and take it."""
        if self._failed is not None:
            raise self._failed
        try:
            self._loaded.run_until(lambda: number != self._job or not self._under_way or bool(self._finished()))
        except AutoDecoError as e:  # what was under way has ended with it: no result
            self._failed = e
            raise
        return [self._take(i) for i in self._finished()] if number == self._job else []

    def _finished(self) -> list[int]:
        return [i for i, generation in list(self._under_way.items()) if generation.finish_reason is not None]

    def _take(self, i: int) -> Result:
        """A finished result, as it is sent."""
        result = self._under_way.pop(i).result()
        return replace(result, index=i, trace=result.trace if self._traces else Trace())

    @property
    def _loaded(self) -> Engine:
        assert self._engine is not None  # nobody asks before
        return self._engine


def _load(spec: Spec, threads: int) -> Engine:
    from autodeco_gguf.engine.engine import Engine
    from autodeco_gguf.engine.scheduler import Batching
    from autodeco_gguf.heads.model_file import ModelFile
    from autodeco_gguf.model.machine import default_threads
    from autodeco_gguf.model.shipped import DEMO_MODEL

    model, machine = ModelFile.open(Path(spec.model or DEMO_MODEL)), spec.machine
    if machine.n_threads is None:
        machine = replace(machine, n_threads=min(default_threads(model.base()), threads))
    return Engine(
        model,
        n_parallel=spec.n_parallel,
        batching=Batching(batch_invariant=spec.n_parallel > 1),  # who draws what beside what leaves no trace
        n_ctx=spec.n_ctx,
        heads=spec.heads,
        machine=machine,
        chat_template_kwargs=spec.chat_template_kwargs,
    )


def _devices(machine: Machine) -> tuple[str, ...]:
    from autodeco_gguf.model.devices import layer_devices

    if machine.n_gpu_layers == 0:
        return ()
    chosen = machine.devices()
    found = layer_devices() if chosen is None else chosen
    return tuple(device.name for device in found)
