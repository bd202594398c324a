"""Heads as arrays: their names, their fingerprint, and what cannot run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import Case

from autodeco_gguf import HeadWeights, read_checkpoint
from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.weights import HEADS, MAX_LAYERS, Mlp, check_enabled, deciding


def layers(*shapes: tuple[int, ...], activation: str = "relu") -> Mlp:
    return Mlp(
        tuple(np.ones(shape, np.float32) for shape in shapes),
        tuple(np.ones(shape[0], np.float32) for shape in shapes),
        activation,
    )


INF = math.inf
WEIGHTS = HeadWeights(3, 5, "base", layers((2, 3), (1, 2)), layers((1, 8)))


def test_names_and_order() -> None:
    assert {name: array.shape for name, array in WEIGHTS.tensors.items()} == {
        "autodeco.temp_head.0.weight": (2, 3),
        "autodeco.temp_head.0.bias": (2,),
        "autodeco.temp_head.1.weight": (1, 2),
        "autodeco.temp_head.1.bias": (1,),
        "autodeco.top_p_head.0.weight": (1, 8),
        "autodeco.top_p_head.0.bias": (1,),
    }
    assert list(WEIGHTS.mlps) == ["temperature", "top_p"]
    assert list(replace(WEIGHTS, temperature=None).mlps) == ["top_p"]


def test_a_fingerprint_is_of_what_decides(qwen2: Case) -> None:
    weights = read_checkpoint(qwen2.heads).weights
    same = replace(weights, base_model="another", vocab_size=1)
    gelu = replace(weights, temperature=replace(weights.mlps["temperature"], activation="gelu"))
    others = [replace(weights, top_p=None), replace(weights, temperature_scale=3.0), gelu, WEIGHTS]
    assert same.fingerprint() == weights.fingerprint()
    assert len({w.fingerprint() for w in (weights, *others)}) == 5


CANNOT_RUN: list[tuple[dict[str, Any], str, str | None, object, object]] = [
    ({"temperature": None, "top_p": None}, "^no head in it$", None, None, None),
    ({"features": ("entropy",)}, "^top-p features", "top-p features", None, ["entropy"]),
    ({"temperature_scale": INF}, "^temperature scale inf", "temperature scale", "a number > 0 of float32", INF),
    ({"temperature": layers((1, 3), activation="x")}, "^temp_head: activation 'x', expected one", None, None, None),
    ({"temperature": Mlp((), (), "relu")}, "^temp_head: 0 weights and 0 biases, expected as", "temp_head", 0, 0),
    ({"temperature": layers(*[(1, 1)] * 65)}, "^temp_head: 65 layers, exp.* 64$", "temp_head", MAX_LAYERS, 65),
    ({"top_p": layers((1, 7))}, "^top_p_head: weight of", "top_p_head: weight of layer 0", [1, 8], [1, 7]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message", "key", "expected", "found"), CANNOT_RUN)
def test_what_cannot_run(
    changes: dict[str, Any], message: str, key: str | None, expected: object, found: object
) -> None:
    WEIGHTS.check()
    with pytest.raises(InvalidInput, match=message) as error:
        replace(WEIGHTS, **changes).check()
    if key is not None:
        assert (error.value.key, error.value.found) == (key, found)
    if expected is not None:
        assert error.value.expected == expected


def test_what_no_float32_is() -> None:
    huge = replace(WEIGHTS.mlps["top_p"], weights=(np.full((1, 8), 1e200),))
    with pytest.raises(InvalidInput, match=r"^top_p_head: weight of layer 0 holds NaN or infinity, as float32$"):
        replace(WEIGHTS, top_p=huge).check()
    with pytest.raises(InvalidInput, match=r"weight of layer 0 is complex, expected real numbers$"):
        replace(WEIGHTS, top_p=replace(huge, weights=(np.full((1, 8), 1j),))).check()
    with pytest.raises(InvalidInput, match=r"^temperature scale 1e\+300, expected a number > 0 of float32$"):
        replace(WEIGHTS, temperature_scale=1e300).check()


def test_heads_that_take_part() -> None:
    assert check_enabled(None) == HEADS == {"temperature", "top_p"}
    assert check_enabled("top_p") == check_enabled(["top_p"]) == {"top_p"}
    assert check_enabled([]) == set()
    with pytest.raises(InvalidInput, match=r"^heads_enabled: \['top_k'\], expected some of \['t") as error:
        check_enabled(["top_p", "top_k"])
    assert (error.value.key, error.value.found) == ("heads_enabled", ["top_k"])


T, P = frozenset(["temperature"]), frozenset(["top_p"])


@pytest.mark.parametrize(
    ("which", "heads", "found"),
    [
        ("on", HEADS, HEADS),
        ("on", T, T),
        ("off", T, frozenset()),
        ("off", frozenset(), frozenset()),
        ("top_p", HEADS, P),
    ],
)
def test_which_heads_decide(which: str, heads: frozenset[str], found: frozenset[str]) -> None:
    assert deciding(which, heads) == found


@pytest.mark.parametrize(("which", "says"), [("on", "no heads"), ("top_p", "no top-p head")])
def test_heads_that_are_not_there_decide_nothing(which: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"^the model has {says}$"):
        deciding(which, T if which == "top_p" else frozenset())
