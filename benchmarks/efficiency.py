"""What the heads cost by the length of the prompt: FLOPs from the shapes, latency and memory measured, ours to stock.

The paper's table of efficiency: prompts of 1k to 24k tokens, each followed by a few that are generated. By default on
a model of 0.5B with random weights, which is written once (0.5 GB); --model takes one of your own. Stock and ours
alternate at every batch; a prompt goes on from the shorter one. So many --rounds, each of both loaded anew.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

import autodeco_gguf as ad
from autodeco_gguf.heads.weights import HeadWeights

sys.path.insert(0, str(Path(__file__).parent))
from overhead import check_equal, find, load_both, machine, peak_memory, prompt
from synthetic import SMALL

LENGTHS = (1024, 2048, 4096, 8192, 16_384, 24_576)
BATCH, TOKENS = 512, 8
"""Of a prompt, and of what is generated: how many are read before the other has its turn."""

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


Seconds = tuple[float, float]
"""Until the first token, and for those after it."""


def walk(models: dict[str, llama_cpp.Llama], lengths: Sequence[int], n_tokens: int) -> dict[str, list[Seconds]]:
    """What each model takes for each length, ascending.

    A prompt goes on from the shorter one, whose time counts, as what was read of it is kept. The models alternate at
    every batch of the prompt and every few tokens, so that a slow minute of the machine meets both.
    """
    first, found = dict.fromkeys(models, 0.0), {name: list[Seconds]() for name in models}
    streams: dict[str, Iterator[int]] = {}
    for llama in models.values():
        llama.reset()  # else the next prompt goes on from what has warmed it up
    for turn, upto in enumerate(sorted({*range(BATCH, lengths[-1], BATCH), *lengths})):
        order = list(models)[:: 1 if turn % 2 == 0 else -1]
        for name in order:
            begin = time.perf_counter()
            streams[name] = models[name].generate(prompt(upto))
            next(streams[name])
            first[name] += time.perf_counter() - begin
        if upto in lengths:
            others = dict.fromkeys(models, 0.0)
            for i in range(1, n_tokens, TOKENS):
                for name in order:
                    begin = time.perf_counter()
                    for _ in range(min(TOKENS, n_tokens - i)):
                        next(streams[name])
                    others[name] += time.perf_counter() - begin
            for name in models:
                found[name].append((first[name], others[name]))
    return found


def measure(base: Path, adapter: Path, lengths: Sequence[int], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Of each length: seconds of both, and the overhead in percent, median of the rounds and extremes.

    Each round loads both anew, in turn with stock and with ours first: one load is up to a tenth faster or slower than
    the next, of either kind.
    """
    rounds: list[dict[str, list[Seconds]]] = []
    n_ctx = lengths[-1] + args.tokens
    for i in range(args.rounds):
        stock, ours = load_both(base, adapter, args.threads, i, n_ctx)
        assert isinstance(ours, ad.Llama)
        check_equal(stock, ours)  # which warms them up as well
        rounds.append(walk({"stock": stock, "ours": ours}, lengths, args.tokens))
        stock.close(), ours.close()
        print(f"round {i + 1} of {args.rounds}", file=sys.stderr, flush=True)
    return [
        summary([{name: seconds[k] for name, seconds in found.items()} for found in rounds])
        for k in range(len(lengths))
    ]


def summary(rounds: list[dict[str, Seconds]]) -> dict[str, Any]:
    over = [100 * (sum(by["ours"]) / sum(by["stock"]) - 1) for by in rounds]
    decode = [100 * (by["ours"][1] / by["stock"][1] - 1) for by in rounds]
    return {
        "stock_s": statistics.median(sum(by["stock"]) for by in rounds),
        "ours_s": statistics.median(sum(by["ours"]) for by in rounds),
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
    lengths = sorted(set(args.lengths))
    measured = measure(base, adapter, lengths, args)
    figures: dict[str, Any] = {"machine": machine(), "model": base.name, "tokens": args.tokens, "lengths": []}
    print(HEAD, flush=True)
    for n, seconds in zip(lengths, measured, strict=True):
        flops = base_flops(shapes, n, args.tokens)
        more = head_flops(heads, shapes, args.tokens)
        found: dict[str, Any] = {"prompt": n, "base_flops": flops, "head_flops": more}
        found["head_flops_percent"] = 100 * more / flops
        found.update(seconds)
        if not args.no_memory:
            for name, which in (("stock_mb", None), ("ours_mb", adapter)):
                found[name] = peak_memory(base, which, args.threads, n) / 1e6
        figures["lengths"].append(found)
        print(row(found), flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
