"""What an engine holds from one request to the next: never what a model has let go of, nor what nobody needs."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import shards
from conftest import Case
from engine_helpers import no_end
from family_helpers import FAMILIES

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.engine.scheduler import Batching, Scheduler
from autodeco_gguf.errors import BadFile, Busy, Closed, ModelFailed
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.base_model import parts_of
from autodeco_gguf.heads.compute import Heads
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL

ONE_THREAD = Machine(n_threads=1, cache_type="f32")


def of_family(name: str, **kwargs: Any) -> Engine:
    path = FAMILIES / f"{name}.gguf"
    return Engine(path, n_ctx=256, heads_enabled=(), machine=ONE_THREAD, **kwargs)


def prompt(n: int, seed: int = 1) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(5, 200, n)]


@pytest.mark.parametrize("name", ["gemma2", "mistral"])
@pytest.mark.parametrize("n_parallel", [1, 2])
def test_what_is_held_after_a_shift(name: str, n_parallel: int) -> None:
    """Where attention has a window of 128 tokens, those before it are gone, although the sequence begins with them."""
    asked: Any = {"temperature": 0.0, "seed": 1, "top": 0}
    never_ends = {token: -float("inf") for token in range(3)}
    with of_family(name, n_parallel=n_parallel) as engine:
        (fresh,) = engine.generate([Request(prompt(100), max_tokens=4, **asked)])
    with of_family(name, n_parallel=n_parallel) as engine:
        engine.generate([Request(prompt(100), max_tokens=700, n_keep=90, logit_bias=never_ends, **asked)])
        (again,) = engine.generate([Request(prompt(100), max_tokens=4, **asked)])
    found, expected = ([token.logprob for token in result.trace] for result in (again, fresh))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["mamba2", "lfm2"])
def test_batch_invariant_with_a_state_that_cannot_go_back(name: str) -> None:
    """A long prompt beside an answer: a token that only kept its place would stay in the state."""
    asked: Any = {"temperature": 0.0, "seed": 1}
    long, short = Request(prompt(200), max_tokens=4, **asked), Request(prompt(5, 2), max_tokens=40, **asked)
    with of_family(name, n_parallel=2) as engine:
        expected = [engine.generate([request])[0].tokens for request in (short, long)]
    with pytest.warns(RuntimeWarning, match="^batch_invariant: not with this model, whose state cannot go back$"):
        engine = of_family(name, n_parallel=2, batching=Batching(batch_invariant=True))
    with engine:
        assert [result.tokens for result in engine.generate([short, long])] == expected


def test_a_request_that_comes_while_an_engine_forgets() -> None:
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=64, machine=ONE_THREAD) as engine:
        ended = threading.Event()

        def forget() -> None:
            while not ended.is_set():
                with suppress(Busy):
                    engine.forget()

        thread = threading.Thread(target=forget)
        thread.start()
        try:
            for i in range(300):
                generation = engine.submit(Request([5], max_tokens=1, seed=i))
                answered = threading.Thread(target=generation.result, daemon=True)
                answered.start()
                answered.join(20)
                assert not answered.is_alive()
        finally:
            ended.set()
            thread.join()


def test_a_reload_that_fails_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=64, machine=ONE_THREAD) as engine:
        (before,) = engine.generate([Request([5], max_tokens=3, seed=1)])
        load = Context._load

        def lost(*args: Any) -> None:
            raise ModelFailed("lost meanwhile")

        for _ in range(2):
            monkeypatch.setattr(Context, "_load", lost)
            with pytest.raises(ModelFailed, match=r"^lost meanwhile$"):
                engine.reload()
            with pytest.raises(Closed):
                engine.generate([Request([5], max_tokens=3, seed=1)])
        monkeypatch.setattr(Context, "_load", load)
        engine.reload()
        assert engine.generate([Request([5], max_tokens=3, seed=1)])[0].tokens == before.tokens


@pytest.mark.parametrize("kind", ["plain", "merged", "sharded"])
def test_another_file_is_not_what_is_loaded_again(kind: str, qwen2: Case, merged: Path, tmp_path: Path) -> None:
    if kind == "sharded":
        path = shards(qwen2.base, tmp_path, [3, 9])
        changed = sorted(tmp_path.glob("*.gguf"))[-1]
    else:
        path = changed = Path(shutil.copy(merged if kind == "merged" else qwen2.base, tmp_path / "m.gguf"))
    request = Request([5], temperature=1.0, top_p=1.0, max_tokens=5, seed=1)
    with Engine(path, heads_enabled=(), n_parallel=1, n_ctx=64, machine=ONE_THREAD) as engine:
        (before,) = engine.generate([request])
        if kind == "sharded":
            parts_of(GgufFile(path))  # by somebody else
        changed.rename(tmp_path / "before")
        shutil.copy(FAMILIES / "mistral.gguf", changed)
        for _ in range(2):
            with pytest.raises(BadFile, match=rf"{changed.name}: changed since it was first read; start again"):
                engine.reload()
            assert engine.generate([request])[0].tokens == before.tokens
        (tmp_path / "before").replace(changed)
        engine.reload()
        assert engine.generate([request])[0].tokens == before.tokens


def test_heads_that_are_replaced_are_let_go_of() -> None:
    weights = ModelFile.open(DEMO_MODEL).read_heads()
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=64, machine=ONE_THREAD) as engine:
        seen: list[weakref.ref[Heads]] = []
        for i in range(5):
            engine.replace_heads(weights)
            seen.append(weakref.ref(engine._predictor.heads))  # type: ignore[arg-type]
            engine.generate([Request([5], max_tokens=1, seed=i)])
        gc.collect()
        assert [one() is not None for one in seen] == [False] * 4 + [True]


def test_who_finds_no_room_waits_for_it() -> None:
    """Several threads that answer many requests each, with room for one that waits."""
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=64, machine=ONE_THREAD, batching=Batching(max_waiting=1)) as engine:
        answered: list[int] = []

        def ask() -> None:
            answered.append(len(engine.generate([Request([5], max_tokens=1, seed=i) for i in range(40)])))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert answered == [40] * 4


def test_with_room_for_one_that_waits_all_sequences_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    draw = Scheduler._draw
    monkeypatch.setattr(Scheduler, "_draw", lambda self: (at_once.append(len(self._in_use())), draw(self)))
    with Engine(DEMO_MODEL, n_parallel=3, n_ctx=64, machine=ONE_THREAD, batching=Batching(max_waiting=1)) as engine:
        requests = (Request([5], max_tokens=9, seed=i, logit_bias=no_end(engine)) for i in range(9))
        assert [len(result.tokens) for result in engine.generate(requests)] == [9] * 9
    assert at_once[:3] == [1, 2, 3]
    assert len(at_once) < 2 + 9 * 9 / 3 + 3


def test_penalties_that_look_back_on_all() -> None:
    asked: Any = {"temperature": 0.0, "seed": 1, "repeat_penalty": 1e6, "max_tokens": 40}
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=64, machine=ONE_THREAD) as engine:
        kinds = {n: engine.generate([Request([5], penalty_last_n=n, **asked)])[0].tokens for n in (-1, 0, 1000)}
    assert kinds[-1] == kinds[1000] != kinds[0]
