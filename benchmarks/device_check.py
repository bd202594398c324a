"""What a device makes of the heads: T and P against the CPU's, the distribution of what is drawn, and the speed.

For a model in F16, Q8_0 and Q4_K_M, which are made of the one given. Prints a table; --json keeps the figures. Needs
scipy, and the extra smollm2 or another model with an adapter.

    python benchmarks/device_check.py --device CUDA0 --json build/cuda.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from scipy.stats import chisquare

import autodeco_gguf as ad
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.devices import Device, layer_devices, list_devices

sys.path.insert(0, str(Path(__file__).parent))
from overhead import decode_rate, machine, paired
from quantized import requantized

Array = np.ndarray[Any, Any]

FILES = ("F16", "Q8_0", "Q4_K_M")
TEXT = (
    "A lighthouse stands where the land ends. Its keeper climbs 112 steps every evening, and as many down again. Why? "
    "Somebody has to wind the clock that turns the lamp; it runs for eleven hours. In June the night is shorter."
)
N_CTX, PARALLEL, BINS = 512, 16, 20


def on(device: str) -> ad.Machine:
    """A device alone, with the F32 cache; "none" is the CPU."""
    return ad.Machine(device=(device,), cache_type="f32", flash_attn=False)


def predictions(path: Path, heads: Path, device: str, tokens: list[int]) -> Array:
    """T and P after each token of a text, computed in the model's graph, [2, n]."""
    llama = ad.Llama(path, heads=heads, n_ctx=N_CTX, **on(device).llama_arguments())
    found = []
    for n in range(1, len(tokens) + 1):
        next(llama.generate(tokens[:n]))
        found.append(llama.trace.parameters[:, 0])
    llama.close()
    return np.transpose(found)


def states(path: Path, device: str, tokens: list[int]) -> tuple[Array, Array]:
    """Hidden states and logits of a text, [n, hidden size] and [n, vocabulary]."""
    context = Context(path, n_ctx=N_CTX, machine=on(device))
    logits, hidden = context.decode(tokens, range(len(tokens)), [0] * len(tokens), hidden=True)
    assert hidden is not None
    found = hidden.copy(), context.raw(logits).copy()
    context.close()
    return found


def expected(logits: Array, temperature: float, top_p: float) -> Array:
    """The probabilities that a token is drawn with: scaled, cut, renormalized."""
    x = logits.astype(np.float64) / temperature
    p = np.exp(x - x.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    last = int(np.searchsorted(np.cumsum(p[order]), top_p))
    p[order[last + 1 :]] = 0.0
    return np.asarray(p / p.sum())


def p_value(tokens: Array, p: Array) -> float:
    """Chi-square of drawn tokens, gathered into at most 20 cells of about the same probability.

    A token outside the nucleus, at whose edge rounding decides, is one of the least likely.
    """
    order = np.argsort(-p)
    cell = np.empty(len(p), int)
    cell[order] = np.minimum((np.cumsum(p[order]) - p[order] / 2) * BINS, BINS - 1).astype(int)
    chances = np.bincount(cell, p, BINS)
    seen = np.bincount(cell[tokens], minlength=BINS)
    used = chances > 0
    return float(chisquare(seen[used], chances[used] * len(tokens)).pvalue) if used.sum() > 1 else 1.0


def drawn(path: Path, heads: Path, device: str, tokens: list[int], n: int) -> Array:
    """What comes after a text, by n seeds."""
    with ad.Engine(path, heads=heads, n_parallel=PARALLEL, n_ctx=N_CTX, machine=on(device)) as engine:
        requests = [ad.Request(tokens, seed=seed, max_tokens=1) for seed in range(n)]
        return np.array([result.trace.ids[0] for result in engine.generate(requests)])


def speed(path: Path, heads: Path, device: str, rounds: int, n: int) -> dict[str, Any]:
    """Tokens per second with heads and without, in turn, on this device."""
    names, threads = [found.name for found in layer_devices()], ad.Machine().threads
    options: dict[str, Any] = {"n_ctx": N_CTX, "verbose": False, "split_mode": llama_cpp.LLAMA_SPLIT_MODE_NONE}
    options |= {"n_threads": threads, "n_threads_batch": threads}
    options |= {"n_gpu_layers": -1, "main_gpu": names.index(device)} if device in names else {"n_gpu_layers": 0}
    stock, ours = llama_cpp.Llama(str(path), **options), ad.Llama(path, heads=heads, **options)
    text = list(range(3, 19))
    found = paired(lambda: decode_rate(stock, n, text), lambda: decode_rate(ours, n, text), rounds)
    stock.close(), ours.close()
    return found


def check(path: Path, heads: Path, device: str, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of a file."""
    context = Context(path, n_ctx=N_CTX, machine=on("none"))
    tokens = context.tokenize(TEXT)[: args.positions]
    context.close()
    here, there = (predictions(path, heads, name, tokens) for name in ("none", device))
    alone = ad.Heads.load(heads)
    hidden, logits = states(path, "none", tokens)
    by_themselves = np.array([alone.evaluate(hidden, logits, device=name) for name in ("CPU", args.heads_device)])
    hidden, logits = states(path, device, tokens)
    temperature, top_p = (float(values[-1]) for values in alone.evaluate(hidden, logits))
    chances = expected(logits[-1], temperature, top_p)
    off = np.abs(there - here)
    return {
        "temperature": float(off[0].max()),
        "top_p": float(off[1].max()),
        "heads_alone": float(np.abs(by_themselves[1] - by_themselves[0]).max()),
        "nucleus": int(np.count_nonzero(chances)),
        "draw_p_value": p_value(drawn(path, heads, device, tokens, args.draws), chances),
        "decode": speed(path, heads, device, args.rounds, args.tokens),
    }


def table(figures: dict[str, Any]) -> str:
    """Markdown, under the hardware's name."""
    lines = [
        f"{figures['device']['name']}: {figures['device']['description']}; {figures['machine']['cpu']}",
        "",
        "| file | T | P | heads alone | draw: p | nucleus | decoding, ours to stock | tokens/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in figures["files"].items():
        low, high = row["decode"]["quartiles"]
        lines.append(
            f"| {name} | {row['temperature']:.1e} | {row['top_p']:.1e} | {row['heads_alone']:.1e}"
            f" | {row['draw_p_value']:.2f} | {row['nucleus']} | {row['decode']['ratio']:.2f} [{low:.2f}, {high:.2f}]"
            f" | {row['decode']['ours_tok_s']:.1f} |"
        )
    return "\n".join(lines)


def find(name: str | None) -> Device:
    """The device of a name; without one the first that takes layers, else the CPU."""
    devices = list_devices()
    if name is None:
        return next((found for found in devices if found.takes_layers), devices[-1])
    found = next((found for found in devices if found.name.casefold() == name.casefold()), None)
    if found is None:
        raise SystemExit(f"error: no device {name!r}; there is {', '.join(found.name for found in devices)}")
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="by default the first GPU, or the CPU where there is none")
    parser.add_argument("--model", default="smollm2", help="a name, or a GGUF")
    parser.add_argument("--heads", type=Path, help="adapter; by default the model's own")
    parser.add_argument("--dir", type=Path, default=Path("build/benchmarks"), help="where requantized files are kept")
    parser.add_argument("--positions", type=int, default=64, help="of the text whose T and P are compared")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=6, help="of the speeds")
    parser.add_argument("--tokens", type=int, default=64, help="a round")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(arguments)
    device = find(args.device)
    args.heads_device = device.name
    args.dir.mkdir(parents=True, exist_ok=True)
    base = BaseModel.open(Path(args.model))
    heads = args.heads or base.file.heads_source.path
    where = device.name if device.takes_layers else "none"
    about = {"name": device.name, "description": device.description, "memory": device.total}
    figures: dict[str, Any] = {"device": about, "machine": machine(), "model": base.path.name, "files": {}}
    for name, path in requantized(base.path, args.dir, FILES).items():
        figures["files"][name] = check(path, heads, where, args)
    print(table(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
