"""What surrounds decoding, ours to the plain way in the same run: a start, an export, and heads by themselves.

- From the start of a process to the first token, of a merged file with autodeco_gguf.Llama and of its base with
  llama_cpp.Llama, and of `autodeco-gguf run` beside a script that does the same with llama-cpp-python alone.
- Export of a merged file beside a copy of the base, each followed by fsync.
- Heads.evaluate of 512 rows beside one read of the weights and one exponential of each logit, by numpy.

    python benchmarks/start.py --model smollm2 --model 8b-q4_0 --json benchmarks/start.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import autodeco_gguf as ad

sys.path.insert(0, str(Path(__file__).parent))
from overhead import SHAPES, alternating, find, machine, summary
from synthetic import SMALL

OURS = """
import sys, autodeco_gguf
llama = autodeco_gguf.Llama(sys.argv[1], n_ctx=512, verbose=False)
"""
STOCK = """
import sys, llama_cpp
llama = llama_cpp.Llama(sys.argv[1], n_ctx=512, verbose=False)
"""
TOKEN = "next(llama.generate([1, 2, 3, 4]))\n"
WORDS = "print(llama.create_completion(sys.argv[2], max_tokens=1)['choices'][0]['text'])\n"
TEXT = "The lighthouse"
ROWS = 512


def seconds(*command: object) -> float:
    """What a process takes from its start to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    return time.perf_counter() - start


def paired(plain: Callable[[], float], ours: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Seconds of both, alternating which goes first; ratio is the median of the rounds' ratios, plain to ours."""
    seconds = alternating(plain, ours, rounds)  # the warm-up brings files into the cache
    found = summary({who: [1 / taken for taken in times] for who, times in seconds.items()})
    plain_s, ours_s = (statistics.median(times) for times in seconds.values())
    return {"ratio": found["ratio"], "quartiles": found["quartiles"], "plain_s": plain_s, "ours_s": ours_s}


def copied(source: Path, target: Path) -> float:
    """Seconds of a copy that is on the disk."""
    target.unlink(missing_ok=True)
    start = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - start


def exported(base: Path, heads: Path, target: Path) -> float:
    """Seconds of an export, which puts it on the disk."""
    target.unlink(missing_ok=True)
    start = time.perf_counter()
    ad.export(base, heads, target)
    return time.perf_counter() - start


def evaluated(adapter: Path, rounds: int) -> dict[str, Any]:
    """The heads on 512 rows, beside numpy's sum of the weights and its exponentials of the logits."""
    weights = ad.ModelFile.open(adapter).read_heads()
    heads = ad.Heads.load(adapter)
    rng = np.random.default_rng(0)
    hidden = rng.normal(0, 1, (ROWS, weights.hidden_size)).astype(np.float32)
    logits = rng.normal(0, 2, (ROWS, 32_000 if weights.vocab_size is None else weights.vocab_size)).astype(np.float32)
    matrices = [np.asarray(t, np.float32) for t in weights.tensors.values() if t.ndim == 2]

    def clock(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def read() -> float:
        return float(sum(matrix.sum() for matrix in matrices) + np.exp(logits).sum())

    return paired(lambda: clock(read), lambda: clock(lambda: heads.evaluate(hidden, logits)), rounds)


def measure(base: Path, adapter: Path, directory: Path, rounds: int) -> dict[str, Any]:
    merged, copy, heads = directory / "start.gguf", directory / "copy.gguf", directory / f"{adapter.stem}-checkpoint"
    if not heads.exists():
        ad.extract(adapter, checkpoint=heads)
    try:
        found = {"export": paired(lambda: copied(base, copy), lambda: exported(base, heads, merged), rounds)}
        copy.unlink()
        found["first token"] = paired(
            lambda: seconds("-c", STOCK + TOKEN, base), lambda: seconds("-c", OURS + TOKEN, merged), rounds
        )
        if base.stem not in SHAPES:  # whose vocabulary has no words
            found["run"] = paired(
                lambda: seconds("-c", STOCK + WORDS, base, TEXT),
                lambda: seconds("-m", "autodeco_gguf", "run", merged, "-p", TEXT, "-n", 1, "-c", 512, "--raw"),
                rounds,
            )
    finally:
        merged.unlink(missing_ok=True), copy.unlink(missing_ok=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help=f"a shape, a name or a plain GGUF (default: {SMALL.name})")
    parser.add_argument("--dir", type=Path, default=Path("build/benchmarks"), help="where models are kept")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"machine": machine()}
    for model in args.model or [SMALL.name]:
        base, adapter = find(model, args.dir)
        figures[base.stem] = measure(base, adapter, args.dir, args.rounds)
        figures[base.stem]["512 rows"] = evaluated(adapter, args.rounds)
        for what, row in figures[base.stem].items():
            low, high = row["quartiles"]
            print(
                f"{base.stem:<12} {what:<12} {row['ratio']:.2f} [{low:.2f}, {high:.2f}]"
                f"  plain {row['plain_s']:.3f} s, ours {row['ours_s']:.3f} s",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
