"""What the heads cost by the length of the prompt: FLOPs from the shapes, latency and memory measured, ours to stock.

The paper's table of efficiency: prompts of 1k to 24k tokens, each followed by a few that are generated. By default on
a model of 0.5B with random weights, which is written once (0.5 GB); --model takes one of your own. Stock and ours
alternate, each length in so many --rounds of both.

    python benchmarks/efficiency.py --json benchmarks/efficiency.json
    python benchmarks/efficiency.py --model smollm2 --lengths 1024 2048 4096 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

import autodeco_gguf as ad
from autodeco_gguf.heads.weights import HeadWeights

sys.path.insert(0, str(Path(__file__).parent))
from overhead import check_equal, find, load, machine, peak_memory, prompt
from synthetic import SMALL

LENGTHS = (1024, 2048, 4096, 8192, 16_384, 24_576)

FEATURE_OPERATIONS = 8
"""Of the top-p head's features, for each logit: scale, maximum, exponential, sum, two of the entropy, two compares."""


@dataclass(frozen=True)
class Shapes:
    """What the FLOPs follow from."""

    hidden: int
    layers: int
    kv: int  # width of keys, and of values
    queries: int  # width of all heads together
    ff: int
    vocab: int

    @classmethod
    def of(cls, model: ad.ModelFile) -> Shapes:
        base = model.base()
        arch = base.get("general.architecture", str)

        def number(key: str, default: int = 0) -> int:
            return int(base.get(f"{arch}.{key}", int, default))

        hidden, heads = number("embedding_length"), number("attention.head_count")
        width = number("attention.key_length", hidden // heads)
        kv = width * number("attention.head_count_kv", heads)
        vocab = base.array_length("tokenizer.ggml.tokens")
        return cls(hidden, number("block_count"), kv, width * heads, number("feed_forward_length"), vocab)


def base_flops(shapes: Shapes, n_prompt: int, n_tokens: int) -> int:
    """Of a prompt and the tokens after it: two for each multiplication of a matrix, attention over what came before.

    The last token is drawn, not read. Norms, rotations and activations are left out, as is customary; the output layer
    counts where a token is drawn.
    """
    s, read = shapes, n_prompt + n_tokens - 1
    attention = s.hidden * (s.queries + 2 * s.kv) + s.queries * s.hidden
    linear = 2 * s.layers * (attention + 3 * s.hidden * s.ff)
    scores = 4 * s.layers * s.queries * (read * (read + 1) // 2)  # q times k, and weights times v
    return read * linear + scores + n_tokens * 2 * s.hidden * s.vocab


def head_flops(heads: HeadWeights, shapes: Shapes, n_tokens: int) -> int:
    """Of both heads, at every token that is drawn."""
    layers = [weight for mlp in heads.mlps.values() for weight, _ in mlp.layers]
    features = FEATURE_OPERATIONS * shapes.vocab if heads.features else 0
    return n_tokens * (sum(2 * weight.size for weight in layers) + features)


def timed(llama: llama_cpp.Llama, n_prompt: int, n_tokens: int) -> tuple[float, float]:
    """Seconds until the first token, and for the others."""
    llama.reset()
    begin = time.perf_counter()
    stream = llama.generate(prompt(n_prompt))
    next(stream)
    first = time.perf_counter()
    for _ in range(n_tokens - 1):
        next(stream)
    return first - begin, time.perf_counter() - first


def measure(models: dict[str, llama_cpp.Llama], n_prompt: int, n_tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds of both, alternating which goes first, and the overhead in percent: median of the rounds and extremes."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for i in range(rounds):
        for name in list(models)[:: 1 if i % 2 == 0 else -1]:
            seconds[name].append(timed(models[name], n_prompt, n_tokens))
    pairs = list(zip(seconds["stock"], seconds["ours"], strict=True))
    over = [100 * (sum(ours) / sum(stock) - 1) for stock, ours in pairs]
    decode = [100 * (ours[1] / stock[1] - 1) for stock, ours in pairs]
    return {
        "stock_s": statistics.median(map(sum, seconds["stock"])),
        "ours_s": statistics.median(map(sum, seconds["ours"])),
        "latency_percent": [statistics.median(over), min(over), max(over)],
        "decode_percent": [statistics.median(decode), min(decode), max(decode)],
    }


def row(found: dict[str, Any]) -> str:
    """A line of the table in Markdown."""
    median, low, high = found["latency_percent"]
    decode = found["decode_percent"][0]
    cells = [
        f"{found['prompt']:,}",
        f"{found['base_flops'] / 1e12:.2f}",
        f"{found['head_flops_percent']:.4f} %",
        f"{found['stock_s']:.2f}",
        f"{found['ours_s']:.2f}",
        f"{median:+.1f} % [{low:+.1f}, {high:+.1f}]",
        f"{decode:+.1f} %",
    ]
    if "stock_mb" in found:
        cells += [f"{found['stock_mb']:.0f}", f"{found['ours_mb'] - found['stock_mb']:+.1f}"]
    else:
        cells += ["", ""]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| prompt | TFLOPs | heads add | stock, s | ours, s | latency | of it decoding | stock, MB | ours, MB |\n"
    "|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMALL.name, help="a name or a plain GGUF (default: %(default)s)")
    parser.add_argument("--dir", type=Path, default=Path("build/benchmarks"), help="where the model is kept")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="of the prompts")
    parser.add_argument("--tokens", type=int, default=64, help="generated after each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-memory", action="store_true", help="leave out memory, which takes processes of its own")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    base, adapter = find(args.model, args.dir)
    shapes, heads = Shapes.of(ad.ModelFile.open(base)), ad.ModelFile.open(adapter).read_heads()
    n_ctx = max(args.lengths) + args.tokens
    models = {"stock": load(base, None, args.threads, n_ctx), "ours": load(base, adapter, args.threads, n_ctx)}
    check_equal(models["stock"], models["ours"], adapter)  # which warms them up as well
    figures: dict[str, Any] = {"machine": machine(), "model": base.name, "tokens": args.tokens, "lengths": []}
    print(HEAD, flush=True)
    for n in args.lengths:
        flops = base_flops(shapes, n, args.tokens)
        more = head_flops(heads, shapes, args.tokens)
        found: dict[str, Any] = {"prompt": n, "base_flops": flops, "head_flops": more}
        found["head_flops_percent"] = 100 * more / flops
        found.update(measure(models, n, args.tokens, args.rounds))
        if not args.no_memory:
            for name, which in (("stock_mb", None), ("ours_mb", adapter)):
                found[name] = peak_memory(base, which, args.threads, n) / 1e6
        figures["lengths"].append(found)
        print(row(found), flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
