"""Models with random weights and real shapes, and heads for them: what a benchmark needs of a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-like model; ``kind`` is its weights' quantization."""

    name: str
    arch: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int
    kind: gguf.GGMLQuantizationType
    tied: bool


SMALL = Shape("0.5b-q8_0", "qwen2", 896, 24, 14, 2, 4864, 151_936, gguf.GGMLQuantizationType.Q8_0, True)
LARGE = Shape("8b-q4_0", "llama", 4096, 32, 32, 8, 14_336, 128_256, gguf.GGMLQuantizationType.Q4_0, False)


def _quantized(rng: np.random.Generator, rows: int, columns: int, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Random blocks whose values have standard deviation 1 / sqrt(columns)."""
    blocks = columns // 32
    nibbles = kind == gguf.GGMLQuantizationType.Q4_0
    payload = rng.integers(0, 256, (rows, blocks, 16 if nibbles else 32), dtype=np.uint8)
    scale = np.full((rows, blocks, 1), columns**-0.5 / (4.6 if nibbles else 73.9), np.float16)
    return np.concatenate([scale.view(np.uint8), payload], axis=2).reshape(rows, -1)


def write_model(path: Path, shape: Shape) -> Path:
    """Write the model unless it is there."""
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path.with_suffix(".tmp"), shape.arch, use_temp_file=True)
    writer.add_name(shape.name)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    _add_vocabulary(writer, shape.vocab)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, _quantized(rng, rows, columns, shape.kind), raw_dtype=shape.kind)

    def vector(name: str, n: int, value: float) -> None:
        writer.add_tensor(name, np.full(n, value, np.float32))

    kv = shape.hidden // shape.heads * shape.kv_heads
    matrix("token_embd.weight", shape.vocab, shape.hidden)
    if not shape.tied:
        matrix("output.weight", shape.vocab, shape.hidden)
    vector("output_norm.weight", shape.hidden, 2.0)  # logits with a standard deviation of about 2
    for i in range(shape.layers):
        block = f"blk.{i}."
        vector(block + "attn_norm.weight", shape.hidden, 1.0)
        vector(block + "ffn_norm.weight", shape.hidden, 1.0)
        for name, rows in (("attn_q", shape.hidden), ("attn_k", kv), ("attn_v", kv)):
            matrix(f"{block}{name}.weight", rows, shape.hidden)
            if shape.arch == "qwen2":
                vector(f"{block}{name}.bias", rows, 0.0)
        matrix(block + "attn_output.weight", shape.hidden, shape.hidden)
        matrix(block + "ffn_gate.weight", shape.ff, shape.hidden)
        matrix(block + "ffn_up.weight", shape.ff, shape.hidden)
        matrix(block + "ffn_down.weight", shape.hidden, shape.ff)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".tmp").rename(path)
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, n: int) -> None:
    """A byte-level BPE without use but of the right size."""
    tokens = [f"<{i}>" for i in range(n)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * n)
    writer.add_token_merges(["< 0"])
    writer.add_add_bos_token(False)


def write_heads(path: Path, shape: Shape, seed: int = 1) -> Path:
    """Write a checkpoint with random heads of the official shape unless it is there."""
    if path.exists():
        return path
    rng = np.random.default_rng(seed)

    def linear(n_out: int, n_in: int) -> np.ndarray:
        return rng.normal(0, n_in**-0.5, (n_out, n_in)).astype(np.float32)

    tensors = {}
    for head, n_in in (("temp_head", shape.hidden), ("top_p_head", shape.hidden + 5)):
        tensors[f"{head}.mlp.0.weight"] = linear(256, n_in)
        tensors[f"{head}.mlp.0.bias"] = np.zeros(256, np.float32)
        tensors[f"{head}.mlp.2.weight"] = linear(1, 256)
        tensors[f"{head}.mlp.2.bias"] = np.zeros(1, np.float32)
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors")
    config = {
        "model_type": "autodeco",
        "base_model_type": shape.arch,
        "base_model_name_or_path": shape.name,
        "enable_temperature_head": True,
        "enable_top_p_head": True,
        "use_enhanced_features": True,
        "hidden_size": shape.hidden,
        "vocab_size": shape.vocab,
    }
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path
