"""The names that a program finds, and values as JSON has them."""

from __future__ import annotations

import bisect
import builtins
import sys
from collections import OrderedDict
from typing import Any

import pytest

from autodeco_gguf.tasks.programs import running


def test_the_names_that_a_program_finds() -> None:
    running.import_names()
    before = sys.modules.get("solution")
    names = vars(running._module("solution"))
    assert names["bisect"] is bisect
    assert names["pow"] is builtins.pow  # not that of math
    assert {"List", "heappush", "Counter", "sqrt", "inf", "lru_cache", "gcd"} <= set(names)
    if before is None:
        del sys.modules["solution"]


PLAIN = [
    ([1, [2.5, None, True]], [1, [2.5, None, True]]),
    (OrderedDict(a=[1]), {"a": [1]}),
    ("a", "a"),
]


@pytest.mark.parametrize(("value", "plain"), PLAIN)
def test_values_that_json_has(value: Any, plain: Any) -> None:
    assert running._plain(value) == plain


@pytest.mark.parametrize("value", [(1,), [(1,)], {1: 2}, {"a": (1,)}])
def test_values_that_no_value_of_json_is_equal_to(value: Any) -> None:
    with pytest.raises(TypeError):
        running._plain(value)
