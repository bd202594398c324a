"""The draw from what a device gives out of a row of logits: the tokens of the whole row, or none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from conftest import Case, load
from fake_devices import fake_devices
from family_helpers import NAMES, Family
from llama_cpp import LogitsProcessorList
from llama_cpp import llama_cpp as lib

import autodeco_gguf as ad
from autodeco_gguf._native import core
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.model.sampler import address
from autodeco_gguf.model.shipped import DEMO_MODEL
from model.test_sampler_draw import distribution, p_value

INF = math.inf
LISTED = 512
"""What csrc/shortlist.h calls SHORTLIST."""

Drawn = tuple[list[int], np.ndarray[Any, Any]]


def by_list(logits: Any, temperature: float, top_p: float, n: int = 60) -> tuple[int, Any]:
    """How many of n draws the list decides, each of which is that of the whole row, and their nuclei."""
    row = np.asarray(logits, np.float32)
    tokens, nuclei, probs, _ = core.draw_on("CPU", row, temperature, top_p, n, 7)
    decided = tokens >= 0
    np.testing.assert_array_equal(tokens[decided], core.draw(row, temperature, top_p, n, 7)[decided])
    p = reference.distribution(row, temperature, top_p)
    np.testing.assert_allclose(probs[decided], p[tokens[decided]], rtol=2e-5)
    assert (nuclei[decided] == np.count_nonzero(p)).all()
    return int(decided.sum()), nuclei[decided]


# ---- one row ----


@pytest.mark.parametrize("n", [1, 7, 8, 64, 511, 512, 513, 4097, 30_000, 151_936])
@pytest.mark.parametrize("name", ["peaked", "flat", "zipf"])
def test_what_is_decided_is_the_draw_of_the_whole_row(name: str, n: int) -> None:
    logits = distribution(name, n)
    expected, decided = 0, 0
    for temperature in (0.0, 1e-3, 0.3, 0.7, 2.0, 100.0):
        for top_p in (0.0, 1e-6, 0.3, 0.5, 0.9, 0.999):
            n_decided, _ = by_list(logits, temperature, top_p)
            if n <= LISTED or temperature == 0 or (name == "peaked" and temperature < 1 and top_p <= 0.9):
                expected, decided = expected + 1, decided + (n_decided == 60)
    assert decided >= expected - 1  # one cut may be where rounding leaves it open


@pytest.mark.parametrize("n", [300, 600])
def test_without_a_cut_the_whole_row_is_wanted(n: int) -> None:
    assert by_list(distribution("peaked", n), 0.7, 1.0)[0] == 0
    assert by_list(distribution("peaked", n), 0.0, 1.0)[0] == 60


@pytest.mark.parametrize(("kept", "n_decided"), [(300, 60), (511, 60), (512, 0), (513, 0), (599, 0)])
def test_a_nucleus_that_the_list_holds_and_one_that_it_does_not(kept: int, n_decided: int) -> None:
    """Whether a token behind the list weighs as much as the last in it is not known."""
    weights = 1.0 - np.arange(600) / 1000
    logits = np.random.default_rng(0).permutation(np.log(weights))
    found, nuclei = by_list(logits, 1.0, (weights[:kept].sum() - 0.1) / weights.sum())
    assert found == n_decided
    assert set(nuclei.tolist()) <= {kept}


def test_ties() -> None:
    rng = np.random.default_rng(1)
    for levels, n in ((1, 500), (3, 500), (12, 5_000)):
        logits, n_decided = -2.0 * rng.integers(0, levels, n), 0
        for temperature in (0.0, 0.25, 1.0, 3.0):
            for top_p in (1e-6, 0.1003, 0.5003, 0.9003):
                n_decided += by_list(logits, temperature, top_p)[0]
        assert n_decided == 16 * 60 if n <= LISTED else n_decided > 0
    # 600 are the largest: which of them are in the list is not known
    assert by_list(np.zeros(600), 0.0, 0.5)[0] == by_list(np.zeros(600), 1.0, 1e-6)[0] == 0
    assert by_list(np.zeros(600), 1.0, 0.5)[0] == 0
    # the same at high temperature, where different logits have the same weight
    assert by_list(np.linspace(0.0, 1e-6, 600), 100.0, 0.5)[0] == 0


def test_masked_logits() -> None:
    logits = distribution("peaked", 3_000)
    logits[np.random.default_rng(2).random(3_000) < 0.9] = -INF
    assert [by_list(logits, 0.7, top_p)[0] for top_p in (0.1, 0.5, 0.9)] == [60, 60, 60]
    few = np.full(3_000, -INF)
    few[[5, 900, 2_999]] = 0.0, 1.0, 2.0
    for temperature, top_p in ((0.0, 1.0), (1.0, 0.5), (1.0, 0.9), (50.0, 0.99)):
        assert by_list(few, temperature, top_p)[0] == 60


@pytest.mark.parametrize("n", [40, 1_000])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_what_is_not_finite_is_left_to_the_whole_row(n: int, temperature: float) -> None:
    for where in (0, n // 2, n - 1):
        for value in (math.nan, INF):
            logits = distribution("peaked", n)
            logits[where] = value
            assert (core.draw_on("CPU", logits, temperature, 0.9, 5, 1)[0] == -1).all()
    assert (core.draw_on("CPU", np.full(n, -INF, np.float32), temperature, 0.9, 5, 1)[0] == -1).all()


def test_a_cut_that_rounding_leaves_open_is_left_to_the_whole_row() -> None:
    p = np.array([0.5, 0.25, 0.125, 0.125])
    for top_p, n_decided in ((0.5, 0), (0.75, 0), (0.875, 0), (0.5 + 2e-5, 60), (0.75 - 2e-5, 60), (0.875 + 2e-5, 60)):
        assert by_list(np.log(p), 1.0, top_p)[0] == n_decided


def test_the_distribution() -> None:
    logits, n = distribution("zipf", 20_000), 200_000
    tokens = core.draw_on("CPU", logits, 0.6, 0.75, n, 3)[0]
    assert (tokens >= 0).all()
    assert p_value(tokens, reference.distribution(logits, 0.6, 0.75)) > 1e-4


@pytest.mark.parametrize("n", [1, 30, 4_000, 49_152])
def test_the_entropy(n: int) -> None:
    for logits in (distribution("peaked", n), distribution("flat", n), np.r_[distribution("zipf", n), -INF]):
        row = logits.astype(np.float32)
        p = reference.distribution(row, 1.0, 1.0)
        expected = -np.sum(p[p > 0] * np.log(p[p > 0]))
        assert core.draw_on("CPU", row, 0.7, 0.9, 1, 1)[3] == pytest.approx(expected, abs=1e-5)


def test_bad_arguments() -> None:
    with pytest.raises(InvalidInput, match=r"^no device CUDA9; this build has "):
        core.draw_on("CUDA9", np.zeros(3, np.float32), 1.0, 0.9, 1, 1)
    with pytest.raises(InvalidInput, match=r"^draw: logits is \[1, 3\]"):
        core.draw_on("CPU", np.zeros((1, 3), np.float32), 1.0, 0.9, 1, 1)
    with (
        fake_devices("FAKE0", lacks=["TOP_K"]),
        pytest.raises(ModelFailed, match=r"^device FAKE0 has no operation TOP_K$"),
    ):
        core.draw_on("FAKE0", np.zeros(3, np.float32), 1.0, 0.9, 1, 1)


# ---- a model ----


def listed(llama: ad.Llama) -> int:
    """Tokens of the last generation that a shortlist decided."""
    return 0 if llama._last is None else llama._last.native.n_listed


def answer(llama: ad.Llama, prompt: Any, **kwargs: Any) -> Drawn:
    llama.create_completion(prompt, **{"max_tokens": 24, "seed": 5, **kwargs})
    return [t.id for t in llama.trace], np.array(
        [[t.temperature, t.top_p, t.entropy, t.nucleus, t.prob] for t in llama.trace]
    )


def both(
    patch: pytest.MonkeyPatch, path: Path, prompt: Any, ways: list[dict[str, Any]], **kwargs: Any
) -> list[tuple[int, int]]:
    """Draws each way on the host and on the CPU device, which gives the same; of each, tokens listed, and in all."""
    patch.setenv("AUTODECO_DRAW", "host")
    llama = load(path, **kwargs)
    expected = [answer(llama, prompt, **way) for way in ways]
    llama.close()
    patch.setenv("AUTODECO_DRAW", "device")
    llama = load(path, **kwargs)
    counts = []
    for way, (tokens, values) in zip(ways, expected, strict=True):
        found = answer(llama, prompt, **way)
        assert found[0] == tokens
        np.testing.assert_allclose(found[1], values, rtol=0, atol=2e-5)
        counts.append((listed(llama), len(tokens)))
    llama.close()
    return counts


WAYS: list[dict[str, Any]] = [
    {},
    {"seed": 6},
    {"temperature": 0.0},
    {"top_p": 0.5},
    {"top_p": 1e-6},
    {"top_p": 1.0},
    {"temperature": 0.7},
    {"temperature": 2.0, "top_p": 0.9},
    {"repeat_penalty": 1.3},
    {"top_k": 20},
    {"logits_processor": LogitsProcessorList([lambda _, scores: scores * 0.5])},
    {"logit_bias": {9: 2.0}},
]
N_LISTED = 5
"""Of these ways, the first that a list may decide."""


def test_every_fixture(case: Case, merged_of: Callable[[Case], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    counts = both(monkeypatch, merged_of(case), case.tokens, WAYS, f32_cache=True)
    cut = case.name != "qwen2_temp_only"  # else the top-p is 1
    for i, (n_listed, n) in enumerate(counts):
        if i < N_LISTED and (cut or i >= 2):
            assert n - 3 <= n_listed <= n  # those whose cut rounding leaves open
        else:
            assert n_listed == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_family(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family(name, tmp_path)
    counts = both(monkeypatch, family.merged, family.tokens, WAYS[:4], f32_cache=True)
    assert all(n - 3 <= n_listed <= n for n_listed, n in counts)


def test_the_demo_model_needs_no_whole_row(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = "Tell a story about Mia with 47 and 38."
    ways = [{"seed": seed, "max_tokens": 100} for seed in range(4)]
    counts = both(monkeypatch, Path(DEMO_MODEL), prompt, ways)
    assert sum(n for _, n in counts) > 150
    assert sum(n - n_listed for n_listed, n in counts) <= 2


def test_what_a_list_decides_leaves_no_trace_where_none_is_kept(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTODECO_DRAW", "device")
    silent = load(merged, trace=False)
    n_tokens = silent.create_completion([5, 6, 7], max_tokens=8, seed=5)["usage"]["completion_tokens"]
    assert (listed(silent), silent.trace[:]) == (n_tokens, [])
    silent.close()


def host_logits(llama: ad.Llama) -> Any:
    """What llama.cpp's own buffer on the host holds."""
    return np.ctypeslib.as_array(lib.llama_get_logits_ith(llama.ctx, -1), (llama.n_vocab(),))


def test_logits_stay_where_they_are_until_somebody_reads_them(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTODECO_DRAW", "host")
    plain = load(merged, f32_cache=True)
    monkeypatch.setenv("AUTODECO_DRAW", "device")
    llama = load(merged, f32_cache=True)
    for each in (plain, llama):
        each.eval([5, 6, 7])
    np.testing.assert_array_equal(host_logits(llama), host_logits(plain))
    assert host_logits(llama).any()
    tokens = llama.generate([5, 6, 7, 8])
    host_logits(llama)[:] = 0.0
    next(tokens)
    assert not host_logits(llama).any()
    plain.eval([8])
    np.testing.assert_array_equal(core.logits(address(llama.ctx), -1), host_logits(plain))
    for each in (plain, llama):
        each.close()


def test_predictions_for_a_text_and_states_between_answers(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTODECO_DRAW", "device")
    llama = load(merged, f32_cache=True)
    first = answer(llama, [5, 6, 7])
    state = llama.save_state()
    text = [5, 6, 7, *first[0][:-1]]
    t, p = llama.predict(text)
    np.testing.assert_allclose(np.stack([t, p])[:, 2:].T, first[1][:, :2], atol=1e-5)
    assert answer(llama, [5, 6, 7])[0] == first[0]
    llama.load_state(state)
    assert answer(llama, [5, 6, 7])[0] == first[0]
    assert listed(llama) == len(first[0])
    llama.close()


def test_there_is_no_list_before_a_decode(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTODECO_DRAW", "device")
    llama = load(merged)
    llama.eval([5, 6, 7])
    llama._predictor.detach()
    llama._predictor.attach_last(llama.ctx)
    words = r"^the logits of output -1 were left on the device, and are gone$"
    with pytest.raises(ModelFailed, match=words):
        llama.sample()
    with pytest.raises(ModelFailed, match=words):
        core.logits(address(llama.ctx), -1)
    llama.close()


# ---- where ----


def test_on_a_device_that_is_not_the_cpu_unless_told_otherwise(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTODECO_DRAW", raising=False)
    llama = load(merged)
    expected = answer(llama, [5, 6, 7])[0]
    assert listed(llama) == 0
    llama.close()
    with fake_devices("FAKE0"):
        for way, n_listed in ((None, len(expected)), ("device", len(expected)), ("host", 0)):
            if way is not None:
                monkeypatch.setenv("AUTODECO_DRAW", way)
            llama = load(merged, n_gpu_layers=-1)
            assert answer(llama, [5, 6, 7])[0] == expected
            assert listed(llama) == n_listed
            llama.close()


def test_a_device_that_lacks_an_operation_of_the_draw_alone(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTODECO_DRAW", raising=False)
    one = {"heads_enabled": ["temperature"]}  # needs no TOP_K
    llama = load(merged, **one)
    expected = answer(llama, [5, 6, 7], top_p=0.5)[0]
    llama.close()
    words = "^device FAKE0 has no operation TOP_K: tokens are drawn on the CPU$"
    with fake_devices("FAKE0", lacks=["TOP_K"]):
        with pytest.warns(RuntimeWarning, match=words):
            llama = load(merged, n_gpu_layers=-1, **one)
        assert answer(llama, [5, 6, 7], top_p=0.5)[0] == expected
        assert llama._predictor.attached
        assert listed(llama) == 0
        llama.close()


def test_another_word_is_refused(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTODECO_DRAW", "gpu")
    with pytest.raises(InvalidInput, match=r"^AUTODECO_DRAW 'gpu', expected 'host', 'device' or 'auto'$"):
        load(merged)
