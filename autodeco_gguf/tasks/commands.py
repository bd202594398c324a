"""Decoding control (section 3.3 of the paper): commands in the prompt that lower or raise diversity."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.reading import read_json

SHIPPED = Path(__file__).parent / "commands.json"
"""The list that comes with the package: edit a copy, and give that."""

VARIANTS = ("plain", "low", "high")
"""What a prompt is asked as: without a command, with one for little diversity, with one for much."""


@dataclass(frozen=True)
class Commands:
    """Sentences that ask for little or much diversity, and the share of examples that get one of each."""

    low: tuple[str, ...]
    high: tuple[str, ...]
    share: float = 1.0
    seed: int = 0

    @classmethod
    def read(cls, path: Path = SHIPPED, *, share: float = 1.0, seed: int = 0) -> Commands:
        """Read ``{"low": [...], "high": [...]}``.

        Raises:
            BadFile: the file cannot be read, or is something else.
        """
        lists = read_json(path)
        for key in ("low", "high"):
            values = lists.get(key) if isinstance(lists, dict) else None
            if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
                raise BadFile.of(path, f"{key}: expected a list of sentences", key=key, expected="a list", found=values)
        return cls(tuple(lists["low"]), tuple(lists["high"]), share, seed)

    def draw(self, index: int, example: str) -> tuple[str, str] | None:
        """A low and a high command for example ``index``; None where it is not one of the share, or has one already."""
        rng = random.Random(f"{self.seed}:{index}")
        if rng.random() >= self.share or any(command in example for command in (*self.low, *self.high)):
            return None
        return rng.choice(self.low), rng.choice(self.high)
