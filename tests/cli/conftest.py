"""What the tests of several commands need."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from broken import Outcome, invoke
from conftest import Case
from fake_engine import Loaded, fake_stream

import autodeco_gguf as ad


@pytest.fixture(scope="session")
def adapter(qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "adapter.gguf"
    ad.export(qwen2.base, qwen2.heads, path, adapter=True)
    return path


PROBLEMS = [{"prompt": f"sums {i}", "answer": f"sums{i}"} for i in range(3)]


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a task, and an engine that is made up."""
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROBLEMS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("autodeco_gguf.engine.engine.Engine", Loaded)
    monkeypatch.setattr(Loaded, "model", None)
    monkeypatch.setattr("autodeco_gguf.evaluation.forced.stream", fake_stream)
    return tmp_path


@pytest.fixture
def run(tasks: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """eval m.gguf on the task."""

    def evaluate(*args: object, methods: str | None = "greedy,default") -> Outcome:
        chosen = () if methods is None else ("--methods", methods)
        return invoke(
            capfd, "eval", "m.gguf", "--task", "sums.jsonl", "--checker", "exact", "-o", "out", "-k", 2, "--seeds", 2,
            "--no-plots", *chosen, *args,
        )  # fmt: skip

    return evaluate
