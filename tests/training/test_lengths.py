"""How long sequences may be: by memory, as documented."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Case

from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.model.devices import list_devices
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training import lengths
from autodeco_gguf.training.lengths import LEAST, MOST, longest_by_memory
from autodeco_gguf.training.settings import TrainingSettings


def test_the_longest_that_half_of_the_memory_holds(qwen2: Case) -> None:
    model, settings, machine = BaseModel.open(qwen2.base), TrainingSettings(), Machine()
    file = qwen2.base.stat().st_size
    cached = 2 * 2 * 16 * 2 * 2  # layers, heads, width of each, key and value, bytes
    each = 32 * (64 + 25) * 4 + cached
    for tokens in (4096, 32768):
        enough = file + 2 * tokens * each
        assert longest_by_memory(model, settings, machine, 1, enough) == tokens
        assert longest_by_memory(model, settings, machine, 1, enough - 2) == tokens // 2
        assert longest_by_memory(model, replace(settings, batch=64), machine, 1, enough) == tokens // 2
        assert longest_by_memory(model, settings, replace(machine, cache_type="f32"), 1, enough) == tokens // 2
        with_a_pair = file + 2 * tokens * (3 * (each - cached) + cached)
        assert longest_by_memory(model, settings, machine, 3, with_a_pair) == tokens
        assert longest_by_memory(model, settings, machine, 3, with_a_pair - 2) == tokens // 2
    assert longest_by_memory(model, settings, machine, 1, 0) == LEAST
    assert longest_by_memory(model, settings, machine, 1, 1 << 60) == MOST


def test_it_is_the_machines_memory_and_the_same_each_time(qwen2: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BaseModel.open(qwen2.base)
    found = {longest_by_memory(model, TrainingSettings(), Machine()) for _ in range(3)}
    assert len(found) == 1
    monkeypatch.setattr(lengths, "_memory", lambda: 0)
    assert longest_by_memory(model, TrainingSettings(), Machine()) == LEAST


@pytest.mark.parametrize("limit", ["1000000\n", f"{2**63 - 4096}\n", "max\n"])
def test_a_containers_memory_counts_where_it_is_less(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = next(device.total for device in list_devices() if device.kind == "cpu")
    monkeypatch.setattr(Path, "read_text", lambda _: limit)
    assert lengths._memory() == (1_000_000 if limit.startswith("1") else machines)
