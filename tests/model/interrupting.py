"""Raises at any line of the modules in question, as an interrupt does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

Place = tuple[str, int]


class Interrupted(BaseException):
    """As KeyboardInterrupt; another, so that one that a person sends ends the tests."""


def interrupt() -> None:
    raise Interrupted


class Tracer:
    """Counts the lines that are run in files whose paths begin so, and at one of them does what a handler would."""

    def __init__(self, files: tuple[str, ...], at: int = -1, handler: Callable[[], object] = interrupt) -> None:
        self.files, self.at, self.handler, self.places = files, at, handler, list[Place]()

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self.files):
            return None
        if event == "line":
            self.places.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.places) == self.at:
                self.handler()
        return self

    def run(self, function: Callable[[], object]) -> bool:
        """Whether it came to the end."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            function()
        except Interrupted:
            return False
        finally:
            sys.settrace(before)
        return True


def moments(files: tuple[str, ...], function: Callable[[], object], least: int = 40) -> Iterator[int]:
    """Each line at its first and at its last time."""
    tracer = Tracer(files)
    assert tracer.run(function)
    first = {place: i for i, place in reversed([*enumerate(tracer.places, 1)])}
    last = {place: i for i, place in enumerate(tracer.places, 1)}
    assert len(first) > least
    yield from sorted({*first.values(), *last.values()})
