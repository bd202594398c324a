"""Threads of an engine, a Llama, heads, file headers and draws, all at once: what `make threads` watches for races."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

import autodeco_gguf as ad
from autodeco_gguf.heads.compute import Heads
from autodeco_gguf.heads.model_file import ModelFile

FIXTURE = Path(__file__).parent.parent / "fixtures" / "qwen2"
PROMPT = [0, 284, 97]
TIMES = 6


def together(path: Path, rows: int = 4) -> list[str]:
    """Two threads of each kind; what any of them raised. The heads are evaluated for so many rows at once."""
    errors: list[str] = []
    hidden, logits = np.zeros((rows, 64), np.float32), np.zeros((rows, 384), np.float32)
    heads = Heads(ModelFile.open(path).read_heads())
    with ad.Engine(path, n_parallel=4, n_ctx=64) as engine:
        llm = ad.Llama(path, n_ctx=64, n_threads=1, verbose=False)
        kinds: list[Callable[[], object]] = [
            lambda: llm(PROMPT, max_tokens=8, seed=1),
            lambda: engine.generate([ad.Request(PROMPT, seed=seed, max_tokens=8) for seed in range(3)]),
            lambda: heads.evaluate(hidden, logits),
            lambda: ModelFile.open(path).outer.metadata(),
            lambda: ad.draw(np.zeros(5000, np.float32), 1.0, 0.9, n=50, seed=1),
        ]

        def work(kind: Callable[[], object]) -> None:
            try:
                for _ in range(TIMES):
                    kind()
            except Exception as e:
                errors.append(repr(e))

        threads = [threading.Thread(target=work, args=(kind,)) for kind in kinds * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        llm.close()
    return errors


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        merged = ad.export(FIXTURE / "base.gguf", FIXTURE / "heads", Path(directory) / "merged.gguf")
        # a row takes one thread: how ggml's own wait for each other ThreadSanitizer does not see
        errors = together(merged.path, rows=1)
    print("\n".join(errors) or "done")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
