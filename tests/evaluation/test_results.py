"""Results: what a row is called."""

from __future__ import annotations

import pytest
from hand_made import GREEDY, SETTINGS, hand_made, sample

from autodeco_gguf.evaluation.methods import config_of
from autodeco_gguf.evaluation.results import Row
from autodeco_gguf.evaluation.summary import summarize


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("oracle", "static:0.1,0.95", "oracle: T = 0.1, P = 0.95"),
        ("distinct", "static:2,0.3", "distinct: T = 2, P = 0.3"),
        ("greedy", "static:0,1", "greedy"),
        ("static:0.60,1", "static:0.6,1", "static:0.60,1"),
        ("autodeco", "autodeco", "autodeco"),
    ],
)
def test_labels(name: str, config: str, expected: str) -> None:
    stats = summarize(map(sample, hand_made()), [GREEDY], SETTINGS, {}).methods[0].overall
    row = Row(name, "constant", config_of(config), False, None, None, stats, {})
    assert row.label == expected
