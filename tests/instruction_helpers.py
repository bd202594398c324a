"""Rows of what follows an instruction and what does not, and a test case for each response."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

Row = tuple[str, dict[str, Any], list[str], list[str]]
"""Instruction, arguments, responses that follow it, responses that do not."""


def cases_of(rows: Sequence[Row]) -> list[Any]:
    """(instruction, arguments, response, whether it follows) for each response."""
    return [
        pytest.param(name, arguments, text, followed, id=f"{name}-{i}-{'yes' if followed else 'no'}-{j}")
        for i, (name, arguments, *texts) in enumerate(rows)
        for followed, group in zip((True, False), texts, strict=True)
        for j, text in enumerate(group)
    ]


def assert_either_outcome(rows: Sequence[Row], instructions: Iterable[str]) -> None:
    """Every instruction is followed by some response, and not by some other."""
    assert {name for name, _, followed, _ in rows if followed} == set(instructions)
    assert {name for name, _, _, broken in rows if broken} == set(instructions)
