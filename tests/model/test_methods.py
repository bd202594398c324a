"""Methods of llama_cpp.Llama with other defaults, and what is said of arguments."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import conftest
import llama_cpp
import pytest
from conftest import Case

import autodeco_gguf as ad
from autodeco_gguf.model.methods import in_turn, warn_ignored, warn_unknown, with_defaults
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
        _turns = Turns("a model")

        @in_turn
        def compute(self, value: int) -> int:
            assert self._turns._running is not None
            return value

    assert Model().compute(3) == 3
    assert Model._turns._running is None


def test_what_llama_cpp_would_ignore() -> None:
    with pytest.warns(RuntimeWarning, match="Llama: unknown argument n_ctxx, which llama_cpp ignores"):
        warn_unknown({"n_ctx": 5, "n_ctxx": 5})


@pytest.mark.parametrize("where", [llama_cpp, llama_cpp.llama], ids=["package", "module"])
def test_our_class_in_the_place_of_llama_cpps(qwen2: Case, monkeypatch: pytest.MonkeyPatch, where: Any) -> None:
    """As programs do that import a wrapper which imports llama_cpp; a warning is an error here."""
    load: Callable[..., ad.Llama] = conftest.load
    monkeypatch.setattr(where, "Llama", ad.Llama)
    llm = load(qwen2.base, heads_enabled=(), n_batch=64, flash_attn=False)
    assert llm("a", max_tokens=1)
    assert llm.tokenizer().encode("a")


def test_what_the_heads_decide_is_said() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [warn_ignored("m", {"temperature": t, "top_p": None}) for t in (None, 0.8)] == [False, True]
    assert [str(w.message) for w in caught] == [
        'm: sampling "heads" ignores temperature 0.8, here and in later calls: the heads decide'
    ]
