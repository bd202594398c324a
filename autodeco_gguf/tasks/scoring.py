"""Score responses with a function of the user's own, which may hang or crash."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.grading import failure
from autodeco_gguf.tasks.workers import Workers, check_time_limit, function_service

_LARGEST = 1e9
"""A reward's size; of much larger ones neither mean nor gradient is a number."""


@dataclass(frozen=True)
class Score:
    """What a response is worth; ``value`` is None where the function failed, and ``error`` says how."""

    value: float | None
    error: str | None = None


def rate(function: Callable[..., Any], prompt: str, text: str, answer: str) -> Score:
    """The score by a function called here and now; whatever it raises is the error."""
    try:
        value = function(prompt, text, answer)
        value = value.item() if hasattr(value, "item") else value  # a scalar of NumPy or torch
        number = float(value) if isinstance(value, bool | int | float) else math.nan
    except Exception as e:  # it is the user's code: anything may come out of it
        return Score(None, failure(e).error)
    if not math.isfinite(number):
        return Score(None, f"returned {reprlib.repr(value)}, expected a finite number")
    if abs(number) > _LARGEST:
        return Score(None, f"returned {number:g}, expected {-_LARGEST:g} to {_LARGEST:g}")
    return Score(number)


class Scorer:
    """Calls ``module:function``, (prompt, text, answer) -> float, in a process of its own, as graders call checkers.

    A context manager; use it from one thread at a time.

    Args:
        name: of the function; its module may stand in the working directory.
        time_limit: seconds that one call may take.

    Raises:
        InvalidInput: it cannot be imported; a time limit that is none.
    """

    def __init__(self, name: str, time_limit: float = 10.0) -> None:
        check_time_limit(time_limit)
        self._name, self._time_limit = name, time_limit
        self._workers = Workers(function_service(name, time_limit, "reward"), time_limit)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._workers.close()

    def score(self, prompt: str, text: str, answer: str) -> float:
        """Score one response.

        Raises:
            InvalidInput: the function raised, took too long, ended its process or gave no finite number.
        """
        try:
            score = Score(*self._workers.ask(prompt, text, answer))
        except TimeoutError:
            score = Score(None, f"took longer than {self._time_limit:g} s")
        except EOFError as e:
            score = Score(None, f"ended its process ({e})")
        if score.value is None:
            raise InvalidInput(f"reward {self._name}: {score.error}", key="reward", found=self._name)
        return score.value
