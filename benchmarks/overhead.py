"""What AutoDeco costs on top of llama_cpp.Llama: speed, prompt processing and memory, paired in one run.

Writes models with random weights once (0.5 GB; 4.9 GB more for 8b-q4_0), checks that both classes compute the same,
then lets them take turns, token by token, and prints ratios: ours to stock, higher is better. --json keeps the figures,
and those of other models that it has.

    python benchmarks/overhead.py --json benchmarks/overhead.json
    python benchmarks/overhead.py --model smollm2 --model gemma.gguf --json benchmarks/overhead.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

import autodeco_gguf as ad
from autodeco_gguf.heads.base_model import BaseModel

sys.path.insert(0, str(Path(__file__).parent))
from synthetic import LARGE, SMALL, Shape, write_heads, write_model

FULL_TOP_P = {"top_k": 0, "min_p": 0.0, "top_p": 0.95}
CHAINS: dict[str, dict[str, Any]] = {"decode": {}, "decode_greedy": {"temp": 0.0}, "decode_full_top_p": FULL_TOP_P}
"""What stock's sampler is asked for; ours draws with what the heads say."""
SHAPES = {shape.name: shape for shape in (SMALL, LARGE)}
NOISE = "prompt_stock_to_stock"
TARGETS = {"decode": 0.99, "decode_greedy": 0.99, "prompt": 0.99}
MEMORY_ALLOWED = 8_000_000
"""Bytes of peak memory above stock's and the head tensors'."""


def prepare(directory: Path, shape: Shape) -> tuple[Path, Path]:
    """The base and an adapter for it: both classes then run on the very same pages."""
    directory.mkdir(parents=True, exist_ok=True)
    base = write_model(directory / f"{shape.name}.gguf", shape)
    heads = write_heads(directory / f"{shape.name}-heads", shape)
    adapter = directory / f"{shape.name}-adapter.gguf"
    if not adapter.exists():
        ad.export(base, heads, adapter, adapter=True)
    return base, adapter


def find(model: str, directory: Path) -> tuple[Path, Path]:
    """The base and an adapter of a shape, a known name, or a plain GGUF with random heads."""
    if model in SHAPES:
        return prepare(directory, SHAPES[model])
    base = BaseModel.open(Path(model))
    if base.file.known is not None:
        return base.path, base.file.known.heads
    if base.file.kind != "plain" or base.hidden_size is None or base.vocab_size is None:
        raise SystemExit(f"{model}: give a plain GGUF; autodeco-gguf extract takes a merged one apart")
    arch = base.parts[0].architecture
    shape = replace(SMALL, name=base.path.stem, arch=arch, hidden=base.hidden_size, vocab=base.vocab_size)
    adapter = directory / f"{shape.name}-adapter.gguf"
    if not adapter.exists():
        ad.export(base.path, write_heads(directory / f"{shape.name}-heads", shape), adapter, adapter=True)
    return base.path, adapter


def prompt(n: int) -> list[int]:
    """So many tokens of no meaning."""
    return [1000 + i % 512 for i in range(n)]


def load(base: Path, adapter: Path | None, threads: int, n_ctx: int = 1024) -> llama_cpp.Llama:
    options: dict[str, Any] = {
        "n_ctx": n_ctx,
        "n_threads": threads,
        "n_threads_batch": threads,
        "verbose": False,
    }
    if adapter is None:
        return llama_cpp.Llama(str(base), **options)
    return ad.Llama(base, heads=adapter, **options)


def load_both(
    base: Path, other: Path | None, threads: int, turn: int, n_ctx: int = 1024
) -> tuple[llama_cpp.Llama, llama_cpp.Llama]:
    """Stock, and one with the heads of an adapter or, without, stock again; in odd turns that is loaded first."""
    order = (None, other) if turn % 2 == 0 else (other, None)
    first, second = (load(base, heads, threads, n_ctx) for heads in order)
    return (first, second) if turn % 2 == 0 else (second, first)


def check_equal(stock: llama_cpp.Llama, ours: ad.Llama) -> None:
    """Same tokens when greedy, and the graph's T and P equal the heads run on their own."""
    texts = []
    for llama in (stock, ours):
        llama.reset()
        stream = llama.generate(prompt(16), temp=0.0)
        texts.append([next(stream) for _ in range(8)])
    if texts[0] != texts[1]:
        raise SystemExit(f"not the same tokens: {texts}")
    ours.reset()
    next(ours.generate(prompt(16)))
    expected = [float(x[-1]) for x in ours.predict(prompt(16))]
    found = [ours.trace[0].temperature, ours.trace[0].top_p]
    if not np.allclose(expected, found, atol=5e-3):
        raise SystemExit(f"not the same predictions: {expected}, {found}")


def stream_of(llama: llama_cpp.Llama, text: list[int] | None = None, **sampling: Any) -> Iterator[int]:
    """Tokens after a short text, whose first is drawn already."""
    llama.reset()
    stream = llama.generate(text or prompt(16), **sampling)
    next(stream)
    return stream


def decode_rate(llama: llama_cpp.Llama, n: int, text: list[int]) -> float:
    """Tokens per second of n tokens after a short text."""
    stream = stream_of(llama, text)
    start = time.perf_counter()
    for _ in range(n):
        next(stream)
    return n / (time.perf_counter() - start)


def in_turn(streams: Mapping[str, Iterator[Any]], n: int) -> dict[str, list[float]]:
    """Seconds of each of n steps, of all streams step by step in turn, each on a model of its own.

    What else the machine does, which is far more than the difference, meets all of them alike then.
    """
    seconds = {name: list[float]() for name in streams}
    for i in range(n):
        for name in [*streams][:: 1 if i % 2 == 0 else -1]:
            start = time.perf_counter()
            next(streams[name])
            seconds[name].append(time.perf_counter() - start)
    return seconds


def prompt_rate(llama: llama_cpp.Llama, n: int) -> float:
    """Tokens per second of a prompt of n tokens, its last token's logits included."""
    llama.reset()
    start = time.perf_counter()
    next(llama.generate(prompt(n)))
    return n / (time.perf_counter() - start)


Rates = dict[str, list[float]]


def alternating(stock: Callable[[], float], ours: Callable[[], float], rounds: int) -> Rates:
    """Rates of both in so many rounds, alternating which goes first."""
    rates: Rates = {"stock": [], "ours": []}
    stock(), ours()  # warm up
    for i in range(rounds):
        for name, run in (("stock", stock), ("ours", ours))[:: 1 if i % 2 == 0 else -1]:
            rates[name].append(run())
    return rates


def summary(rates: Rates) -> dict[str, Any]:
    """ratio is the median of the rounds' ratios."""
    ratios = [b / a for a, b in zip(rates["stock"], rates["ours"], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "ratio": statistics.median(ratios),
        "quartiles": [quartiles[0], quartiles[2]],
        "stock_tok_s": statistics.median(rates["stock"]),
        "ours_tok_s": statistics.median(rates["ours"]),
    }


def paired(stock: Callable[[], float], ours: Callable[[], float], rounds: int) -> dict[str, Any]:
    """The summary of :func:`alternating`."""
    return summary(alternating(stock, ours, rounds))


def peak_memory(base: Path, adapter: Path | None, threads: int, n_prompt: int = 64) -> int:
    """Peak resident bytes of a process that loads, reads a prompt and generates."""
    command = [sys.executable, str(Path(__file__)), "--peak-of", str(base), "--threads", str(threads)]
    command += ["--peak-prompt", str(n_prompt)]
    command += ["--peak-heads", str(adapter)] if adapter else []
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(base: Path, adapter: Path | None, threads: int, n_prompt: int) -> None:
    llama = load(base, adapter, threads, max(1024, n_prompt + 64))
    stream = llama.generate(prompt(n_prompt))
    for _ in range(8):
        next(stream)
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would be the parent's where that was larger when it forked
        print(next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line))
    else:
        import resource  # which Windows has not

        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure(base: Path, adapter: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Ratios of a model over several loads of both, in turn with stock and with ours first.

    One load of a model is some percent faster or slower than the next, of either kind: where its memory lies decides.
    An 8B, which takes seconds for what a small one has at once, gets shorter rounds.
    """
    is_large = base.stat().st_size > 2**31
    tokens = args.tokens // 4 if is_large else args.tokens
    found: dict[str, Rates] = {}
    for i in range(args.loads):
        stock, ours = load_both(base, adapter, args.threads, i)
        assert isinstance(ours, ad.Llama)
        check_equal(stock, ours)
        for name, sampling in CHAINS.items():
            for _ in range(args.rounds // args.loads):
                seconds = in_turn({"stock": stream_of(stock, **sampling), "ours": stream_of(ours)}, tokens)
                add(found, name, {who: [tokens / sum(values)] for who, values in seconds.items()})
        stock.close(), ours.close()
    result: dict[str, Any] = {name: summary(rates) for name, rates in found.items()}
    result |= measure_prompts(base, adapter, args)
    heads = sum(t.nbytes for t in ad.ModelFile.open(adapter).head_tensors)
    above = peak_memory(base, adapter, args.threads) - peak_memory(base, None, args.threads)
    result["memory"] = {"above_stock": above, "head_tensors": heads, "allowed": heads + MEMORY_ALLOWED}
    return result


def measure_prompts(base: Path, adapter: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Ratios of prompt processing, one of each load: ours to stock, and a second stock to the first.

    The latter says what is noise: by chance alone one load is up to a tenth faster or slower than the next.
    """
    n_prompt, rounds = 64 if base.stat().st_size > 2**31 else 256, 4
    found: dict[str, Rates] = {}
    for i in range(args.loads):
        for name, other in (("prompt", adapter), (NOISE, None)):
            pair = load_both(base, other, args.threads, i)
            runs = [lambda llama=llama: prompt_rate(llama, n_prompt) for llama in pair]
            rates = alternating(*runs, rounds)
            add(found, name, {who: [statistics.median(values)] for who, values in rates.items()})
            for llama in pair:
                llama.close()
    return {name: summary(rates) for name, rates in found.items()}


def add(found: dict[str, Rates], name: str, rates: Rates) -> None:
    for who, values in rates.items():
        found.setdefault(name, {}).setdefault(who, []).extend(values)


def report(name: str, result: dict[str, Any]) -> None:
    print(name)
    for what in (*CHAINS, "prompt", NOISE):
        if what not in result:
            continue
        r = result[what]
        goal = f"  (wanted {TARGETS[what]:.2f})" if what in TARGETS else ""
        print(
            f"  {what:<21} {r['ratio']:.3f} [{r['quartiles'][0]:.3f}, {r['quartiles'][1]:.3f}]{goal}"
            f"  stock {r['stock_tok_s']:.1f}, ours {r['ours_tok_s']:.1f} tokens/s"
        )
    if "memory" not in result:
        return
    m = result["memory"]
    above, heads, allowed = (m[key] / 1e6 for key in ("above_stock", "head_tensors", "allowed"))
    print(f"  peak memory        {above:+.1f} MB, heads {heads:.1f} MB (wanted {allowed:.1f})", flush=True)


def machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.machine(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "llama_cpp_python": llama_cpp.__version__,
        "autodeco_gguf": ad.__version__,
        "commit": commit.stdout.strip(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"{', '.join(SHAPES)}, smollm2, or a plain GGUF"
    parser.add_argument("--model", action="append", help=f"{names}; may be given again (default: {SMALL.name})")
    parser.add_argument("--dir", type=Path, default=Path("build/benchmarks"), help="where the models are kept")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--loads", type=int, default=8, help="of each model, among which the rounds are shared out")
    parser.add_argument("--tokens", type=int, default=64, help="per round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompts", action="store_true", help="measure these alone, and keep the other figures")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peak-prompt", type=int, default=64, help=argparse.SUPPRESS)
    parser.add_argument("--peak-heads", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loads < 2 or args.rounds < args.loads:
        parser.error("expected 2 --loads at least, and as many --rounds")
    if args.peak_of:
        print_peak(args.peak_of, args.peak_heads, args.threads, args.peak_prompt)
        return
    args.dir.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for model in args.model or [SMALL.name]:
        base, adapter = find(model, args.dir)
        found = (measure_prompts if args.prompts else measure)(base, adapter, args)
        report(base.stem, found)
        figures[base.stem] = {**figures.get(base.stem, {}), "machine": machine(), **found}
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
