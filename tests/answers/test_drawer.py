"""What draws answers has all that is asked of it."""

from __future__ import annotations

import inspect

import pytest
from fake_engine import FakeEngine

from autodeco_gguf.answers.drawer import Drawer
from autodeco_gguf.cluster.fleet import Fleet
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.shipped import DEMO_MODEL

MEMBERS = [name for name in vars(Drawer) if not name.startswith("_")]


@pytest.mark.parametrize("kind", [Engine, Fleet])
@pytest.mark.parametrize("name", [name for name in MEMBERS if inspect.isfunction(vars(Drawer)[name])])
def test_methods_are_called_alike(kind: type, name: str) -> None:
    assert inspect.signature(getattr(kind, name)) == inspect.signature(getattr(Drawer, name))


def test_an_engine_has_all_of_it() -> None:
    with Engine(DEMO_MODEL, n_parallel=1, n_ctx=64, machine=Machine(n_threads=1)) as engine:
        assert [name for name in MEMBERS if not hasattr(engine, name)] == []
        assert (engine.model_name, engine.draws_on, engine.heads_file) == (DEMO_MODEL.name, False, None)
        assert engine.metadata["general.architecture"] == "qwen2"
        assert list(engine.prompts(["a", "b"])) == [engine.prompt("a"), engine.prompt("b")]
    assert [name for name in MEMBERS if not hasattr(FakeEngine(), name) and name != "render"] == []
