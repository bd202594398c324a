"""How the learning rate rises and falls."""

from __future__ import annotations

import math
from typing import Literal

HOLD, LAST = 50, 2e-8
"""Of "cosine": so many steps at the end, of long trainings, have this rate; the official NeMo script's."""


def rate(step: int, steps: int, peak: float, warmup: float, schedule: Literal["linear", "cosine"]) -> float:
    """The learning rate of the step after ``step`` others, of ``steps``.

    "linear" rises from peak / w to the peak over w steps, and falls to 0, as transformers has it without warm-up.
    "cosine" is NeMo's CosineAnnealing: from 0, which its first step has, to the peak, by a cosine to ``LAST``, which
    the last ``HOLD`` steps have; warm-up and hold are a third of the steps at most, each.

    Examples:
        >>> [rate(i, 4, 1.0, 0.0, "linear") for i in range(4)]
        [1.0, 0.75, 0.5, 0.25]
        >>> [round(rate(i, 6, 1.0, 2, "cosine"), 6) for i in range(6)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    rising = round(warmup if warmup >= 2 else warmup * steps)
    if schedule == "linear":
        return peak * min(1.0, (step + 1) / max(1, rising), (steps - step) / max(1, steps - rising))
    rising, hold, last = min(rising, steps // 3), min(HOLD, steps // 3), min(LAST, peak)
    if step < rising:
        return peak * step / rising
    fallen = min(1.0, (step - rising) / max(1, steps - hold - rising))
    return last + (peak - last) * 0.5 * (1.0 + math.cos(math.pi * fallen))
