"""Decoding control (section 3.3 of the paper): commands in the prompt that lower or raise diversity."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.reading import read_json
from autodeco_gguf.tasks.wordings import wordings

VARIANTS = ("plain", "low", "high")
"""What a prompt is asked as: without a command, with one for little diversity, with one for much."""

HELD_OUT = "held_out"

GRAMMAR, FREE = "grammar", "free"
"""The lists that are shipped: the sentences of :func:`wordings`, of words that the demo knows, and some two hundred a
direction as people might say it, for models that know English."""

_FREE = Path(__file__).parent / "commands.json"


@dataclass(frozen=True)
class Commands:
    """Sentences that ask for little or much diversity, and the share of examples that get ``pairs`` of one of each.

    ``held_out`` are others that are never trained with, to see whether control holds for wordings nobody has learnt.
    """

    low: tuple[str, ...]
    high: tuple[str, ...]
    share: float = 1.0
    seed: int = 0
    held_out: Commands | None = None
    pairs: int = 1

    @classmethod
    def grammar(cls) -> Commands:
        """Those of :func:`wordings`."""
        held_out = cls(wordings("low", held_out=True), wordings("high", held_out=True))
        return cls(wordings("low", held_out=False), wordings("high", held_out=False), held_out=held_out)

    @classmethod
    def read(cls, lists: Sequence[Path], *, share: float = 1.0, seed: int = 0, pairs: int = 1) -> Commands:
        """Read ``{"low": [...], "high": [...]}``, and under the key ``"held_out"``, where there is one, the same again.

        ``GRAMMAR`` and ``FREE`` stand for what is shipped, and no list for the former. Of several about as many
        sentences are drawn of each.

        Raises:
            BadFile: a file cannot be read, or is something else.
        """
        found = [_read(path) for path in lists or (Path(GRAMMAR),)]
        held_out = [one.held_out for one in found if one.held_out is not None]
        others = cls(*_pooled(held_out)) if held_out else None
        return cls(*_pooled(found), share, seed, others, pairs)

    def draw(self, index: int, example: str) -> list[tuple[str, str]]:
        """Low and high commands for example ``index``; none where it is not of the share, or has one already."""
        rng = random.Random(f"{self.seed}:{index}")
        if rng.random() >= self.share or any(command in example for command in (*self.low, *self.high)):
            return []
        return [(rng.choice(self.low), rng.choice(self.high)) for _ in range(self.pairs)]


def _read(path: Path) -> Commands:
    if str(path) == GRAMMAR:
        return Commands.grammar()
    path = _FREE if str(path) == FREE else path
    lists = read_json(path)
    held_out = lists.get(HELD_OUT) if isinstance(lists, dict) else None
    others = None if held_out is None else Commands(*_sentences(path, held_out, f"{HELD_OUT}."))
    return Commands(*_sentences(path, lists), held_out=others)


def _pooled(found: Sequence[Commands]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sentences of all, those of a short list several times."""
    low, high = ([getattr(one, direction) for one in found] for direction in VARIANTS[1:])
    return _alike(low), _alike(high)


def _alike(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    most = max(map(len, lists))
    return tuple(sentence for one in lists for sentence in one * round(most / len(one)))


def _sentences(path: Path, lists: object, prefix: str = "") -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = []
    for key in ("low", "high"):
        values = lists.get(key) if isinstance(lists, Mapping) else None
        if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
            key = f"{prefix}{key}"
            raise BadFile.of(path, f"{key}: expected a list of sentences", key=key, expected="a list", found=values)
        found.append(tuple(values))
    return found[0], found[1]
