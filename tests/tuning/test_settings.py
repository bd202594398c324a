"""What a tuning is told, in range."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tuning.settings import TuneSettings


@pytest.mark.parametrize(
    ("reward", "group", "measure", "limit"),
    [
        ("correct", 1, "pass@1", 1),
        ("any", 8, "pass@8", 1),
        ("distinct", 8, "distinct@8", 8),
        ("a.b:c", 1, "mean a.b:c", math.inf),
    ],
)
def test_what_is_compared_follows_the_reward(reward: str, group: int, measure: str, limit: float) -> None:
    settings = TuneSettings(reward=reward, k=8)
    settings.check()
    assert (settings.group, settings.measure, settings.limit) == (group, measure, limit)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"minutes": 0}, "minutes 0, expected above 0 and at most 20160"),
        ({"minutes": float("nan")}, "minutes nan, expected above 0"),
        ({"minutes": 1e9}, "minutes 1e[+]09, expected above 0"),
        ({"k": 0}, "k 0, expected at least 1"),
        ({"k": 1, "reward": "any"}, "k 1, expected at least 2 for reward any"),
        ({"max_tokens": 0}, "max_tokens 0, expected at least 1"),
        ({"allow_code": True}, "allow_code True, expected None, 'isolated' or 'unisolated'"),
        ({"seed": -1}, "seed -1, expected 0 to"),
        ({"reward": "best"}, "reward 'best', expected one of correct, any, distinct, or module:function of your own"),
    ],
)
def test_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}"):
        TuneSettings(**values).check()


def test_the_date_that_a_template_reads_is_of_one_day() -> None:
    settings = TuneSettings(chat_template_kwargs={"strftime_now": "x", "enable_thinking": False})
    assert settings.undated_kwargs == {"enable_thinking": False}
    assert TuneSettings().undated_kwargs == {}
