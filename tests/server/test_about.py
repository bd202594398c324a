"""What a server says of its model."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from broken import shards
from conftest import Case
from engine_helpers import make
from server_helpers import serving

from autodeco_gguf.server import about
from autodeco_gguf.server.service import Service


def test_health_says_what_failed(service: Service) -> None:
    service.driver.failure = "the worker a:50052 is gone"
    assert about.health(service) == {
        "status": "degraded",
        "running": 0,
        "waiting": 0,
        "error": "the worker a:50052 is gone",
    }
    service.driver.failure = None
    assert about.health(service)["status"] == "ok"


def test_health_is_degraded_while_a_worker_is_lost(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(service.engine), "lost", "worker a:50052: lost: gone")
    assert about.health(service)["error"] == "worker a:50052: lost: gone"


def test_a_large_model_and_the_type_of_most_of_it(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [("f32", (10,)), ("f32", (10,)), ("q8_0", (10, 10)), ("q4_k", (50_000, 100_000)), ("q4_k", (2, 2))]
    tensors = [SimpleNamespace(type=kind, shape=shape) for kind, shape in shapes]
    monkeypatch.setattr(about, "_tensors", lambda _: tensors)
    details = about.show(service)["details"]
    assert (details["parameter_size"], details["quantization_level"]) == ("5.0B", "Q4_K")


def test_parameters(service: Service) -> None:
    shown = about.show(service)
    assert shown["model_info"]["general.parameter_count"] == 1161856
    assert shown["details"]["parameter_size"] == "1.2M"


def test_clients_are_told_the_context_that_there_is(qwen2: Case) -> None:
    """And by which name to call it."""
    with make(qwen2.base, n_ctx=64) as engine:
        service = serving(engine)
        with closing(service.driver):
            shown = about.show(service)
        info = shown["model_info"]
        assert info["qwen2.context_length"] == shown["details"]["context_length"] == engine.n_ctx == 64
        assert info["general.basename"] == engine.context.file.base().get("general.basename", str, "demo")


@pytest.mark.parametrize("cut", [0, 9])
def test_all_shards_count(cut: int, qwen2: Case, tmp_path: Path) -> None:
    first = shards(qwen2.base, tmp_path, [cut])
    found = []
    for path in (qwen2.base, first):
        with make(path) as engine:
            service = serving(engine)
            shown = about.show(service)
            found.append((shown["model_info"]["general.parameter_count"], shown["details"]["quantization_level"]))
            size = about.tag(service)["size"]
            service.driver.close()
    assert found[0] == found[1]
    assert size == sum(part.stat().st_size for part in tmp_path.glob("base-0000*.gguf"))
