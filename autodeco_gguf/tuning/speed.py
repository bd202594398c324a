"""How fast a model answers, and how much it says: measured before anything is planned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from autodeco_gguf.answers.items import Item
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tuning.plan import Speed

BATCHES = 2
"""So many answers as the model draws at a time, times this, are measured."""


def measure_speed(
    engine: Engine,
    grade: Callable[[Item, str], object],
    items: Sequence[Item],
    *,
    max_tokens: int | None,
    limit_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Speed:
    """Draw some answers at T = 1, where they are longest, grade their texts, and see how long that takes.

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
    drawing_s = clock() - started
    begun = [(item, generation) for item, generation in drawn if generation.n_drawn]
    ended = [(item, generation) for item, generation in begun if generation.finish_reason is not None]
    for _, generation in drawn:
        generation.cancel()
    if not begun:
        raise InvalidInput.of("minutes", f"{limit_s:.0f} s for a first look", "enough for one token")
    drawn_tokens = sum(generation.n_drawn for _, generation in begun)
    lengths = [_length(item, generation, engine, max_tokens) for item, generation in begun]
    started = clock()
    for item, generation in ended:
        grade(item, generation.result().text)
    grading_s = (clock() - started) / max(1, len(ended))
    tokens, tokens_s = sum(lengths) / len(lengths), drawn_tokens / max(drawing_s, 1e-9)
    return Speed(tokens / tokens_s + grading_s, tokens, tokens_s, 1 - len(ended) / len(begun))


def _length(item: Item, generation: Generation, engine: Engine, max_tokens: int | None) -> int:
    """Tokens of an answer; the most there can be where it has not ended."""
    if generation.finish_reason is not None:
        return generation.n_drawn
    room = engine.n_ctx - len(item.tokens)
    return min(max_tokens or room, room)
