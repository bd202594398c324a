"""What a training is told: ranges."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.training.module import HeadKind
from autodeco_gguf.training.settings import Objective, TrainingSettings


def test_settings_out_of_range() -> None:
    settings: list[tuple[dict[str, Any], str]] = [
        ({"steps": 0}, "steps 0, expected 1 to "),
        ({"batch": 0}, "batch 0, expected 1 to 65536"),
        ({"lr": math.nan}, "lr nan, expected 0 to 10"),
        ({"validation": 0.6}, "validation 0.6, expected 0 to 0.5"),
        ({"objective": Objective(heads=())}, r"heads \[\], expected some of"),
        ({"objective": Objective(frozen=("top_p",))}, r"frozen \['top_p'\], expected some of \[\]"),
        ({"objective": Objective(losses="three")}, "losses 'three', expected one of two, one"),
        ({"objective": Objective(average="x")}, "average 'x', expected one of token, example"),
        ({"objective": Objective(easy_in="top-p")}, "easy_in 'top-p', expected one of temperature, both"),
        ({"objective": Objective(weight_at="2")}, "weight_at '2', expected one of 1, T"),
        ({"warmup": 1.5}, "warmup 1.5, expected a share up to 1, or a number of steps from 2 on"),
        ({"schedule": "constant"}, "schedule 'constant', expected one of linear, cosine"),
        ({"too_long": "split"}, "too_long 'split', expected one of cut, leave-out"),
        ({"kind": HeadKind(widths=())}, r"widths \[\], expected 1 to 63 numbers from 1 to 65536"),
        ({"kind": HeadKind(widths=(8, 0))}, r"widths \[8, 0\], expected 1 to 63 numbers"),
        ({"kind": HeadKind(initial_top_p=1.0)}, "initial_top_p 1, expected a number between 0 and 1"),
        ({"objective": Objective(heads=("x",))}, r"heads \['x'\], expected some of \['temperature', 'top_p'\]"),
    ]
    for changes, message in settings:
        with pytest.raises(InvalidInput, match=f"^{message}") as refused:
            TrainingSettings(**changes).check()
        assert refused.value.key == message.partition(" ")[0]
    TrainingSettings().check()
    assert re.match(r"Objective\(heads=\('temperature', 'top_p'\), frozen=\(\), losses='two'", repr(Objective()))
