"""The report: every figure by NumPy, every verdict in words."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from conftest import Case
from training_helpers import module_of, random_features

from autodeco_gguf import Heads
from autodeco_gguf.heads.checkpoint import read_checkpoint
from autodeco_gguf.training import report as report_module
from autodeco_gguf.training.report import GRID, ReportRow, report, verdict
from autodeco_gguf.training.settings import Objective

pytestmark = pytest.mark.usefixtures("one_thread")


def softly_cut(logits: np.ndarray[Any, Any], target: np.ndarray[Any, Any], t: Any, p: Any) -> np.ndarray[Any, Any]:
    """Negative log-likelihoods in float64 NumPy."""
    n = len(target)
    t, p = np.broadcast_to(t, n).astype(np.float64), np.broadcast_to(p, n).astype(np.float64)
    scaled = logits.astype(np.float64) / t[:, None]
    probs = np.exp(scaled - scaled.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    order = np.argsort(-probs, 1)
    mask = np.exp(-30.0 * np.maximum(np.take_along_axis(probs, order, 1).cumsum(1) - p[:, None], 0.0))
    kept = np.take_along_axis(probs, order, 1) * mask
    floor = 1e-9 if (p < 2.0).all() else 0.0  # as in training, where there is a cut
    kept /= kept.sum(1, keepdims=True) + floor
    return np.asarray(-np.log(kept[order == target[:, None]] + floor))


def test_the_report_by_numpy(qwen2: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, _ = random_features(n=90, hidden=64, n_vocab=384)
    monkeypatch.setattr(report_module, "LEAST_EXAMPLES", 7)
    monkeypatch.setattr(report_module, "LEAST_TOKENS", 90)
    heads = module_of(qwen2)
    got = report(heads, Objective(), lambda: iter(parts))
    hidden, logits, target, example = (
        np.concatenate([getattr(f, name) for f in parts]) for name in ("hidden", "logits", "target", "sequence")
    )
    t, p = Heads(read_checkpoint(qwen2.heads).weights).evaluate(hidden, logits)
    single = [softly_cut(logits, target, x, 2.0) for x in GRID]
    best = int(np.argmin([s.mean() for s in single]))
    columns = {
        "T = 1": (1.0, 1.0, single[GRID.index(1.0)]),
        "best single T": (GRID[best], 1.0, single[best]),
        "mean-shift": (t.mean(), p.mean(), softly_cut(logits, target, t.mean(), p.mean())),
        "heads, T alone": (t.mean(), 1.0, softly_cut(logits, target, t, 2.0)),
        "heads": (t.mean(), p.mean(), softly_cut(logits, target, t, p)),
    }
    assert [m.name for m in got.methods] == list(columns)
    assert (got.examples, got.tokens) == (7, 90)
    for method, (mean_t, mean_p, nll) in zip(got.methods, columns.values(), strict=True):
        difference = nll - columns["heads"][2]
        sums = np.array([(difference - difference.mean())[example == i].sum() for i in range(7)])
        without = sums / (1 - np.bincount(example) / 90)  # by the jackknife: of all others the mean is further away
        assert (method.temperature, method.top_p) == pytest.approx((mean_t, mean_p), rel=1e-5)
        assert method.nll == pytest.approx(nll.mean(), rel=1e-4)
        assert method.difference == pytest.approx(difference.mean(), abs=1e-4)
        assert method.standard_error == pytest.approx(math.sqrt((without**2).sum() * 6 / 7) / 90, rel=1e-3, abs=1e-6)
    assert got.verdict == verdict(got.methods, Objective())
    assert json.loads(json.dumps(asdict(got)))["methods"][4]["name"] == "heads"


def test_the_verdict_on_one_head_tells_of_no_cut(qwen2: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose T alone is the head itself."""
    monkeypatch.setattr(report_module, "is_too_little", lambda *_: False)
    monkeypatch.setattr(report_module, "verdict", lambda methods, _: ", ".join(m.name for m in methods))
    parts, _ = random_features(n=90, hidden=64, n_vocab=384)
    got = report(module_of(qwen2), Objective(heads=("temperature",)), lambda: iter(parts))
    assert got.verdict == "T = 1, best single T, mean-shift, heads"


def test_the_report_of_one_head(qwen2: Case) -> None:
    """The other head's constant is 1; a mean-shift of T alone is no cut."""
    parts, _ = random_features(n=30, hidden=64, n_vocab=384)
    got = report(module_of(qwen2), Objective(heads=("temperature",)), lambda: iter(parts))
    logits, target = (np.concatenate([getattr(f, name) for f in parts]) for name in ("logits", "target"))
    shift = got.methods[2]
    assert [m.top_p for m in got.methods] == [1.0] * 4
    assert shift.nll == pytest.approx(softly_cut(logits, target, shift.temperature, 2.0).mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("tokens", "examples", "words"),
    [
        (30, 1, "30 tokens of 1 example are too few for a verdict: at least 200 of 10 are needed."),
        (4, 2, "4 tokens of 2 examples are too few for a verdict: at least 200 of 10 are needed."),
        (300, 9, "300 tokens of 9 examples are too few for a verdict: at least 200 of 10 are needed."),
        (199, 10, "199 tokens of 10 examples are too few for a verdict: at least 200 of 10 are needed."),
        (200, 10, None),
    ],
)
def test_little_gives_no_verdict(tokens: int, examples: int, words: str | None, qwen2: Case) -> None:
    (part,), _ = random_features(n=tokens, hidden=64, n_vocab=384, parts=1)
    part = replace(part, sequence=np.arange(tokens) % examples)
    got = report(module_of(qwen2), Objective(), lambda: iter([part]))
    assert (got.examples, got.tokens, got.verdict) == (examples, tokens, words or verdict(got.methods, Objective()))


def test_the_reports_cut_is_as_steep_as_that_of_the_training(qwen2: Case) -> None:
    parts, _ = random_features(n=30, hidden=64, n_vocab=384)
    steep, flat = (report(module_of(qwen2), Objective(alpha=a), lambda: iter(parts)).methods for a in (30.0, 1.0))
    assert [a.nll == b.nll for a, b in zip(steep, flat, strict=True)] == [True, True, False, True, False]


VERDICTS: dict[str, tuple[tuple[float, float], tuple[float, float], str]] = {
    "better": (
        (0.05, 0.01),
        (0.021, 0.01),
        "The heads predict better than constants (best single T 1.0500 and mean-shift 1.0210), "
        "by at least 0.0210 +- 0.0100 nats a token: it is the tokens they look at.",
    ),
    "no different": (
        (0.05, 0.01),
        (0.019, 0.01),
        "Constants do as well as the heads (mean-shift: 0.0190 +- 0.0100 nats a token apart): "
        "what they learnt is a better mean, not token-level control.",
    ),
    "a single T does as well": (
        (0.01, 0.01),
        (0.3, 0.01),
        "Constants do as well as the heads (best single T: 0.0100 +- 0.0100 nats a token apart). "
        "Their own means as constants do worse, by 0.3000 +- 0.0100.",
    ),
    "worse": (
        (-0.05, 0.01),
        (0.019, 0.01),
        "A constant predicts better than the heads: best single T, by 0.0500 +- 0.0100 nats a token.",
    ),
    "worse by what choosing it explains": (
        (-0.029, 0.01),
        (0.019, 0.01),
        "Constants do as well as the heads (best single T: 0.0290 +- 0.0100 nats a token apart).",
    ),
}


PLAIN = Objective(dynamic_fine_tuning=False)
MORE = " But the objective was not likelihood alone: whether answers get better, autodeco-gguf eval tells."


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name: str) -> None:
    single, shift, words = VERDICTS[name]
    methods = (
        ReportRow("T = 1", 1.0, 1.0, 1.5, 0.5, 0.01),
        ReportRow("best single T", 0.9, 1.0, 1.0 + single[0], *single),
        ReportRow("mean-shift", 0.8, 0.9, 1.0 + shift[0], *shift),
        ReportRow("heads", 0.8, 0.9, 1.0, 0.0, 0.0),
    )
    assert verdict(methods, PLAIN) == words
    assert verdict(methods, Objective()) == words + MORE * (name == "worse")
    useless, useful = (ReportRow("heads, T alone", 0.8, 1.0, nll, 0.0, 0.01) for nll in (1.2, 0.9))
    assert verdict((*methods, useless), PLAIN) == words
    told = verdict((*methods, useful), PLAIN)
    ending = " Their T alone does better than the constants (0.9000); the cut at P costs the rest."
    assert told == (words if name == "better" else words + ending)
