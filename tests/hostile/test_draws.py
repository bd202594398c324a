"""Some ten thousand draws with extreme values; hostile/draws.py makes ten million."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from hostile.draws import WIDTHS, compare, expected


@pytest.mark.parametrize("width", WIDTHS)
def test_extreme_values(width: int) -> None:
    found = compare(1, 2_000, width)
    assert found["refused: nan"] > 10
    assert found["refused: none"] > 5
    assert found["drawn"] > 1_000
    assert found["at an edge"] < 20


def test_many_at_a_time_are_what_one_is() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (40, 12)).astype(np.float32)
    u = rng.random(40)
    for t, p in ((0.0, 1.0), (0.7, 0.9), (1.3, 0.0), (1.0, 1.0)):
        tokens, _ = expected(logits, np.full(40, t, np.float32), np.full(40, p, np.float32), u, 0.0)
        for row, value, token in zip(logits, u, tokens, strict=True):
            alone, _ = reference.draws(reference.distribution(row, t, p), np.array([value]))
            assert token == alone[0]
