"""Engines of the tiny models, and what the tests of engine/ ask them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.model.machine import Machine

T = TypeVar("T")

PROMPTS = [[0, 284, 97, 12, 301, 55, 170, 8], [0], [5, 6], list(range(3, 60)), [0, 284, 97, 12, 301, 55, 170, 9]]


def make(path: Path, **kwargs: Any) -> Engine:
    return Engine(path, **{"n_ctx": 128, "machine": Machine(n_threads=1, cache_type="f32"), **kwargs})


def answers(engine: Engine, requests: Sequence[Request]) -> list[Result]:
    """The results in the order of the requests."""
    results = engine.generate(requests)
    assert [r.index for r in results] == list(range(len(requests)))
    return results


def no_end(engine: Engine) -> dict[int, float]:
    """A bias that lets no answer end by itself."""
    return {token: -np.inf for token in range(engine.context.n_vocab) if engine.context.is_eog(token)}


def within(seconds: float, function: Callable[[], T], what: str = "it") -> T:
    """What another thread gets from a function; an error if that takes too long."""
    found: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"{what}: not done after {seconds} s"
    if errors:
        raise errors[0]
    return found[0]
