"""Writes trained heads in the official format, as AutoDecoModelForCausalLM.save_pretrained does."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.numpy import save

from autodeco_gguf.files.atomic import Output, write_together
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.architecture import transformers_name
from autodeco_gguf.heads.format import FEATURES, HEAD_PREFIX, activation_key, default_activation
from autodeco_gguf.heads.weights import HeadWeights

_CONFIG_KEYS = {
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
"""What a GGUF says of its architecture -> transformers' name of it."""


def write_checkpoint(
    directory: str | Path,
    weights: HeadWeights,
    *,
    enabled: Collection[str],
    base_model_type: str,
    base_config: Mapping[str, int | float],
) -> None:
    """Write heads as ``AutoDecoModelForCausalLM.save_pretrained`` does: config.json and model.safetensors, or neither.

    Args:
        directory: must exist; the two files are replaced.
        weights: both heads, also one that was not trained, as upstream; ``base_model`` is the name or path under
            which transformers finds the base.
        enabled: the heads that were trained.
        base_model_type: transformers' name of the base's architecture.
        base_config: what else is known of the base, under transformers' names.

    Raises:
        BadFile: the files cannot be written.
    """
    config = {
        "architectures": ["AutoDecoModelForCausalLM"],
        "model_type": "autodeco",
        "base_model_type": base_model_type,
        "base_model_name_or_path": weights.base_model,
        **{f"enable_{head}_head": head in enabled for head in HEAD_PREFIX},
        "use_enhanced_features": weights.features == FEATURES[True],
        "temperature_hidden_size": weights.hidden_size,
        "top_p_hidden_size": weights.hidden_size,
        "hidden_size": weights.hidden_size,
        "vocab_size": weights.vocab_size,
        **{
            activation_key(head): mlp.activation
            for head, mlp in weights.mlps.items()
            if mlp.activation != default_activation(len(mlp.weights))
        },
        "dtype": "float32",
        **base_config,
    }
    tensors = {
        f"{HEAD_PREFIX[head]}.mlp.{2 * i}.{part}": array
        for head, mlp in weights.mlps.items()
        for i, layer in enumerate(mlp.layers)
        for part, array in zip(("weight", "bias"), layer, strict=True)
    }
    content, settings = save(tensors, metadata={"format": "pt"}), (json.dumps(config, indent=2) + "\n").encode()
    write_together(
        [
            Output(Path(directory) / "model.safetensors", lambda f: f.write(content)),
            Output(Path(directory) / "config.json", lambda f: f.write(settings)),
        ]
    )


def transformers_config(base: GgufFile) -> tuple[str, dict[str, int | float]]:
    """transformers' name of a GGUF's architecture, and what the file says of the model under transformers' names."""
    found: dict[str, int | float] = {}
    for key, name in _CONFIG_KEYS.items():
        value = base.get(f"{base.architecture}.{key}", object)
        if isinstance(value, int | float):
            found[name] = float(f"{value:.7g}") if isinstance(value, float) else value  # of float32
    for name in ("bos", "eos"):
        value = base.get(f"tokenizer.ggml.{name}_token_id", object)
        if isinstance(value, int):
            found[f"{name}_token_id"] = value
    return transformers_name(base.architecture), found
