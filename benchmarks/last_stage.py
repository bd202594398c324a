"""What a token costs after its logits: features and draw, beside llama.cpp's chains and one pass of exponentials.

Models of one narrow layer, so that hardly more than the output layer and the last stage is left, at vocabularies of
real ones. All ways take turns, token by token; a figure is the median over tokens of the time beyond decoding alone,
after which nothing looks at the logits. --json keeps them.

    python benchmarks/last_stage.py --json benchmarks/last_stage.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import autodeco_gguf as ad

sys.path.insert(0, str(Path(__file__).parent))
from overhead import FULL_TOP_P, in_turn, load, machine, prepare, stream_of
from synthetic import SMALL

VOCABULARIES = (32_000, 49_152, 151_936, 262_144)
ALONE, GREEDY = "decode", "greedy"
COLUMNS = {
    "exponentials": "one pass of exponentials",
    GREEDY: "stock, greedy",
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
    stock = [load(base, None, threads) for _ in range(4)]
    ours = load(base, adapter, threads)
    streams: dict[str, Iterator[Any]] = {
        ALONE: (stock[0].eval([1000]) for _ in range(tokens)),
        GREEDY: stream_of(stock[1], temp=0.0),
        "ours": stream_of(ours),
        "ours, fixed": stream_of(fixed, temp=0.7, top_p=0.95, top_k=0, min_p=0.0),
        "llama.cpp": stream_of(stock[2]),
        "llama.cpp, top-p": stream_of(stock[3], **FULL_TOP_P),
    }
    seconds = in_turn(streams, tokens)
    beyond = {
        name: statistics.median(b - a for a, b in zip(seconds[ALONE], found, strict=True))
        for name, found in seconds.items()
        if name != ALONE
    }
    streams.clear()
    for llama in (*stock, ours, fixed):
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
    print(f"| us a token beyond decoding | {' | '.join(COLUMNS.values())} |\n|---:|{'---:|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as directory:
        for vocab in args.vocabularies:
            found = measure(vocab, Path(directory), args.tokens, args.threads)
            figures["microseconds"][str(vocab)] = found
            print(f"| {vocab:,} | {' | '.join(f'{found[name]:,.0f}' for name in COLUMNS)} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
