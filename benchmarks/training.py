"""How fast heads are trained: tokens a second of training steps, against llama.cpp reading the same tokens as prompts.

Writes a model with random weights once (0.5 GB). Its logits are far flatter than a trained model's, so that the exact
top-p loss has to sort nearly every position: the slowest there is. The second figure allows an error of 1e-2 nats.

    python benchmarks/training.py --json benchmarks/training.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autodeco_gguf.model.context import Context
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.training.data import Counts, Dataset
from autodeco_gguf.training.settings import Objective, TrainingSettings
from autodeco_gguf.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parent))
from overhead import machine, paired
from synthetic import SMALL, write_model

N_PROMPT, N_COMPLETION = 128, 384
WANTED = 0.5


def dataset(directory: Path, n_vocab: int, n: int) -> Dataset:
    """Examples of random tokens; three quarters of each are predicted."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1000, n_vocab, (n, N_PROMPT + N_COMPLETION), dtype=np.int32)
    tokens[:, N_PROMPT:] = ~tokens[:, N_PROMPT:]
    for name, values in (
        ("tokens", tokens),
        ("ends", np.arange(n + 1, dtype=np.int64) * tokens.shape[1]),
        ("firsts", np.arange(n + 1, dtype=np.int64)),
        ("prompts", np.arange(n, dtype=np.uint64)),
    ):
        (directory / name).write_bytes(values.tobytes())
    return Dataset(directory, Counts(examples=n), "benchmark")


def read_prompts(context: Context, data: Dataset) -> float:
    """Tokens per second of llama.cpp reading an example, without a single output."""
    tokens = np.abs(data[0][0])
    context.clear()
    begin = time.perf_counter()
    context.fill(tokens, range(len(tokens)), [0] * len(tokens))
    return len(tokens) / (time.perf_counter() - begin)


def measure(base: Path, rounds: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    context = Context(base, n_ctx=N_PROMPT + N_COMPLETION, machine=Machine(n_threads=threads))
    figures = {}
    for name, tolerance in (("exact", Objective().sort_tolerance), ("tolerance 1e-2", 1e-2)):
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            data = dataset(directory, context.n_vocab, 2 * rounds + 8)
            settings = TrainingSettings(objective=Objective(sort_tolerance=tolerance), batch=1, steps=10**6)
            trainer = Trainer(context, data, settings, directory, directory, {"base": "benchmark"})

            def train(trainer: Trainer = trainer) -> float:
                return trainer.train_step().tok_s

            figures[name] = paired(lambda data=data: read_prompts(context, data), train, rounds)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("build/benchmarks"), help="where the model is kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    figures = measure(write_model(args.dir / f"{SMALL.name}.gguf", SMALL), args.rounds, args.threads)
    for name, r in figures.items():
        low, high = r["quartiles"]
        print(f"{name:<15} {r['ratio']:.2f} [{low:.2f}, {high:.2f}] of prompt processing (wanted {WANTED})")
        print(f"{'':<15} reading {r['stock_tok_s']:.0f}, training {r['ours_tok_s']:.0f} tokens/s")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), SMALL.name: figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
