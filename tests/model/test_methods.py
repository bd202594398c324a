"""Methods of llama_cpp.Llama with other defaults, and what is said of arguments."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conftest
import llama_cpp
import pytest
from conftest import Case, load

import autodeco_gguf as ad
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.model.methods import check_settings, in_turn, warn_ignored, with_defaults
from autodeco_gguf.model.rpc.remote import NOBODY
from autodeco_gguf.model.turns import Turns


def test_defaults_and_stops() -> None:
    def method(a: int, temperature: float = 0.8, stop: Any = None, *, min_p: float = 0.05) -> Any:
        return a, temperature, stop, min_p

    ours = with_defaults(method)
    assert ours(1) == (1, None, [], 0.0)
    assert ours(1, 0.8, (s for s in "ab"), min_p=0.1) == (1, 0.8, ["a", "b"], 0.1)
    assert [p.default for p in inspect.signature(ours).parameters.values()] == [
        inspect.Parameter.empty,
        None,
        None,
        0.0,
    ]


def test_in_turn() -> None:
    class Model:
        _turns, _remote = Turns("a model"), NOBODY

        @in_turn
        def compute(self, value: int) -> int:
            assert self._turns._owned()
            return value

    assert Model().compute(3) == 3
    assert not Model._turns._owned()


def test_what_llama_cpp_would_ignore() -> None:
    with pytest.warns(RuntimeWarning, match="Llama: unknown argument n_ctxx, which llama_cpp ignores"):
        check_settings({"n_ctx": 5, "n_ctxx": 5})


def test_no_prediction_where_embeddings_are_pooled(merged: Path) -> None:
    llm = load(merged, embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN)
    with pytest.raises(InvalidInput, match="the context pools its embeddings; predict needs LLAMA_POOLING_TYPE_NONE"):
        llm.predict([1, 2, 3])


def test_the_vocabulary_alone_computes_nothing(merged: Path) -> None:
    """llama_cpp: an AssertionError."""
    llm = load(merged, vocab_only=True, embedding=True)
    for use in (llm.eval, llm.predict, llm, llm.generate, lambda _: llm.embed("a")):
        with pytest.raises(InvalidInput, match=r"^vocab_only: nothing can be computed; load the model without it$"):
            next(iter(use([1, 2])))
    assert llm.detokenize(llm.tokenize(b"some words")) == b"some words"


@pytest.mark.parametrize("where", [llama_cpp, llama_cpp.llama], ids=["package", "module"])
def test_our_class_in_the_place_of_llama_cpps(qwen2: Case, monkeypatch: pytest.MonkeyPatch, where: Any) -> None:
    """As programs do that import a wrapper which imports llama_cpp; a warning is an error here."""
    load: Callable[..., ad.Llama] = conftest.load
    monkeypatch.setattr(where, "Llama", ad.Llama)
    llm = load(qwen2.base, heads_enabled=(), n_batch=64, flash_attn=False)
    assert llm("a", max_tokens=1)
    assert llm.tokenizer().encode("a")
    llm.load_state(llm.save_state())
    llm.reset()
    assert len(load(qwen2.base, heads_enabled=(), embedding=True).embed("a"))


def test_what_the_heads_decide_is_said() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [warn_ignored("m", {"temperature": t, "top_p": None}) for t in (None, 0.8)] == [False, True]
    assert [str(w.message) for w in caught] == [
        'm: sampling "heads" ignores temperature 0.8, here and in later calls: the heads decide'
    ]


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "frequency_penalty", "mirostat_mode"])
@pytest.mark.parametrize("value", ["1", [1], b"x"], ids=str)
def test_a_number_that_is_none(merged: Path, name: str, value: Any) -> None:
    """llama_cpp: a TypeError from somewhere within."""
    with pytest.raises(InvalidInput, match=name):
        load(merged)([1, 2], max_tokens=1, **{name: value})


@pytest.mark.parametrize("name", ["min_p", "top_k", "presence_penalty", "repeat_penalty", "mirostat_tau"])
def test_none_is_a_number_not_given(merged: Path, name: str) -> None:
    llm = load(merged)
    texts = [llm([1, 2], max_tokens=4, seed=1, **more)["choices"][0]["text"] for more in ({}, {name: None})]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": None},
        {"prompt": b"ab"},
        {"prompt": 5},
        {"suffix": 3},
        {"max_tokens": "5"},
        {"max_tokens": math.nan},
        {"seed": 1.5},
        {"logit_bias": [5]},
        {"grammar": 'root ::= "a"'},
        {"top_k": 1.5},
    ],
    ids=str,
)
def test_an_argument_of_another_type(merged: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(arguments))):
        load(merged)(**{"prompt": [1, 2], "max_tokens": 1, **arguments})


@pytest.mark.parametrize(
    ("key", "use"),
    [
        ("prompt", lambda m: m("caf\udce9")),
        ("prompt", lambda m: m("\ud800", stream=True)),
        ("suffix", lambda m: m("a", suffix="\ud800")),
        ("messages", lambda m: m.create_chat_completion([{"role": "user", "content": "\ud800"}])),
        ("messages", lambda m: m.create_chat_completion([{"role": "user", "content": [{"text": "\ud800"}]}])),
        ("input", lambda m: m.embed(["a", "\ud800"])),
    ],
)
def test_a_text_that_is_not_utf8(merged: Path, key: str, use: Callable[[ad.Llama], Any]) -> None:
    with pytest.raises(InvalidInput, match=rf"^{key} '.*' is not UTF-8: surrogates not allowed$") as caught:
        use(load(merged, embedding=key == "input"))
    assert caught.value.key == key


@pytest.mark.parametrize(
    "arguments", [{"n_batch": -1}, {"n_batch": 0}, {"n_ctx": -1}, {"n_ctx": 2**40}, {"n_threads": 10**6}], ids=str
)
def test_sizes_that_crash_llama_cpp(merged: Path, arguments: dict[str, Any]) -> None:
    """A negative batch ends the process when it is freed, a million threads when they are started."""
    with pytest.raises(InvalidInput, match=next(iter(arguments))):
        load(merged, **arguments)


def test_a_lora_adapter_that_is_none(merged: Path, tmp_path: Path) -> None:
    """llama_cpp does not notice, and ends the process."""
    for path in (tmp_path / "missing.gguf", merged):
        with pytest.raises(BadFile, match=f"{path.name}: no LoRA adapter for"):
            load(merged, lora_path=path)
