"""What llama.cpp logs on its way to Python."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from llama_cpp import _logger

import autodeco_gguf


class Counted(dict[int, int]):
    looked_up = 0

    def __getitem__(self, level: int) -> int:
        self.looked_up += 1
        return super().__getitem__(level)


def test_what_python_would_not_print_does_not_reach_it(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took Python's lock in the midst of a decode, and what a signal's handler raised there was lost."""
    with autodeco_gguf.Engine(merged, n_parallel=2, n_ctx=32) as engine:
        counted = Counted(_logger.GGML_LOG_LEVEL_TO_LOGGING_LEVEL)
        monkeypatch.setattr(_logger, "GGML_LOG_LEVEL_TO_LOGGING_LEVEL", counted)
        requests = [autodeco_gguf.Request([1, 2, 3 + i], max_tokens=2) for i in range(2)]
        assert _logger.logger.level == logging.ERROR
        engine.generate(requests)
        assert counted.looked_up == 0
        _logger.set_verbose(True)
        try:
            engine.generate(requests)
        finally:
            _logger.set_verbose(False)
        assert counted.looked_up > 0


def test_a_callback_of_ones_own_is_left_alone() -> None:
    code = """
import ctypes, llama_cpp
from llama_cpp import llama_cpp as lib
seen = []
own = lib.llama_log_callback(lambda level, text, data: seen.append(level))
lib.llama_log_set(own, None)
import autodeco_gguf as ad
from autodeco_gguf.model.shipped import DEMO_MODEL
with ad.Engine(DEMO_MODEL, n_parallel=1, n_ctx=64) as engine:
    engine.generate([ad.Request(engine.prompt("a b"), max_tokens=2)])
print(1 in seen)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "True\n"
