"""What a token costs after its logits: features and draw, beside llama.cpp's chains and one pass of exponentials.

Models of one narrow layer, so that hardly more than the output layer and the last stage is left, at vocabularies of
real ones. All ways take turns, token by token; a figure is the median over tokens of the time beyond greedy decoding,
which looks for the largest logit alone. --json keeps them.

    python benchmarks/last_stage.py --json benchmarks/last_stage.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

import autodeco_gguf as ad

sys.path.insert(0, str(Path(__file__).parent))
from overhead import FULL_TOP_P, load, machine, prepare, tokens_in_turn
from synthetic import SMALL

VOCABULARIES = (32_000, 49_152, 151_936, 262_144)
GREEDY = "greedy"
COLUMNS = {
    "exponentials": "one pass of exponentials",
    "ours": "T and P predicted",
    "ours, fixed": "T = 0.7, P = 0.95",
    "llama.cpp": "stock's default chain",
    "llama.cpp, top-p": "stock without top-k",
}


def exponentials(n: int, threads: int) -> float:
    """Seconds for exp of so many floats, shared among the threads: the floor of whatever needs a softmax."""
    x = np.random.default_rng(0).normal(0, 2, n).astype(np.float32)
    y = np.empty_like(x)
    times = []
    for _ in range(100):
        start = time.perf_counter()
        np.exp(x, out=y)
        times.append(time.perf_counter() - start)
    return statistics.median(times) / threads


def measure(vocab: int, directory: Path, tokens: int, threads: int) -> dict[str, float]:
    """Microseconds a token by each way."""
    shape = replace(SMALL, name=f"narrow-{vocab}", hidden=64, layers=1, heads=2, ff=128, vocab=vocab)
    base, adapter = prepare(directory, shape)
    fixed = ad.Llama(base, heads_enabled=(), n_ctx=1024, n_threads=threads, verbose=False)
    ways: dict[str, tuple[llama_cpp.Llama, dict[str, Any]]] = {
        GREEDY: (load(base, None, threads), {"temp": 0.0}),
        "ours": (load(base, adapter, threads), {}),
        "ours, fixed": (fixed, {"temp": 0.7, "top_p": 0.95, "top_k": 0, "min_p": 0.0}),
        "llama.cpp": (load(base, None, threads), {}),
        "llama.cpp, top-p": (load(base, None, threads), FULL_TOP_P),
    }
    seconds = tokens_in_turn(ways, tokens)
    beyond = {
        name: statistics.median(b - a for a, b in zip(seconds[GREEDY], found, strict=True))
        for name, found in seconds.items()
        if name != GREEDY
    }
    for llama, _ in ways.values():
        llama.close()
    return {name: 1e6 * value for name, value in {"exponentials": exponentials(vocab, threads), **beyond}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--tokens", type=int, default=900)
    parser.add_argument("--threads", type=int, default=ad.Machine().threads)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "threads": args.threads, "microseconds": {}}
    print(f"| us a token beyond greedy | {' | '.join(COLUMNS.values())} |\n|---:|{'---:|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as directory:
        for vocab in args.vocabularies:
            found = measure(vocab, Path(directory), args.tokens, args.threads)
            figures["microseconds"][str(vocab)] = found
            print(f"| {vocab:,} | {' | '.join(f'{found[name]:,.0f}' for name in COLUMNS)} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
