"""What is read of answers, against the same of each token alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from family_helpers import Family

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import Busy
from autodeco_gguf.explain import reading
from autodeco_gguf.explain.reading import CONSTANTS, Reading, read
from autodeco_gguf.explain.tokens import Floats
from autodeco_gguf.model.features import Tokens
from autodeco_gguf.model.llama import Llama
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL

PROMPTS = ("Tell a story about Mia with 47 and 38.", "Tell a story about Tom with 12 and 9.")
PROBLEMS = np.array([7, 3, 7])
"""Of the answers."""
MACHINE = Machine(n_threads=1, cache_type="f32", flash_attn=False)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(DEMO_MODEL, n_parallel=3, n_ctx=96, machine=MACHINE) as engine:
        yield engine


@pytest.fixture(scope="module")
def answers(engine: Engine) -> list[Tokens]:
    """Drawn at T = 1: two to the first prompt, one to the second, of different lengths."""
    drawn = []
    for prompt, n in ((PROMPTS[0], 30), (PROMPTS[1], 12), (PROMPTS[0], 21)):
        tokens = engine.prompt(prompt)
        (result,) = engine.generate([Request(tokens, seed=n, temperature=1.0, top_p=1.0, max_tokens=n)])
        drawn.append(np.array([*tokens, *(~t for t in result.tokens)], np.int32))
    return drawn


@pytest.fixture(scope="module")
def found(engine: Engine, answers: list[Tokens]) -> Reading:
    return read(engine, answers, PROBLEMS)


def alone(answers: list[Tokens]) -> tuple[Floats, Floats, list[int], Floats]:
    """T, P, right tokens and raw log-probabilities of all predicted positions, by Llama, one answer after the other."""
    llama = Llama(DEMO_MODEL, logits_all=True, n_ctx=96, verbose=False, n_threads=1, type_k=0, type_v=0)
    columns: list[tuple[float, float, int, Floats]] = []
    for signed in answers:
        tokens = np.where(signed < 0, ~signed, signed).tolist()
        llama.reset()
        t, p = llama.predict(tokens)
        llama.reset()
        llama.eval(tokens)
        for place in np.flatnonzero(signed[1:] < 0):
            logits = np.array(llama.scores[place], np.float64)
            columns.append((float(t[place]), float(p[place]), tokens[place + 1], logits))
    llama.close()
    t, p, right, logits = zip(*columns, strict=True)
    return np.array(t), np.array(p), list(right), np.array(logits)


def log_softmax(x: Floats) -> Floats:
    shifted = x - x.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def test_every_figure_is_that_of_the_token_alone(answers: list[Tokens], found: Reading) -> None:
    t, p, right, logits = alone(answers)
    n, b = len(t), 1 / t
    assert found.answer.tolist() == [0] * 30 + [1] * 12 + [2] * 21
    assert found.problem.tolist() == [1] * 30 + [0] * 12 + [1] * 21
    np.testing.assert_allclose(found.temperature, t, atol=1e-4)
    np.testing.assert_allclose(found.top_p, p, atol=1e-4)

    def at(i: int, b: float) -> float:
        return float(log_softmax(logits[i] * b)[right[i]])

    near = {"atol": 2e-3}
    mean_b, h = float(b.mean()), 1e-3
    np.testing.assert_allclose(found.value, [at(i, b[i]) for i in range(n)], **near)
    np.testing.assert_allclose(found.mean_value, [at(i, mean_b) for i in range(n)], **near)
    np.testing.assert_allclose(found.shift_value, [at(i, 1 / float(t.mean())) for i in range(n)], **near)
    slopes = [(at(i, mean_b + h) - at(i, mean_b - h)) / (2 * h) for i in range(n)]
    np.testing.assert_allclose(found.gradient, slopes, atol=5e-3)
    bends = [-(at(i, mean_b + h) + at(i, mean_b - h) - 2 * at(i, mean_b)) / h**2 for i in range(n)]
    np.testing.assert_allclose(found.curvature, bends, rtol=5e-3, atol=5e-3)
    for j, constant in enumerate(CONSTANTS):
        np.testing.assert_allclose(found.constants[:, j], [at(i, 1 / constant) for i in range(n)], atol=1e-2)
    grid = np.geomspace(1 / max(2.0, t.max()), 1 / min(0.1, t.min()), 400)
    np.testing.assert_allclose(found.best_value, [max(at(i, x) for x in grid) for i in range(n)], atol=5e-3)
    assert (found.best_value >= np.maximum(found.value, found.mean_value) - 1e-9).all()

    ends = np.quantile(p, reading.MIDDLE)
    for i in range(n):
        probs = np.exp(log_softmax(logits[i] * b[i]))
        order = np.argsort(-probs, kind="stable").tolist()
        cumulative = probs[order].cumsum()
        if np.abs(cumulative[:, None] - [p[i], p.mean(), *ends]).min() < 1e-4:
            continue  # too near to an edge to tell
        size, mean_size, low, high = (int((cumulative < x).sum()) + 1 for x in (p[i], p.mean(), *ends))
        place = order.index(right[i])
        assert (found.size[i], found.mean_size[i], found.breakpoints[i]) == (size, mean_size, high - low)
        assert (found.keeps[i], found.mean_keeps[i]) == (place < size, place < mean_size)
        assert found.mass_to_right[i] == pytest.approx(cumulative[place], abs=1e-3)
        assert (found.mass[i], found.mean_mass[i]) == pytest.approx(
            (cumulative[size - 1], cumulative[mean_size - 1]), abs=1e-3
        )


def test_pieces_make_no_difference(
    engine: Engine, answers: list[Tokens], found: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_FLOATS", 5 * engine.context.n_vocab)
    monkeypatch.setattr(reading, "_TOGETHER", 2)
    seen: list[tuple[int, int]] = []
    again = read(engine, answers, PROBLEMS, lambda done, total: seen.append((done, total)))
    for name in vars(found):
        np.testing.assert_allclose(getattr(again, name), getattr(found, name), atol=2e-3, err_msg=name)
    assert seen[-1] == (126, 126)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


# gemma2's activation is a table of F16
@pytest.mark.parametrize(("name", "near"), [("gemma2", 2e-3), ("cohere", 1e-5), ("granite", 1e-5)])
def test_the_heads_read_the_logits_before_a_cap_or_a_scale(
    name: str, near: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T and P are those that the answers are drawn with; likelihoods are of the logits that they are drawn from."""
    family = Family(name, tmp_path)
    prompt = family.tokens[:4]
    with family.engine(2) as engine:
        requests = [Request(prompt, seed=seed, max_tokens=20, top=0) for seed in (1, 2)]
        drawn = engine.generate(requests)
        sequences = [np.array([*prompt, *(~t.id for t in one.trace)], np.int32) for one in drawn]
        monkeypatch.setattr(reading, "_FLOATS", 7 * engine.context.n_vocab)  # joined and parted
        at = read(engine, sequences, np.zeros(2, int))
    trace = [t for one in drawn for t in one.trace]
    np.testing.assert_allclose(at.temperature, [t.temperature for t in trace], rtol=0, atol=near)
    np.testing.assert_allclose(at.top_p, [t.top_p for t in trace], rtol=0, atol=near)
    np.testing.assert_allclose(at.constants[:, CONSTANTS.index(1)], [t.logprob for t in trace], rtol=0, atol=10 * near)


def test_the_engine_is_as_before(engine: Engine, answers: list[Tokens]) -> None:
    request = Request(engine.prompt(PROMPTS[0]), seed=3, max_tokens=8)
    (before,) = engine.generate([request])
    read(engine, answers, PROBLEMS)
    (after,) = engine.generate([request])
    assert after.tokens == before.tokens
    engine.submit(request)
    with pytest.raises(Busy, match="under way"):
        read(engine, answers, PROBLEMS)
