"""What a server says of its model."""

from __future__ import annotations

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
