"""What a tuning is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.sampling import check_seed_range
from autodeco_gguf.tasks.programs.grader import Leave
from autodeco_gguf.training.rewards import check_reward

MOST_MINUTES = 60 * 24 * 14
"""Two weeks."""

GROUPED = ("any", "distinct")
"""Rewards of which the k answers to a problem are judged together."""


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """A tuning, but for its model and its problems.

    Attributes:
        minutes: that it may take in all.
        reward: what is to be high: "correct", "any", "distinct", or "module:function".
        k: answers to a problem that "any" and "distinct" look at together.
        seed: of everything random, the split included; in [0, 2**32).
        max_tokens: longest answer; None: until the context is full.
        n_ctx: tokens of a prompt and its answer; None: the model's own, up to a limit.
        n_parallel: answers at a time.
        time_limit: seconds that a checker may take for an answer.
        allow_code: how checker ``code`` may run what the model wrote; None: not at all. No part of what is resumed.
        train: whether heads are trained, where there is time.
        chat_template_kwargs: what the chat template is to read besides.
        machine: what it runs on; a single thread makes it reproducible to the bit.
    """

    minutes: float = 30.0
    reward: str = "correct"
    k: int = 16
    seed: int = 0
    max_tokens: int | None = None
    n_ctx: int | None = None
    n_parallel: int = 16
    time_limit: float = 10.0
    allow_code: Leave | None = None
    train: bool = True
    chat_template_kwargs: Mapping[str, object] | None = None
    machine: Machine = field(default_factory=Machine)

    @property
    def group(self) -> int:
        """Answers to a problem that are judged together."""
        return self.k if self.reward in GROUPED else 1

    @property
    def measure(self) -> str:
        """What ways to decode are compared by."""
        names = {"correct": "pass@1", "any": f"pass@{self.k}", "distinct": f"distinct@{self.k}"}
        return names.get(self.reward, f"mean {self.reward}")

    @property
    def undated_kwargs(self) -> dict[str, object]:
        """What the template reads besides but for the date, of which the prompts tell, and which is of one day."""
        return {key: value for key, value in (self.chat_template_kwargs or {}).items() if key != "strftime_now"}

    @property
    def limit(self) -> float:
        """The largest value of the measure; that of a function of one's own is not known."""
        return {"correct": 1.0, "any": 1.0, "distinct": float(self.k)}.get(self.reward, math.inf)

    def check(self) -> None:
        """Raise InvalidInput for a value out of range."""
        if not 0 < self.minutes <= MOST_MINUTES:
            raise InvalidInput.of("minutes", f"{self.minutes:g}", f"above 0 and at most {MOST_MINUTES}")
        for name in ("k", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput.of(name, value, "at least 1")
        if self.reward in GROUPED and self.k < 2:
            raise InvalidInput.of("k", self.k, f"at least 2 for reward {self.reward}: it looks at several answers")
        if self.allow_code not in (None, *get_args(Leave)):
            raise InvalidInput.of("allow_code", repr(self.allow_code), "None, 'isolated' or 'unisolated'")
        check_seed_range(self.seed)
        check_reward(self.reward)
