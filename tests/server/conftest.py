"""The served demo model that the tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server_helpers import Api, Loop, demo_engine, served, serving

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.server.service import Service


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with demo_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def service(engine: Engine) -> Iterator[Service]:
    service = serving(engine)
    yield service
    service.driver.close()


@pytest.fixture(scope="session")
def api(service: Service, loop: Loop) -> Api:
    return Api(service, loop)


@pytest.fixture
def url() -> Iterator[str]:
    """Of a server on a socket, with an engine of its own."""
    with demo_engine() as engine, served(serving(engine)) as url:
        yield url
