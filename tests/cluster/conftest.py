"""Fixtures: the clock of a cluster that is made up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fake_cluster import FakeCluster

from autodeco_gguf.cluster import crew


@pytest.fixture
def cluster_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCluster]:
    """A cluster, whose clock is that of its crews."""

    def make(*args: Any, **kwargs: Any) -> FakeCluster:
        cluster = FakeCluster(*args, **kwargs)
        monkeypatch.setattr(crew, "time", SimpleNamespace(monotonic=lambda: cluster.now))
        return cluster

    return make
