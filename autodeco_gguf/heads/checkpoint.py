"""Trained heads in the official format (AutoDecoModelForCausalLM.save_pretrained): reading and writing."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.files.atomic import write_bytes
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.format import FEATURES, HEAD_PREFIX, default_activation
from autodeco_gguf.heads.weights import Float32Array, HeadWeights, Mlp

_KEY = re.compile(r"(?P<head>temp_head|top_p_head)\.mlp\.(?P<index>\d+)\.(?P<part>weight|bias)$")
_NUMPY: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "F64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
}


_OTHER_BIN = frozenset(["training_args.bin", "optimizer.bin", "scheduler.bin"])
"""What trainers leave beside the weights."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's heads, and what its config says of the base.

    ``base_model_type`` is transformers' name of the architecture ("qwen2", "gpt_oss"), empty where the
    config does not say; ``vocab_size`` None likewise. ``files`` are those the heads were read from.
    """

    weights: HeadWeights
    base_model_type: str
    vocab_size: int | None
    files: tuple[Path, ...]


def read_checkpoint(path: str | Path, *, activation: str | None = None) -> Checkpoint:
    """Read the heads that a checkpoint's config enables, as float32.

    Args:
        path: a directory in any official layout, heads alone or merged with the base, or a Hugging Face
            repository id, which is downloaded.
        activation: "relu" or "gelu" for every head; by default ReLU for two linear layers, GELU for more.

    Raises:
        AutoDecoError: a file that is missing or broken, a tensor that is missing, misshapen or not finite, a
            config that contradicts the tensors.
    """
    directory = _directory(path)
    config = _read_config(directory / "config.json")
    tensors = _HeadTensors(directory)
    enabled = {
        "temperature": _flag(config, "enable_temperature_head", directory),
        "top_p": _flag(config, "enable_top_p_head", directory),
    }
    if not any(enabled.values()):
        raise AutoDecoError(f"{directory / 'config.json'}: both heads are disabled; nothing to export")
    mlps = {head: tensors.mlp(head, activation) if on else None for head, on in enabled.items()}
    hidden_size = _hidden_size(config, mlps, directory)
    weights = HeadWeights(
        hidden_size=hidden_size,
        vocab_size=_config_int(config, "vocab_size") or 0,
        base_model=_base_name(config),
        temperature=mlps["temperature"],
        top_p=mlps["top_p"],
        features=_features(config, mlps["top_p"], hidden_size, directory),
    )
    weights.check(str(directory))
    return Checkpoint(
        weights,
        str(config.get("base_model_type") or ""),
        weights.vocab_size or None,
        tuple(sorted(tensors.files)),
    )


def _directory(path: str | Path) -> Path:
    directory = Path(path)
    if directory.is_dir():
        return directory
    if directory.exists():
        raise AutoDecoError(f"{path}: is a file; give the checkpoint's directory")
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) is None:
        raise AutoDecoError(f"{path}: no such directory")
    return _download(str(path))


def _download(repo_id: str) -> Path:
    """Fetch what heads can be in; of a merged checkpoint only the shards that hold some."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        directory = Path(snapshot_download(repo_id, allow_patterns=["config.json", "*.safetensors.index.json"]))
        wanted = ["*.safetensors", "*.bin"]
        for index in directory.glob("*.safetensors.index.json"):
            weight_map = _read_config(index).get("weight_map") or {}
            wanted = sorted({file for key, file in weight_map.items() if _KEY.match(key)})
        return Path(snapshot_download(repo_id, allow_patterns=["config.json", "*.index.json", *wanted]))
    except (HfHubHTTPError, HFValidationError, OSError) as e:  # OSError: offline, or a full disk
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise AutoDecoError(
            f"{repo_id}: no such directory, and not to be had from the Hugging Face hub: {reason}"
        ) from e


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise AutoDecoError(f"{path}: missing; a checkpoint has one") from e
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise AutoDecoError(f"{path}: cannot be read: {e}") from e
    if not isinstance(config, dict):
        raise AutoDecoError(f"{path}: is a {type(config).__name__}, expected an object")
    return config


def _flag(config: dict[str, Any], key: str, directory: Path) -> bool:
    value = config.get(key, True)  # the official default
    if not isinstance(value, bool):
        raise AutoDecoError(f"{directory / 'config.json'}: {key} is {value!r}, expected true or false")
    return value


def _config_int(config: dict[str, Any], key: str) -> int | None:
    """A size from the config, or from the text part of a multimodal one."""
    text = config.get("text_config")
    for section in (config, text if isinstance(text, dict) else {}):
        value = section.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _base_name(config: dict[str, Any]) -> str:
    """The base's name as "owner/name" or "name"; of a local path the last part only."""
    name = str(config.get("base_model_name_or_path") or "").encode("utf-8", "replace").decode("utf-8")
    name = name.replace("\\", "/").rstrip("/")
    is_path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or ":" in name
    return name.rsplit("/", 1)[-1] if is_path else name


def _hidden_size(config: dict[str, Any], mlps: dict[str, Mlp | None], directory: Path) -> int:
    said = _config_int(config, "temperature_hidden_size") or _config_int(config, "hidden_size")
    temperature = mlps["temperature"]
    if temperature is None:
        if said is None:
            raise AutoDecoError(f"{directory / 'config.json'}: no hidden_size, and no temperature head to tell it")
        return said
    n_in = int(temperature.weights[0].shape[1])
    if said is not None and said != n_in:
        raise AutoDecoError(
            f"{directory}: config.json says hidden_size {said}, temp_head.mlp.0.weight has {n_in} inputs"
        )
    return n_in


def _features(config: dict[str, Any], top_p: Mlp | None, hidden_size: int, directory: Path) -> tuple[str, ...]:
    said = None
    if config.get("use_enhanced_features") is not None:
        said = _flag(config, "use_enhanced_features", directory)
    if top_p is None:
        return FEATURES[True]
    n_extra = top_p.weights[0].shape[1] - hidden_size
    by_shape = {len(names): enhanced for enhanced, names in FEATURES.items()}
    if n_extra not in by_shape:
        raise AutoDecoError(
            f"{directory}: top_p_head.mlp.0.weight has {hidden_size + n_extra} inputs, "
            f"expected hidden size {hidden_size} + {' or '.join(str(n) for n in sorted(by_shape))}"
        )
    if said is not None and said != by_shape[n_extra]:
        raise AutoDecoError(
            f"{directory}: config.json says use_enhanced_features {str(said).lower()}, but top_p_head.mlp.0.weight has "
            f"{hidden_size + n_extra} inputs, hidden size {hidden_size} + {n_extra}"
        )
    return FEATURES[by_shape[n_extra]]


class _HeadTensors:
    """The head tensors of a directory, wherever among its files they are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.arrays: dict[str, Float32Array] = {}
        self.files: set[Path] = set()
        weight_files = sorted(directory.glob("*.safetensors")) or [
            p for p in sorted(directory.glob("*.bin")) if p.name not in _OTHER_BIN
        ]
        for path in weight_files:
            for key, array in _read_weights(path):
                if key in self.arrays and not np.array_equal(self.arrays[key], array):
                    raise AutoDecoError(f"{path}: {key} differs from the one in {', '.join(map(str, self.files))}")
                self.arrays[key] = array
                self.files.add(path)
        self._check_index()
        if not self.arrays:
            what = f"{len(weight_files)} weight files" if weight_files else "no .safetensors or .bin file"
            raise AutoDecoError(f"{directory}: {what}, and no temp_head or top_p_head in it")

    def _check_index(self) -> None:
        for index in self.directory.glob("*.safetensors.index.json"):
            weight_map = _read_config(index).get("weight_map")
            for key, file in (weight_map if isinstance(weight_map, dict) else {}).items():
                if _KEY.match(key) and key not in self.arrays:
                    raise AutoDecoError(f"{index}: says {key} is in {file}, which lacks it or is missing")

    def mlp(self, head: str, activation: str | None) -> Mlp:
        prefix = HEAD_PREFIX[head]
        found = [m for m in map(_KEY.match, self.arrays) if m and m["head"] == prefix]
        n_layers = max((int(m["index"]) // 2 + 1 for m in found), default=1)
        layers = [
            (self._get(f"{prefix}.mlp.{2 * i}.weight"), self._get(f"{prefix}.mlp.{2 * i}.bias"))
            for i in range(n_layers)
        ]
        odd = next((m[0] for m in found if int(m["index"]) % 2), None)
        if odd is not None:
            raise AutoDecoError(f"{self.directory}: {odd} is unexpected: linear layers are numbered 0, 2, 4, ...")
        weights, biases = zip(*layers, strict=True)
        for i, weight in enumerate(weights):
            if weight.ndim != 2:
                raise AutoDecoError(
                    f"{self.directory}: {prefix}.mlp.{2 * i}.weight is {list(weight.shape)}, expected a matrix"
                )
        return Mlp(weights, biases, activation or default_activation(n_layers))

    def _get(self, key: str) -> Float32Array:
        if key not in self.arrays:
            raise AutoDecoError(f"{self.directory}: tensor {key} is missing")
        return self.arrays[key]


def _read_weights(path: Path) -> Iterator[tuple[str, Float32Array]]:
    return _read_bin(path) if path.suffix == ".bin" else _read_safetensors(path)


def _read_safetensors(path: Path) -> Iterator[tuple[str, Float32Array]]:
    try:
        with safe_open(path, framework="numpy") as f:
            keys = [key for key in f.keys() if _KEY.match(key)]  # noqa: SIM118
            layout = {key: (f.get_slice(key).get_dtype(), f.get_slice(key).get_shape()) for key in keys}
    except (SafetensorError, OSError) as e:
        raise AutoDecoError(f"{path}: not a safetensors file, or a broken one: {e}") from e
    # numpy has no bfloat16, so the bytes are read from where the header, just checked, says they are
    with path.open("rb") as raw:
        header_size = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(header_size))
        for key, (dtype, shape) in layout.items():
            if dtype not in _NUMPY:
                raise AutoDecoError(f"{path}: {key} is {dtype}, expected one of {', '.join(_NUMPY)}")
            begin, end = header[key]["data_offsets"]
            raw.seek(8 + header_size + begin)
            array = np.frombuffer(raw.read(end - begin), _NUMPY[dtype]).reshape(shape)
            yield key, _float32(array, bfloat16=dtype == "BF16")


def _float32(array: np.ndarray[Any, Any], *, bfloat16: bool) -> Float32Array:
    if bfloat16:  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # an infinity is found, and named, by whoever checks the weights
        return array.astype(np.float32)


def _read_bin(path: Path) -> Iterator[tuple[str, Float32Array]]:
    try:
        import torch
    except ImportError as e:
        raise AutoDecoError(f"{path}: needs torch to be read; pip install 'autodeco-gguf[torch]'") from e
    import pickle

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise AutoDecoError(f"{path}: not a PyTorch file, or a broken one: {reason}") from e
    if not isinstance(state, dict):
        raise AutoDecoError(f"{path}: holds a {type(state).__name__}, expected tensors by name")
    for key, tensor in state.items():
        if isinstance(key, str) and _KEY.match(key) and isinstance(tensor, torch.Tensor):
            yield key, tensor.detach().to(torch.float32).numpy().copy()


# ---- writing ----

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


_TRANSFORMERS_NAMES = {
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "phi2": "phi",
    "deepseek2": "deepseek_v3",
    "gemma3": "gemma3_text",
}
"""llama.cpp architecture -> transformers model type, where more than a hyphen differs."""


def write_checkpoint(
    directory: str | Path,
    weights: HeadWeights,
    *,
    enabled: Collection[str],
    base_model_type: str,
    base_config: Mapping[str, int | float],
) -> None:
    """Write heads as ``AutoDecoModelForCausalLM.save_pretrained`` does: config.json and model.safetensors.

    Args:
        directory: must exist; the two files are replaced.
        weights: both heads, also one that was not trained, as upstream; ``base_model`` is the name or path under
            which transformers finds the base.
        enabled: the heads that were trained.
        base_model_type: transformers' name of the base's architecture.
        base_config: what else is known of the base, under transformers' names.

    Raises:
        AutoDecoError: the files cannot be written.
    """
    config = {
        "architectures": ["AutoDecoModelForCausalLM"],
        "model_type": "autodeco",
        "base_model_type": base_model_type,
        "base_model_name_or_path": weights.base_model,
        "enable_temperature_head": "temperature" in enabled,
        "enable_top_p_head": "top_p" in enabled,
        "use_enhanced_features": weights.features == FEATURES[True],
        "temperature_hidden_size": weights.hidden_size,
        "top_p_hidden_size": weights.hidden_size,
        "hidden_size": weights.hidden_size,
        "vocab_size": weights.vocab_size,
        "dtype": "float32",
        **base_config,
    }
    tensors = {
        f"{HEAD_PREFIX[head]}.mlp.{2 * i}.{part}": array
        for head, mlp in weights.mlps.items()
        for i, layer in enumerate(zip(mlp.weights, mlp.biases, strict=True))
        for part, array in zip(("weight", "bias"), layer, strict=True)
    }
    for name, content in (
        ("model.safetensors", save(tensors, metadata={"format": "pt"})),
        ("config.json", (json.dumps(config, indent=2) + "\n").encode()),
    ):
        write_bytes(Path(directory) / name, content)


def transformers_config(base: GgufFile) -> tuple[str, dict[str, int | float]]:
    """transformers' name of a GGUF's architecture, and what the file says of the model under transformers' names."""
    architecture = str(base.get("general.architecture", str, ""))
    found: dict[str, int | float] = {}
    for key, name in _CONFIG_KEYS.items():
        value = base.get(f"{architecture}.{key}", object)
        if isinstance(value, int | float):
            found[name] = float(f"{value:.7g}") if isinstance(value, float) else value  # of float32
    for name in ("bos", "eos"):
        value = base.get(f"tokenizer.ggml.{name}_token_id", object)
        if isinstance(value, int):
            found[f"{name}_token_id"] = value
    return _TRANSFORMERS_NAMES.get(architecture, architecture.replace("-", "_")), found
