"""How fast a model answers, and how much it says: measured before anything is planned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.evaluation.items import GradedTasks, Item
from autodeco_gguf.tuning.plan import Speed

BATCHES = 2
"""So many answers as the model draws at a time, times this, are measured."""


def measure(
    engine: Engine,
    tasks: GradedTasks,
    items: Sequence[Item],
    *,
    max_tokens: int | None,
    limit_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Speed:
    """Draw some answers at T = 1, where they are longest, grade them, and see how long that takes.

    Answers that have not ended after ``limit_s`` seconds are taken for as long as they may get.

    Raises:
        InvalidInput: no token came within the limit.
    """
    n = BATCHES * engine.n_parallel
    started = clock()
    drawn: list[tuple[Item, Generation]] = []
    for seed in range(n):
        item = items[seed % len(items)]
        request = Request(item.tokens, max_tokens=max_tokens, temperature=1.0, top_p=1.0, seed=seed)
        drawn.append((item, engine.submit(request)))
    engine.run_until(lambda: clock() - started > limit_s or all(g.finish_reason is not None for _, g in drawn))
    drawing_s, tokens, whole, ended = clock() - started, 0, 0, []
    for item, generation in drawn:
        if generation.finish_reason is None:
            generation.cancel()
            whole += min(max_tokens or engine.n_ctx, engine.n_ctx - len(item.tokens))
        else:
            ended.append((item, generation))
            whole += len(generation.result().temperature)
        tokens += len(generation.result().temperature)
    if not tokens:
        raise InvalidInput.of("minutes", f"{limit_s:.0f} s for a first look", "enough for one token")
    started = clock()
    for item, generation in ended:
        tasks.grade(item, generation.result().text)
    grading_s = (clock() - started) / max(1, len(ended))
    tokens_s = tokens / max(drawing_s, 1e-9)
    return Speed(whole / n / tokens_s + grading_s, whole / n, tokens_s)
