"""Many sequences at once: the same answers as one by one, whatever runs beside them."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import Kind, Tensor, rewrite, shards
from conftest import Case, load
from engine_helpers import PROMPTS, answers, make, no_end
from llama_cpp import LlamaGrammar
from scipy import stats

import autodeco_gguf as ad
from autodeco_gguf import AutoDecoError
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.errors import Busy, InvalidInput
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.base_model import fitting_heads
from autodeco_gguf.heads.model_file import ModelFile

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
    for result in engine.as_completed(requests):
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


# ---- each in its own way ----

GRAMMAR = LlamaGrammar.from_string('root ::= "a" [0-9]+', verbose=False)


WAYS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 0.7}, {"temp": 0.7}),
    ({"top_p": 0.4, "top_k": 20}, {"top_p": 0.4, "top_k": 20}),
    ({"min_p": 0.1, "typical_p": 0.9}, {"min_p": 0.1, "typical_p": 0.9}),
    ({"repeat_penalty": 1.5, "presence_penalty": 0.5}, {"repeat_penalty": 1.5, "presence_penalty": 0.5}),
    ({"frequency_penalty": 0.7}, {"frequency_penalty": 0.7}),
    ({"mirostat_mode": 2, "mirostat_tau": 3.0}, {"mirostat_mode": 2, "mirostat_tau": 3.0}),
    ({"grammar": GRAMMAR}, {"grammar": GRAMMAR}),
    ({"temperature": 0.0}, {"temp": 0.0}),
]


def test_the_same_seed_gives_what_llama_gives(engine: Engine, merged: Path) -> None:
    llm = load(merged, f32_cache=True)
    requests = [Request(PROMPTS[i % 3], seed=i, max_tokens=12, **ours) for i, (ours, _) in enumerate(WAYS)]
    results = answers(engine, requests)
    for i, (result, (_, theirs)) in enumerate(zip(results, WAYS, strict=True)):
        llm.set_seed(i)
        drawn = list(islice(llm.generate(PROMPTS[i % 3], **theirs), 12))
        assert result.tokens == list(takewhile(lambda token: not engine.context.is_eog(token), drawn)), WAYS[i]
        np.testing.assert_allclose(
            result.temperature, [t.temperature for t in llm.trace][: len(result.trace)], atol=1e-5
        )
    assert len({tuple(result.tokens) for result in results}) == len(results)


def test_a_grammar_is_one_sequence_s_own(engine: Engine) -> None:
    free = {"temperature": 1e6, "top_p": 1.0, "logit_bias": no_end(engine), "max_tokens": 12}
    results = answers(
        engine, [Request([5], seed=i, **free, **({"grammar": GRAMMAR} if i % 2 else {})) for i in range(6)]
    )
    for i, result in enumerate(results):
        assert bool(re.fullmatch(r"a[0-9]{11,}", result.text)) == bool(i % 2)


ORDERS: dict[str, tuple[dict[str, Any], set[int]]] = {
    # logits 4, 3, 2, 1, 0 and no others: a share of 0.7 is two tokens before they are divided by 2, three afterwards
    "cut first": ({"temperature": 2.0, "top_p": 0.7, "order": "llama.cpp"}, {10, 11}),
    "scale first": ({"temperature": 2.0, "top_p": 0.7}, {10, 11, 12}),
    "top-n-sigma": ({"temperature": 1.0, "top_p": 1.0, "top_n_sigma": 1e-3, "order": "llama.cpp"}, {10}),
    "top-k": ({"temperature": 9.0, "top_p": 1.0, "top_k": 2, "order": "llama.cpp"}, {10, 11}),
    "greedy": ({"temperature": 0.0, "top_p": 1.0, "order": "llama.cpp"}, {10}),
    "min-p": ({"temperature": 9.0, "top_p": 1.0, "min_p": 0.3, "order": "llama.cpp"}, {10, 11}),
    "dynatemp": ({"temperature": 1e-3, "dynatemp_range": 1e-3, "order": "llama.cpp"}, {10}),
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_the_steps(name: str, engine: Engine, merged: Path) -> None:
    way, expected = ORDERS[name]
    llm = load(merged, f32_cache=True, logits_all=True)
    llm.eval([5])
    bias = dict.fromkeys(range(engine.context.n_vocab), -np.inf)
    bias |= {10 + i: float(4 - i - llm.scores[0][10 + i]) for i in range(5)}
    requests = [Request([5], seed=i, logit_bias=bias, max_tokens=1, **way) for i in range(200)]
    assert {result.tokens[0] for result in answers(engine, requests)} == expected


def test_threads_share_an_engine(merged: Path) -> None:
    engine = make(merged, n_parallel=3)
    requests = [Request(PROMPTS[i % 4], seed=i, max_tokens=12, temperature=1.2) for i in range(12)]
    expected = [r.tokens for r in answers(engine, requests)]
    found: dict[int, list[int]] = {}

    def ask(i: int) -> None:
        handle = engine.submit(requests[i])
        pieces = [piece.token.id for piece in handle]
        found[i] = handle.result().tokens
        assert pieces[: len(found[i])] == found[i]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(12)] == expected


def test_an_abandoned_generation_makes_room(engine: Engine) -> None:
    first = engine.as_completed(
        Request([1], seed=i, max_tokens=2 + 50 * (i > 0), logit_bias=no_end(engine)) for i in range(20)
    )
    next(first)
    first.close()
    results = answers(engine, [Request([1], seed=i, max_tokens=2) for i in range(9)])
    assert all(r.finish_reason != "cancelled" for r in results)


def test_running_until_something_is_true(engine: Engine) -> None:
    under_way = [engine.submit(Request(PROMPTS[i], seed=i, logit_bias=no_end(engine), max_tokens=30)) for i in range(3)]
    engine.run_until(lambda: under_way[1].n_drawn >= 5)
    assert [generation.n_drawn for generation in under_way[:2]] == [5, 5]
    assert not any(generation.finish_reason for generation in under_way)
    engine.run_until(lambda: all(generation.finish_reason for generation in under_way))
    assert [len(generation.result().tokens) for generation in under_way] == [30, 30, 30]


def test_the_context_is_lent_to_others(merged: Path) -> None:
    engine = make(merged, n_parallel=2)
    request = Request(PROMPTS[0], seed=1, max_tokens=6)
    expected = engine.generate([request])[0].tokens
    engine.forget()
    first, _ = engine.context.decode([5], [0], [0], hidden=False)
    assert first.shape == (1, engine.context.n_vocab)
    engine.forget()
    assert engine.generate([request])[0].tokens == expected
    under_way = engine.submit(request)
    with pytest.raises(Busy, match=r"^the engine has requests under way$"):
        engine.forget()
    assert under_way.result().tokens == expected
    cancelled = engine.submit(request)
    cancelled.cancel()
    engine.forget()
    assert (cancelled.finish_reason, cancelled.result().tokens) == ("cancelled", [])
    assert engine.generate([request])[0].tokens == expected
    engine.close()


def test_a_fingerprint_is_of_all_shards(qwen2: Case, tmp_path: Path) -> None:
    def another(tensors: list[Tensor]) -> list[Tensor]:
        return [(name, data * 2, kind) for name, data, kind in tensors]

    whole = make(qwen2.base).fingerprint
    assert whole == f"{GgufFile(qwen2.base).fingerprint()} "
    first = shards(qwen2.base, tmp_path, [0, 9])
    prints = [make(first).fingerprint]
    for name in ("base-00002-of-00003.gguf", "base-00003-of-00003.gguf"):
        part = tmp_path / name
        rewrite(part, part, edit=another)
        prints.append(make(first).fingerprint)
    assert len({whole, *prints}) == 4
    assert all(re.fullmatch(r"[0-9a-f]{64} ", found) for found in prints)


def test_other_heads_in_their_place(qwen2: Case, merged: Path) -> None:
    """Those of an engine that was made with them, answer for answer, and back again."""
    own, requests = ModelFile.open(merged).read_heads(), [Request(PROMPTS[0], seed=i, max_tokens=6) for i in range(3)]
    assert own.temperature is not None
    hotter = replace(own, temperature_scale=1.5)
    engine, other = make(merged), make(qwen2.base, heads=hotter)
    first = answers(engine, requests)
    engine.replace_heads(hotter)
    for ours, theirs in zip(answers(engine, requests), answers(other, requests), strict=True):
        assert ours.tokens == theirs.tokens
        np.testing.assert_array_equal(ours.temperature, theirs.temperature)
    assert engine.fingerprint == other.fingerprint
    engine.replace_heads(own)
    for ours, theirs in zip(answers(engine, requests), first, strict=True):
        np.testing.assert_array_equal(ours.temperature, theirs.temperature)
    with pytest.raises(InvalidInput, match=r"^hidden size and vocabulary of the heads 64 and 5, expected 64 and 384$"):
        engine.replace_heads(replace(own, vocab_size=5))
    engine.submit(requests[0])
    with pytest.raises(Busy):
        engine.replace_heads(own)


def test_heads_are_switched_off_and_on(merged: Path) -> None:
    """The top-p head alone sees T = 1, as in an engine that was opened so; drawn at T = 1 with both it sees their T."""
    requests = [Request(tokens, seed=1, max_tokens=6, temperature=1.0) for tokens in PROMPTS]
    engine, alone = make(merged), make(merged, heads_enabled=["top_p"])
    both = answers(engine, requests)
    engine.enable(["top_p"])
    assert engine.heads == {"top_p"}
    for ours, theirs, seeing in zip(answers(engine, requests), answers(alone, requests), both, strict=True):
        assert ours.tokens == theirs.tokens
        np.testing.assert_array_equal(ours.top_p, theirs.top_p)
        assert ours.top_p[0] != seeing.top_p[0]
    engine.enable(["temperature", "top_p"])
    for ours, theirs in zip(answers(engine, requests), both, strict=True):
        np.testing.assert_array_equal(ours.top_p, theirs.top_p)
    with pytest.raises(InvalidInput, match=r"^heads_enabled: \['x'\], expected some of"):
        engine.enable(["x"])
    engine.submit(requests[0])
    with pytest.raises(Busy):
        engine.enable(["top_p"])


def test_a_file_and_heads_that_are_open_already(qwen2: Case, merged: Path) -> None:
    model = ModelFile.open(qwen2.base)
    engine = make(model, heads=fitting_heads(model, merged))
    assert engine.heads == {"temperature", "top_p"}
    assert engine.context.file is model
    (expected,) = answers(make(merged), [Request(PROMPTS[0], seed=1, max_tokens=6)])
    assert answers(engine, [Request(PROMPTS[0], seed=1, max_tokens=6)])[0].tokens == expected.tokens


def test_prompt_text(engine: Engine, qwen2: Case, tmp_path: Path) -> None:
    assert engine.render("Hello") == "Hello"
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    entry = {"tokenizer.chat_template": (template, Kind.STRING)}
    chat = make(rewrite(qwen2.base, tmp_path / "chat.gguf", metadata=entry))
    text, tokens = chat.render("Hello"), chat.prompt("Hello")
    assert text == "<user>Hello<assistant>"
    assert b"".join(map(chat.context.token_bytes, tokens)).decode() == text


def test_what_the_chat_template_reads_besides(qwen2: Case, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking is false %}<quiet>{% endif %}"
    path = rewrite(qwen2.base, tmp_path / "chat.gguf", metadata={"tokenizer.chat_template": (template, Kind.STRING)})
    engine = make(path, chat_template_kwargs={"enable_thinking": False})
    assert engine.render("Hello") == "Hello<quiet>"
    assert engine.prompt("Hello") != make(path).prompt("Hello")
    with pytest.raises(AutoDecoError, match=r"reads no thinking, it reads enable_thinking$"):
        make(path, chat_template_kwargs={"thinking": False})
    with pytest.raises(AutoDecoError, match=r"^chat template kwargs: \S+ has no chat template$"):
        make(qwen2.base, chat_template_kwargs={"enable_thinking": False})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_parallel": 0}, "n_parallel 0, expected 1 to 256"),
        ({"n_parallel": 257}, "n_parallel 257, expected 1 to 256"),
        ({"n_ctx": 0}, "n_ctx 0, expected at least 1"),
        ({"batching": Batching(prompt_chunk=0)}, "prompt_chunk 0, expected at least 1"),
        ({"batching": Batching(max_waiting=0)}, "max_waiting 0, expected at least 1"),
        ({"n_parallel": 2.0}, "n_parallel 2.0, expected a whole number, 1 to 256"),
        ({"n_ctx": "64"}, "n_ctx '64', expected a whole number, at least 1"),
        ({"batching": Batching(prompt_chunk=2.5)}, "prompt_chunk 2.5, expected a whole number, at least 1"),  # type: ignore[arg-type]
    ],
)
def test_bad_engines(kwargs: dict[str, Any], message: str, merged: Path) -> None:
    with pytest.raises(AutoDecoError, match=f"^{message}$"):
        make(merged, **kwargs)


def test_heads_of_another_model(qwen2: Case, merged_of: Callable[[Case], Path]) -> None:
    from conftest import load_case

    with pytest.raises(AutoDecoError, match="heads for hidden size 96, the base model"):
        make(qwen2.base, heads=merged_of(load_case("llama")))


def test_garbage_is_closed_in_whatever_order(merged: Path) -> None:
    """llama_cpp's objects have finalizers of their own, which may come first."""
    engine = Engine(merged, n_parallel=2, n_ctx=64)
    handle = engine.submit(Request([1, 2, 3], max_tokens=5))
    engine.context._model.close()
    engine.__del__()
    assert handle.result().finish_reason == "cancelled"


def test_sizes_of_numpy(merged: Path) -> None:
    batching = Batching(prompt_chunk=np.int8(100), max_waiting=np.uint8(200))  # type: ignore[arg-type]
    with make(merged, n_parallel=np.uint8(2), n_ctx=512, batching=batching) as engine:
        drawing = engine.submit(Request([5], max_tokens=20, seed=1, logit_bias=no_end(engine)))
        next(iter(drawing))
        engine.generate([Request([5] * 300, max_tokens=2, seed=1)])
        drawing.cancel()
    with make(merged, n_parallel=np.uint8(2), n_ctx=np.uint8(200)) as engine:
        assert f"{engine}".endswith("2 sequences of 200 tokens, 0 running, 0 waiting>")
        assert (
            len(engine.generate([Request([5], max_tokens=2, seed=i, logit_bias=no_end(engine)) for i in (1, 2)])) == 2
        )
