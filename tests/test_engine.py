"""Many sequences at once: the same answers as one by one, whatever runs beside them."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import Kind, rewrite
from conftest import Case, load
from llama_cpp import LlamaGrammar
from scipy import stats

import autodeco_gguf as ad
from autodeco_gguf import AutoDecoError
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation, StoppedText
from autodeco_gguf.engine.request import Request, Result
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.model.context import default_context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL

PROMPTS = [[0, 284, 97, 12, 301, 55, 170, 8], [0], [5, 6], list(range(3, 60)), [0, 284, 97, 12, 301, 55, 170, 9]]


def make(path: Path, **kwargs: Any) -> Engine:
    return Engine(path, **{"n_ctx": 128, "machine": Machine(n_threads=1, cache_type="f32"), **kwargs})


def answers(engine: Engine, requests: Sequence[Request]) -> list[Result]:
    """The results in the order of the requests."""
    results = engine.generate(requests)
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


def test_the_batch_has_no_say(merged: Path) -> None:
    requests = [Request(PROMPTS[i // 4 % 3], seed=i, temperature=1.0, top_p=1.0, max_tokens=9 + i) for i in range(14)]
    found = []
    for n_parallel in (1, 5, 16):
        engine = make(merged, n_parallel=n_parallel)
        found.append([(r.tokens, r.finish_reason, r.text) for r in answers(engine, requests)])
        engine.close()
    assert found[0] == found[1] == found[2]
    assert len({tuple(tokens) for tokens, *_ in found[0]}) == len(requests)


def test_a_batch_that_is_drawn_on_several_threads(merged: Path) -> None:
    requests = [Request([5, i], seed=i, top_k=50, max_tokens=4) for i in range(140)]
    found = []
    for n_parallel, n_threads in ((140, 2), (3, 1)):
        engine = make(merged, n_parallel=n_parallel, n_ctx=16, machine=Machine(n_threads=n_threads, cache_type="f32"))
        found.append([r.tokens for r in answers(engine, requests)])
        engine.close()
    assert found[0] == found[1]


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


def test_every_place_is_drawn_anew(engine: Engine) -> None:
    hot = (Request([5], seed=i, temperature=1e6, top_p=1.0, max_tokens=50) for i in range(8))
    tokens = [token for result in engine.as_completed(hot) for token in result.tokens]
    assert len(set(tokens)) > 0.4 * len(tokens)  # all are equally likely


def no_end(engine: Engine) -> dict[int, float]:
    """A bias that lets no answer end by itself."""
    return {token: -np.inf for token in range(engine.context.n_vocab) if engine.context.is_eog(token)}


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


# ---- as they come ----


def test_pieces_are_the_text(engine: Engine) -> None:
    handle = engine.submit(Request(PROMPTS[0], seed=3, max_tokens=20, temperature=1.5, entropy=True))
    pieces = list(handle)
    result = handle.result()
    assert "".join(piece.text for piece in pieces) == result.text
    assert [piece.token.id for piece in pieces] == result.trace.ids
    assert [piece.token for piece in pieces] == list(result.trace)
    assert list(handle) == pieces


def test_tokens_are_shown_while_others_run(engine: Engine) -> None:
    others = [engine.submit(Request(PROMPTS[1], seed=i, max_tokens=30, logit_bias=no_end(engine))) for i in range(3)]
    shown: list[str] = []
    handle = engine.submit(Request(PROMPTS[0], seed=3, max_tokens=20), on_token=lambda piece: shown.append(piece.text))
    seen = 0
    for n, _ in enumerate(handle, 1):
        assert len(shown) >= n
        seen = n
    assert seen == len(shown)
    assert "".join(shown) == handle.result().text
    assert not any(other.finish_reason for other in others)
    assert all(len(other.result().tokens) == 30 for other in others)


def test_a_callback_that_raises_ends_its_own_request_alone(engine: Engine) -> None:
    def fail(piece: Any) -> None:
        raise RuntimeError("no more")

    other = engine.submit(Request(PROMPTS[0], seed=1, max_tokens=5, logit_bias=no_end(engine)))
    failing = engine.submit(Request(PROMPTS[1], seed=1, max_tokens=5), on_token=fail).result()
    assert (failing.finish_reason, failing.error) == ("error", "on_token: RuntimeError: no more")
    assert other.result().finish_reason == "length"


def test_a_callback_may_submit_but_not_wait(engine: Engine) -> None:
    more: list[Generation] = []

    def submit(piece: Any) -> None:
        if not more:
            more.append(engine.submit(Request(PROMPTS[1], seed=1, max_tokens=2)))

    assert engine.submit(Request(PROMPTS[0], seed=1, max_tokens=3), on_token=submit).result().error is None
    assert more[0].result().error is None
    waiting = engine.submit(Request(PROMPTS[0], seed=1), on_token=lambda _: print(engine.generate([Request([1])])))
    assert waiting.result().error == (
        "on_token: Busy: the engine cannot be waited for within on_token, which it waits for; submit only"
    )


STOPS = [
    (["x"], [b"abc", b"de"], True, ["abc", "de"]),
    (["cd"], [b"abc", b"de", b"f"], True, ["ab", "", ""]),
    (["cx"], [b"abc", b"de"], True, ["ab", "cde"]),
    (["cx"], [b"abc"], True, ["abc"]),
    (["b", "abc"], [b"abc"], True, [""]),
    (["e"], ["é".encode()[:1], "é".encode()[1:] + b"e", b"z"], True, ["", "é", ""]),
    ([], ["é".encode()[:1]], True, ["�"]),
    (["aab"], [b"a", b"a", b"a", b"b"], True, ["", "", "a", ""]),
]


@pytest.mark.parametrize(("stop", "pieces", "final", "expected"), STOPS)
def test_stop_strings(stop: list[str], pieces: list[bytes], final: bool, expected: list[str]) -> None:
    text = StoppedText(stop)
    assert [text.add(piece, final and i == len(pieces) - 1) for i, piece in enumerate(pieces)] == expected


def test_an_answer_ends_at_a_stop_string(engine: Engine) -> None:
    (whole,) = answers(engine, [Request(PROMPTS[0], seed=3, max_tokens=40, logit_bias=no_end(engine))])
    stop = whole.text[8:11]
    cut = engine.submit(Request(PROMPTS[0], seed=3, max_tokens=40, logit_bias=no_end(engine), stop=["nowhere", stop]))
    pieces = [piece.text for piece in cut]
    assert cut.result().text == "".join(pieces) == whole.text[: whole.text.index(stop)]
    assert cut.result().finish_reason == "stop"
    assert cut.result().tokens == whole.tokens[: len(cut.result().tokens)]


def test_cancelling(engine: Engine) -> None:
    long = {"logit_bias": no_end(engine), "max_tokens": 60}
    handles = [engine.submit(Request(PROMPTS[0], seed=i, **long)) for i in range(12)]
    for n, _ in enumerate(handles[0], 1):
        if n == 5:
            handles[0].cancel()
            handles[3].cancel()
            handles[11].cancel()  # still waiting
    results = [handle.result() for handle in handles]
    assert [i for i, r in enumerate(results) if r.finish_reason == "cancelled"] == [0, 3, 11]
    assert [len(results[i].tokens) for i in (0, 3, 11)] == [5, 5, 0]
    alone = answers(engine, [Request(PROMPTS[0], seed=i, **long) for i in range(12)])
    for cancelled, whole in zip(results, alone, strict=True):
        n = len(cancelled.tokens)
        assert cancelled.tokens == whole.tokens[:n]
        assert n == 60 or cancelled.finish_reason == "cancelled"
    results[0].tokens.clear()
    handles[0].cancel()
    assert handles[0].result().finish_reason == "cancelled"


def test_a_row_that_cannot_be_drawn_from_ends_alone(engine: Engine) -> None:
    nothing = dict.fromkeys(range(engine.context.n_vocab), -np.inf)
    good, bad = answers(engine, [Request([5], seed=1, max_tokens=4), Request([5], seed=1, logit_bias=nothing)])
    assert bad.finish_reason == "error"
    assert bad.error == "every logit is -inf: the grammar or the biases allow no token"
    assert bad.tokens == []
    assert good.error is None
    assert good.finish_reason in ("stop", "length")


def test_when_llama_cpp_fails_all_is_told_and_it_goes_on(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(merged, n_parallel=2)
    handles = [engine.submit(Request(PROMPTS[i], seed=i, max_tokens=9, logit_bias=no_end(engine))) for i in range(3)]
    next(iter(handles[0]))
    with monkeypatch.context() as m:
        m.setattr(
            engine.context,
            "decode",
            lambda *_, **__: engine.context._decode([1], [7], [99], outputs=True, hidden=False),
        )
        with pytest.raises(AutoDecoError, match=r"llama_decode failed with status -1$"):
            handles[0].result()
    assert [h.finish_reason for h in handles] == ["error", "error", None]
    assert handles[1].result().error is not None
    assert len(handles[2].result().tokens) == 9


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


def test_closing(merged: Path) -> None:
    with make(merged, n_parallel=2) as engine:
        handles = [
            engine.submit(Request(PROMPTS[i], seed=i, max_tokens=50, logit_bias=no_end(engine))) for i in range(4)
        ]
        next(iter(handles[0]))
    assert [handle.result().finish_reason for handle in handles] == ["cancelled"] * 4
    assert [len(handle.result().tokens) for handle in handles] == [1, 1, 0, 0]
    engine.close()
    for use in (
        lambda: engine.submit(Request([1])),
        lambda: engine.prompt("x"),
        lambda: engine.generate([Request([1])]),
    ):
        with pytest.raises(AutoDecoError, match=r"the model is closed$"):
            use()


def test_batch_invariant() -> None:
    """To the last bit, in 16 bits and with flash attention, for one after the other as for many at once."""
    requests = [Request("Tell a story about Mia" + " and Tom" * (i % 3), seed=i, max_tokens=25) for i in range(9)]
    found = []
    for n_parallel in (2, 7):
        engine = Engine(
            DEMO_MODEL,
            n_parallel=n_parallel,
            n_ctx=160,
            machine=Machine(n_threads=1),
            batching=Batching(batch_invariant=True),
        )
        together = engine.generate(requests)
        found += [together, [engine.generate([request])[0] for request in requests]]
        engine.close()
    for results in found[1:]:
        for one, other in zip(results, found[0], strict=True):
            assert one.tokens == other.tokens
            np.testing.assert_array_equal(one.trace.parameters, other.trace.parameters)
    with pytest.raises(AutoDecoError, match=r"^batch_invariant needs n_parallel of 2 or more, it is 1$"):
        Engine(DEMO_MODEL, n_parallel=1, batching=Batching(batch_invariant=True))


def test_interrupted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = engine.submit(Request([1], seed=1, max_tokens=5))

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(engine.context, "decode", interrupt)
        with pytest.raises(KeyboardInterrupt):
            handle.result()
    assert (handle.finish_reason, handle.error) == ("error", "KeyboardInterrupt")
    assert engine.submit(Request([1], seed=1, max_tokens=5)).result().error is None


# ---- prompts ----


def count_prompt_tokens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    fill = engine.context.fill

    def counting(tokens: Any, positions: Any, sequences: Any) -> None:
        counted.extend(tokens)
        fill(tokens, positions, sequences)

    monkeypatch.setattr(engine.context, "fill", counting)
    return counted


def test_a_prompt_that_several_share_is_computed_once(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(merged, n_parallel=8)
    counted = count_prompt_tokens(engine, monkeypatch)
    prompt = list(range(3, 103))
    answers(engine, [Request(prompt, seed=j, temperature=1.0, max_tokens=j % 5 + 1) for j in range(20)])
    assert len(counted) == len(prompt) - 1
    longer = [*prompt, 7, 8]
    answers(engine, [Request([*longer, 9, i], seed=i, max_tokens=2) for i in range(12)])
    assert counted[len(prompt) - 1 :] == [7, 8, 9]  # the rest is in the sequences from before
    answers(engine, [Request([5] * 40, seed=1, max_tokens=1)])
    assert counted[-39:] == [5] * 39


def test_a_conversation_goes_on_from_what_the_sequence_holds(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(merged, n_parallel=2)
    prompt = list(range(3, 53))
    (first,) = answers(engine, [Request(prompt, seed=1, logit_bias=no_end(engine), max_tokens=10)])
    counted = count_prompt_tokens(engine, monkeypatch)
    again = [*prompt, *first.tokens, 5, 6, 7]
    (second,) = answers(engine, [Request(again, seed=2, max_tokens=5)])
    assert counted == [first.tokens[-1], 5, 6]
    (alone,) = answers(make(merged, n_parallel=1), [Request(again, seed=2, max_tokens=5)])
    assert second.tokens == alone.tokens


def test_others_go_on_while_a_prompt_is_read(merged: Path) -> None:
    engine = make(merged, n_parallel=2, batching=Batching(prompt_chunk=8))
    running = engine.submit(Request(PROMPTS[0], seed=1, max_tokens=60, logit_bias=no_end(engine)))
    next(iter(running))
    long = engine.submit(Request([9] * 90, seed=2, max_tokens=2, logit_bias=no_end(engine)))
    next(iter(long))
    assert (
        10 <= running.n_drawn <= 14
    )  # a step for every 9 tokens of the prompt: a stretch of 8, and one in the step itself
    assert len(running.result().tokens) == 60


def test_requests_are_taken_as_there_is_room(merged: Path) -> None:
    engine = make(merged, n_parallel=2)
    taken: list[int] = []

    def requests() -> Iterator[Request]:
        for i in range(10):
            taken.append(i)
            yield Request(PROMPTS[0], seed=i, temperature=1.0, top_p=1.0, max_tokens=3)

    generated = engine.as_completed(requests())
    next(generated)
    assert taken == [0, 1, 2, 3, 4]  # two under way, two waiting, and a look at the next
    generated.close()


def test_prompt_text(engine: Engine, qwen2: Case, tmp_path: Path) -> None:
    assert engine.render("Hello") == "Hello"
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    entry = {"tokenizer.chat_template": (template, Kind.STRING)}
    chat = make(rewrite(qwen2.base, tmp_path / "chat.gguf", metadata=entry))
    text, tokens = chat.render("Hello"), chat.prompt("Hello")
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
    "seed": (Request([1], seed=-1), "seed -1, expected 0 to 2**32 - 1"),
    "large seed": (Request([1], seed=1 << 32), "seed 4294967296, expected 0 to 2**32 - 1"),
    "stop": (Request([1], stop=["a", ""]), "stop ['a', ''], expected a list of texts that are not empty"),
    "one stop": (Request([1], stop="a"), "stop 'a', expected a list"),
    "top_k": (Request([1], top_k=-1), "top_k -1, expected a number in [0, 2.14748e+09]"),
    "min_p": (Request([1], min_p=1.5), "min_p 1.5, expected a number in [0, 1]"),
    "penalty": (Request([1], repeat_penalty=0.0), "repeat_penalty 0.0, expected a number in [1e-06, 1e+06]"),
    "nan": (Request([1], presence_penalty=float("nan")), "presence_penalty nan, expected a number"),
    "mirostat": (Request([1], mirostat_mode=3), "mirostat_mode 3, expected a number in [0, 2]"),
    "order": (Request([1], order="vllm"), "order 'vllm', expected 'autodeco' or 'llama.cpp'"),  # type: ignore[arg-type]
    "dynatemp": (Request([1], dynatemp_range=0.5), "dynatemp_range 0.5 needs order 'llama.cpp'"),
    "bias": (Request([1], logit_bias={384: 1.0}), "logit_bias of token 384, expected 0 to 383"),
    "bias nan": (Request([1], logit_bias={3: float("nan")}), "logit_bias of token 3 is nan, expected a number or -inf"),
    "tokens": (Request([1], seed=1, max_tokens=0), "max_tokens 0, expected at least 1"),
    "temperature": (Request([1], seed=1, temperature=-1.0), "temperature -1.0, expected a number >= 0"),
    "not a number": (Request([1], seed=1, temperature=float("nan")), "temperature nan, expected a number >= 0"),
    "top-p": (Request([1], seed=1, top_p=1.5), "top_p 1.5, expected a number in [0, 1]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(name: str, engine: Engine) -> None:
    bad, message = BAD[name]
    with pytest.raises(AutoDecoError, match=f"^request 1: {re.escape(message)}"):
        engine.generate([Request([1], seed=0, max_tokens=1), bad])
    assert len(answers(engine, [Request([1], seed=0, max_tokens=1)])) == 1  # it goes on working


def test_too_many_requests(merged: Path) -> None:
    engine = make(merged, n_parallel=1, batching=Batching(max_waiting=3))
    handles = [engine.submit(Request([1], seed=i, temperature=0.0, max_tokens=3)) for i in range(3)]
    with pytest.raises(AutoDecoError, match=r"^too many requests: 3 are waiting already; try again later$"):
        engine.submit(Request([1], seed=9))
    assert [h.result().finish_reason for h in handles] == ["length"] * 3
    assert len(answers(engine, [Request([1], seed=i, max_tokens=2) for i in range(20)])) == 20


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_parallel": 0}, "n_parallel 0, expected 1 to 256"),
        ({"n_parallel": 257}, "n_parallel 257, expected 1 to 256"),
        ({"n_ctx": 0}, "n_ctx 0, expected at least 1"),
        ({"batching": Batching(prompt_chunk=0)}, "prompt_chunk 0, expected at least 1"),
        ({"batching": Batching(max_waiting=0)}, "max_waiting 0, expected at least 1"),
    ],
)
def test_bad_engines(kwargs: dict[str, Any], message: str, merged: Path) -> None:
    with pytest.raises(AutoDecoError, match=f"^{message}$"):
        make(merged, **kwargs)


def test_heads_of_another_model(qwen2: Case, merged_of: Callable[[Case], Path]) -> None:
    from conftest import load_case

    with pytest.raises(AutoDecoError, match="heads for hidden size 96, the base model"):
        make(qwen2.base, heads=merged_of(load_case("llama")))


def test_default_context(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    model = ModelFile.open(merged)
    own = default_context(model, 1 << 30)
    assert own == default_context(ModelFile.open(qwen2.base), own + 1)
    assert default_context(model, own - 1) == own - 1
    missing = rewrite(qwen2.base, tmp_path / "x.gguf", metadata={"qwen2.context_length": None})
    assert default_context(ModelFile.open(missing), 77) == 77
