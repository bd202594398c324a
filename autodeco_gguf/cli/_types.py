"""Types of options that click has not, or not so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import click


class FloatRange(click.FloatRange):
    """click's, which takes NaN for a number of every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; fails where it is none, or out of range."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number


class Line(click.types.StringParamType):
    """A text that may hold spaces; a variable has one a line of an option that may be given again."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """The lines that are not blank; one that is empty where all are."""
        return [line.strip() for line in rv.splitlines() if line.strip()] or [""]
