"""A tuning on an engine that is made up, in no time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fake_engine import BOTH, FakeEngine, FakeGrader

from autodeco_gguf.answers import items
from autodeco_gguf.engine.request import Request
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task
from autodeco_gguf.tuning import tune as module
from autodeco_gguf.tuning.plan import Speed
from autodeco_gguf.tuning.report import Tuned
from autodeco_gguf.tuning.settings import TuneSettings

MODEL = Path("m.gguf")
SPEED = Speed(0.03, 4.0, 133.0)
"""Of which a minute has 1,800 answers."""

SETTINGS = TuneSettings(minutes=1.0, n_parallel=4, train=False)


def task(name: str, n: int) -> Task:
    return Task(name, tuple(Problem(f"{name} {i}", f"{name}{i}", i + 1, f"{name}.jsonl") for i in range(n)), "exact")


TASKS = (task("sums", 40), task("words", 20))


class TuneEngine(FakeEngine):
    """Right as often as ``CHANCE`` says, by T and P; where heads predict, by ``HEADS``. Greedy is no exception."""

    CHANCE: Any = staticmethod(lambda t, p: 0.9 if (t, p) == (0.7, 0.85) else 0.5)
    HEADS: Any = 0.5
    stop_at: int | None = None
    total = 0
    opened: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, model: Path, **arguments: Any) -> None:
        heads = arguments["heads"]
        super().__init__(frozenset() if heads is None else BOTH)
        self.n_parallel = arguments["n_parallel"]
        self.fingerprint = f"{'0123456789abcdef' * 4} {'' if heads is None else heads}"
        self.variety = lambda t, p: 1 + int(4 * min(t, 1.5))
        self._predicted = False
        TuneEngine.opened.append(arguments)

    def __enter__(self) -> TuneEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def accuracy(self, t: float, p: float) -> float:
        chance: float = self.HEADS if self._predicted else self.CHANCE(round(t, 3), round(p, 3))
        return chance

    def as_completed(self, requests: Iterable[Request]) -> Iterator[Any]:
        for result in super().as_completed(requests):
            TuneEngine.total += 1
            if TuneEngine.total == self.stop_at:
                raise KeyboardInterrupt
            yield result

    def _result(self, index: int, request: Request) -> Any:
        self._predicted = request.temperature is None
        nearly = 1e-9 if request.temperature == 0 else request.temperature
        return super()._result(index, replace(request, temperature=nearly))


def prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded, measured or trained any more."""
    monkeypatch.setattr(items, "Grader", FakeGrader)
    monkeypatch.setattr(module, "Engine", TuneEngine)
    monkeypatch.setattr(module, "_own_heads", lambda model, heads: heads)
    monkeypatch.setattr(module, "measure_speed", lambda *args, **kwargs: SPEED)
    monkeypatch.setattr(TuneEngine, "opened", [])
    monkeypatch.setattr(TuneEngine, "total", 0)
    monkeypatch.setattr(TuneEngine, "stop_at", None)


def tuned(output: Path, settings: TuneSettings = SETTINGS, **kwargs: Any) -> Tuned:
    """A tuning in which nothing takes time but looking at the clock."""
    ticks = itertools.count()
    return module.tune(MODEL, TASKS, output, settings, clock=lambda: next(ticks) / 1000, **kwargs)
