"""A request under way: its pieces, its text as it grows, and how it ends."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_helpers import PROMPTS, answers, make, no_end
from llama_cpp import LlamaGrammar

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import Request

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


def test_pairs_are_those_of_each_token_in_turn(engine: Engine) -> None:
    pairs = [(0.0, 1.0), (1.5, 0.9), (0.75, 0.0)]
    requests = [
        Request(PROMPTS[i], seed=i, max_tokens=7, pairs=pairs[i:] + pairs[:i], logit_bias=no_end(engine))
        for i in range(3)
    ]
    for i, result in enumerate(answers(engine, [*requests, Request(PROMPTS[0], seed=1, max_tokens=7)])[:3]):
        expected = np.float32([pairs[(i + n) % 3] for n in range(7)])
        np.testing.assert_array_equal(np.column_stack([result.temperature, result.top_p]), expected)
        sure = [token.nucleus for token, (t, p) in zip(result.trace, expected, strict=True) if t == 0 or p == 0]
        assert set(sure) == {1}


def test_its_own_pairs_give_an_answer_again(engine: Engine) -> None:
    drawn = answers(engine, [Request(PROMPTS[i % 5], seed=i, max_tokens=20) for i in range(20)])
    pairs = [[(float(t), float(p)) for t, p in zip(r.temperature, r.top_p, strict=True)] for r in drawn]
    again = answers(engine, [Request(PROMPTS[i % 5], seed=i, max_tokens=20, pairs=pairs[i]) for i in range(20)])
    assert [r.tokens for r in again] == [r.tokens for r in drawn]
    assert len({round(t, 3) for row in pairs for t, _ in row}) > 20  # they differ from token to token


def test_a_callback_that_raises_ends_its_own_request_alone(engine: Engine) -> None:
    def fail(piece: Any) -> None:
        raise RuntimeError("no more")

    other = engine.submit(Request(PROMPTS[0], seed=1, max_tokens=5, logit_bias=no_end(engine)))
    failing = engine.submit(Request(PROMPTS[1], seed=1, max_tokens=5), on_token=fail).result()
    assert (failing.finish_reason, failing.error) == ("error", "on_token: RuntimeError: no more")
    assert other.result().finish_reason == "length"


def test_a_timeout_that_a_signal_raises_is_no_error_of_a_callback(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came while a token was noted, and was taken for an answer's own."""

    def late(*_: object) -> bytes:
        raise TimeoutError("took too long")

    monkeypatch.setattr(engine.context, "token_bytes", late)
    with pytest.raises(TimeoutError, match="took too long"):
        engine.generate([Request(PROMPTS[0], seed=1, max_tokens=3)])
    monkeypatch.undo()
    assert engine.generate([Request(PROMPTS[0], seed=1, max_tokens=3)])[0].error is None


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


def test_what_is_cancelled_keeps_what_might_have_become_a_stop(engine: Engine) -> None:
    request = Request([1, 2, 3], seed=4, max_tokens=20, logit_bias=no_end(engine))
    whole = engine.generate([request])[0].text
    handle = engine.submit(replace(request, stop=[whole + "and more"]))
    pieces = iter(handle)
    shown = "".join(next(pieces).text for _ in range(3))
    handle.cancel()
    result = handle.result()
    assert (shown, result.finish_reason) == ("", "cancelled")
    assert result.text == engine.context.text(result.tokens) != ""


def test_interrupted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = engine.submit(Request([1], seed=1, max_tokens=5))

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(engine.context, "draw", interrupt)
        with pytest.raises(KeyboardInterrupt):
            handle.result()
    assert (handle.finish_reason, handle.error) == ("error", "KeyboardInterrupt")
    assert engine.submit(Request([1], seed=1, max_tokens=5)).result().error is None


def only(engine: Engine, *tokens: int) -> dict[int, float]:
    """A bias that lets nothing but these be drawn, the first of them if possible."""
    bias = dict.fromkeys(range(engine.context.n_vocab), -np.inf)
    return bias | {token: 100.0 - 1000.0 * i for i, token in enumerate(tokens)}


def token_of(engine: Engine, piece: bytes) -> int:
    return next(t for t in range(engine.context.n_vocab) if engine.context.token_bytes(t) == piece)


@pytest.mark.parametrize(
    ("stop", "n", "text"), [("<|im_start|>", 3, "aa"), ("a<|im_start|>", 3, "a"), ("aa<|im_start|>aa", 5, "")]
)
def test_the_name_of_a_control_token_ends_an_answer(stop: str, n: int, text: str, engine: Engine) -> None:
    a, control = token_of(engine, b"a"), token_of(engine, b"<|im_start|>")
    grammar = LlamaGrammar.from_string(f'root ::= "a" "a" <[{control}]> "a" "a" "a" "a"', verbose=False)
    request = Request([5], max_tokens=7, grammar=grammar, logit_bias=only(engine, a, control))
    whole = engine.submit(request).result()
    assert (whole.trace.ids, whole.text) == ([a, a, control, a, a, a, a], "aaaaaa")
    cut = engine.submit(replace(request, stop=["no such", stop]))
    pieces = [piece.text for piece in cut]
    assert (cut.result().finish_reason, cut.result().trace.ids) == ("stop", whole.trace.ids[:n])
    assert "".join(pieces) == cut.result().text == text


# ---- limits ----


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 7])
def test_half_a_character_exceeds_nothing(max_tokens: int, engine: Engine) -> None:
    """Tokens of which each is the beginning of a character of four bytes."""
    token = token_of(engine, b"\xf0")
    for stop in ((), ("x",)):
        handle = engine.submit(Request([5], max_tokens=max_tokens, logit_bias=only(engine, token), stop=stop))
        pieces = [piece.text for piece in handle]
        assert len(pieces) == len(handle.result().tokens) == max_tokens
        assert "".join(pieces) == handle.result().text == "�" * max_tokens
        assert handle.result().finish_reason == "length"


def test_a_stream_takes_a_time_that_grows_with_its_length(merged: Path) -> None:
    """Calls of Python functions, which no other load of the machine changes."""
    calls = []
    with make(merged, n_parallel=1, n_ctx=700) as engine:
        for n in (150, 600):
            counted = 0

            def count(*_: object) -> None:
                nonlocal counted
                counted += 1

            handle = engine.submit(Request([5], seed=1, max_tokens=n, logit_bias=no_end(engine), stop=["no such"]))
            sys.setprofile(count)
            try:
                text = "".join(piece.text for piece in handle)
            finally:
                sys.setprofile(None)
            assert (handle.n_drawn, text) == (n, handle.result().text)
            calls.append(counted)
    assert calls[1] < 4.4 * calls[0]


@pytest.mark.parametrize(("n", "max_tokens", "drawn"), [(100, None, 28), (127, None, 1), (100, 5, 5), (100, 500, 28)])
def test_the_end_of_the_context(engine: Engine, n: int, max_tokens: int | None, drawn: int) -> None:
    (result,) = engine.generate([Request([7] * n, seed=1, temperature=0.0, max_tokens=max_tokens)])
    assert (len(result.tokens), result.finish_reason) == (drawn, "length")


# ---- what a person sees ----


def test_reprs(engine: Engine, merged: Path) -> None:
    bias = only(engine, token_of(engine, b"a"))
    handle = engine.submit(Request([5], max_tokens=3, logit_bias=bias))
    number = repr(handle).split()[1]
    assert repr(handle) == f"<Generation {number} waiting, 0 tokens, ''>"
    assert repr(engine).endswith("8 sequences of 128 tokens, 0 running, 1 waiting>")
    next(iter(handle))
    assert repr(handle) == f"<Generation {number} under way, 1 token, 'a'>"
    assert repr(engine) == (
        f"<Engine {merged}: heads temperature and top_p, 8 sequences of 128 tokens, 1 running, 0 waiting>"
    )
    trace = handle.result().trace
    assert repr(handle) == f"<Generation {number} length, 3 tokens, 'aaa'>"
    assert re.fullmatch(r"<Trace: 3 tokens, T \d\.\d\d to \d\.\d\d, P \d\.\d\d to \d\.\d\d, 'aaa'>", repr(trace))
    failed = engine.submit(Request([5], logit_bias=only(engine)))
    failed.result()
    number = f"{int(number[:-1]) + 1}:"
    error = "every logit is -inf: the grammar or the biases allow no token"
    assert repr(failed) == f"<Generation {number} error: {error}, 0 tokens, ''>"
