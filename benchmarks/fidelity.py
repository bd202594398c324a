"""T and P by llama.cpp against PyTorch on real weights: the same model as an unquantized file, and as quantized ones.

The model answers in ten conversations; twenty positions of each are compared. The reference is what transformers makes
of the model's own GGUF, dequantized to float32, with the heads in torch. Twice: with random heads, whose T covers its
range, and with the model's own. Prints the tables of docs/smollm2.md.

Needs the extras demo and smollm2, and accelerate.

    python benchmarks/fidelity.py --json benchmarks/fidelity.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType

import autodeco_gguf as ad
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.heads.format import HEAD_PREFIX
from autodeco_gguf.training.module import HeadsModule, probability_features

sys.path.insert(0, str(Path(__file__).parent))
from overhead import machine
from quantized import requantized
from synthetic import Shape, write_heads

QUESTIONS = (
    "Why is the sky blue?",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "How do I make pancakes?",
    "What is the difference between a fruit and a vegetable?",
    "Give me five names for a small grey cat.",
    "Explain what a mortgage is to a child.",
    "If I have 17 apples and eat 5 of them, how many are left?",
    "Write a polite email that asks for a day off.",
    "Which languages are spoken in Switzerland?",
    "Write a Python function that reverses a string.",
)
FOLLOW_UP = "Now say it in other words."
ANSWER_TOKENS, POSITIONS, STEP = 64, 20, 4
FILES = ("F32", "F16", "Q8_0", "Q4_0")
CACHES = {"f32": llama_cpp.GGML_TYPE_F32, "f16": llama_cpp.GGML_TYPE_F16}
WANTED = {("F32", "f32"): 1e-4, ("F16", "f32"): 5e-3, ("F16", "f16"): 5e-3}


class Text(NamedTuple):
    """A conversation's tokens, and what PyTorch makes of the last of them: hidden states and logits, [20, n]."""

    tokens: list[int]
    hidden: torch.Tensor
    logits: torch.Tensor


def conversations(model: str) -> list[list[int]]:
    """The tokens of ten conversations, with temperature and top-p as they are."""
    with ad.Engine(model, n_parallel=1, heads_enabled=()) as engine:
        found = []
        for question in QUESTIONS:
            conversation = ad.Conversation(engine, seed=1)
            for message in (question, FOLLOW_UP):
                answer = conversation.ask(ad.Request(message, max_tokens=ANSWER_TOKENS, temperature=0.7, top_p=0.95))
                pieces = list(answer)
                conversation.keep(answer)
            found.append([*answer.generation.prompt, *(piece.token.id for piece in pieces)])
        return found


def read(source: Path, texts: list[list[int]]) -> list[Text]:
    """Hidden states and logits of the last positions by transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    ).eval()
    found = []
    for tokens in texts:
        with torch.no_grad():
            out = model(torch.tensor([tokens]), output_hidden_states=True)
        at = positions(tokens)
        found.append(Text(tokens, out.hidden_states[-1][0, at].double(), out.logits[0, at].double()))
    return found


def positions(tokens: list[int]) -> list[int]:
    return list(range(len(tokens) - POSITIONS * STEP, len(tokens), STEP))


def by_torch(adapter: Path, texts: list[Text]) -> np.ndarray[Any, Any]:
    """T and P at all positions, [2, 200]."""
    weights = ad.ModelFile.open(adapter).read_heads()
    module = HeadsModule(weights.hidden_size, 0).double()
    state = {}
    for name, mlp in weights.mlps.items():
        for i, layer in enumerate(mlp.layers):
            for part, array in zip(("weight", "bias"), layer, strict=True):
                state[f"{HEAD_PREFIX[name]}.mlp.{2 * i}.{part}"] = torch.from_numpy(array)
    module.load_state_dict(state)
    hidden, logits = torch.cat([text.hidden for text in texts]), torch.cat([text.logits for text in texts])
    with torch.no_grad():
        temperature = module.temperature(hidden)
        return torch.stack([temperature, module.top_p(hidden, probability_features(logits, temperature))]).numpy()


def by_llama(path: Path, adapter: Path, cache: str, texts: list[Text]) -> np.ndarray[Any, Any]:
    """T and P at all positions, [2, 200]."""
    type_kv = CACHES[cache]
    llm = ad.Llama(path, heads=adapter, n_ctx=512, type_k=type_kv, type_v=type_kv, trace=False, verbose=False)
    parts = [np.stack(llm.predict(text.tokens))[:, positions(text.tokens)] for text in texts]
    llm.close()
    return np.concatenate(parts, axis=1)


def measure(files: dict[str, Path], adapter: Path, texts: list[Text]) -> dict[str, Any]:
    """How far T and P are from the reference, for every file and type of cache."""
    expected = by_torch(adapter, texts)
    rows = []
    for name, path in files.items():
        for cache in CACHES:
            off = np.abs(by_llama(path, adapter, cache, texts) - expected)
            row: dict[str, Any] = {"file": name, "cache": cache, "positions": off.shape[1]}
            for key, values in zip(("temperature", "top_p"), off, strict=True):
                row[key] = {"mean": values.mean(), "p99": np.quantile(values, 0.99), "max": values.max()}
            wanted = WANTED.get((name, cache))
            if wanted is not None:
                row["wanted"], row["is_within"] = wanted, bool(off.max() <= wanted)
            rows.append(row)
    ranges = {key: [v.min(), v.max()] for key, v in zip(("temperature", "top_p"), expected, strict=True)}
    return {"range": ranges, "rows": rows}


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    t, p = figures["range"]["temperature"], figures["range"]["top_p"]
    lines = [
        f"T from {t[0]:.2f} to {t[1]:.2f}, P from {p[0]:.2f} to {p[1]:.2f}:",
        "",
        "| file | cache | T: mean | 99 % | largest | P: mean | 99 % | largest | wanted |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in figures["rows"]:
        numbers = [f"{row[key][what]:.1e}" for key in ("temperature", "top_p") for what in ("mean", "p99", "max")]
        wanted = f"{row['wanted']:.0e}{'' if row['is_within'] else ', missed'}" if "wanted" in row else ""
        lines.append(f"| {row['file']} | {row['cache']} | {' | '.join(numbers)} | {wanted} |")
    return "\n".join(lines)


def random_heads(directory: Path, base: BaseModel) -> Path:
    """An adapter with heads of random weights, whose T goes from about 0.3 to 1.9 on this model."""
    assert base.hidden_size is not None
    assert base.vocab_size is not None
    shape = Shape("random", "llama", base.hidden_size, 0, 0, 0, 0, base.vocab_size, GGMLQuantizationType.F32, True)
    path = directory / "random-heads.gguf"
    ad.export(base, write_heads(directory / "random-heads", shape), path, adapter=True, force=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a name, or a GGUF")
    parser.add_argument("--heads", type=Path, help="adapter; by default the model's own")
    parser.add_argument("--dir", type=Path, default=Path("build/benchmarks"), help="where requantized files are kept")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    base = BaseModel.open(Path(args.model))
    texts = read(base.path, conversations(args.model))
    files = {**requantized(base.path, args.dir, FILES), "original": base.path}
    adapters = {"random": random_heads(args.dir, base), "own": args.heads or base.file.heads_source.path}
    result: dict[str, Any] = {"machine": machine(), "model": base.path.name}
    for name, adapter in adapters.items():
        result[name] = {"heads": adapter.name, **measure(files, adapter, texts)}
        print(f"\n{adapter.name}: {table(result[name])}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
