"""Engines of the tiny models, and what the tests of engine/ ask them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.model.machine import Machine

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
