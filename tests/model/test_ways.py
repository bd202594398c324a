"""T, P and tokens by every way (ways.py): those of PyTorch, and the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ways
from conftest import Case
from rpc_helpers import needs_rpc

FIRST, *OTHERS = ways.WAYS
BY_RPC = "two RPC workers"


def marked(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=needs_rpc) if name == BY_RPC else name for name in names]


@pytest.mark.parametrize("way", marked(ways.WAYS))
@pytest.mark.parametrize("name", ways.CASES)
def test_as_the_official_code(name: str, way: str, merged_of: Callable[[Case], Path]) -> None:
    case, expected = ways.load_case(name)
    with ways.loaded(ways.WAYS[way], merged_of(case)) as llama:
        assert llama._host_way == (way == "host")
        assert ways.difference(llama, case.tokens, expected) < 1e-5


@pytest.mark.parametrize("way", marked(OTHERS))
@pytest.mark.parametrize("name", ways.CASES)
def test_the_same_tokens_for_the_same_seed(name: str, way: str, merged_of: Callable[[Case], Path]) -> None:
    case, _ = ways.load_case(name)
    merged = merged_of(case)
    with ways.loaded(ways.WAYS[FIRST], merged) as first, ways.loaded(ways.WAYS[way], merged) as other:
        for seed in range(2):
            one, another = (ways.answer(llama, case.tokens[:9], seed) for llama in (first, other))
            assert another[0] == one[0]
            np.testing.assert_allclose(another[1], one[1], rtol=0, atol=1e-5)


def test_the_table_has_all_of_them() -> None:
    part = ways.PAGE.read_text(encoding="utf-8").partition("<!-- ways -->\n")[2].partition("\n<!-- /ways -->")[0]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines())
    assert head == ["model", *ways.WAYS]
    assert [row[0] for row in rows] == ways.CASES
    assert all(0.0 < float(cell) < 1e-5 for row in rows for cell in row[1:])
