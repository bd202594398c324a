"""Every bad argument that the library knows: the type of the error, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Case, load
from engine_helpers import make

import autodeco_gguf as ad
from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.heads.compute import Heads
from autodeco_gguf.heads.model_file import ModelFile

INF, NAN = float("inf"), float("nan")
ZEROS = np.zeros((1, 64), np.float32)
LOGITS = np.zeros((1, 384), np.float32)

Kind = type[AutoDecoError]


@pytest.fixture(scope="module")
def llama(merged: Path) -> Iterator[ad.Llama]:
    llm = load(merged, n_ctx=64)
    yield llm
    llm.close()


@pytest.fixture(scope="module")
def engine(merged: Path) -> Iterator[ad.Engine]:
    with make(merged, n_parallel=2) as engine:
        yield engine


def ask(**fields: Any) -> ad.Request:
    return ad.Request([1, 2], **{"max_tokens": 2, **fields})


REQUESTS: dict[str, tuple[Callable[[], ad.Request], str]] = {
    "temperature": (lambda: ask(temperature=-1), "temperature -1, expected a number >= 0"),
    "temperature NaN": (lambda: ask(temperature=NAN), "temperature nan, expected a number >= 0"),
    "temperature huge": (lambda: ask(temperature=1e7), "temperature 10000000.0, expected a number >= 0"),
    "top_p": (lambda: ask(top_p=1.1), r"top_p 1.1, expected a number in \[0, 1\]"),
    "top_p NaN": (lambda: ask(top_p=NAN), r"top_p nan, expected a number in \[0, 1\]"),
    "seed": (lambda: ask(seed=2**32), "seed 4294967296, expected 0 to"),
    "seed of half": (lambda: ask(seed=0.5), "seed 0.5, expected a whole number"),
    "max_tokens": (lambda: ask(max_tokens=0), "max_tokens 0, expected at least 1"),
    "top": (lambda: ask(top=-1), "top -1, expected 0 to"),
    "no prompt": (lambda: ad.Request([]), "the prompt is empty"),
    "long prompt": (lambda: ad.Request([1] * 999), "the prompt has 999 tokens, the context holds 128; raise it"),
    "prompt of None": (lambda: ad.Request(None), "prompt of NoneType, expected a text or tokens"),
    "no such token": (lambda: ad.Request([384]), "token 384, expected 0 to 383"),
    "surrogate": (lambda: ad.Request("\ud800"), "not UTF-8: surrogates not allowed at character 0"),
    "bias": (
        lambda: ask(logit_bias={1: NAN}),
        r"logit_bias of token 1 is nan, expected a number of at most 1e\+30 or -inf",
    ),
    "bias of no token": (lambda: ask(logit_bias={999: 1.0}), "token 999, expected 0 to 383"),
    "pairs": (lambda: ask(pairs=[]), r"pairs \[\], expected at least one \(T, P\)"),
    "pairs of one": (lambda: ask(pairs=[(1.0,)]), r"pairs with \(1.0,\), expected each of them \(T, P\)"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_bad_request(name: str, engine: ad.Engine) -> None:
    make_it, match = REQUESTS[name]
    with pytest.raises(InvalidInput, match=match):
        engine.generate([make_it()])


CALLS: dict[str, tuple[Callable[[ad.Llama], object], str]] = {
    "prompt": (lambda m: m(3), "prompt of int, expected a text or tokens"),
    "long": (lambda m: m([1] * 99), r"Requested tokens \(99\) exceed context window of 64"),
    "token": (lambda m: m([999]), "token 999, expected 0 to 383"),
    "max_tokens": (lambda m: m("a", max_tokens="x"), "max_tokens 'x', expected a number"),
    "suffix": (lambda m: m("a", suffix=3), "suffix 3, expected a text"),
    "logprobs": (lambda m: m("a", logprobs=-1), "logprobs"),
    "logit_bias": (lambda m: m("a", logit_bias=[1]), r"logit_bias \[1\], expected numbers by token"),
    "grammar": (lambda m: m("a", grammar="root ::= root"), "grammar 'root ::= root', expected"),
    "format": (
        lambda m: m.create_chat_completion([{"role": "user", "content": "a"}], response_format={"type": "x"}),
        "response_format",
    ),
    "predict long": (lambda m: m.predict([1] * 65), "65 tokens, the context holds 64; raise n_ctx"),
    "embeddings": (lambda m: m.predict([384]), "token 384, expected 0 to 383"),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_call(name: str, llama: ad.Llama) -> None:
    call, match = CALLS[name]
    with pytest.raises(InvalidInput, match=match):
        call(llama)


def row(array: np.ndarray[Any, Any], value: float) -> np.ndarray[Any, Any]:
    changed = array.copy()
    changed[0, 3] = value
    return changed


COMPUTED: dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], str]] = {
    "narrow hidden": (ZEROS[:, :9], LOGITS, r"hidden is \[1, 9\], expected \[1, 64\]"),
    "narrow logits": (ZEROS, LOGITS[:, :9], r"logits is \[1, 9\], expected \[1, 384\]"),
    "fewer rows": (np.zeros((2, 64), np.float32), LOGITS, r"logits is \[1, 384\], expected \[2, 384\]"),
    "NaN hidden": (row(ZEROS, NAN), LOGITS, "hidden row 0 holds nan"),
    "infinite hidden": (row(ZEROS, INF), LOGITS, "hidden row 0 holds inf"),
    "NaN logit": (ZEROS, row(LOGITS, NAN), "logits row 0 holds nan"),
    "infinite logit": (ZEROS, row(LOGITS, INF), "logits row 0 holds inf"),
    "no logit": (ZEROS, LOGITS - INF, "logits row 0 holds nothing but -inf"),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_bad_array(name: str, merged: Path) -> None:
    hidden, logits, match = COMPUTED[name]
    with pytest.raises(InvalidInput, match=match):
        Heads(ModelFile.open(merged).read_heads()).evaluate(hidden, logits)


DRAWN: dict[str, tuple[Any, float, float, str]] = {
    "NaN": ([0, NAN], 1.0, 1.0, "a logit is NaN or \\+inf"),
    "infinite": ([0, INF], 1.0, 1.0, "a logit is NaN or \\+inf"),
    "nothing": ([-INF, -INF], 1.0, 1.0, "every logit is -inf"),
    "empty": ([], 1.0, 1.0, r"logits is \[0\], expected \[n_vocab\]"),
    "temperature": ([0, 1], -1.0, 1.0, "temperature -1.0, expected a number >= 0"),
    "top_p": ([0, 1], 1.0, NAN, "top_p nan, expected a number in"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_bad_draw(name: str) -> None:
    logits, temperature, top_p, match = DRAWN[name]
    with pytest.raises(InvalidInput, match=match):
        ad.draw(np.array(logits, np.float32), temperature, top_p)


OPENED: dict[str, tuple[dict[str, Any], Kind, str]] = {
    "context": ({"n_ctx": 0}, InvalidInput, "n_ctx 0, expected at least 1"),
    "parallel": ({"n_parallel": 0}, InvalidInput, "n_parallel 0, expected 1 to"),
    "heads": ({"heads_enabled": ["x"]}, InvalidInput, r"heads_enabled: \['x'\], expected some of"),
    "no heads": ({"heads": Path("/no/such.gguf")}, BadFile, "/no/such.gguf: cannot be opened: No such file"),
}


@pytest.mark.parametrize("name", OPENED)
def test_bad_engine(name: str, merged: Path) -> None:
    fields, kind, match = OPENED[name]
    with pytest.raises(kind, match=match):
        make(merged, **fields)


EXPORTED: dict[str, tuple[Callable[[Case, Path], object], Kind, str]] = {
    "head type": (lambda c, d: ad.export(c.base, c.heads, d / "x", head_type="q2"), InvalidInput, "head type 'q2'"),
    "activation": (lambda c, d: ad.export(c.base, c.heads, d / "x", activation="x"), InvalidInput, "activation 'x'"),
    "no output": (lambda c, d: ad.extract(c.base), InvalidInput, "nothing to extract"),
    "no heads": (lambda c, d: ad.extract(c.base, base=d / "x"), BadFile, "no AutoDeco heads in it"),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_bad_export(name: str, qwen2: Case, tmp_path: Path) -> None:
    call, kind, match = EXPORTED[name]
    with pytest.raises(kind, match=match):
        call(qwen2, tmp_path)
    assert list(tmp_path.iterdir()) == []
