"""Thousands of broken files through the whole front door; HOSTILE_SEED and HOSTILE_COUNT give others, and more."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from hostile.broken_gguf import broken_gguf
from hostile.gguf_bytes import Gguf
from hostile.hunt import fault, hunt, summary

FIXTURES = Path(__file__).parent.parent
SEED, COUNT = int(os.environ.get("HOSTILE_SEED", "0")), int(os.environ.get("HOSTILE_COUNT", "3000"))

ONCE_BAD = [1_000_481, 1_001_476, 2_002_189, 2_002_234]
"""Seeds that were said to end badly: by a crash, hanging, with a file that is mapped, a template of two seconds."""


def test_no_broken_file_does_harm(tmp_path: Path) -> None:
    assert hunt(iter([*ONCE_BAD, *range(SEED, SEED + COUNT)]), tmp_path, min(4, os.cpu_count() or 1)) == []


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*fixtures/*/*.gguf")), ids=lambda path: path.parent.name)
def test_a_file_is_put_together_as_it_was(path: Path) -> None:
    assert Gguf.read(path).bytes() == path.read_bytes()


def test_a_seed_gives_the_same_file_each_time() -> None:
    path = FIXTURES / "fixtures/qwen2/base.gguf"
    files = [[broken_gguf(random.Random(seed), Gguf.read(path)) for seed in range(20)] for _ in range(2)]
    assert files[0] == files[1]
    assert len(set(files[0])) > 15


GOOD: dict[str, Any] = {
    "what": "x",
    "status": 1,
    "err": "error: x\n",
    "out": "",
    "cpu_s": 0.1,
    "memory": 0,
    "read": 0,
    "left": [],
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "exception": ({"status": "Traceback (most recent call last): x"}, "traceback"),
    "printed traceback": ({"err": "Traceback (most recent call last):\nerror: x\n"}, "traceback"),
    "odd status": ({"status": 139}, "exit status"),
    "silence": ({"err": ""}, "no line that says"),
    "steers the terminal": ({"err": "error: \x1b[2J\n"}, "control characters"),
    "slow": ({"cpu_s": 5.1}, "5.1 s"),
    "large": ({"memory": 301 << 20}, "301 MB"),
    "slow for a GGUF alone": ({"what": "model.gguf from x.gguf: run /x", "cpu_s": 1.1}, "1.1 s"),
    "large for a GGUF alone": ({"what": "adapter: inspect /x", "memory": 65 << 20}, "65 MB"),
    "half a file": ({"left": [".x.tmp"]}, "left behind"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_counts_as_harm(name: str) -> None:
    change, reason = BAD[name]
    assert fault(GOOD) == ""
    assert reason in fault({**GOOD, **change})


def test_a_file_that_is_mapped_is_no_memory_of_the_program() -> None:
    large = {**GOOD, "memory": 120 << 20, "read": 120 << 20}
    assert fault({**large, "what": "model.gguf from x.gguf: run /x"}) == ""
    assert fault({**large, "what": "model.gguf from x.gguf: inspect /x"}) == "120 MB"


def test_a_summary() -> None:
    case = {"what": "model.gguf from x: run x", "cpu_s": 0.1, "memory": 1 << 20, "wrong": ""}
    lines = [
        case,
        {**case, "what": "adapter: verify", "cpu_s": 0.3, "wrong": "slow"},
        {**case, "what": "golden", "memory": None},
    ]
    text = summary(iter(lines))
    assert text.splitlines()[0] == "3 cases, 2 of them GGUFs, 1 of these to run, inspect, export, repack; 1 end badly"
    assert "at most 0.30" in text
