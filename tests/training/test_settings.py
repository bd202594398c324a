"""What a training is told: ranges."""

from __future__ import annotations

import math
import re

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.training.settings import Objective, TrainingSettings


def test_settings_out_of_range() -> None:
    for changes, message in (
        ({"steps": 0}, "steps 0, expected 1 to "),
        ({"batch": 0}, "batch 0, expected 1 to 65536"),
        ({"lr": math.nan}, "lr nan, expected 0 to 10"),
        ({"validation": 0.6}, "validation 0.6, expected 0 to 0.5"),
        ({"objective": Objective(heads=())}, r"heads \[\], expected some of"),
        ({"objective": Objective(heads=("x",))}, r"heads \['x'\], expected some of \['temperature', 'top_p'\]"),
    ):
        with pytest.raises(InvalidInput, match=f"^{message}") as refused:
            TrainingSettings(**changes).check()
        assert refused.value.key == message.partition(" ")[0]
    TrainingSettings().check()
    assert re.match(r"Objective\(heads=\('temperature', 'top_p'\), easy_mask=0.6, dyn", repr(Objective()))
