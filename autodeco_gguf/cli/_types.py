"""Types of options that click has not, or not so."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem


class _Number(click.ParamType):  # type: ignore[type-arg]  # older ones are not generic
    """click's, which takes 1_0 for 10."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; fails where it is none."""
        if "_" in str(value):
            self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)
        return super().convert(value, param, ctx)


class Float(_Number, click.types.FloatParamType):
    """A number."""


class FloatRange(Float, click.FloatRange):
    """The same, within a range, of which click takes NaN for one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; fails where it is none, or out of range."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number


class Integer(_Number, click.types.IntParamType):
    """A whole number."""


class IntRange(Integer, click.IntRange):
    """The same, within a range."""


class File(click.Path):
    """click's; a ``~`` that no shell has seen, as in a variable or a file, is the user's home."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; fails where the file system has no such characters."""
        try:
            return super().convert(os.path.expanduser(value), param, ctx)
        except UnicodeEncodeError:  # of a user's own defaults, which are UTF-8 whatever the locale is
            self.fail(f"{value!a} is no name of a file in {sys.getfilesystemencoding()}.", param, ctx)


class Source(click.types.StringParamType):
    """A text that may name a file, after ``FORMAT:`` too; ``~`` as in :class:`File`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, with the user's home."""
        return ":".join(map(os.path.expanduser, str(super().convert(value, param, ctx)).split(":", 1)))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Files, which the shell knows."""
        return [CompletionItem(incomplete, type="file")]


class Line(click.types.StringParamType):
    """A text that may hold spaces; a variable has one a line of an option that may be given again."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """The lines that are not blank; one that is empty where all are."""
        return [line.strip() for line in rv.splitlines() if line.strip()] or [""]
