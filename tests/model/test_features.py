"""Streamed features: those of each sequence alone, and no more of them than are predicted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import load_case
from family_helpers import FAMILIES, Family
from training_helpers import predicted

from autodeco_gguf.model.context import Context
from autodeco_gguf.model.features import Features, Tokens, segments, stream, together
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training.module import HeadsModule, probability_features
from autodeco_gguf.training.objective import Objective, collect


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context(load_case("qwen2").base, n_ctx=256, n_seq=8, machine=Machine(n_threads=1))
    yield context
    context.close()


LENGTHS: dict[str, list[int]] = {
    "one": [7],
    "the shortest": [2, 2, 3],
    "mixed": [5, 40, 2, 17, 33],
    "more than n_seq": [6] * 11,
    "more than n_ctx": [200, 150, 90, 250, 30, 256, 256],
    "just n_ctx": [256],
    "more than n_outputs": [120, 60],
}


def masked(rng: np.random.Generator, n: int, turns: bool) -> Tokens:
    """A sequence of which several stretches are predicted, or all but a beginning."""
    tokens = rng.integers(3, 380, n).astype(np.int32)
    if not turns:
        return predicted(*tokens.tolist(), after=int(rng.integers(1, n)))
    mask = np.repeat(rng.random(n) < 0.5, rng.integers(1, 6, n))[:n]
    mask[0] = False
    mask[-1] |= not mask.any()
    return np.where(mask, ~tokens, tokens)


@pytest.mark.parametrize("turns", [False, True], ids=["answers", "turns"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3_moe"])
def test_features_are_those_of_each_sequence_alone(name: str, lengths: str, turns: bool) -> None:
    base = load_case(name).base
    rng = np.random.default_rng(len(lengths))
    batch = [masked(rng, n, turns) for n in LENGTHS[lengths]]
    together = Context(base, n_ctx=256, n_seq=4, machine=Machine(n_threads=1, cache_type="f32"))
    together.n_outputs = 50 if lengths == "more than n_outputs" else 512
    rows: list[list[tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]]] = [[] for _ in batch]
    for part in stream(together, batch):
        assert 0 < len(part.target) <= together.n_outputs
        for s, target, hidden, logits in zip(part.sequence, part.target, part.hidden, part.logits, strict=True):
            rows[s].append((int(target), hidden.copy(), logits.copy()))
    together.close()
    alone = Context(base, n_ctx=256, machine=Machine(n_threads=1, cache_type="f32"))
    for tokens, got in zip(batch, rows, strict=True):
        ids = np.where(tokens < 0, ~tokens, tokens)
        alone.clear()
        alone_logits, alone_hidden = alone.decode(ids, range(len(ids)), [0] * len(ids), hidden=True)
        assert alone_hidden is not None
        places = np.flatnonzero(tokens[1:] < 0)
        assert [target for target, _, _ in got] == ids[places + 1].tolist()
        np.testing.assert_allclose([h for _, h, _ in got], alone_hidden[places], atol=1e-4)
        np.testing.assert_allclose([x for _, _, x in got], alone_logits[places], atol=1e-4)
    alone.close()


def test_only_what_is_predicted_is_an_output(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    original = Context.decode
    monkeypatch.setattr(
        Context, "decode", lambda self, tokens, *a, **k: outputs.append(len(tokens)) or original(self, tokens, *a, **k)
    )
    batch = [predicted(*range(3, 103), after=90), predicted(*range(3, 53), after=49)]
    assert sum(len(part.target) for part in stream(context, batch)) == 11
    assert outputs == [11]


def test_segments() -> None:
    for tokens, expected in (
        ([5, ~6], [(0, 0), (0, 1)]),
        ([5, 6, ~7, ~8], [(0, 1), (1, 3)]),
        ([5, ~6, 7, 8, ~9], [(0, 0), (0, 1), (1, 3), (3, 4)]),
        ([5, ~6, 7], [(0, 0), (0, 1), (1, 2)]),
    ):
        assert segments(np.array(tokens, np.int32)) == expected


HEAD, BODY = [*range(20, 60)], [*range(70, 103)]
BEGIN_ALIKE: dict[str, tuple[list[list[int]], int]] = {
    "a short prompt of several": ([[5, 6, 7, 8], [5, 6, 7, 8, 9], [5, 6, 7, 8], [5, 6, 7, 8], [3]], 3 + 1),
    "answers to one problem": ([[*HEAD, 7, 8], [*HEAD, 7, 8, 9], [*HEAD, 7, 8], [*HEAD, 7, 8], [3]], 40 + 1 + 1),
    "commands": ([[*HEAD, *BODY, 5, 6], [*HEAD, *BODY, 7, 6], [*HEAD, 8, 9], [*HEAD, *BODY, 9, 6]], 40 + 33 + 4),
    "too little in common": ([[5, 6, 7, 8, 9], [5, 6, 9, 8]], 4 + 3),
    "nothing in common": ([[*HEAD, 5], [*BODY, 5]], 40 + 33),
}
"""Prompts, and how many tokens of them are read; the last of each predicts, so that it is not among them."""


@pytest.mark.parametrize("name", BEGIN_ALIKE)
@pytest.mark.parametrize(
    ("base", "atol"),
    [(load_case("qwen2").base, 2e-5), (FAMILIES / "mamba2.gguf", 1e-4)],
    ids=["qwen2", "mamba2"],
)
def test_what_prompts_begin_with_alike_is_read_once(
    base: Path, atol: float, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, n_read = BEGIN_ALIKE[name]
    batch = [np.array([*prompt, ~10, ~(11 + i)], np.int32) for i, prompt in enumerate(prompts)]
    read: list[int] = []
    fill = Context.fill
    monkeypatch.setattr(Context, "fill", lambda self, ids, *rest: (read.extend(ids), fill(self, ids, *rest))[1])

    def features(n_seq: int) -> Any:
        context = Context(base, n_ctx=128, n_seq=n_seq, machine=Machine(cache_type="f32"))
        parts = [(p.sequence, p.target, p.hidden.copy(), p.logits.copy()) for p in stream(context, batch)]
        context.close()
        order = np.lexsort((np.concatenate([p[1] for p in parts]), np.concatenate([p[0] for p in parts])))
        return [np.concatenate(column)[order] for column in zip(*parts, strict=True)]

    together = features(5)
    assert len(read) == n_read
    read.clear()
    alone = features(1)
    assert len(read) == sum(len(prompt) - 1 for prompt in prompts)
    for got, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(got, expected, atol=atol)


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [([5, 3], [4, 1, 3]), ([1, 1, 1, 1, 1], [4, 1]), ([40], [4] * 10), ([2, 9, 3], [4, 4, 1, 5]), ([], [])],
)
def test_positions_together_are_the_same_positions(lengths: list[int], sizes: list[int]) -> None:
    rng = np.random.default_rng(1)
    buffer = np.zeros((40, 8), np.float32)
    given: list[bytes] = []

    def parts() -> Iterator[Features]:
        for n in lengths:  # llama.cpp's buffers are used again
            buffer[:n] = rng.random((n, 8))
            given.extend(row.tobytes() for row in buffer[:n])
            yield Features(np.arange(n), buffer[:n, 0].view(np.int32).astype(np.int64), buffer[:n, :3], buffer[:n])

    found, n_rows = [], []
    for part in together(parts(), 8 * 4):
        found += [row.tobytes() for row in part.logits]
        n_rows.append(len(part))
        np.testing.assert_array_equal(part.hidden, part.logits[:, :3])
        np.testing.assert_array_equal(part.target, part.logits[:, 0].view(np.int32))
    assert sorted(found) == sorted(given)
    assert n_rows == sizes


def test_the_heads_are_trained_on_raw_logits(tmp_path: Path) -> None:
    """Of an architecture that scales its logits, the top-p head's features are those before, the losses those after."""
    family = Family("granite", tmp_path)
    context = Context(family.base, n_ctx=64, machine=Machine(n_threads=1, cache_type="f32"))
    ids = np.array(family.tokens, np.int32)
    tokens = np.where(np.arange(len(ids)) >= 5, ~ids, ids)
    (at,) = together(stream(context, [tokens]), 1 << 20)
    assert at.raw is not None
    np.testing.assert_allclose(at.raw, family.raw[4:-1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(at.logits, at.raw / 4.0, rtol=0, atol=1e-5)
    assert at[2:3].raw is not None
    assert len(at[2:3].raw) == 1
    heads = HeadsModule(32, 0)
    features = collect(heads, [at], len(at), Objective(), None, torch.zeros(0, 3, dtype=torch.long)).features
    expected = probability_features(torch.from_numpy(at.raw), features[:, 0])
    torch.testing.assert_close(features, expected)
    context.close()
