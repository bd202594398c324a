"""What a generation did, token by token, as a sequence."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autodeco_gguf import Sampler
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.trace import Alternative, Rows, Trace, TraceToken


def drawn(merged: Path, n: int, **kwargs: object) -> tuple[Sampler, list[int]]:
    """A sampler without heads, and the tokens that it has drawn."""
    context = Context(merged, n_ctx=32)
    context.decode([0], [0], [0], hidden=False)
    sampler = Sampler(None, seed=1, **kwargs)  # type: ignore[arg-type]
    return sampler, [sampler.sample(context.address) for _ in range(n)]


def test_a_trace_is_a_sequence(merged: Path) -> None:
    sampler, tokens = drawn(merged, 4)
    trace = sampler.trace
    assert [t.id for t in trace] == [trace[i].id for i in range(4)] == tokens == trace.ids
    assert [t.id for t in trace[1:3]] == tokens[1:3]
    assert (trace[-1], len(trace), trace[0] in trace) == (trace[3], 4, True)
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"token {index} of a trace of 4"):
            trace[index]


def test_a_trace_without_tokens() -> None:
    assert (len(Trace()), list(Trace()), Trace().ids) == (0, [], [])
    assert Trace().parameters.shape == (2, 0)
    with pytest.raises(IndexError, match="token 0 of a trace of 0"):
        Trace()[0]


def test_texts_are_those_of_who_knows_the_vocabulary(merged: Path) -> None:
    sampler, tokens = drawn(merged, 3)
    trace = Trace(sampler.native.records, lambda token: f"<{token}>".encode())
    assert [t.text for t in trace] == [f"<{token}>".encode() for token in tokens]
    assert [t.text for t in sampler.trace] == [b""] * 3


def test_parameters_are_those_of_the_tokens(merged: Path) -> None:
    sampler, _ = drawn(merged, 3, temperature=0.5, top_p=0.25)
    np.testing.assert_array_equal(sampler.trace.parameters, [[0.5] * 3, [0.25] * 3])
    assert {(t.temperature, t.top_p) for t in sampler.trace} == {(0.5, 0.25)}


def test_how_much_is_kept(merged: Path) -> None:
    full, plain, off = (drawn(merged, 2, trace=kept)[0].trace for kept in ("full", "plain", "off"))
    assert all(t.entropy > 0 for t in full)
    assert all(np.isnan(t.entropy) for t in plain)
    assert [(t.id, t.nucleus, t.prob) for t in plain] == [(t.id, t.nucleus, t.prob) for t in full]
    assert len(off) == 0


@pytest.mark.parametrize("copied", [lambda trace: pickle.loads(pickle.dumps(trace)), copy.copy, copy.deepcopy])
def test_a_copy_needs_no_sampler_and_does_not_grow(copied: Callable[[Trace], Trace], merged: Path) -> None:
    context = Context(merged, n_ctx=32)
    context.decode([0], [0], [0], hidden=False)
    sampler = Sampler(None, seed=1)
    for _ in range(3):
        sampler.sample(context.address)
    trace = Trace(sampler.native.records, context.token_bytes)
    other, expected = copied(trace), list(trace)
    sampler.sample(context.address)
    assert (len(trace), len(other)) == (4, 3)
    context.close()
    del sampler, trace
    assert list(other) == expected
    assert all(token.text for token in other)
    assert other.parameters.dtype == np.float32
    assert other.parameters.shape == (2, 3)


def test_reprs() -> None:
    assert repr(Trace()) == "<Trace: 0 tokens>"
    rows = Rows([(7, 0.5, 1.0, 2.0, 3, 0.5)])
    assert repr(Trace(rows, {7: b"a\n\xff"}.__getitem__)) == r"<Trace: 1 token, T 0.50 to 0.50, P 1.00 to 1.00, 'a\n�'>"
    long = Trace(Rows(rows * 100), {7: b"ab"}.__getitem__)
    assert repr(long).endswith(f"'{'ab' * 30}'...>")


def test_as_json() -> None:
    plain = TraceToken(7, b"\xc3", 0.5, 1.0, math.nan, 3, 0.25)
    assert plain.to_dict("") == {"id": 7, "text": "", "temperature": 0.5, "top_p": 1.0, "nucleus": 3, "prob": 0.25}
    others = (Alternative(8, b"\xa9", -0.5, 0.0), Alternative(9, b"a", -1.0, math.nan))
    full = TraceToken(7, b"\xc3", 0.5, 1.0, 2.0, 3, 0.25, -1.5, others)
    assert full.to_dict("é") == {
        "id": 7,
        "text": "é",
        "temperature": 0.5,
        "top_p": 1.0,
        "entropy": 2.0,
        "nucleus": 3,
        "prob": 0.25,
        "logprob": -1.5,
        "alternatives": [
            {"id": 8, "text": "\ufffd", "logprob": -0.5, "prob": 0.0},
            {"id": 9, "text": "a", "logprob": -1.0},
        ],
    }
    assert " ".join(full.to_dict("é")) == "id text temperature top_p entropy nucleus prob logprob alternatives"


def test_rows_with_likelihoods() -> None:
    texts = {7: b"a", 8: b"b", 9: b"c"}
    rows = Rows([(7, 0.5, 1.0, 2.0, 3, 0.5), (7, 0.5, 1.0, 2.0, 3, 0.5)], [(-0.5, ((8, -0.25, 0.5), (9, -2.0, 0.0)))])
    for trace in (Trace(rows, texts.__getitem__), pickle.loads(pickle.dumps(Trace(rows, texts.__getitem__)))):
        first, second = trace
        assert first.logprob == -0.5
        assert first.alternatives == (Alternative(8, b"b", -0.25, 0.5), Alternative(9, b"c", -2.0, 0.0))
        assert (math.isnan(second.logprob), second.alternatives) == (True, ())
