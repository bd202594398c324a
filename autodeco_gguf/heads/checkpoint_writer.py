"""Heads in the official format, as AutoDecoModelForCausalLM.save_pretrained writes it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.atomic import Output, bad_file, check_directory, write_together
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.architecture import transformers_name
from autodeco_gguf.heads.format import FEATURES, HEAD_PREFIX, TEMPERATURE_SCALE, activation_key, default_activation
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.weights import Float32Array, HeadWeights

FILES = ("model.safetensors", "config.json")
"""What a checkpoint consists of."""

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
    content = _contents(weights, enabled, base_model_type, base_config, "float32")
    write_together(_outputs(Path(directory), content))


def extracted_checkpoint(directory: Path, model: ModelFile, weights: HeadWeights, *, force: bool) -> list[Output]:
    """The files of a checkpoint with a model file's heads, to be written: the values of the one they were made of.

    They get the narrowest of bfloat16, float16 and float32 that holds every value, which is what they were unless they
    were exported with a ``head_type``. A head that the file does not have is not there, and not enabled.

    Raises:
        BadFile: what the official format has no word for: another activation than the depth implies, or scale; a
            directory that cannot be made, is not empty without ``force``, or holds other weights.
    """
    _check_output(directory, force=force)
    for head, mlp in weights.mlps.items():
        implied = default_activation(len(mlp.weights))
        if mlp.activation != implied:
            reason = (
                f"{head} head of {len(mlp.weights)} layers with {mlp.activation}; in a checkpoint it would be {implied}"
            )
            raise BadFile.of(model.path, reason, key="activation", expected=implied, found=mlp.activation)
    if weights.temperature_scale != TEMPERATURE_SCALE:
        reason = f"temperature scale {weights.temperature_scale:g}; in a checkpoint it would be {TEMPERATURE_SCALE:g}"
        raise BadFile.of(model.path, reason, key="scale", expected=TEMPERATURE_SCALE, found=weights.temperature_scale)
    arrays = [array for mlp in weights.mlps.values() for layer in mlp.layers for array in layer]
    dtype = next(name for name in _DTYPES if all(_holds(name, array) for array in arrays))
    base = model.outer if model.kind == "adapter" else model.base()
    return _outputs(directory, _contents(weights, weights.mlps, *transformers_config(base), dtype))


def _check_output(directory: Path, *, force: bool) -> None:
    check_directory(directory)
    with bad_file(directory, "cannot be read"):
        found = sorted(directory.iterdir()) if directory.exists() else []
    if found and not force:
        raise BadFile.of(directory, f"is not empty ({found[0].name}); use --force to write into it")
    weights = (".safetensors", ".safetensors.index.json")
    other = next((p for p in found if p.name.endswith(weights) and p.name[0] != "." and p.name not in FILES), None)
    if other is not None:
        raise BadFile.of(other, "other weights in the output, which would be read too; choose another directory")


_DTYPES = {"bfloat16": "<u2", "float16": "<f2", "float32": "<f4"}
"""torch's names -> as what numpy writes their bytes."""

_CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""torch's names -> those of a safetensors file."""


def _stored(dtype: str, array: Float32Array) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.ascontiguousarray(array).view(np.uint32) >> 16).astype("<u2")
    with np.errstate(over="ignore"):
        return array.astype(_DTYPES[dtype])


def _holds(dtype: str, array: Float32Array) -> bool:
    stored = _stored(dtype, array)
    back = (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else stored.astype(np.float32)
    return back.tobytes() == np.ascontiguousarray(array).tobytes()


def _contents(
    weights: HeadWeights,
    enabled: Collection[str],
    base_model_type: str,
    base_config: Mapping[str, int | float],
    dtype: str,
) -> tuple[bytes, bytes]:
    """model.safetensors and config.json."""
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
        "dtype": dtype,
        **base_config,
    }
    tensors = {
        f"{HEAD_PREFIX[head]}.mlp.{2 * i}.{part}": array
        for head, mlp in weights.mlps.items()
        for i, layer in enumerate(mlp.layers)
        for part, array in zip(("weight", "bias"), layer, strict=True)
    }
    return _safetensors(tensors, dtype), (json.dumps(config, indent=2) + "\n").encode()


def _safetensors(tensors: Mapping[str, Float32Array], dtype: str) -> bytes:
    """A file of tensors. The library's own writer for numpy has no bfloat16."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, array in sorted(tensors.items()):
        data = _stored(dtype, array).tobytes()
        offsets = [len(content), len(content) + len(data)]
        header[name] = {"dtype": _CODES[dtype], "shape": list(array.shape), "data_offsets": offsets}
        content += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content


def _outputs(directory: Path, contents: tuple[bytes, bytes]) -> list[Output]:
    return [Output(directory / name, partial(_write, content)) for name, content in zip(FILES, contents, strict=True)]


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


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
