"""Completions whose tokens are dictated: stops, limits, text as it streams, log-probabilities, seeds and biases."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conftest
import numpy as np
import pytest
from broken import Kind, rewrite
from conftest import Case
from family_helpers import FAMILIES
from llama_cpp import LlamaRAMCache, LogitsProcessorList, StoppingCriteriaList
from llama_cpp import llama_cpp as lib
from llama_cpp.llama_tokenizer import BaseLlamaTokenizer, LlamaTokenizer

import autodeco_gguf as ad
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.model.sampling import MAX_SEED

load = functools.partial(conftest.load, n_threads=1, n_threads_batch=1)

PROMPT = [0, 284, 97, 12]


@pytest.fixture(scope="module")
def llm(merged: Path) -> ad.Llama:
    return load(merged, n_ctx=512)


@pytest.fixture(scope="module")
def keeping(merged: Path) -> ad.Llama:
    """One that keeps all logits, for log-probabilities."""
    return load(merged, logits_all=True)


@functools.cache
def pieces(llm: ad.Llama) -> dict[bytes, int]:
    return {llm.token_bytes(token, special=False): token for token in reversed(range(llm.n_vocab()))}


def spell(llm: ad.Llama, *texts: bytes) -> list[int]:
    """Tokens with just these texts."""
    return [pieces(llm)[text] for text in texts]


def letters(llm: ad.Llama, text: str) -> list[int]:
    return spell(llm, *(bytes([byte]) for byte in text.encode()))


def dictate(tokens: list[int]) -> LogitsProcessorList:
    """Makes the model draw just these."""
    coming = iter(tokens)

    def force(_: Any, scores: Any) -> Any:
        forced = np.full_like(scores, -np.inf)
        forced[next(coming)] = 0.0
        return forced

    return LogitsProcessorList([force])


def answer(llm: ad.Llama, tokens: list[int], **kwargs: Any) -> tuple[str, str, int]:
    """Text, finish reason and number of tokens; the same when it streams."""
    kwargs = {"prompt": PROMPT, "max_tokens": len(tokens), **kwargs}
    stops = kwargs.pop("stop", [])
    make = stops if callable(stops) else lambda: stops
    whole: Any = llm.create_completion(**kwargs, stop=make(), logits_processor=dictate(tokens))
    parts: Any = list(llm.create_completion(**kwargs, stop=make(), logits_processor=dictate(tokens), stream=True))
    choice = whole["choices"][0]
    assert "".join(part["choices"][0]["text"] for part in parts) == choice["text"]
    assert parts[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    return choice["text"], choice["finish_reason"], whole["usage"]["completion_tokens"]


# ---- stops ----

FORMS: list[Any] = ["d", ["d"], ("d",), {"d"}, dict.fromkeys(["d"]), lambda: (s for s in ["zz", "d"])]


@pytest.mark.parametrize("stop", FORMS, ids=["text", "list", "tuple", "set", "keys", "generator"])
def test_every_form_of_stops(llm: ad.Llama, stop: Any) -> None:
    assert answer(llm, letters(llm, "abcdef"), stop=stop) == ("abc", "stop", 4)


@pytest.mark.parametrize("stop", FORMS, ids=["text", "list", "tuple", "set", "keys", "generator"])
def test_every_form_of_stops_in_a_chat(merged: Path, stop: Any) -> None:
    llm = load(merged, chat_format="chatml")
    stop = stop() if callable(stop) else stop
    processor = dictate(letters(llm, "abcdef"))
    found: Any = llm.create_chat_completion([{"role": "user", "content": "a"}], stop=stop, logits_processor=processor)
    assert found["choices"][0]["message"]["content"] == "abc"


@pytest.mark.parametrize("stop", [b"d", [b"d"], 7, ["d", 7], [None]], ids=str)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_is_no_stop(llm: ad.Llama, stop: Any, stream: bool) -> None:
    with pytest.raises(InvalidInput, match=r"^stop .*, expected a text that is not empty"):
        llm.create_completion(PROMPT, stop=stop, stream=stream)


@pytest.mark.parametrize("stop", [None, [], "", [""]], ids=str)
def test_no_stops(llm: ad.Llama, stop: Any) -> None:
    assert answer(llm, letters(llm, "abc"), stop=stop) == ("abc", "length", 3)


def test_the_first_in_the_text_of_two_stops_in_one_token(llm: ad.Llama) -> None:
    (token,) = spell(llm, b"ation")
    assert answer(llm, [token, token], stop=["o", "t"]) == ("a", "stop", 1)


def test_a_stop_over_several_tokens(llm: ad.Llama) -> None:
    assert answer(llm, letters(llm, "ababac!"), stop=["abac"]) == ("ab", "stop", 6)
    assert answer(llm, letters(llm, "abab"), stop=["abac"]) == ("abab", "length", 4)


def test_a_stop_around_an_invalid_byte(llm: ad.Llama) -> None:
    tokens = [*letters(llm, "aST"), *spell(llm, b"\xff"), *letters(llm, "OPS")]
    assert answer(llm, tokens, stop="STOP") == ("a", "stop", 6)
    tokens = [*letters(llm, "a"), *spell(llm, b"\xe2"), *letters(llm, "bc")]
    assert answer(llm, tokens, stop="b") == ("a", "stop", 3)
    assert answer(llm, tokens[:2], stop="b") == ("a", "length", 2)


def test_the_name_of_a_control_token_stops(llm: ad.Llama) -> None:
    """It shows nothing, so that it is not to be found in the text."""
    control = next(
        token
        for token in range(llm.n_vocab())
        if not llm.token_bytes(token, special=False) and not lib.llama_vocab_is_eog(llm._model.vocab, token)
    )
    name = llm.token_bytes(control).decode()
    tokens = [*letters(llm, "ab"), control, *letters(llm, "cd")]
    assert answer(llm, tokens, stop=[name])[:2] == ("ab", "stop")
    assert answer(llm, tokens)[:2] == ("abcd", "length")


def test_a_stopping_criterion(llm: ad.Llama) -> None:
    class Third:
        """True once, so that asking twice does not do."""

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, _: Any, __: Any) -> bool:
            self.calls += 1
            return self.calls == 3

    found: Any = llm(
        PROMPT, stopping_criteria=StoppingCriteriaList([Third()]), logits_processor=dictate(letters(llm, "abcdef"))
    )
    assert (found["choices"][0]["text"], found["choices"][0]["finish_reason"]) == ("ab", "stop")


# ---- characters ----


def test_max_tokens_within_a_character(llm: ad.Llama) -> None:
    tokens = letters(llm, "ab€uro")
    assert answer(llm, tokens, max_tokens=3) == ("ab", "length", 3)
    assert answer(llm, tokens, max_tokens=5) == ("ab€", "length", 5)


def test_the_end_of_the_context_within_a_character(llm: ad.Llama) -> None:
    prompt = [5] * (llm.n_ctx() - 4)
    assert answer(llm, letters(llm, "ab€uro"), prompt=prompt, max_tokens=None) == ("ab", "length", 4)


def test_an_invalid_byte_holds_nothing_back(llm: ad.Llama) -> None:
    tokens = [*letters(llm, "a"), *spell(llm, b"\xe2"), *letters(llm, "bcd"), *spell(llm, b"\xff"), *letters(llm, "e")]
    assert answer(llm, tokens) == ("abcde", "length", 7)
    shown, lengths = "", []
    chunks: Any = llm.create_completion(PROMPT, max_tokens=7, logits_processor=dictate(tokens), stream=True)
    for chunk in chunks:
        shown += chunk["choices"][0]["text"]
        lengths.append((len(llm.trace), shown))
    assert lengths[:-1] == [(1, "a"), (3, "ab"), (4, "abc"), (5, "abcd"), (7, "abcde")]


def test_characters_of_several_tokens_stream_whole(llm: ad.Llama) -> None:
    chunks: Any = llm(PROMPT, max_tokens=9, logits_processor=dictate(letters(llm, "1€2\U0001f642")), stream=True)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["1", "€", "2", "\U0001f642", ""]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_every_token_is_looked_at_once(llm: ad.Llama, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    seen, detokenize = [], llm.detokenize
    monkeypatch.setattr(llm, "detokenize", lambda tokens, **more: seen.extend(tokens) or detokenize(tokens, **more))
    found: Any = llm.create_completion(
        PROMPT, max_tokens=64, stop=["xyz"], logits_processor=dictate(letters(llm, "ab" * 32)), stream=stream
    )
    assert len(list(found)) > 1
    assert len(seen) == 64


def test_long_tokens_keep_their_text(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama_cpp's buffer has 32 bytes."""
    llm = load(merged)
    monkeypatch.setattr("autodeco_gguf.model.token_text.token_bytes", lambda *_, **__: b" " * 40)
    assert llm.detokenize([300]) == b" " * 40


# ---- the context ----


def test_a_full_context_is_said(llm: ad.Llama) -> None:
    tokens = llm.generate([5] * (llm.n_ctx() - 2))
    assert len([next(tokens) for _ in range(3)]) == 3
    with pytest.raises(ModelFailed, match=r"the context is full: 1 more than the 512 of its 512 tokens; raise n_ctx$"):
        next(tokens)
    with pytest.raises(InvalidInput, match=r"Requested tokens \(512\) exceed context window of 512"):
        llm.create_completion([5] * 512, stream=True)


def test_a_context_is_as_large_as_it_says(merged: Path) -> None:
    """llama.cpp rounds it up, to what llama_cpp has no arrays for."""
    llm = load(merged, n_ctx=300)
    assert llm.n_ctx() == 300
    found: Any = llm([5] * 290, max_tokens=50)
    assert found["usage"]["total_tokens"] <= 300
    with pytest.raises(ValueError, match=r"Requested tokens \(320\) exceed context window of 300"):
        llm([5] * 320)


@pytest.mark.parametrize("prompt", [[1, 384], [-1]], ids=str)
def test_a_prompt_of_tokens_that_are_none(llm: ad.Llama, prompt: list[int]) -> None:
    with pytest.raises(InvalidInput, match=r"token (384|-1), expected 0 to 383"):
        llm(prompt)


@pytest.mark.parametrize("form", [tuple, np.array], ids=["tuple", "array"])
def test_forms_of_prompts(llm: ad.Llama, form: Callable[[list[int]], Any]) -> None:
    assert llm(form(PROMPT), seed=1)["choices"] == llm(PROMPT, seed=1)["choices"]


def test_echo_of_tokens(llm: ad.Llama) -> None:
    found: Any = llm(letters(llm, "ab"), max_tokens=2, echo=True, logits_processor=dictate(letters(llm, "cd")))
    assert found["choices"][0]["text"] == "abcd"


# ---- log-probabilities ----


@pytest.mark.parametrize("echo", [False, True], ids=["answer", "echo"])
def test_logprobs_are_the_models_own(keeping: ad.Llama, echo: bool) -> None:
    tokens = letters(keeping, "abc")
    found: Any = keeping(PROMPT, max_tokens=3, logprobs=2, echo=echo, logits_processor=dictate(tokens))
    logprobs = found["choices"][0]["logprobs"]
    keeping.eval(tokens[-1:])
    rows = keeping.logits_to_logprobs(keeping.scores[: keeping.n_tokens])
    first = 2 if echo else len(PROMPT)  # token 0 of the prompt is the beginning; the next one has no numbers
    text = [*PROMPT, *tokens]
    expected = [rows[i - 1][text[i]] for i in range(first, len(text))]
    given, tops = logprobs["token_logprobs"], logprobs["top_logprobs"]
    assert (given[:1], tops[:1]) == ([None], [None]) if echo else given[0] is not None
    np.testing.assert_allclose(given[echo:], expected, rtol=0, atol=1e-5)
    for i, top in enumerate(tops[echo:], first):
        assert max(top.values()) == rows[i - 1].max()
    assert logprobs["tokens"][-3:] == ["a", "b", "c"]


def test_logprobs_of_held_back_tokens_stream_together(keeping: ad.Llama) -> None:
    tokens = letters(keeping, "a€b")
    chunks: Any = keeping(PROMPT, max_tokens=5, logprobs=0, logits_processor=dictate(tokens), stream=True)
    found = [chunk["choices"][0] for chunk in chunks][:-1]
    assert [choice["text"] for choice in found] == ["a", "€", "b"]
    assert [len(choice["logprobs"]["token_logprobs"]) for choice in found] == [1, 3, 1]
    assert [offset for choice in found for offset in choice["logprobs"]["text_offset"]] == [4, 5, 5, 5, 6]
    assert json.dumps(found)


# ---- seeds ----

SEEDS = """
import os, sys
from conftest import load
from autodeco_gguf import Llama
def tokens(**kwargs):
    llm = load(sys.argv[1], **kwargs)
    llm([0, 284, 97, 12], max_tokens=16)
    return [token.id for token in llm.trace]
print(tokens(), tokens(seed=5))
"""


def test_without_a_seed_every_process_draws_something_else(merged: Path) -> None:
    def run() -> list[str]:
        command = [sys.executable, "-c", SEEDS, str(merged)]
        env = os.environ | {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout.split(
            "]"
        )

    first, second = run(), run()
    assert first[0] != second[0]
    assert first[1] == second[1]


def test_without_a_seed_every_model_draws_something_else(merged: Path) -> None:
    def drawn(seed: int) -> list[int]:
        llm = load(merged, seed=seed)
        llm(PROMPT, max_tokens=16)
        return [token.id for token in llm.trace]

    for none in (-1, MAX_SEED):
        assert drawn(none) != drawn(none)
    assert drawn(1) == drawn(1)


@pytest.mark.parametrize("wrong", ["x", 1.5, [1], float("nan")])
def test_a_seed_that_is_refused_is_not_the_models(wrong: Any, merged: Path) -> None:
    ways: list[Any] = [lambda m: m(PROMPT, max_tokens=4, seed=wrong), lambda m: m.set_seed(wrong)]
    llm, expected = load(merged, seed=5), load(merged, seed=5)(PROMPT, max_tokens=4)["choices"]
    for way in (*ways, lambda _: load(merged, seed=wrong)):
        with pytest.raises(InvalidInput, match=rf"^seed {re.escape(repr(wrong))}, expected a whole number$"):
            way(llm)
    assert llm(PROMPT, max_tokens=4)["choices"] == expected


class FullCache(LlamaRAMCache):
    def __setitem__(self, *_: object) -> None:
        raise OSError("no space left")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_the_cache_does_not_take_is_there(stream: bool, merged: Path) -> None:
    llm: Any = load(merged, seed=5)
    llm.set_cache(FullCache())
    asked = llm.create_completion([1, 2, 3], max_tokens=4, stream=True) if stream else None
    with pytest.warns(RuntimeWarning, match="the cache did not take the state of this answer: no space left"):
        found = list(asked) if asked else [llm.create_completion([1, 2, 3], max_tokens=4)]
    assert found[-1]["choices"][0]["finish_reason"] == "length"


def test_without_a_seed_a_cache_of_states_repeats_no_answer(merged: Path) -> None:
    def answers(cache: LlamaRAMCache | None) -> list[str]:
        llm: Any = load(merged, f32_cache=True, seed=5)
        llm.set_cache(cache)
        return [llm(prompt, max_tokens=16)["choices"][0]["text"] for prompt in (PROMPT, [1, *PROMPT]) * 4]

    found = answers(LlamaRAMCache())
    assert found == answers(None)
    assert len(set(found)) == 8


# ---- tokenizers ----


def test_a_beginning_that_is_there_twice_is_said(qwen2: Case, tmp_path: Path) -> None:
    """As llama_cpp says it."""
    path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata={"tokenizer.ggml.add_bos_token": (True, Kind.BOOL)})
    llm: Any = load(path, heads_enabled=())
    with pytest.warns(RuntimeWarning, match=r'Detected duplicate leading "<\|endoftext\|>" in prompt'):
        found = llm("<|endoftext|>Hi", max_tokens=1)
    assert found["usage"]["prompt_tokens"] == 1 + llm("Hi", max_tokens=1)["usage"]["prompt_tokens"]


class Decoded(BaseLlamaTokenizer):
    """As transformers' decode: a part of a character is one that is none."""

    def __init__(self, llm: ad.Llama) -> None:
        self._of = LlamaTokenizer(llm)

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        return self._of.tokenize(text, add_bos, special)

    def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes:
        def shown(ids: list[int]) -> bytes:
            return self._of.detokenize(ids, special=special).decode(errors="replace").encode()

        before = prev_tokens or []
        return shown([*before, *tokens])[len(shown(before)) :]


@pytest.mark.parametrize("stream", [False, True])
def test_characters_of_several_tokens_by_another_tokenizer(
    stream: bool, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm: Any = load(merged)
    monkeypatch.setattr(llm, "tokenizer_", Decoded(llm))
    said = "a 🙂 日本 é"
    tokens = letters(llm, said)
    found = llm(PROMPT, max_tokens=len(tokens), logits_processor=dictate(tokens), stream=stream)
    assert "".join(part["choices"][0]["text"] for part in (found if stream else [found])) == said


# ---- biases ----


def test_biases_by_numbers_as_text(llm: ad.Llama) -> None:
    found: Any = llm(PROMPT, max_tokens=3, logit_bias={str(letters(llm, "q")[0]): "100"}, seed=1)
    assert found["choices"][0]["text"] == "qqq"


def test_a_bias_below_what_a_float_holds_excludes_a_token(llm: ad.Llama) -> None:
    """Without a warning, which is an error where these are."""
    q, r = letters(llm, "qr")
    assert llm(PROMPT, max_tokens=3, logit_bias={q: -1e300, r: 100.0}, seed=1)["choices"][0]["text"] == "rrr"


BAD_BIASES = [
    ({"hello": 1.0}, r"logit_bias of token 'hello', expected 0 to 383"),
    ({"--5": 1.0}, r"logit_bias of token '--5', expected 0 to 383"),
    ({5: "much"}, r"logit_bias of token 5 'much', expected a number"),
    pytest.param({5: 10**400}, r"logit_bias of token 5 is 1000*, expected a number of at most 1e\+30", id="huge"),
    ({5: 1e39}, r"logit_bias of token 5 is 1e\+39, expected a number of at most 1e\+30 or -inf"),
    ({"5": float("nan")}, r"logit_bias of token 5 is nan, expected a number"),
    ({384: 1.0}, r"logit_bias of token 384, expected 0 to 383"),
    ({-1: 1.0}, r"logit_bias of token -1, expected 0 to 383"),
]


@pytest.mark.parametrize(("bias", "match"), BAD_BIASES, ids=[str(b[0]) for b in BAD_BIASES])
def test_what_is_no_bias(llm: ad.Llama, bias: Any, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        llm(PROMPT, logit_bias=bias)


# ---- infill ----


def test_infill_takes_the_marks_of_the_vocabulary(llm: ad.Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    monkeypatch.setattr(llm, "generate", lambda tokens, **_: seen.append(tokens) or iter([]))
    for name, mark in (("token_prefix", 11), ("token_suffix", 22), ("token_middle", 33)):
        monkeypatch.setattr(llm._model, name, lambda mark=mark: mark)
    monkeypatch.setitem(llm.metadata, "tokenizer.ggml.add_space_prefix", "false")
    llm("a", suffix="c")
    monkeypatch.setattr(llm, "spm_infill", True)
    llm("a", suffix="c")
    a, c = letters(llm, "ac")
    monkeypatch.setitem(llm.metadata, "tokenizer.ggml.add_space_prefix", "true")  # as of those that say nothing
    llm("a", suffix="c")
    assert seen == [[11, a, 22, c, 33], [22, c, 11, a, 33], [22, c, 11, a, 33]]


def test_nothing_stands_between_a_gap_and_its_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a vocabulary that puts a space before a text, and has no token for the character that takes it."""
    llm = conftest.load(FAMILIES / "mistral.gguf", heads_enabled=())
    seen: list[list[int]] = []
    monkeypatch.setattr(llm, "generate", lambda tokens, **_: seen.append(tokens) or iter([]))
    llm("a", suffix="cd")
    _, *cd = llm.tokenize(b"cd", add_bos=False)  # behind the space
    assert seen[0][-len(cd) - 2 :] == [0, *cd, 0]
    llm.close()
