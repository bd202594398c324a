"""How long the sequences of a training may be."""

from __future__ import annotations

from pathlib import Path

from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.model.devices import list_devices
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training.settings import MAX_BATCH, TrainingSettings

LEAST, MOST = 2048, 2**17
"""Tokens of a sequence, whatever the memory; between them the limit is a power of two, so that it is the same again."""


def longest_by_memory(
    model: BaseModel, settings: TrainingSettings, machine: Machine, variants: int = 1, memory: int | None = None
) -> int:
    """The most tokens of a sequence for which half of the memory will do that the model leaves.

    Counted are the cache of one sequence and what a step keeps of a batch of sequences that are all so long, of
    each example so many ``variants``. ``memory`` is in bytes, by default that of the machine, or of the container.
    """
    files = sum(path.stat().st_size for path in model.paths)
    room = ((_memory() if memory is None else memory) - files) // 2
    each = (settings.batch or MAX_BATCH) * variants * ((model.hidden_size or 0) + 25) * 4
    each += _cached(model.parts[0]) * (4 if machine.cache_type == "f32" else 2)
    longest = LEAST
    while longest < MOST and 2 * longest * each <= room:
        longest *= 2
    return longest


def _cached(file: GgufFile) -> int:
    """Numbers that the cache holds for a token, as far as the metadata say; an upper bound where layers differ."""

    def value(key: str, default: int) -> int:
        found = file.get(f"{file.architecture}.{key}", object)
        return found if isinstance(found, int) else default

    heads = max(1, value("attention.head_count", 1))
    width = value("embedding_length", 0) // heads
    each = value("attention.key_length", width) + value("attention.value_length", width)
    return value("block_count", 1) * value("attention.head_count_kv", heads) * each


def _memory() -> int:
    """Bytes of this machine, or of the container that this runs in."""
    physical = next(device.total for device in list_devices() if device.kind == "cpu")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(physical, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            pass
    return physical
