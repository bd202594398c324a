"""Who has which sequence: prompts that are shared, rows that fail, and batches that change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Case, load
from engine_helpers import PROMPTS, answers, make, no_end
from llama_cpp import GGML_TYPE_F32 as F32
from llama_cpp import Llama as Stock
from llama_cpp import llama_cpp as lib

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.engine.scheduler import Batching
from autodeco_gguf.errors import Busy, InvalidInput, ModelFailed
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL


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


def test_every_place_is_drawn_anew(engine: Engine) -> None:
    hot = (Request([5], seed=i, temperature=1e6, top_p=1.0, max_tokens=50) for i in range(8))
    tokens = [token for result in engine.as_completed(hot) for token in result.tokens]
    assert len(set(tokens)) > 0.4 * len(tokens)  # all are equally likely


def test_one_that_is_cancelled_waits_no_more(merged: Path) -> None:
    engine = make(merged, n_parallel=1, batching=Batching(max_waiting=2))
    running = engine.submit(Request([5], seed=1, logit_bias=no_end(engine)))
    pieces = iter(running)
    next(pieces)
    waiting = [engine.submit(Request([6], seed=i)) for i in range(2)]
    with pytest.raises(Busy):
        engine.submit(Request([7], seed=4, max_tokens=1))
    for one in waiting:
        one.cancel()
    last = engine.submit(Request([7], seed=4, max_tokens=1))
    assert [one.result().finish_reason for one in waiting] == ["cancelled"] * 2
    assert (running.finish_reason, running.n_drawn < 5, last.finish_reason) == (None, True, None)
    running.cancel()
    assert last.result().finish_reason in ("stop", "length")


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
            "draw",
            lambda *_, **__: engine.context.fill([1], [7], [99]),
        )
        with pytest.raises(ModelFailed, match=r"llama_decode failed with status -1$"):
            handles[0].result()
    assert [h.finish_reason for h in handles] == ["error", "error", None]
    assert handles[1].result().error is not None
    assert len(handles[2].result().tokens) == 9


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
    with pytest.raises(InvalidInput, match=r"^batch_invariant needs n_parallel of 2 or more, it is 1$"):
        Engine(DEMO_MODEL, n_parallel=1, batching=Batching(batch_invariant=True))


@pytest.mark.parametrize("n_keep", [10, 128])
def test_batch_invariant_after_a_shift(n_keep: int) -> None:
    """What stays of a longer prompt was computed together with more than a prompt has that ends there."""
    tokens = [(i * 37) % 1100 + 60 for i in range(200)]
    short, batching = Request(tokens[: n_keep + 1], seed=1, max_tokens=4), Batching(batch_invariant=True)
    with Engine(DEMO_MODEL, n_parallel=2, n_ctx=256, machine=Machine(n_threads=1), batching=batching) as engine:
        (fresh,) = answers(engine, [short])
        engine.forget()
        answers(engine, [Request(tokens, seed=2, max_tokens=90, n_keep=n_keep, logit_bias=no_end(engine))])
        again = engine.submit(short)
        np.testing.assert_array_equal(again.result().trace.parameters, fresh.trace.parameters)
        assert again.n_reused == n_keep // 128 * 128


@pytest.mark.parametrize("prompt_logprobs", [False, True])
@pytest.mark.parametrize("n", [60, 119, 128, 129, 130, 258, 300])
def test_batch_invariant_with_long_prompts(n: int, prompt_logprobs: bool) -> None:
    """Flash attention computes 64 tokens of a prompt in another way than fewer; and whatever ran before."""
    tokens = [(i * 37) % 1100 + 60 for i in range(n)]
    wanted = Request(tokens, seed=1, max_tokens=4, top=0, prompt_logprobs=prompt_logprobs)
    other = Request([*tokens[: n - 20], 7, 8, 9], seed=2, max_tokens=9)

    def answer(kind: str) -> list[tuple[int, float | None, float]]:
        batching = Batching(batch_invariant=True)
        with Engine(DEMO_MODEL, n_parallel=4, n_ctx=512, machine=Machine(n_threads=1), batching=batching) as engine:
            if kind == "beside":
                beside = iter(
                    engine.submit(Request([100, 101, 102], seed=5, max_tokens=100, logit_bias=no_end(engine)))
                )
                next(beside), next(beside)
                engine.submit(other)
            elif kind == "after":
                answers(engine, [other])
            elif kind == "in turn":
                (first,) = answers(engine, [Request(tokens[: n // 2], seed=3, max_tokens=6)])
                answers(engine, [Request([*tokens[: n // 2], *first.tokens, 5, 6], seed=3, max_tokens=6)])
            elif kind == "again":
                answers(engine, [wanted])
            elif kind == "scored":
                answers(engine, [replace(wanted, prompt_logprobs=True)])
                engine.submit(Request(tokens, seed=4, prompt_logprobs=True, logit_bias=no_end(engine)))
            (result,) = answers(engine, [wanted])
            scored = [(token.id, token.logprob, 0.0) for token in result.prompt_logprobs or []]
            return scored + [(token.id, token.logprob, token.temperature) for token in result.trace]

    alone = answer("alone")
    for kind in ("beside", "after", "in turn", "again", "scored"):
        assert answer(kind) == alone, kind


@pytest.mark.parametrize("n", [2, 40, 511, 512, 513, 600])
def test_a_single_sequence_is_computed_as_llama_does(n: int, merged: Path) -> None:
    """To the last bit, with prompts of one batch and of more, and with a prefix that is there already."""
    engine = Engine(merged, n_parallel=1, n_ctx=700, machine=Machine(n_threads=1, flash_attn=False))
    llama = load(merged, n_ctx=700)
    rng = np.random.default_rng(n)
    prompt = rng.integers(3, 300, n).tolist()
    for tokens in (prompt, [*prompt, 5, 6, 7]):
        (result,) = engine.generate([Request(tokens, seed=n, max_tokens=8)])
        stream = llama.generate(tokens)
        llama.set_seed(n)
        drawn = [next(stream) for _ in result.trace.ids]
        assert drawn == result.trace.ids
        np.testing.assert_array_equal(llama.trace.parameters, result.trace.parameters)


# ---- a full context ----


def shifted_by_hand(path: Path, prompt: list[int], n: int, *, n_ctx: int, n_keep: int) -> list[int]:
    """The n likeliest tokens after a prompt, by stock llama-cpp-python: half is left out whenever n_ctx are there."""
    cache = {"type_k": F32, "type_v": F32}
    llama = Stock(str(path), n_ctx=4 * n_ctx, n_threads=1, n_threads_batch=1, verbose=False, logits_all=True, **cache)
    tokens, found = prompt, list[int]()
    while len(found) < n:
        if llama.n_tokens == n_ctx:
            left_out = (n_ctx - n_keep) // 2
            lib.llama_memory_seq_rm(llama._ctx.memory, 0, n_keep, n_keep + left_out)
            lib.llama_memory_seq_add(llama._ctx.memory, 0, n_keep + left_out, -1, -left_out)
            llama.n_tokens -= left_out
        llama.eval(tokens)
        tokens = [int(np.argmax(llama.scores[llama.n_tokens - 1]))]
        found += tokens
    llama.close()
    return found


@pytest.mark.parametrize("n_parallel", [1, 3])
def test_a_full_context_is_shifted(merged: Path, qwen2: Case, n_parallel: int) -> None:
    """As by hand, in sequences that are full at different times, move, and lend their beginning to others."""
    engine = make(merged, n_parallel=n_parallel, n_ctx=64)
    prompts = [PROMPTS[3], PROMPTS[0], PROMPTS[3], PROMPTS[4], PROMPTS[0]]
    lengths, keeps = (150, 9, 80, 120, 70), (32, 0, 4, 9, 8)
    requests = [
        Request([token % 300 for token in prompt[:50]], temperature=0, max_tokens=n, n_keep=n_keep)
        for prompt, n, n_keep in zip(prompts, lengths, keeps, strict=True)
    ]
    bias = no_end(engine)
    handles = [engine.submit(replace(request, logit_bias=bias)) for request in requests]
    for handle, request, n in zip(handles, requests, lengths, strict=True):
        result = handle.result()
        assert (len(result.tokens), result.finish_reason) == (n, "length")
        expected = shifted_by_hand(qwen2.base, list(request.prompt), n, n_ctx=64, n_keep=request.n_keep or 0)
        assert result.tokens == expected
        assert (handle.n_forgotten > 0) == (len(request.prompt) + n - 1 > 64)
    engine.close()


def test_what_was_shifted_is_no_beginning_for_others(merged: Path) -> None:
    """Its states have seen what was left out: only what stayed in its place is lent."""
    engine = make(merged, n_parallel=1, n_ctx=64)
    bias, prompt = no_end(engine), PROMPTS[3][:50]
    engine.generate([Request(prompt, temperature=0, max_tokens=60, n_keep=10, logit_bias=bias)])
    (again,) = engine.generate([Request(prompt, seed=3, max_tokens=5)])
    fresh = make(merged, n_parallel=1, n_ctx=64)
    (expected,) = fresh.generate([Request(prompt, seed=3, max_tokens=5)])
    assert again.tokens == expected.tokens
    np.testing.assert_array_equal(again.trace.parameters, expected.trace.parameters)
    engine.close()
    fresh.close()


def test_what_is_shifted_while_it_runs_is_no_beginning_for_others(merged: Path) -> None:
    with make(merged, n_parallel=2, n_ctx=64) as engine:
        prompt = PROMPTS[3][:50]
        running = engine.submit(Request(prompt, max_tokens=200, n_keep=10, logit_bias=no_end(engine)))
        engine.run_until(lambda: running.n_forgotten > 0 and running.position > len(prompt))
        other = engine.submit(Request(prompt, temperature=0, max_tokens=5))
        result = other.result()
        assert running.finish_reason is None
        assert other.n_reused <= 10
        running.cancel()
    with make(merged, n_parallel=2, n_ctx=64) as engine:
        (expected,) = engine.generate([Request(prompt, temperature=0, max_tokens=5)])
    assert result.tokens == expected.tokens


def test_what_cannot_be_shifted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match=r"^n_keep 65, expected at most half of the context, 64$"):
        engine.submit(Request([5], n_keep=65))
    with pytest.raises(InvalidInput, match=r"^n_keep -1, expected at least 0$"):
        engine.submit(Request([5], n_keep=-1))
    monkeypatch.setattr(lib, "llama_model_is_recurrent", lambda model: True)
    with pytest.raises(InvalidInput, match=r"this model cannot forget a part of what it read"):
        engine.submit(Request([5], n_keep=4))


# ---- prompts ----


def test_what_a_sequence_held_before_another_moved_out_of_it_is_gone(merged: Path) -> None:
    """It holds what has moved, not what it held before that."""
    a, b, c, d = ([first + i for i in range(40)] for first in (10, 60, 110, 160))
    with make(merged, n_parallel=2) as engine:
        engine.generate([Request(prompt, max_tokens=2) for prompt in (a, b)])
        first = engine.submit(Request(c, max_tokens=1))
        moving = engine.submit(Request(d, max_tokens=60, logit_bias=no_end(engine)))
        engine.run_until(lambda: first.finish_reason is not None and moving.n_drawn > 2)
        again = engine.submit(Request(b, max_tokens=1))
        again.result()
        assert (again.n_reused, moving.finish_reason) == (0, None)
        moving.cancel()


def test_all_of_a_short_prompt_is_known_again(merged: Path) -> None:
    with make(merged, n_parallel=2) as engine:
        for expected in (0, 7):
            handle = engine.submit(Request(list(range(10, 18)), max_tokens=1))
            handle.result()
            assert handle.n_reused == expected


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


def test_too_many_requests(merged: Path) -> None:
    engine = make(merged, n_parallel=1, batching=Batching(max_waiting=3))
    handles = [engine.submit(Request([1], seed=i, temperature=0.0, max_tokens=3)) for i in range(3)]
    with pytest.raises(Busy, match=r"^too many requests: 3 are waiting already; try again later$"):
        engine.submit(Request([1], seed=9))
    assert [h.result().finish_reason for h in handles] == ["length"] * 3
    assert len(answers(engine, [Request([1], seed=i, max_tokens=2) for i in range(20)])) == 20
