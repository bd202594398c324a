"""How much faster many sequences at once are, and what a shared prompt costs; ratios taken in one run.

Writes a model with random weights once (0.5 GB), checks that sequences in a batch get the tokens that they get alone,
then takes turns between batch sizes. Beside every ratio stands that of bare llama_decode, which is what can be reached:
the two take turns step by step.

    python benchmarks/engine.py --json benchmarks/engine.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from overhead import in_turn, machine, prepare
from synthetic import SMALL

from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.request import Request
from autodeco_gguf.model.machine import Machine

SIZES = (1, 4, 8, 16, 32, 64)
TARGETS = {8: 3.5, 16: 4.5}
PROMPT = list(range(1000, 1512))


def make(model: tuple[Path, Path], n: int, threads: int, n_ctx: int = 256) -> Engine:
    base, adapter = model
    return Engine(base, heads=adapter, n_parallel=n, n_ctx=n_ctx, machine=Machine(n_threads=threads))


def check_equal(model: tuple[Path, Path], threads: int) -> None:
    """Greedy answers of different lengths are the same at once and one by one."""
    requests = [Request(PROMPT[i : 3 * i + 8], temperature=0.0, max_tokens=4 + i) for i in range(4)]
    found = []
    for n in (1, 4):
        engine = make(model, n, threads)
        found.append([result.tokens for result in engine.generate(requests)])
        engine.close()
    if found[0] != found[1]:
        raise SystemExit(f"not the same tokens: {found}")


def rates(engine: Engine, bare: Engine, tokens: int, seed: int) -> tuple[float, float]:
    """Tokens per second of as many sequences as there is room for, and of llama_decode alone, step by step in turn.

    The latter on a context of its own, without heads, and nothing is drawn. An answer may end by itself, which one in
    thousands does: what was drawn is counted.
    """
    n, context = engine.n_parallel, bare.context
    handles = [engine.submit(Request(PROMPT[:16], seed=seed + i, max_tokens=200)) for i in range(n)]
    engine.run_until(lambda: all(handle.n_drawn for handle in handles))
    for sequence in range(n):
        context.fill(PROMPT[:16], range(16), [sequence] * 16)
    context.decode(PROMPT[:n], [16] * n, range(n), hidden=False)
    before = [handle.n_drawn for handle in handles]

    def step(i: int) -> None:
        most = [n_drawn + i for n_drawn in before]
        engine.run_until(lambda: all(h.finish_reason or h.n_drawn >= m for h, m in zip(handles, most, strict=True)))

    def decode(i: int) -> None:
        context.decode(PROMPT[:n], [16 + i] * n, range(n), hidden=False)

    steps = range(1, tokens + 1)
    seconds = in_turn({"engine": map(step, steps), "llama_decode": map(decode, steps)}, tokens)
    drawn = sum(handle.n_drawn for handle in handles) - sum(before)
    for handle in handles:
        handle.cancel()
    engine.forget()
    bare.forget()
    return drawn / sum(seconds["engine"]), n * tokens / sum(seconds["llama_decode"])


def throughput(model: tuple[Path, Path], rounds: int, tokens: int, threads: int) -> dict[str, Any]:
    """Ratios to one sequence: medians and quartiles over rounds, in each of which every size has its turn."""
    pairs = {n: (make(model, n, threads), make(model, n, threads)) for n in SIZES}
    found = {name: {n: list[float]() for n in SIZES} for name in ("engine", "llama_decode")}
    for i in range(rounds + 1):  # the first warms up
        for n, pair in pairs.items():
            for name, rate in zip(found, rates(*pair, tokens, 1000 * i), strict=True):
                found[name][n] += [rate] if i else []
    for pair in pairs.values():
        for engine in pair:
            engine.close()
    return {name: {str(n): _ratio(of_size[n], of_size[1]) for n in SIZES} for name, of_size in found.items()} | {
        "engine_to_llama_decode": {str(n): _ratio(found["engine"][n], found["llama_decode"][n]) for n in SIZES}
    }


def _ratio(of: list[float], to: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(of, to, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "ratio": statistics.median(ratios),
        "quartiles": [quartiles[0], quartiles[2]],
        "tok_s": statistics.median(of),
    }


def shared_prompt(model: tuple[Path, Path], threads: int) -> dict[str, int]:
    """Tokens that were decoded for 16 answers to one prompt of 512 tokens."""
    engine = make(model, 16, threads, n_ctx=1024)
    counted: list[int] = []
    fill = engine.context.fill

    def counting(tokens: Any, positions: Any, sequences: Any) -> None:
        counted.append(len(tokens))
        fill(tokens, positions, sequences)

    engine.context.fill = counting  # type: ignore[method-assign]
    engine.generate([Request(PROMPT, seed=i, max_tokens=2) for i in range(16)])
    engine.close()
    return {"answers": 16, "prompt_tokens": len(PROMPT), "prompt_tokens_decoded": sum(counted) + 16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("build/benchmarks"), help="where the model is kept")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24, help="of each sequence, per round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    model = prepare(args.dir, SMALL)
    check_equal(model, args.threads)
    result = {"machine": machine(), "shared_prompt": shared_prompt(model, args.threads)}
    result |= throughput(model, args.rounds, args.tokens, args.threads)
    print(
        "16 answers to a prompt of 512 tokens: {prompt_tokens_decoded} tokens of it decoded".format(
            **result["shared_prompt"]
        )
    )
    for n in SIZES:
        ours, bare, share = (result[key][str(n)] for key in ("engine", "llama_decode", "engine_to_llama_decode"))
        goal = f" (wanted {TARGETS[n]})" if n in TARGETS else ""
        print(
            f"{n:3d} at once: {ours['ratio']:.2f} [{ours['quartiles'][0]:.2f}, {ours['quartiles'][1]:.2f}]{goal}, "
            f"{ours['tok_s']:.1f} tokens/s; llama_decode alone {bare['ratio']:.2f}, {bare['tok_s']:.1f} tokens/s; "
            f"engine to that {share['ratio']:.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
