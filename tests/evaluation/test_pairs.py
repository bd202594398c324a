"""Pairs of T and P at other tokens than those they were predicted for."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autodeco_gguf.errors import BadFile, ModelFailed
from autodeco_gguf.evaluation.pairs import PAIRS, PairsFile, shuffled
from autodeco_gguf.evaluation.samples import Key

KEYS = [Key("t", 0, 0, i) for i in range(3)]
VALUES = {KEYS[0]: [(0.1, 0.25), (0.3, 0.5)], KEYS[1]: [(1.5, 1.0), (0.7, 0.9), (0.7, 0.8)], KEYS[2]: []}


def result(pairs: list[tuple[float, float]]) -> Any:
    columns = np.float32(pairs).reshape(-1, 2)
    return SimpleNamespace(temperature=columns[:, 0], top_p=columns[:, 1])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with PairsFile(tmp_path) as file:
        for key in reversed(KEYS):
            file.add(key, result(VALUES[key]))
    return tmp_path


def rounded(pairs: Any) -> list[tuple[float, float]]:
    return [(round(float(t), 5), round(float(p), 5)) for t, p in pairs]


def test_they_are_kept_to_the_last_bit(directory: Path) -> None:
    third = result([(1 / 3, 2 / 3)])
    with PairsFile(directory) as file:
        assert {key: rounded(file.of(key)) for key in KEYS} == VALUES
        assert [key in file for key in (KEYS[0], Key("t", 0, 1, 0))] == [True, False]
        file.add(KEYS[0], third)  # the later line counts, also where the earlier was read
        np.testing.assert_array_equal(file.of(KEYS[0]), [[third.temperature[0], third.top_p[0]]])
    with PairsFile(directory) as file:
        assert len(file.of(KEYS[0])) == 1


def test_each_token_has_a_pair_of_another_answer(directory: Path) -> None:
    """Of five tokens of two answers each has its share of what is drawn for the third; T and P stay together."""
    with PairsFile(directory) as file:
        drawn = Counter(rounded(shuffled(file, KEYS[2], KEYS, 5000, seed=0)))
        assert set(drawn) == {*VALUES[KEYS[0]], *VALUES[KEYS[1]]}
        assert all(abs(n - 1000) < 4 * (5000 * 0.2 * 0.8) ** 0.5 for n in drawn.values())
        assert set(rounded(shuffled(file, KEYS[0], KEYS, 500, seed=0))) == set(VALUES[KEYS[1]])
        tokens = rounded(shuffled(file, KEYS[2], KEYS, 2000, seed=1))
        same = np.mean([a == b for a, b in itertools.pairwise(tokens)])
        assert abs(same - 0.2) < 0.04  # neighbours are independent


def test_the_seed_and_the_answer_decide_and_nothing_else(directory: Path, tmp_path: Path) -> None:
    with PairsFile(directory) as file:
        drawn = [shuffled(file, key, KEYS, 20, seed) for key, seed in ((KEYS[2], 0), (KEYS[2], 1), (KEYS[1], 0))]
        assert shuffled(file, KEYS[2], KEYS, 20, 0) == drawn[0]
    assert drawn[0] != drawn[1]
    other = tmp_path / "in another order"
    other.mkdir()
    with PairsFile(other) as file:
        for key in KEYS:
            file.add(key, result(VALUES[key]))
        assert shuffled(file, KEYS[2], KEYS, 20, 0) == drawn[0]


def test_where_there_is_no_other_answer(directory: Path) -> None:
    with PairsFile(directory) as file:
        assert set(rounded(shuffled(file, KEYS[0], [KEYS[0], KEYS[2]], 20, 0))) == set(VALUES[KEYS[0]])
        with pytest.raises(ModelFailed, match=r"^shuffle: autodeco has drawn no token on problem 0 of t$"):
            shuffled(file, KEYS[2], [KEYS[2]], 20, 0)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"task": "t"}, r"pairs.jsonl:4: damaged: no pairs of an answer; use the same settings, or another directory"),
        ([1], r"pairs.jsonl:4: damaged: no pairs"),
        ({"pairs": "no base64!"}, r"pairs.jsonl: damaged: the pairs of \('t', 0, 0, 0\): "),
        ({"pairs": "AAAA"}, r"damaged: the pairs of"),
        ({"pairs": 5}, r"damaged: the pairs of"),
        ({"pairs": "AADAfwAAgD8="}, r"the pairs of \('t', 0, 0, 0\): pairs out of range"),
        ({"pairs": "AACAPwAAAEA="}, r"out of range"),
    ],
    ids=["half a line", "a list", "no base64", "odd bytes", "a number", "NaN", "P of 2"],
)
def test_damaged(line: Any, words: str, directory: Path) -> None:
    with (directory / PAIRS).open("a") as f:
        whole = {**KEYS[0]._asdict(), **line} if "pairs" in line else line
        f.write(json.dumps(whole) + "\n")
    with pytest.raises(BadFile, match=words), PairsFile(directory) as file:
        file.of(KEYS[0])
