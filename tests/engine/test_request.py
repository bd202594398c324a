"""What a request may ask, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from engine_helpers import answers
from llama_cpp import LlamaGrammar

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import InvalidInput

BAD: dict[str, tuple[Request, str]] = {
    "empty": (Request([], seed=0), "the prompt is empty"),
    "too long": (Request([1] * 128, seed=0), "the prompt has 128 tokens, the context holds 128; raise it"),
    "token": (Request([1, 384], seed=0), "token 384, expected 0 to 383"),
    "negative": (Request([-1], seed=0), "token -1, expected 0 to 383"),
    "seed": (Request([1], seed=-1), "seed -1, expected 0 to 2**32 - 1"),
    "large seed": (Request([1], seed=1 << 32), "seed 4294967296, expected 0 to 2**32 - 1"),
    "seed as text": (Request([1], seed="5"), "seed '5', expected a whole number"),  # type: ignore[arg-type]
    "stop": (Request([1], stop=["a", ""]), "stop '', expected a text that is not empty, or several"),
    "stop of bytes": (Request([1], stop=b"a"), "stop b'a', expected a text"),  # type: ignore[arg-type]
    "stop of numbers": (Request([1], stop=[7]), "stop 7, expected a text"),  # type: ignore[list-item]
    "no text": (Request([1], stop=(None, "a")), "stop None, expected a text"),  # type: ignore[arg-type]
    "surrogate": (Request([1], stop="\ud800"), "stop '\\ud800' is not UTF-8: surrogates not allowed"),
    "top_k": (Request([1], top_k=-1), "top_k -1, expected a whole number in [0, 2.14748e+09]"),
    "min_p": (Request([1], min_p=1.5), "min_p 1.5, expected a number in [0, 1]"),
    "penalty": (Request([1], repeat_penalty=0.0), "repeat_penalty 0.0, expected a number in [1e-06, 1e+06]"),
    "nan": (Request([1], presence_penalty=float("nan")), "presence_penalty nan, expected a number"),
    "mirostat": (Request([1], mirostat_mode=3), "mirostat_mode 3, expected a whole number in [0, 2]"),
    "order": (Request([1], order="vllm"), "order 'vllm', expected 'autodeco' or 'llama.cpp'"),  # type: ignore[arg-type]
    "dynatemp": (Request([1], dynatemp_range=0.5), "dynatemp_range 0.5 needs order 'llama.cpp'"),
    "bias": (Request([1], logit_bias={384: 1.0}), "logit_bias of token 384, expected 0 to 383"),
    "bias nan": (
        Request([1], logit_bias={3: float("nan")}),
        "logit_bias of token 3 is nan, expected a number of at most 1e+30 or -inf",
    ),
    "tokens": (Request([1], seed=1, max_tokens=0), "max_tokens 0, expected at least 1"),
    "half a token": (Request([1], max_tokens=1.5), "max_tokens 1.5, expected a whole number, at least 1"),  # type: ignore[arg-type]
    "tokens as text": (Request([1], max_tokens="5"), "max_tokens '5', expected a whole number, at least 1"),  # type: ignore[arg-type]
    "fewer than no token": (Request([1], max_tokens=-1, prompt_logprobs=True), "max_tokens -1, expected at least 0"),
    "top": (Request([1], top=-1), "top -1, expected 0 to 64"),
    "large top": (Request([1], top=65), "top 65, expected 0 to 64"),
    "half a top": (Request([1], top=1.5), "top 1.5, expected a whole number, 0 to 64"),  # type: ignore[arg-type]
    "top as bool": (Request([1], top=True), "top True, expected a whole number, 0 to 64"),
    "longer than the context": (
        Request([1] * 129, max_tokens=0, prompt_logprobs=True),
        "the prompt has 129 tokens, the context holds 128; raise it",
    ),
    "bytes": (Request(b"Once"), "prompt of bytes, expected a text or tokens"),
    "no prompt": (Request(None), "prompt of NoneType, expected a text or tokens"),  # type: ignore[arg-type]
    "a lone token": (Request(5), "prompt of int, expected a text or tokens"),  # type: ignore[arg-type]
    "text among tokens": (Request([1, "a"]), "token 'a', expected 0 to 383"),  # type: ignore[list-item]
    "rounded": (Request([1.5]), "token 1.5, expected 0 to 383"),  # type: ignore[list-item]
    "temperature": (Request([1], seed=1, temperature=-1.0), "temperature -1.0, expected a number >= 0"),
    "not a number": (Request([1], seed=1, temperature=float("nan")), "temperature nan, expected a number >= 0"),
    "top-p": (Request([1], seed=1, top_p=1.5), "top_p 1.5, expected a number in [0, 1]"),
    "gate": (Request([1], gate=1.5), "gate 1.5, expected a number in [0, 1]"),
    "no pairs": (Request([1], pairs=[]), "pairs [], expected at least one (T, P)"),
    "no pair": (Request([1], pairs=[(1.0,)]), "pairs with (1.0,), expected each of them (T, P)"),  # type: ignore[list-item]
    "numbers for pairs": (Request([1], pairs=[1.0]), "pairs with 1.0, expected each"),  # type: ignore[list-item]
    "pair out of range": (Request([1], pairs=[(1.0, 1.0), (-1.0, 1.0)]), "temperature -1.0, expected a number >= 0"),
    "pairs and T": (Request([1], pairs=[(1.0, 1.0)], temperature=1.0), "pairs with temperature, top_p or order"),
    "pairs in llama.cpp": (
        Request([1], pairs=[(1.0, 1.0)], order="llama.cpp"),
        "pairs with temperature, top_p or order",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(name: str, engine: Engine) -> None:
    bad, message = BAD[name]
    with pytest.raises(InvalidInput, match=f"^request 1: {re.escape(message)}"):
        engine.generate([Request([1], seed=0, max_tokens=1), bad])
    assert len(answers(engine, [Request([1], seed=0, max_tokens=1)])) == 1  # it goes on working


STOPS: list[Iterable[str] | str] = [
    ["nowhere", "2"],
    ("2",),
    {"2", "3"},
    frozenset(("2", "4")),
    "2",
    (text for text in ("2", "3")),
    map(str, (2, 3)),
    {"2": None}.keys(),
]


@pytest.mark.parametrize("i", range(len(STOPS)))
def test_stops_may_be_given_in_any_form(i: int, engine: Engine) -> None:
    grammar = LlamaGrammar.from_string('root ::= "1" "2" "3" "4"', verbose=False)
    request = Request([5], stop=STOPS[i], grammar=grammar)
    for again in (request, replace(request, seed=2)):  # a generator is read once, for both
        engine.check(again)
        result = engine.submit(again).result()
        assert (result.text, result.finish_reason) == ("1", "stop")


def test_a_number_of_numpy(engine: Engine) -> None:
    (found,) = engine.generate([Request([1], seed=0, max_tokens=np.int64(2), temperature=0)])
    assert (found.finish_reason, len(found.tokens)) == ("length", 2)


def test_no_stop(engine: Engine) -> None:
    assert Request([1], stop=None).stop == Request([1]).stop == ()


def test_a_full_context_has_room_for_a_prompt_to_which_nothing_is_drawn() -> None:
    Request([1] * 8, max_tokens=0, prompt_logprobs=True).check_room(8, 8)
    with pytest.raises(InvalidInput, match=r"^the prompt has 8 tokens, the context holds 8; raise it$"):
        Request([1] * 8, prompt_logprobs=True).check_room(8, 8)
