"""Settings of a training on reward: every one that is out of range is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.training.policy import Limits
from autodeco_gguf.training.reward_settings import LR_WIDTH, RewardSettings
from autodeco_gguf.training.settings import Objective


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k": 1}, "k 1, expected at least 2: an answer is weighed against the others to its problem"),
        ({"k": 0}, "k 0, expected 2 to 65536"),
        ({"rounds": 0}, "rounds 0, expected 1 to"),
        ({"problems": 0}, "problems 0, expected 1 to 65536"),
        ({"max_tokens": 0}, "max_tokens 0, expected 1 to"),
        ({"lr": float("nan")}, "lr nan, expected 0 to 10"),
        ({"weight_decay": -1.0}, "weight_decay -1, expected 0 to 10"),
        ({"clip": 0.0}, "clip 0, expected 1e-09 to 1e+09"),
        ({"start_rounds": 0}, "start_rounds 0, expected 1 to"),
        ({"start_steps": 0}, "start_steps 0, expected 1 to"),
        ({"validation": 0.6}, "validation 0.6, expected 0 to 0.5"),
        ({"evaluations": 0}, "evaluations 0, expected 1 to"),
        ({"patience": -1}, "patience -1, expected 0 to"),
        ({"seed": -1}, "seed -1, expected 0 to"),
        ({"reward": "most"}, "reward 'most', expected one of correct, any, distinct, or module:function of your own"),
        ({"objective": Objective(alpha=0)}, "alpha 0, expected 0.001 to"),
        ({"objective": Objective(sort_tolerance=-1)}, "sort_tolerance -1, expected 0 to"),
        ({"limits": Limits(pull=-1)}, "pull -1, expected 0 to"),
        ({"limits": Limits(temperature=(0.5, 0.5))}, "t_range 0.5,0.5, expected two numbers LOW,HIGH from 0 to 2"),
        ({"limits": Limits(top_p=(0.5, 1.5))}, "p_range 0.5,1.5, expected two numbers LOW,HIGH from 0 to 1"),
    ],
)
def test_out_of_range(setting: dict[str, Any], message: str) -> None:
    RewardSettings().check()
    with pytest.raises(InvalidInput) as error:
        replace(RewardSettings(), **setting).check()
    assert str(error.value).startswith(message)


def test_the_learning_rate_goes_with_the_width() -> None:
    assert RewardSettings().peak_lr(500) == LR_WIDTH / 500
    assert RewardSettings(lr=0.5).peak_lr(500) == 0.5
