"""What a server says of its model."""

from __future__ import annotations

from pathlib import Path

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


def test_parameters(service: Service) -> None:
    shown = about.show(service)
    assert shown["model_info"]["general.parameter_count"] == 1161856
    assert shown["details"]["parameter_size"] == "1.2M"


def test_clients_are_told_the_context_that_there_is(qwen2: Case) -> None:
    with make(qwen2.base, n_ctx=64) as engine:
        service = serving(engine)
        shown = about.show(service)
        assert shown["model_info"]["qwen2.context_length"] == shown["details"]["context_length"] == engine.n_ctx == 64
        service.driver.close()


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
