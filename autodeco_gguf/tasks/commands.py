"""Decoding control (section 3.3 of the paper): commands in the prompt that lower or raise diversity."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.reading import read_json
from autodeco_gguf.tasks.wordings import wordings

VARIANTS = ("plain", "low", "high")
"""What a prompt is asked as: without a command, with one for little diversity, with one for much."""

HELD_OUT = "held_out"


@dataclass(frozen=True)
class Commands:
    """Sentences that ask for little or much diversity, and the share of examples that get one of each.

    ``held_out`` are others that are never trained with, to see whether control holds for wordings nobody has learnt.
    """

    low: tuple[str, ...]
    high: tuple[str, ...]
    share: float = 1.0
    seed: int = 0
    held_out: Commands | None = None

    @classmethod
    def shipped(cls, *, share: float = 1.0, seed: int = 0) -> Commands:
        """Those of :func:`wordings`."""
        held_out = cls(wordings("low", held_out=True), wordings("high", held_out=True))
        return cls(wordings("low", held_out=False), wordings("high", held_out=False), share, seed, held_out)

    @classmethod
    def read(cls, path: Path | None, *, share: float = 1.0, seed: int = 0) -> Commands:
        """Read ``{"low": [...], "high": [...]}``, and under the key ``"held_out"``, where there is one, the same again.

        None: those that are shipped.

        Raises:
            BadFile: the file cannot be read, or is something else.
        """
        if path is None:
            return cls.shipped(share=share, seed=seed)
        lists = read_json(path)
        held_out = lists.get(HELD_OUT) if isinstance(lists, dict) else None
        others = None if held_out is None else cls(*_sentences(path, held_out, f"{HELD_OUT}."))
        return cls(*_sentences(path, lists), share, seed, others)

    def draw(self, index: int, example: str) -> tuple[str, str] | None:
        """A low and a high command for example ``index``; None where it is not one of the share, or has one already."""
        rng = random.Random(f"{self.seed}:{index}")
        if rng.random() >= self.share or any(command in example for command in (*self.low, *self.high)):
            return None
        return rng.choice(self.low), rng.choice(self.high)


def _sentences(path: Path, lists: object, prefix: str = "") -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = []
    for key in ("low", "high"):
        values = lists.get(key) if isinstance(lists, Mapping) else None
        if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
            key = f"{prefix}{key}"
            raise BadFile.of(path, f"{key}: expected a list of sentences", key=key, expected="a list", found=values)
        found.append(tuple(values))
    return found[0], found[1]
