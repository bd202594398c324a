"""The heads on their own: Heads.evaluate against the official code's values, by hand, and against the reference."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from conftest import Case

from autodeco_gguf import AutoDecoError, Heads, HeadWeights, devices, read_checkpoint
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.heads.format import FEATURES
from autodeco_gguf.heads.weights import Mlp

INF = math.inf
TOLERANCE = 1e-5
BOTH = ("temperature", "top_p")


def layers(rng: np.random.Generator, sizes: list[int], activation: str = "relu") -> Mlp:
    """Random linear layers of these sizes, of a scale that keeps values spread."""
    pairs = list(pairwise(sizes))
    return Mlp(
        tuple((rng.normal(0, 1.5, (o, i)) / math.sqrt(i)).astype(np.float32) for i, o in pairs),
        tuple(rng.normal(0, 0.3, o).astype(np.float32) for _, o in pairs),
        activation,
    )


def make(
    hidden_size: int,
    vocab_size: int,
    *,
    depth: int = 2,
    activation: str = "relu",
    enhanced: bool = True,
    heads: tuple[str, ...] = BOTH,
    width: int = 9,
) -> HeadWeights:
    rng = np.random.default_rng(hidden_size * 1000 + depth)
    inner = [width] * (depth - 1) + [1]
    features = FEATURES[enhanced]
    return HeadWeights(
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        base_model="test",
        temperature=layers(rng, [hidden_size, *inner], activation) if "temperature" in heads else None,
        top_p=layers(rng, [hidden_size + len(features), *inner], activation) if "top_p" in heads else None,
        features=features,
    )


def inputs(weights: HeadWeights, n: int, spread: float = 3.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(n)
    hidden = rng.normal(0, 1, (n, weights.hidden_size)).astype(np.float32)
    logits = rng.normal(0, spread, (n, weights.vocab_size)).astype(np.float32)
    return hidden, logits


def check(weights: HeadWeights, hidden: Any, logits: Any, heads_enabled: Any = None) -> None:
    heads, on = Heads(weights), BOTH if heads_enabled is None else heads_enabled
    expected = reference.predict(weights, hidden, logits, on)
    # and the graph that devices without our own CPU operations get
    arrays = [np.asarray(a, np.float32) for a in (hidden, logits)]
    portable = heads.native.evaluate(*arrays, "CPU", *(name in on for name in BOTH), portable=True)
    for found in (heads.evaluate(hidden, logits, heads_enabled=heads_enabled), portable):
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours.shape, ours.dtype) == ((len(arrays[0]),), np.float32)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def bf16(x: Any) -> Any:
    return (x.view(np.uint32) & 0xFFFF0000).view(np.float32)


def f16(x: Any) -> Any:
    return x.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("hidden_size", [1, 15, 37, 64])
@pytest.mark.parametrize(("first", "second"), [(bf16, bf16), (f16, f16), (bf16, f16), (f16, np.asarray)])
def test_weights_of_two_bytes(first: Any, second: Any, hidden_size: int) -> None:
    """Values that BF16 or F16 holds are read as such, which changes no bit."""
    weights = make(hidden_size, 300, width=10)
    assert weights.temperature is not None
    assert weights.top_p is not None
    narrow, wide = [], []
    for mlp, rounded in ((weights.temperature, first), (weights.top_p, second)):
        matrices = [rounded(m) for m in mlp.weights]
        matrices[0][0, :] *= np.float32(2**-13)  # of F16 some have no leading bit then
        matrices[0][0, :] = rounded(matrices[0][0, :])
        matrices[-1][0, -1] = 0.0  # the last unit says nothing, so that it may be another
        narrow.append(replace(mlp, weights=tuple(matrices)))
        other = matrices[0].copy()
        other[-1, 0] = 1 / 3
        wide.append(replace(mlp, weights=(other, *matrices[1:])))
    with_narrow = replace(weights, temperature=narrow[0], top_p=narrow[1])
    with_wide = replace(weights, temperature=wide[0], top_p=wide[1])
    for n in (1, 3):
        given = inputs(weights, n)
        check(with_narrow, *given)
        np.testing.assert_array_equal(Heads(with_narrow).evaluate(*given), Heads(with_wide).evaluate(*given))


# ---- what the official PyTorch code computed ----


def golden(case: Case) -> tuple[Any, Any]:
    """Recorded temperature and top-p, 1 where there is no such head."""
    values = [np.where(np.isnan(case.golden[k]), 1.0, case.golden[k]) for k in BOTH]
    return values[0], values[1]


def test_the_reference_agrees_with_the_official_code(case: Case) -> None:
    weights = read_checkpoint(case.heads).weights
    found = reference.predict(weights, case.golden["hidden"], case.golden["logits"])
    for ours, theirs in zip(found, golden(case), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_evaluate_agrees_with_the_official_code(case: Case) -> None:
    heads = Heads(read_checkpoint(case.heads).weights)
    found = heads.evaluate(case.golden["hidden"], case.golden["logits"])
    for ours, theirs in zip(found, golden(case), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_the_fixtures_say_something(case: Case) -> None:
    for values, there in zip(golden(case), ("has_temperature", "has_top_p"), strict=True):
        assert (np.ptp(values) > 0.1) == bool(case.golden[there])


# ---- by hand: hidden size 1, so that h is the input ----


def line(*pairs: tuple[float, float], activation: str = "relu") -> Mlp:
    """Layers of one value each: (weight, bias)."""
    return Mlp(
        tuple(np.array([[w]], np.float32) for w, _ in pairs),
        tuple(np.array([b], np.float32) for _, b in pairs),
        activation,
    )


def one_wide(temperature: Mlp | None, top_p: Mlp | None = None, **kwargs: Any) -> Heads:
    values: dict[str, Any] = {
        "hidden_size": 1,
        "vocab_size": 4,
        "base_model": "",
        "features": ("temperature",),
        **kwargs,
    }
    return Heads(HeadWeights(temperature=temperature, top_p=top_p, **values))


BY_HAND = [
    # sigmoid(ln 3) = 3/4, and T is twice that
    ("bias alone", line((0.0, 0.0)), 5.0, 1.0),
    ("sigmoid", line((1.0, 0.0)), math.log(3.0), 1.5),
    ("sigmoid, negative", line((1.0, 0.0)), -math.log(3.0), 0.5),
    ("bias", line((0.0, math.log(7.0))), 5.0, 1.75),
    ("relu lets through", line((1.0, 0.0), (1.0, 0.0)), math.log(3.0), 1.5),
    ("relu cuts", line((1.0, 0.0), (1.0, 0.0)), -math.log(3.0), 1.0),
    ("no relu after the last", line((1.0, 0.0), (-1.0, 0.0)), math.log(3.0), 0.5),
    # gelu(1) = 0.8413447, gelu(-1) = -0.1586553, gelu(2) = 1.9544997; with tanh 0.8411920, -0.1588080, 1.9545977
    ("gelu(1)", line((1.0, 0.0), (1.0, 0.0), activation="gelu"), 1.0, 2 / (1 + math.exp(-0.8413447))),
    ("gelu(-1)", line((1.0, 0.0), (1.0, 0.0), activation="gelu"), -1.0, 2 / (1 + math.exp(0.1586553))),
    # ten times the difference of the two GELUs: 4e-4 apart in T
    ("gelu is erf", line((1.0, 0.0), (10.0, -19.5), activation="gelu"), 2.0, 2 / (1 + math.exp(-0.044997))),
    ("three layers", line((1.0, 1.0), (2.0, -3.0), (1.0, 0.0)), 1.0, 2 / (1 + math.exp(-1.0))),
    ("very cold", line((1.0, 0.0)), -30.0, 2 * math.exp(-30.0)),
    ("as cold as can be", line((1.0, 0.0)), -1e6, 0.0),
    ("as warm as can be", line((1.0, 0.0)), 1e6, 2.0),
]


@pytest.mark.parametrize(("mlp", "hidden", "expected"), [b[1:] for b in BY_HAND], ids=[b[0] for b in BY_HAND])
def test_temperature_by_hand(mlp: Mlp, hidden: float, expected: float) -> None:
    temperature, top_p = one_wide(mlp).evaluate([[hidden]], [[0.0] * 4])
    assert temperature[0] == pytest.approx(expected, rel=2e-6, abs=1e-30)
    assert top_p.tolist() == [1.0]


def test_the_scale_of_the_temperature() -> None:
    heads = one_wide(line((0.0, 0.0)), temperature_scale=3.0)
    assert heads.evaluate([[1.0]], [[0.0] * 4])[0].tolist() == [1.5]


def test_the_plain_top_p_head_reads_the_temperature() -> None:
    # T = 2 sigmoid(ln 3) = 1.5; P = sigmoid(0 h + 1 T)
    top_p = Mlp((np.array([[0.0, 1.0]], np.float32),), (np.zeros(1, np.float32),), "relu")
    found = one_wide(line((1.0, 0.0)), top_p).evaluate([[math.log(3.0)]], [[0.0] * 4])
    assert (found[0][0], found[1][0]) == pytest.approx((1.5, 1 / (1 + math.exp(-1.5))), abs=1e-6)


# p = 1/4, 1/4, 1/8, 1/8, four times 1/16 at T = 1: entropy 2.75 bits, sum of squares 11/64, top 5 = 13/16
EIGHT = np.log(np.array([[1, 4, 2, 1, 4, 1, 2, 1]]) / 16)

STATISTICS = [
    ("temperature", 1.0, EIGHT, 1.0),
    ("max_prob", 1.0, EIGHT, 0.25),
    ("entropy", 1.0, EIGHT, 2.75 * math.log(2.0)),
    ("prob_variance", 1.0, EIGHT, (11 / 64 - 1 / 8) / 7),
    ("top5_prob", 1.0, EIGHT, 13 / 16),
    # the same p from logits half as far apart at T = 1/2
    ("temperature", 0.5, EIGHT / 2, 0.5),
    ("max_prob", 0.5, EIGHT / 2, 0.25),
    ("entropy", 0.5, EIGHT / 2, 2.75 * math.log(2.0)),
    ("prob_variance", 0.5, EIGHT / 2, (11 / 64 - 1 / 8) / 7),
    ("top5_prob", 0.5, EIGHT / 2, 13 / 16),
    # three tokens: the largest five are all
    ("top5_prob", 1.0, np.zeros((1, 3)), 1.0),
    ("prob_variance", 1.0, np.log([[0.5, 0.25, 0.25]]), (3 / 8 - 1 / 3) / 2),
    ("prob_variance", 1.0, [[7.0]], 0.0),
    ("entropy", 1.0, [[7.0]], 0.0),
    ("max_prob", 1.0, [[-INF, 2.0, -INF]], 1.0),
    ("entropy", 1.0, [[-INF, 2.0, -INF, 2.0]], math.log(2.0)),
    # T -> 0: everything on the most likely token
    ("max_prob", 0.0, [[1.0, 2.0, 3.0]], 1.0),
    ("entropy", 0.0, [[1.0, 2.0, 3.0]], 0.0),
    ("prob_variance", 0.0, [[1.0, 2.0, 3.0]], 1 / 3),
]


@pytest.mark.parametrize(("feature", "temperature", "logits", "expected"), STATISTICS)
def test_each_feature_by_hand(feature: str, temperature: float, logits: Any, expected: float) -> None:
    """A top-p head that looks at one feature: P = sigmoid(feature)."""
    weight = np.zeros((1, 6), np.float32)
    weight[0, 1 + FEATURES[True].index(feature)] = 1.0
    top_p = Mlp((weight,), (np.zeros(1, np.float32),), "relu")
    bias = math.log(temperature / (2.0 - temperature)) if temperature else -1000.0
    heads = one_wide(line((0.0, bias)), top_p, features=FEATURES[True], vocab_size=np.shape(logits)[1])
    found = heads.evaluate([[0.0]], logits)
    assert found[0][0] == pytest.approx(temperature, abs=1e-6)
    assert math.log(found[1][0] / (1 - found[1][0])) == pytest.approx(expected, abs=2e-6)


# ---- against the reference ----

SIZES = [1, 2, 5, 6, 7, 63, 64, 128, 640, 1217, 4096]


@pytest.mark.parametrize("vocab_size", SIZES)
@pytest.mark.parametrize("hidden_size", [1, 2, 7, 64, 101])
def test_sizes(hidden_size: int, vocab_size: int) -> None:
    weights = make(hidden_size, vocab_size)
    check(weights, *inputs(weights, 5))


@pytest.mark.parametrize(
    ("n", "vocab_size"),
    [
        *[(0, 11), (1, 11), (2, 11), (256, 7), (257, 7), (600, 64), (90, 50_257), (20, 262_144)],
        *[(1, 16_384), (1, 16_385), (1, 50_257), (1, 151_936), (3, 151_936), (17, 262_144)],  # whole or in pieces
    ],
)
def test_rows(n: int, vocab_size: int) -> None:
    weights = make(8, vocab_size)
    check(weights, *inputs(weights, n))


@pytest.mark.parametrize(("n", "vocab_size"), [(2, 11), (7, 11), (70, 11), (5, 16_385)])
def test_a_row_does_not_depend_on_the_others(n: int, vocab_size: int) -> None:
    weights = make(27, vocab_size, width=19)
    hidden, logits = inputs(weights, n)
    together = Heads(weights).evaluate(hidden, logits)
    for i in range(n):
        alone = Heads(weights).evaluate(hidden[i : i + 1], logits[i : i + 1])
        assert alone[0][0] == together[0][i]
        assert alone[1][0] == pytest.approx(together[1][i], abs=1e-6 if vocab_size > 1 << 14 else 0)  # in pieces or not


@pytest.mark.parametrize("enhanced", [True, False], ids=["enhanced", "plain"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_depths(depth: int, activation: str, enhanced: bool) -> None:
    weights = make(24, 130, depth=depth, activation=activation, enhanced=enhanced, width=33)
    check(weights, *inputs(weights, 40))


def test_the_heads_may_differ() -> None:
    rng = np.random.default_rng(1)
    weights = make(24, 130)
    check(
        replace(weights, temperature=layers(rng, [24, 40, 20, 10, 1], "gelu"), top_p=layers(rng, [29, 1])),
        *inputs(weights, 40),
    )


@pytest.mark.parametrize("heads_enabled", [None, BOTH, ["temperature"], {"top_p"}, [], "top_p"], ids=str)
@pytest.mark.parametrize("heads", [BOTH, ("temperature",), ("top_p",)], ids="+".join)
def test_one_head_alone(heads: tuple[str, ...], heads_enabled: Any) -> None:
    weights = make(24, 130, heads=heads)
    hidden, logits = inputs(weights, 10)
    enabled = [heads_enabled] if heads_enabled == "top_p" else heads_enabled
    check(weights, hidden, logits, enabled)
    temperature, top_p = Heads(weights).evaluate(hidden, logits, heads_enabled=heads_enabled)
    on = set(heads) & set(BOTH if enabled is None else enabled)
    assert ((temperature == 1.0).all(), (top_p == 1.0).all()) == ("temperature" not in on, "top_p" not in on)


def test_top_p_without_temperature_sees_1() -> None:
    """Not what the temperature head would have said: ablating one head changes the other's input."""
    weights = make(24, 130)
    hidden, logits = inputs(weights, 10)
    heads = Heads(weights)
    alone = heads.evaluate(hidden, logits, heads_enabled=["top_p"])[1]
    np.testing.assert_array_equal(Heads(replace(weights, temperature=None)).evaluate(hidden, logits)[1], alone)
    assert np.abs(alone - heads.evaluate(hidden, logits)[1]).max() > 1e-3


@pytest.mark.parametrize("share", [0.1, 0.9, 0.999])
@pytest.mark.parametrize("vocab_size", [7, 130, 4096])
def test_excluded_tokens(vocab_size: int, share: float) -> None:
    weights = make(8, vocab_size)
    hidden, logits = inputs(weights, 20)
    logits[:, 1:][np.random.default_rng(1).random((20, vocab_size - 1)) < share] = -INF
    check(weights, hidden, logits)


@pytest.mark.parametrize("spread", [0.0, 1e-3, 30.0, 1e4, 1e30])
def test_flat_and_peaked_logits(spread: float) -> None:
    weights = make(8, 130)
    check(weights, *inputs(weights, 20, spread))


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_only_differences_of_logits_count(offset: float) -> None:
    weights = make(8, 130)
    hidden, logits = inputs(weights, 20)
    logits = np.round(logits * 64) / 64 + np.float32(offset)  # exact in float32
    check(weights, hidden, logits)
    check(weights, hidden, logits - np.float32(offset))


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e3])
def test_extreme_temperatures(scale: float) -> None:
    weights = make(8, 130)
    hidden, logits = inputs(weights, 20)
    # a temperature in the range where the logits' rounding, divided by it, exceeds the tolerance is not comparable
    temperature = reference.predict(weights, hidden * scale, logits)[0]
    comparable = (temperature > 0.05) | (temperature < 1e-9)
    assert comparable.sum() >= 10
    check(weights, (hidden * scale)[comparable], logits[comparable])
    for values in Heads(weights).evaluate(hidden * scale, logits):
        assert np.isfinite(values).all()
        assert (values >= 0.0).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32], ids=["float64", "float16", "int32"])
def test_other_types_and_strides(dtype: Any) -> None:
    weights = make(8, 130)
    hidden, logits = (np.asfortranarray(np.round(a * 4).astype(dtype)) for a in inputs(weights, 6))
    check(weights, hidden, logits)
    check(weights, hidden.tolist(), logits.tolist())


def test_a_call_leaves_nothing_behind() -> None:
    weights = make(8, 130)
    heads = Heads(weights)
    hidden, logits = inputs(weights, 20)
    first = heads.evaluate(hidden, logits)
    heads.evaluate(hidden[:3] * 5, logits[:3] * 2)
    np.testing.assert_array_equal(heads.evaluate(hidden, logits), first)


def test_the_weights_are_copied() -> None:
    weights = make(8, 130)
    heads = Heads(weights)
    hidden, logits = inputs(weights, 4)
    before = heads.evaluate(hidden, logits)
    assert weights.temperature is not None
    weights.temperature.weights[0][:] = 0.0
    np.testing.assert_array_equal(heads.evaluate(hidden, logits), before)


def test_threads_share_the_heads() -> None:
    weights = make(64, 1217)
    heads = Heads(weights)
    hidden, logits = inputs(weights, 40)
    alone = [heads.evaluate(hidden[i:], logits[i:]) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda k: heads.evaluate(hidden[k % 8 :], logits[k % 8 :]), range(64)))
    for k, found in enumerate(together):
        np.testing.assert_array_equal(found, alone[k % 8])


def test_devices() -> None:
    assert "CPU" in devices()
    weights = make(8, 130)
    hidden, logits = inputs(weights, 4)
    on_cpu = Heads(weights).evaluate(hidden, logits, device="CPU")
    np.testing.assert_array_equal(Heads(weights).evaluate(hidden, logits), on_cpu)


# ---- bad input ----

H, L = np.zeros((2, 8), np.float32), np.zeros((2, 130), np.float32)


def with_value(a: Any, value: float) -> Any:
    changed = a.copy()
    changed[1, 3] = value
    return changed


BAD_CALLS = [
    ("hidden too wide", np.zeros((2, 9)), L, {}, r"hidden is \[2, 9\], expected \[2, 8\]"),
    ("logits too narrow", H, np.zeros((2, 129)), {}, r"logits is \[2, 129\], expected \[2, 130\]"),
    ("rows differ", H, np.zeros((3, 130)), {}, r"logits is \[3, 130\], expected \[2, 130\]"),
    ("one dimension", np.zeros(8), np.zeros(130), {}, r"hidden is \[8\], expected \[.*8\]"),
    ("logits of one dimension", H, np.zeros(130), {}, r"logits is \[130\], expected \[2, 130\]"),
    ("three dimensions", np.zeros((2, 1, 8)), L, {}, r"hidden is \[2, 1, 8\], expected \[.*8\]"),
    ("nan in hidden", with_value(H, math.nan), L, {}, "hidden row 1 holds nan"),
    ("inf in hidden", with_value(H, INF), L, {}, "hidden row 1 holds inf"),
    ("-inf in hidden", with_value(H, -INF), L, {}, "hidden row 1 holds -inf"),
    ("nan in logits", H, with_value(L, math.nan), {}, "logits row 1 holds nan"),
    ("+inf in logits", H, with_value(L, INF), {}, "logits row 1 holds inf"),
    ("all -inf", H, np.full((2, 130), -INF), {}, "logits row 0 holds nothing but -inf"),
    ("too large", np.full((2, 8), 3e38), L, {}, "row 0 of hidden or logits is too large"),
    ("no such device", H, L, {"device": "TPU9"}, "no device TPU9; this build has .*CPU"),
    ("no such head", H, L, {"heads_enabled": ["top_k"]}, r"heads_enabled: \['top_k'\], expected some of"),
]


@pytest.mark.parametrize(
    ("hidden", "logits", "kwargs", "match"), [b[1:] for b in BAD_CALLS], ids=[b[0] for b in BAD_CALLS]
)
def test_bad_calls(hidden: Any, logits: Any, kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(AutoDecoError, match=match):
        Heads(make(8, 130)).evaluate(hidden, logits, **kwargs)


def ones(*shapes: tuple[int, ...], bias: Any = None, activation: str = "relu") -> Mlp:
    """Weights of these shapes, and biases that go with them."""
    biases = [np.ones(shape[0], np.float32) for shape in shapes] if bias is None else bias
    return Mlp(tuple(np.ones(shape, np.float32) for shape in shapes), tuple(biases), activation)


BAD_WEIGHTS = [
    ("no head", {"temperature": None, "top_p": None}, "heads: no head in it"),
    ("no layers", {"temperature": Mlp((), (), "relu")}, "temp_head: 0 weights"),
    ("activation", {"temperature": ones((1, 8), activation="tanh")}, "activation 'tanh', expected one of relu, gelu"),
    ("input width", {"temperature": ones((1, 9))}, r"temp_head: weight of layer 0 is \[1, 9\], expected \[1, 8\]"),
    ("layers", {"temperature": ones((4, 8), (1, 5))}, r"weight of layer 1 is \[1, 5\], expected \[1, 4\]"),
    ("two outputs", {"temperature": ones((2, 8))}, r"weight of layer 0 is \[2, 8\], expected \[1, 8\]"),
    ("bias", {"temperature": ones((1, 8), bias=[np.ones(2, np.float32)])}, r"bias of layer 0 is \[2\], expected \[1\]"),
    ("top-p width", {"top_p": ones((1, 8))}, r"top_p_head: weight of layer 0 is \[1, 8\], expected \[1, 13\]"),
    ("features", {"features": ("entropy",)}, r"top-p features \['entropy'\], expected"),
    ("nan", {"temperature": ones((1, 8), bias=[np.full(1, math.nan, np.float32)])}, "bias of layer 0 holds NaN or inf"),
    ("scale nan", {"temperature_scale": math.nan}, "scale nan"),
    ("scale negative", {"temperature_scale": -1.0}, "scale -1.0"),
    ("hidden size", {"hidden_size": 0, "temperature": ones((1, 0)), "top_p": None}, "hidden size 0 or vocabulary 130"),
    ("vocabulary", {"vocab_size": 0}, "vocabulary 0 is not a size a model has"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "match"), [b[1:] for b in BAD_WEIGHTS], ids=[b[0] for b in BAD_WEIGHTS])
def test_bad_weights(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(AutoDecoError, match=match):
        Heads(replace(make(8, 130), **changes))


DEEP = """
from heads.test_compute import check, inputs, make
for depth in (13, 14, 40):
    weights = make(8, 130, depth=depth, activation="gelu")
    check(weights, *inputs(weights, 3))
print("alive")
"""


def test_very_deep_heads_do_not_abort_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEEP],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "GGML_NO_BACKTRACE": "1"},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-500:]


# ---- from a file ----


def test_load(case: Case, merged_of: Any) -> None:
    heads = Heads.load(merged_of(case))
    assert heads.names == {k for k in BOTH if case.golden[f"has_{k}"]}
    assert (heads.hidden_size, heads.vocab_size) == (case.golden["hidden"].shape[1], case.golden["logits"].shape[1])
    for ours, theirs in zip(heads.evaluate(case.golden["hidden"], case.golden["logits"]), golden(case), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


FORK = """
import os, signal, sys
import numpy as np
from autodeco_gguf import AutoDecoError, Heads, Llama
heads = Heads.load(sys.argv[1])
hidden, logits = np.ones((4, heads.hidden_size)), np.ones((4, heads.vocab_size))
before = heads.evaluate(hidden, logits)
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
signal.alarm(30)
assert np.array_equal(before, heads.evaluate(hidden, logits))  # on one thread
llm = Llama(sys.argv[1], n_ctx=64, n_threads=2, verbose=False)
try:
    llm([1], max_tokens=1)
except AutoDecoError as e:
    print(e)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_child_of_a_fork_is_not_left_waiting(merged: Path) -> None:
    command = [sys.executable, "-c", FORK, str(merged)]
    env = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if (os.cpu_count() or 1) > 1:
        assert done.stdout.startswith("llama.cpp ran with several threads before this process forked")


def test_a_cpu_that_fails_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = make(4, 32)
    heads, asked = Heads(weights), list[str]()

    class Failing:
        def evaluate(self, _: Any, __: Any, device: str, *on: bool) -> Any:
            asked.append(device)
            raise ModelFailed("computing the AutoDeco heads failed")

    monkeypatch.setattr(heads, "native", Failing())
    with pytest.raises(ModelFailed, match=r"^computing the AutoDeco heads failed$"):
        heads.evaluate(*inputs(weights, 1))
    assert asked == ["CPU"]


@pytest.mark.parametrize("wrong", ["x", [[1.0], [1.0, 2.0]], [[object()]], np.zeros(2, "V4")])
def test_what_is_no_array_of_numbers(wrong: Any, qwen2: Case) -> None:
    heads = Heads(read_checkpoint(qwen2.heads).weights)
    good = np.zeros((1, heads.hidden_size), np.float32)
    with pytest.raises(InvalidInput, match=r"^hidden: "):
        heads.evaluate(wrong, good)
    with pytest.raises(InvalidInput, match=r"^logits: "):
        heads.evaluate(good, wrong)
