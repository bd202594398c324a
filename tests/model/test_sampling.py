"""How tokens are drawn, as values: ranges, and seeds."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.sampling import MAX_SEED, Sampling, check_seed, check_seed_range, seed_from

REFUSED: list[tuple[dict[str, Any], str, object, str]] = [
    ({"temperature": -0.5}, "temperature", -0.5, "a number >= 0 (0 is greedy) and <= 1e6"),
    ({"top_p": 1.5}, "top_p", 1.5, "a number in [0, 1]"),
    ({"temperature": "0.5"}, "temperature", "'0.5'", "a number >= 0 (0 is greedy) and <= 1e6"),
    ({"min_p": Decimal("0.5")}, "min_p", "Decimal('0.5')", "a number in [0, 1]"),
    ({"top_k": -1}, "top_k", -1, "a whole number in [0, 2.14748e+09]"),
    ({"top_k": 3.0}, "top_k", 3.0, "a whole number in [0, 2.14748e+09]"),
    ({"xtc_threshold": 2.0}, "xtc_threshold", 2.0, "a number in [0, 1]"),
    ({"penalty_last_n": -2}, "penalty_last_n", -2, "a whole number in [-1, 1.04858e+06]"),
    ({"mirostat_mode": 3}, "mirostat_mode", 3, "a whole number in [0, 2]"),
    ({"order": "vllm"}, "order", "'vllm'", "'autodeco' or 'llama.cpp'"),
    ({"logit_bias": [1]}, "logit_bias", "[1]", "numbers by token"),
    ({"logit_bias": {3: "x"}}, "logit_bias of token 3", "'x'", "a number"),
]


@pytest.mark.parametrize(("kwargs", "key", "found", "expected"), REFUSED)
def test_out_of_range(kwargs: dict[str, Any], key: str, found: object, expected: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Sampling(**kwargs).check()
    error = caught.value
    assert (error.key, error.found, error.expected, error.file) == (key, found, expected, None)
    assert str(error) == f"{key} {found}, expected {expected}"


@pytest.mark.parametrize("bias", [float("nan"), float("inf"), 1.1e30, pytest.param(10**400, id="huge")])
def test_biases_that_no_logit_can_have(bias: float) -> None:
    expected = r"expected a number of at most 1e\+30 or -inf"
    with pytest.raises(InvalidInput, match=rf"^logit_bias of token 3 is {re.escape(str(bias))}, {expected}$"):
        Sampling(logit_bias={3: bias}).check()
    Sampling(logit_bias={3: 1e30, 4: -1e300, 5: -math.inf}).check()


def test_numbers_of_half_precision() -> None:
    """With which numpy compares a million as infinity, and warns."""
    half = np.float16(0.5)
    Sampling(temperature=half, top_p=half, min_p=half, mirostat_tau=half, logit_bias={1: half}).check()
    for key in ("temperature", "top_p", "mirostat_tau", "top_n_sigma"):
        for value in (np.float16("inf"), np.float16("nan")):
            with pytest.raises(InvalidInput, match=f"^{key} "):
                Sampling(**{key: value}).check()


def test_what_another_order_alone_has() -> None:
    with pytest.raises(InvalidInput, match=r"^dynatemp_range 0\.5 needs order 'llama\.cpp'$"):
        Sampling(dynatemp_range=0.5).check()


def test_what_is_given_by_nobody_is_in_range() -> None:
    Sampling().check()
    Sampling(temperature=0.0, top_p=0.0, seed=None, logit_bias={3: -float("inf"), 4: -1e300, 5: 1e30}).check()


def test_seeds() -> None:
    assert [check_seed(seed) for seed in (0, 7, MAX_SEED - 1, 1 << 32)] == [0, 7, MAX_SEED - 1, 0]
    assert len({check_seed(seed) for seed in (None, None, MAX_SEED, MAX_SEED)}) == 4
    for seed in (-1, MAX_SEED + 1):
        with pytest.raises(InvalidInput, match=rf"^seed {seed}, expected 0 to 2\*\*32 - 1$"):
            check_seed_range(seed)
    for check in (check_seed, check_seed_range):
        for wrong in ("5", 1.5):
            with pytest.raises(InvalidInput, match=rf"^seed {wrong!r}, expected a whole number$"):
                check(wrong)  # type: ignore[operator]


def test_a_seed_from_a_text() -> None:
    assert seed_from("0 1 2") == seed_from("0 1 2") != seed_from("0 12")
    assert all(0 <= seed_from(str(i)) < 2**31 for i in range(100))
    assert seed_from("p\udcff.jsonl") != seed_from("p\udcfe.jsonl")  # a file's name may be no text
