"""The last stage: scale by T, cut at P, draw."""

from __future__ import annotations

import atexit
import math
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import hypothesis
import numpy as np
import pytest
import reference
from conftest import load
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from llama_cpp import LogitsProcessorList
from scipy.stats import chisquare

from autodeco_gguf import AutoDecoError, draw
from autodeco_gguf.model.trace import TraceToken

INF = math.inf
LOG = np.log

TEMPERATURES = (0.05, 0.7, 1.6)
TOP_PS = (0.01, 0.5, 0.95, 1.0)
N_DRAWS = 200_000

HOME = mkdtemp(prefix="hypothesis-")  # it keeps notes, in the working directory unless told otherwise
set_hypothesis_home_dir(HOME)
atexit.register(rmtree, HOME, ignore_errors=True)


def distribution(name: str, n: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(n)
    logits = {
        "peaked": rng.normal(0.0, 4.0, n),
        "flat": rng.normal(0.0, 0.1, n),
        "zipf": rng.permutation(-LOG(np.arange(1, n + 1))),
    }
    return logits[name].astype(np.float32)


def p_value(tokens: np.ndarray[Any, Any], p: np.ndarray[Any, Any]) -> float:
    """Chi-square of drawn tokens against p; cells that expect fewer than 5 are one cell."""
    seen, expected = np.bincount(tokens, minlength=len(p)).astype(float), p * len(tokens)
    rare = expected < 5.0
    seen = np.append(seen[~rare], seen[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 5.0:  # all the rare ones together: with the least likely of the others
        order = np.argsort(expected)[:2]
        seen = np.append(np.delete(seen, order), seen[order].sum())
        expected = np.append(np.delete(expected, order), expected[order].sum())
    return 1.0 if len(seen) == 1 else float(chisquare(seen, expected).pvalue)


@pytest.mark.parametrize("top_p", TOP_PS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("name", "n"), [("peaked", 50), ("flat", 50), ("zipf", 50), ("zipf", 1000)])
def test_the_empirical_distribution(name: str, n: int, temperature: float, top_p: float) -> None:
    check_distribution(distribution(name, n), temperature, top_p)


def check_distribution(logits: np.ndarray[Any, Any], temperature: float, top_p: float) -> None:
    p = reference.distribution(logits, temperature, top_p)
    tokens = draw(logits, temperature, top_p, n=N_DRAWS, seed=20_251_026)
    outside = sorted(set(tokens.tolist()) - set(np.flatnonzero(p).tolist()))
    assert outside == []
    never = np.flatnonzero(p * N_DRAWS > 30.0)  # e^-30 is the chance that a draw misses such a token
    assert set(never.tolist()) <= set(tokens.tolist())
    assert p_value(tokens, p) > 1e-4


def test_the_empirical_distribution_of_a_large_vocabulary() -> None:
    check_distribution(distribution("zipf", 20_000), 0.7, 0.95)


# ---- against the reference, draw by draw: the random numbers are known, so each token is ----


def check_draws(logits: Any, temperature: float, top_p: float, n: int, seed: int = 7) -> None:
    tokens = draw(logits, temperature, top_p, n=n, seed=seed)
    u = reference.uniforms(seed, n)
    found = []
    for slack in (0.0, -reference.ROUNDING, reference.ROUNDING):
        mask = reference.nucleus(logits, temperature, top_p, slack)
        w = np.where(mask, reference.weights(logits, temperature), 0.0)
        expected, unsure = reference.draws(w / w.sum(), u)
        wrong = np.flatnonzero((tokens != expected) & ~unsure)
        if not len(wrong):
            return
        found.append((int(mask.sum()), int(wrong[0]), int(tokens[wrong[0]]), int(expected[wrong[0]])))
    pytest.fail(f"(nucleus, draw, token, expected) for each way to round: {found}")


@pytest.mark.parametrize("n", [1, 7, 8, 9, 63, 64, 65, 511, 513, 4097, 8191, 8193, 30_000])
@pytest.mark.parametrize("name", ["peaked", "flat", "zipf"])
def test_every_draw(name: str, n: int) -> None:
    for temperature in (0.0, *TEMPERATURES):
        for top_p in (0.0, 0.3, 0.9, 0.999, *TOP_PS):
            check_draws(distribution(name, n), temperature, top_p, n=60)


QUARTERS = st.integers(-40, 40).map(lambda k: k / 4)
LOGITS = st.lists(st.one_of(QUARTERS, st.sampled_from([0.0, 0.0, -INF])), min_size=1, max_size=40)


@pytest.mark.parametrize("sampled", [-8.0, -0.7, 0.0, -INF])
@pytest.mark.parametrize("n", [20_000, 20_480])
def test_a_sample_that_misleads(n: int, sampled: float) -> None:
    """The cut is looked for near that of every 80th token, which says nothing about the others here."""
    rng = np.random.default_rng(n)
    logits = np.where(rng.random(n) < 0.2, 0.0, -4.6) + rng.normal(0.0, 0.01, n)
    logits[::80] = sampled
    for top_p in (0.05, 0.3, 0.6, 0.9, 0.97, 0.99):
        check_draws(logits.astype(np.float32), 1.0, top_p, 200)


def property_test(max_examples: int) -> hypothesis.settings:
    return hypothesis.settings(derandomize=True, deadline=None, database=None, max_examples=max_examples)


@property_test(300)
@hypothesis.given(
    logits=LOGITS.filter(lambda x: max(x) > -INF),
    temperature=st.sampled_from([0.05, 0.25, 0.5, 1.0, 1.75]),
    top_p=st.integers(0, 64).map(lambda k: k / 64),
)
def test_every_draw_of_a_small_vocabulary(logits: list[float], temperature: float, top_p: float) -> None:
    check_draws(logits, temperature, top_p, n=200)


@property_test(60)
@hypothesis.given(
    n=st.integers(1000, 30_000),
    levels=st.integers(1, 400),
    width=st.sampled_from([0.0, 0.5, 8.0, 60.0]),
    excluded=st.sampled_from([0.0, 0.5, 0.999]),
    top_p=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**16),
)
def test_every_draw_of_a_large_vocabulary_with_ties(
    n: int, levels: int, width: float, excluded: float, top_p: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, levels, n) * (width / levels)
    logits[1:][rng.random(n - 1) < excluded] = -INF
    check_draws(logits, 1.0, top_p, n=100, seed=seed)


# ---- cuts that can be counted by hand ----

HALVES = LOG([0.5, 0.25, 0.25])
QUARTER = [0.0] * 4

CUTS = [
    ("reaches exactly", HALVES, 1.0, 0.5, {0}),
    ("crosses", HALVES, 1.0, 0.51, {0, 1}),
    ("the first of a tie", HALVES, 1.0, 0.75, {0, 1}),
    ("both of a tie", HALVES, 1.0, 0.76, {0, 1, 2}),
    ("everything", HALVES, 1.0, 1.0, {0, 1, 2}),
    ("nothing is one token", HALVES, 1.0, 0.0, {0}),
    ("the largest stands last", HALVES[::-1], 1.0, 0.5, {2}),
    ("the first of a tie, last largest", HALVES[::-1], 1.0, 0.75, {0, 2}),
    ("four equal, a quarter", QUARTER, 1.0, 0.25, {0}),
    ("four equal, half", QUARTER, 1.0, 0.5, {0, 1}),
    ("four equal, more than half", QUARTER, 1.0, 0.5001, {0, 1, 2}),
    ("four equal, all", QUARTER, 1.0, 1.0, {0, 1, 2, 3}),
    ("four equal, any temperature", QUARTER, 1.9, 0.5, {0, 1}),
    ("-inf is out", [-INF, 0.0, -INF, 0.0], 1.0, 1.0, {1, 3}),
    ("-inf counts for nothing", [-INF, 0.0, -INF, 0.0], 1.0, 0.5, {1}),
    ("one token left", [-INF, -50.0, -INF], 1.0, 1.0, {1}),
    ("one token", [3.0], 0.7, 0.5, {0}),
    ("one token, very unlikely", [-1e30], 0.7, 1.0, {0}),
    ("far apart", [0.0, -200.0], 1.0, 1.0, {0}),
    ("as near as T is small", [-1e-45, 0.0], 1e-45, 0.73, {1}),  # 0.731 and 0.269
    ("as near as T is small, both", [-1e-45, 0.0], 1e-45, 0.74, {0, 1}),
    # p = 0.5, 0.25, 0.25 at T = 1; squared by T = 1/2: 2/3, 1/6, 1/6; its root at T = 2: 0.414, 0.293, 0.293
    ("colder", HALVES, 0.5, 0.6, {0}),
    ("warmer", HALVES, 2.0, 0.6, {0, 1}),
    ("warmer, all", HALVES, 2.0, 0.71, {0, 1, 2}),
]


@pytest.mark.parametrize(("logits", "temperature", "top_p", "tokens"), [c[1:] for c in CUTS], ids=[c[0] for c in CUTS])
def test_the_cut(logits: Any, temperature: float, top_p: float, tokens: set[int]) -> None:
    assert set(draw(logits, temperature, top_p, n=500, seed=3).tolist()) == tokens


def test_first_scale_then_cut() -> None:
    # p = 0.6, 0.3, 0.1. Cut at 0.7 first: {0, 1}. At T = 2 first: p = 0.473, 0.334, 0.193, and cut: {0, 1}.
    # At 0.85 the two differ: cut first still gives {0, 1}; scaled first, 0.807 is too little: {0, 1, 2}.
    logits = LOG([0.6, 0.3, 0.1])
    assert set(draw(logits, 1.0, 0.85, n=500, seed=3).tolist()) == {0, 1}
    assert set(draw(logits, 2.0, 0.85, n=500, seed=3).tolist()) == {0, 1, 2}
    # and colder the other way round: at T = 1/2, p = 0.783, 0.196, 0.022: cut first gives {0, 1}, scaled first {0}
    assert set(draw(logits, 0.5, 0.75, n=500, seed=3).tolist()) == {0}
    assert set(draw(logits, 1.0, 0.75, n=500, seed=3).tolist()) == {0, 1}


@pytest.mark.parametrize(("top_p", "size"), [(0.5, 50_000), (0.25, 25_000), (0.125, 12_500), (1.0, 100_000)])
def test_equal_logits_keep_their_share(top_p: float, size: int) -> None:
    n = 1500
    tokens = draw(np.full(100_000, -3.25), 1.3, top_p, n=n, seed=11)
    assert tokens.tolist() == np.floor(reference.uniforms(11, n) * size).tolist()


# ---- how many tokens a cut keeps: what the trace of a Llama says ----

SIXTEENTHS = LOG(np.array([8, 4, 2, 1, 1]) / 16)
NUCLEI = [
    (SIXTEENTHS, 1.0, 0.0, 1),
    (SIXTEENTHS, 1.0, 0.5, 1),
    (SIXTEENTHS, 1.0, 0.5001, 2),
    (SIXTEENTHS, 1.0, 0.75, 2),
    (SIXTEENTHS, 1.0, 0.876, 4),
    (SIXTEENTHS, 1.0, 0.95, 5),
    (SIXTEENTHS, 1.0, 1.0, 5),
    (SIXTEENTHS, 0.0, 1.0, 1),
    (SIXTEENTHS, 0.5, 0.8, 2),  # p = 64, 16, 4, 1, 1 of 86: 0.744, 0.930
    (SIXTEENTHS, 2.0, 0.75, 3),  # p = 2.83, 2, 1.41, 1, 1 of 8.24: 0.343, 0.586, 0.757
    ([0.0] * 8, 1.0, 0.25, 2),
    ([0.0] * 8, 1.0, 0.26, 3),
    ([0.0] * 8, 0.1, 1.0, 8),
    ([3.0], 1.0, 1.0, 1),
    ([0.0] * 384, 1.0, 0.5, 192),
    ([0.0, -200.0], 1.0, 1.0, 1),
]


@pytest.fixture(scope="module")
def token_from(merged: Path) -> Callable[..., TraceToken]:
    """Draws one token from given logits; the rest of the model's 384 is excluded."""
    llm = load(merged, heads_enabled=(), n_threads=1, n_threads_batch=1)

    def draw_one(logits: Any, temperature: float, top_p: float) -> TraceToken:
        row = np.append(np.asarray(logits, np.float32), np.full(384 - len(logits), -INF, np.float32))
        instead = LogitsProcessorList([lambda _, __: row])
        llm.create_completion([0], max_tokens=1, temperature=temperature, top_p=top_p, logits_processor=instead)
        return llm.trace[0]

    return draw_one


@pytest.mark.parametrize(("logits", "temperature", "top_p", "nucleus"), NUCLEI)
def test_nucleus(token_from: Any, logits: Any, temperature: float, top_p: float, nucleus: int) -> None:
    found = token_from(logits, temperature, top_p)
    assert found.nucleus == nucleus
    assert found.prob == pytest.approx(reference.distribution(logits, temperature, top_p)[found.id], rel=1e-5)


@pytest.mark.parametrize("levels", [2, 5, 40, 100_000], ids=lambda n: f"{n} levels")
@pytest.mark.parametrize("spread", [0.5, 5.0, 50.0])
def test_nucleus_of_random_logits(token_from: Any, levels: int, spread: float) -> None:
    rng = np.random.default_rng(levels)
    for n in (2, 3, 8, 9, 63, 64, 65, 200, 384):
        logits = rng.integers(0, levels, n) * (spread / levels)
        for top_p in (0.01, 0.125, 0.3, 0.5, 0.75, 0.9, 0.95, 0.999, *rng.random(4)):
            found = token_from(logits, 0.8, top_p)
            low, high = (int(reference.nucleus(logits, 0.8, top_p, s).sum()) for s in (-3e-6, 3e-6))
            assert low <= found.nucleus <= high, (n, top_p)


# ---- greedy ----


@pytest.mark.parametrize("temperature", [0.0, 1e-46, 1e-40, 1e-8, 1e-4], ids=str)
@pytest.mark.parametrize("n", [1, 5, 63, 1000, 20_000])
def test_no_temperature_is_greedy(n: int, temperature: float) -> None:
    logits = np.random.default_rng(n).permutation(n) * 0.01  # neighbours 0.01 apart
    assert set(draw(logits, temperature, 1.0, n=20, seed=1).tolist()) == {int(logits.argmax())}


@pytest.mark.parametrize("top_p", [0.0, 0.5, 1.0])
def test_at_temperature_0_the_first_of_equal_ones(top_p: float) -> None:
    assert draw([1.0, 5.0, 5.0, 2.0, 5.0], 0.0, top_p, n=50, seed=1).tolist() == [1] * 50


def test_near_temperature_0_equal_ones_stay_equal() -> None:
    assert set(draw([1.0, 5.0, 5.0, 2.0], 1e-6, 1.0, n=50, seed=1).tolist()) == {1, 2}


@pytest.mark.parametrize("top_p", [0.0, 1e-30, 1e-6], ids=str)
@pytest.mark.parametrize("name", ["peaked", "flat", "zipf"])
def test_no_mass_is_one_token(name: str, top_p: float) -> None:
    logits = distribution(name, 20_000)
    assert draw(logits, 1.6, top_p, n=30, seed=1).tolist() == [int(logits.argmax())] * 30


# ---- seeds ----


def test_the_same_seed_gives_the_same_tokens() -> None:
    logits = distribution("flat", 1000)
    first, again, other = (draw(logits, n=50, seed=s).tolist() for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_more_draws_begin_with_the_same() -> None:
    logits = distribution("flat", 1000)
    assert draw(logits, n=50, seed=1).tolist()[:10] == draw(logits, n=10, seed=1).tolist()


@pytest.mark.parametrize("seed", [None, -1, 2**32 - 1], ids=["none", "minus one", "llama.cpp's default"])
def test_no_seed_is_a_random_one(seed: int | None) -> None:
    logits = distribution("flat", 1000)
    assert draw(logits, n=20, seed=seed).tolist() != draw(logits, n=20, seed=seed).tolist()


def test_a_seed_has_32_bits() -> None:
    logits = distribution("flat", 1000)
    assert draw(logits, n=20, seed=5).tolist() == draw(logits, n=20, seed=2**32 + 5).tolist()


def test_the_tokens_of_a_seed_are_fixed() -> None:
    # u = 0.4170, 0.7203, 0.0001, 0.3023, 0.1468: numpy.random.RandomState(1)
    assert draw(np.zeros(1000), n=5, seed=1).tolist() == [417, 720, 0, 302, 146]


# ---- bad input ----

BAD = [
    ("nan", [0.0, math.nan], {}, "a logit is NaN or \\+inf"),
    ("nan among many", [0.0] * 999 + [math.nan], {}, "a logit is NaN or \\+inf"),
    ("negative nan", [0.0, -math.nan], {}, "a logit is NaN or \\+inf"),
    ("+inf", [0.0, INF], {}, "a logit is NaN or \\+inf"),
    ("nan and -inf", [-INF, math.nan], {}, "a logit is NaN or \\+inf"),
    ("nan, greedy", [0.0, math.nan], {"temperature": 0.0}, "a logit is NaN or \\+inf"),
    ("nan, one token", [0.0, math.nan], {"top_p": 0.0}, "a logit is NaN or \\+inf"),
    ("all -inf", [-INF] * 9, {}, "every logit is -inf"),
    ("all -inf, greedy", [-INF] * 9, {"temperature": 0.0}, "every logit is -inf"),
    ("no logits", [], {}, r"logits is \[0\], expected \[n_vocab\]"),
    ("two rows", [[0.0, 1.0]], {}, r"logits is \[1, 2\], expected \[n_vocab\]"),
    ("scalar", 0.0, {}, r"logits is \[\], expected \[n_vocab\]"),
    ("temperature < 0", [0.0], {"temperature": -0.1}, "temperature -0.1, expected a number >= 0"),
    ("temperature nan", [0.0], {"temperature": math.nan}, "temperature nan, expected"),
    ("temperature inf", [0.0], {"temperature": INF}, "temperature inf, expected"),
    ("top_p < 0", [0.0], {"top_p": -0.1}, r"top_p -0.1, expected a number in \[0, 1\]"),
    ("top_p > 1", [0.0], {"top_p": 1.1}, r"top_p 1.1, expected a number in \[0, 1\]"),
    ("top_p nan", [0.0], {"top_p": math.nan}, "top_p nan, expected"),
    ("n < 0", [0.0], {"n": -1}, "n -1, expected a whole number from 0 to 268435456"),
    ("n beyond any memory", [0.0], {"n": 2**62}, "n 4611686018427387904, expected a whole number from 0"),
    ("n no whole number", [0.0], {"n": 2.0}, "n 2.0, expected a whole number"),
]


@pytest.mark.parametrize(("logits", "kwargs", "match"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input(logits: Any, kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(AutoDecoError, match=match):
        draw(logits, **kwargs)


def test_no_draws_at_all() -> None:
    assert draw([0.0, 1.0], n=0).tolist() == []
