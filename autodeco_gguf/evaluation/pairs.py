"""The pairs (T, P) that autodeco's tokens were drawn with, and others' answers with these at other tokens."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from autodeco_gguf.engine.request import Result
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.evaluation.samples import Key
from autodeco_gguf.evaluation.settings import ADVICE
from autodeco_gguf.files.journal import Journal
from autodeco_gguf.model.sampling import seed_from
from autodeco_gguf.view.traces import Pairs, pairs_of

PAIRS = "pairs.jsonl"
"""Where they stand in the directory of an evaluation: a line for each answer, in base64 [n, 2] of float32."""


class PairsFile:
    """The pairs of a directory, which stay in the file; a context manager."""

    def __init__(self, directory: Path) -> None:
        """Prepare to open them."""
        self._journal = Journal(directory / PAIRS, None, advice=ADVICE)
        self._places: dict[Key, int] = {}
        self._read: dict[Key, Pairs] = {}  # of the problem that was asked for last

    def __enter__(self) -> PairsFile:
        self._journal.__enter__()
        try:
            for line in self._journal.lines():
                try:
                    self._places[Key._make(line.value[name] for name in Key._fields)] = line.place
                except (TypeError, KeyError) as e:
                    raise self._journal.refused(line.number, "damaged: no pairs of an answer") from e
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.__exit__()

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def add(self, key: Key, result: Result) -> None:
        """Keep those of an answer."""
        pairs = np.column_stack([result.temperature, result.top_p]).astype("<f4")
        line = {**key._asdict(), "pairs": base64.b64encode(pairs.tobytes()).decode()}
        self._places[key] = self._journal.append(line)
        self._read.pop(key, None)

    def of(self, key: Key) -> Pairs:
        """Those of an answer; BadFile where the line is damaged."""
        if key not in self._read:
            line = self._journal.read(self._places[key])
            try:
                pairs = pairs_of(line["pairs"])
            except (TypeError, KeyError, InvalidInput) as e:
                raise self._journal.refused(None, f"damaged: the pairs of {tuple(key)}: {e}") from e
            if any(key[:2] != other[:2] for other in self._read):
                self._read.clear()
            self._read[key] = pairs
        return self._read[key]


def shuffled(file: PairsFile, key: Key, answers: Iterable[Key], n: int, seed: int) -> list[tuple[float, float]]:
    """Pairs for the n tokens of an answer, each drawn from those of all tokens of the other answers to its problem.

    They are drawn with replacement, so that an answer may be longer than all others. Where no other answer has a token,
    they are the answer's own. ``answers`` are all to this problem, in an order that is always the same.

    Raises:
        ModelFailed: no answer has a token.
    """
    every = list(answers)
    pool = np.concatenate([file.of(other) for other in every if other != key] or [np.empty((0, 2), np.float32)])
    pool = pool if len(pool) else file.of(key) if key in every else pool
    if not len(pool):
        raise ModelFailed(f"shuffle: autodeco has drawn no token on problem {key.problem} of {key.task}")
    rng = random.Random(seed_from(json.dumps(["shuffle", seed, *key])))
    values: list[list[float]] = pool.tolist()
    return [(temperature, top_p) for temperature, top_p in (values[rng.randrange(len(values))] for _ in range(n))]
