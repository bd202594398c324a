"""Many sequences at once: the same answers as one by one, whatever runs beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import Kind, rewrite
from conftest import Case, load
from scipy import stats

import autodeco_gguf as ad
from autodeco_gguf import AutoDecoError
from autodeco_gguf.context import default_context
from autodeco_gguf.engine import Engine, Request, Result

PROMPTS = [[0, 284, 97, 12, 301, 55, 170, 8], [0], [5, 6], list(range(3, 60)), [0, 284, 97, 12, 301, 55, 170, 9]]


def make(path: Path, **kwargs: Any) -> Engine:
    return Engine(path, **{"n_ctx": 128, "n_threads": 1, "f32_cache": True, **kwargs})


def answers(engine: Engine, requests: Sequence[Request]) -> list[Result]:
    """The results in the order of the requests."""
    results = sorted(engine.generate(requests), key=lambda r: r.index)
    assert [r.index for r in results] == list(range(len(requests)))
    return results


@pytest.fixture(scope="module")
def engine(merged: Path) -> Iterator[Engine]:
    engine = make(merged, n_parallel=8)
    yield engine
    engine.close()


# ---- the same as one by one ----


@pytest.mark.parametrize("n_parallel", [1, 3, 8])
def test_greedy_is_what_llama_gives(case: Case, merged_of: Callable[[Case], Path], n_parallel: int) -> None:
    llm = load(merged_of(case), f32_cache=True)
    engine = make(merged_of(case), n_parallel=n_parallel)
    results = answers(engine, [Request(p, seed=0, temperature=0.0, max_tokens=12) for p in PROMPTS])
    for prompt, result in zip(PROMPTS, results, strict=True):
        drawn = list(islice(llm.generate(prompt, temp=0.0), 12))
        expected = list(takewhile(lambda token: not engine.context.is_eog(token), drawn))
        assert result.tokens == expected
        assert result.finish_reason == ("length" if len(expected) == 12 else "stop")
        assert (result.temperature == 0).all()
    engine.close()


def test_predictions_are_those_of_predict(case: Case, merged_of: Callable[[Case], Path]) -> None:
    llm = load(merged_of(case), f32_cache=True)
    engine = make(merged_of(case), n_parallel=3)
    results = answers(engine, [Request(p, seed=i, max_tokens=10) for i, p in enumerate(PROMPTS)])
    for prompt, result in zip(PROMPTS, results, strict=True):
        n = len(result.temperature)
        assert n == len(result.tokens) + (result.finish_reason == "stop")
        for found, expected in zip(
            (result.temperature, result.top_p), llm.predict([*prompt, *result.tokens]), strict=True
        ):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected[len(prompt) - 1 :][:n], rtol=0, atol=1e-5)
    engine.close()


def test_fixed_and_predicted_side_by_side(engine: Engine) -> None:
    ways = [{}, {"temperature": 0.5}, {"top_p": 0.25}, {"temperature": 1.5, "top_p": 1.0}]
    alone = [answers(engine, [Request(PROMPTS[0], seed=3, max_tokens=6, **way)])[0] for way in ways]
    together = answers(engine, [Request(PROMPTS[0], seed=3, max_tokens=6, **way) for way in ways])
    for way, one, other in zip(ways, alone, together, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.temperature, other.temperature, rtol=0, atol=1e-5)
        for name in ("temperature", "top_p"):
            values = getattr(other, name)
            assert (values == way[name]).all() if name in way else len(set(values.tolist())) > 1


@pytest.mark.parametrize("n_outputs", [None, 2])
def test_the_batch_has_no_say(merged: Path, n_outputs: int | None) -> None:
    requests = [Request(PROMPTS[i // 4 % 3], seed=i, temperature=1.0, top_p=1.0, max_tokens=9 + i) for i in range(14)]
    found = []
    for n_parallel in (1, 5, 16):
        engine = make(merged, n_parallel=n_parallel)
        engine.context.n_outputs = n_outputs or engine.context.n_outputs
        found.append([(r.tokens, r.finish_reason, r.text) for r in answers(engine, requests)])
        engine.close()
    assert found[0] == found[1] == found[2]
    assert len({tuple(tokens) for tokens, *_ in found[0]}) == len(requests)


def test_a_plain_model_predicts_nothing(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    engine = make(qwen2.base)
    assert engine.heads == frozenset()
    (result,) = engine.generate([Request(PROMPTS[0], seed=1, max_tokens=5)])
    assert (result.temperature == 1).all()
    assert (result.top_p == 1).all()
    ad.extract(merged, adapter=tmp_path / "heads.gguf")
    assert make(qwen2.base, heads=tmp_path / "heads.gguf").heads == {"temperature", "top_p"}


# ---- drawing ----


def test_the_first_token_follows_its_distribution(engine: Engine, merged: Path) -> None:
    n, prompt = 4000, PROMPTS[0]
    requests = (Request(prompt, seed=i, temperature=2.0, top_p=1.0, max_tokens=1) for i in range(n))
    drawn: Counter[object] = Counter()
    for result in engine.generate(requests):
        drawn.update(result.tokens or ["end"])
    llm = load(merged, f32_cache=True, logits_all=True)
    llm.eval(prompt)
    logits = llm.scores[len(prompt) - 1].astype(np.float64) / 2.0
    p = np.exp(logits - logits.max())
    p /= p.sum()
    expected = {token: n * p[token] for token in range(len(p)) if not engine.context.is_eog(token)}
    likely = [token for token, count in expected.items() if count >= 10]
    assert len(likely) > 20
    observed = [drawn[token] for token in likely]
    counts = [expected[token] for token in likely]
    assert stats.chisquare([*observed, n - sum(observed)], [*counts, n - sum(counts)]).pvalue > 1e-3


def test_every_place_is_drawn_anew(engine: Engine) -> None:
    hot = (Request([5], seed=i, temperature=1e6, top_p=1.0, max_tokens=50) for i in range(8))
    tokens = [token for result in engine.generate(hot) for token in result.tokens]
    assert len(set(tokens)) > 0.4 * len(tokens)  # all are equally likely


def test_places_of_one_answer_are_independent() -> None:
    from autodeco_gguf.engine import _draw_seeds, _mix

    keys = _mix(np.arange(300, dtype=np.uint64))
    seeds = np.stack([_draw_seeds(keys, np.full(300, i)) for i in range(200)])
    assert seeds.max() < 1 << 32
    assert len(np.unique(seeds)) >= seeds.size - 10  # two of 60,000 meet in 2**32 with a chance of 0.4
    bits = (seeds[..., None] >> np.arange(32, dtype=np.uint64)) & np.uint64(1)
    assert abs(bits.mean((0, 1)) - 0.5).max() < 0.01
    assert abs(np.corrcoef(seeds.astype(float))[np.triu_indices(200, 1)]).max() < 0.35


# ---- prompts ----


def count_prompt_tokens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    fill = engine.context.fill

    def counting(tokens: Any, positions: Any, sequences: Any) -> None:
        counted.extend(tokens)
        fill(tokens, positions, sequences)

    monkeypatch.setattr(engine.context, "fill", counting)
    return counted


def test_a_prompt_that_several_share_is_computed_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = count_prompt_tokens(engine, monkeypatch)
    order = [0] * 20 + [3] * 3 + [2] + [0] * 2 + [1] * 2
    answers(engine, [Request(PROMPTS[i], seed=j, temperature=1.0, max_tokens=j % 5 + 1) for j, i in enumerate(order)])
    runs = [PROMPTS[i][:-1] for i in (0, 3, 2, 0, 1)]
    assert sorted(counted) == sorted(token for run in runs for token in run)


def test_requests_are_taken_as_there_is_room(merged: Path) -> None:
    engine = make(merged, n_parallel=2)
    taken: list[int] = []

    def requests() -> Iterator[Request]:
        for i in range(6):
            taken.append(i)
            yield Request(PROMPTS[0], seed=i, temperature=1.0, top_p=1.0, max_tokens=3)

    generated = engine.generate(requests())
    next(generated)
    assert taken == [0, 1, 2]  # two under way, and a look at the next
    generated.close()


def test_prompt_text(engine: Engine, qwen2: Case, tmp_path: Path) -> None:
    assert engine.prompt("Hello")[0] == "Hello"
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    entry = {"tokenizer.chat_template": (template, Kind.STRING)}
    chat = make(rewrite(qwen2.base, tmp_path / "chat.gguf", metadata=entry))
    text, tokens = chat.prompt("Hello")
    assert text == "<user>Hello<assistant>"
    assert b"".join(map(chat.context.token_bytes, tokens)).decode() == text


# ---- limits ----


@pytest.mark.parametrize(("n", "max_tokens", "drawn"), [(100, None, 28), (127, None, 1), (100, 5, 5), (100, 500, 28)])
def test_the_end_of_the_context(engine: Engine, n: int, max_tokens: int | None, drawn: int) -> None:
    (result,) = engine.generate([Request([7] * n, seed=1, temperature=0.0, max_tokens=max_tokens)])
    assert (len(result.tokens), result.finish_reason) == (drawn, "length")


BAD: dict[str, tuple[Request, str]] = {
    "empty": (Request([], seed=0), "the prompt is empty"),
    "too long": (Request([1] * 128, seed=0), "the prompt has 128 tokens, the context holds 128; raise it"),
    "token": (Request([1, 384], seed=0), "token 384, expected 0 to 383"),
    "negative": (Request([-1], seed=0), "token -1, expected 0 to 383"),
    "seed": (Request([1], seed=-1), "seed -1, expected 0 to 2**64 - 1"),
    "tokens": (Request([1], seed=1, max_tokens=0), "max_tokens 0, expected at least 1"),
    "temperature": (Request([1], seed=1, temperature=-1.0), "temperature -1.0, expected a number >= 0"),
    "not a number": (Request([1], seed=1, temperature=float("nan")), "temperature nan, expected a number >= 0"),
    "top-p": (Request([1], seed=1, top_p=1.5), "top_p 1.5, expected a number in [0, 1]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(name: str, engine: Engine) -> None:
    bad, message = BAD[name]
    with pytest.raises(AutoDecoError, match=f"^request 1: {re.escape(message)}"):
        list(engine.generate([Request([1], seed=0, max_tokens=1), bad]))
    assert len(answers(engine, [Request([1], seed=0, max_tokens=1)])) == 1  # it goes on working


def test_one_generation_at_a_time(engine: Engine) -> None:
    first = engine.generate(Request([1], seed=i, temperature=1.0, max_tokens=2) for i in range(20))
    next(first)
    with pytest.raises(AutoDecoError, match=r"^the engine is generating; finish or close that first$"):
        next(engine.generate([]))
    first.close()
    assert list(engine.generate([])) == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_parallel": 0}, "n_parallel 0, expected 1 to 255"),
        ({"n_parallel": 256}, "n_parallel 256, expected 1 to 255"),
        ({"n_ctx": 0}, "n_ctx 0, expected at least 1"),
    ],
)
def test_bad_engines(kwargs: dict[str, int], message: str, merged: Path) -> None:
    with pytest.raises(AutoDecoError, match=f"^{message}$"):
        make(merged, **kwargs)


def test_heads_of_another_model(qwen2: Case, merged_of: Callable[[Case], Path]) -> None:
    from conftest import load_case

    with pytest.raises(AutoDecoError, match="heads for hidden size 96, the base model"):
        make(qwen2.base, heads=merged_of(load_case("llama")))


def test_default_context(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    own = default_context(merged, 1 << 30)
    assert own == default_context(qwen2.base, own + 1)
    assert default_context(merged, own - 1) == own - 1
    missing = rewrite(qwen2.base, tmp_path / "x.gguf", metadata={"qwen2.context_length": None})
    assert default_context(missing, 77) == 77
