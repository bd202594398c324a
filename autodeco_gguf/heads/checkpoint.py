"""Reads trained heads in the official format (AutoDecoModelForCausalLM.save_pretrained)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from autodeco_gguf.errors import BadFile, InvalidInput, not_installed
from autodeco_gguf.files.atomic import bad_file
from autodeco_gguf.files.reading import MAX_JSON, parse_json, read_json
from autodeco_gguf.files.system import signals_wait
from autodeco_gguf.heads.format import ACTIVATIONS, FEATURES, HEAD_PREFIX, activation_key, default_activation
from autodeco_gguf.heads.hub import is_hub_id, snapshot
from autodeco_gguf.heads.pickles import check_pickles
from autodeco_gguf.heads.weights import Float32Array, HeadWeights, Mlp

_KEY = re.compile(r"(?:temp_head|top_p_head)\.")
_LAYER_KEY = re.compile(r"\w+\.mlp\.[0-9]{0,3}[02468]\.(?:weight|bias)")
_NUMPY = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
"""Types of a safetensors file -> as what numpy reads their bytes."""

_OTHER_BIN = frozenset(["training_args.bin", "optimizer.bin", "scheduler.bin", "sampler.bin"])
"""What trainers leave beside the weights."""

_Config = Mapping[str, object]


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
        activation: "relu" or "gelu" for every head; by default what the config says, as this project's own do where it
            is another than ReLU for two linear layers, GELU for more.

    Raises:
        BadFile: a file that is missing, broken or, as JSON, larger than 16 MiB, a tensor that is missing, misshapen or
            not finite, a config that contradicts the tensors.
    """
    directory = _directory(path)
    config_path = directory / "config.json"
    config = _read_config(config_path)
    arrays, files = _read_tensors(directory)
    enabled = {head: _flag(config, f"enable_{head}_head", config_path) for head in HEAD_PREFIX}
    if not any(enabled.values()):
        raise BadFile.of(config_path, "both heads are disabled; nothing to export")
    said = {head: activation or _activation(config, head, config_path) for head in enabled}
    mlps = {head: _mlp(arrays, head, said[head], directory) if on else None for head, on in enabled.items()}
    temperature, top_p = mlps["temperature"], mlps["top_p"]
    hidden_size = _hidden_size(config, temperature, directory)
    features = _features(config, top_p, hidden_size, directory)
    vocab_size = _config_int(config, "vocab_size")
    weights = HeadWeights(hidden_size, vocab_size or 0, _base_name(config), temperature, top_p, features)
    try:
        weights.check()
    except InvalidInput as e:
        raise BadFile.of(directory, e) from e
    return Checkpoint(weights, str(config.get("base_model_type") or ""), vocab_size, tuple(sorted(files)))


def _directory(path: str | Path) -> Path:
    directory = Path(path)
    if is_hub_id(path):
        return _download(str(path))
    with bad_file(directory, "cannot be read"):
        if directory.is_dir():
            return directory
        if directory.exists():
            raise BadFile.of(path, "is a file; give the checkpoint's directory")
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) is None:
        raise BadFile.of(path, "no such directory")
    return _download(str(path))


def _download(name: str) -> Path:
    """Fetch what heads can be in; of a merged checkpoint only the shards that hold some."""
    kinds = ["*.safetensors.index.json", "*.bin.index.json"]
    about, beside = ["config.json", *kinds], ["*/*", *sorted(_OTHER_BIN)]
    folder, base = snapshot(name, about, but=beside), set[str]()
    for kind in kinds:
        maps = [_weight_map(index) for index in _named(folder, kind)]
        shards = {str(file) for files in maps for key, file in files.items() if _KEY.match(key)}
        if shards:
            return snapshot(name, [*about, *sorted(shards)], but=beside)
        base |= {str(file) for files in maps for file in files.values()}
    return snapshot(name, [*about, "*.safetensors", "*.bin"], but=[*beside, *sorted(base)])


def _read_config(path: Path) -> _Config:
    with bad_file(path, "cannot be read"):
        if not path.exists():
            raise BadFile.of(path, "missing; a checkpoint has one")
    config = read_json(path)
    if not isinstance(config, dict):
        raise BadFile.of(path, f"is a {type(config).__name__}, expected an object")
    return config


def _files_of_heads(index: Path) -> _Config:
    """Head tensor -> its file, as the index of a checkpoint in several files has it."""
    return {key: file for key, file in _weight_map(index).items() if _KEY.match(key)}


def _weight_map(index: Path) -> _Config:
    weight_map = _read_config(index).get("weight_map")
    return weight_map if isinstance(weight_map, dict) else {}


def _flag(config: _Config, key: str, path: Path) -> bool:
    value = config.get(key, True)  # the official default
    if not isinstance(value, bool):
        expected = "true or false"
        raise BadFile.of(path, f"{key} is {value!r}, expected {expected}", key=key, expected=expected, found=value)
    return value


def _activation(config: _Config, head: str, path: Path) -> str | None:
    key, expected = activation_key(head), f"one of {', '.join(ACTIVATIONS)}"
    value = config.get(key)
    if value is None:
        return None
    if value not in ACTIVATIONS:
        raise BadFile.of(path, f"{key} is {value!r}, expected {expected}", key=key, expected=expected, found=value)
    return str(value)


def _config_int(config: _Config, key: str) -> int | None:
    """A size from the config, or from the text part of a multimodal one."""
    text = config.get("text_config")
    for section in (config, text if isinstance(text, dict) else {}):
        value = section.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _base_name(config: _Config) -> str:
    """The base's name as "owner/name" or "name"; of a local path the last part only."""
    name = str(config.get("base_model_name_or_path") or "").encode("utf-8", "replace").decode("utf-8")
    name = name.replace("\\", "/").rstrip("/")
    is_path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or ":" in name
    return name.rsplit("/", 1)[-1] if is_path else name


def _hidden_size(config: _Config, temperature: Mlp | None, directory: Path) -> int:
    key = "temperature_hidden_size" if _config_int(config, "temperature_hidden_size") else "hidden_size"
    said = _config_int(config, key)
    found = said if temperature is None else int(temperature.weights[0].shape[1])
    if found is None:
        raise BadFile.of(directory / "config.json", "no hidden_size, and no temperature head to tell it")
    if said is not None and said != found:
        reason = f"config.json says {key} {said}, temp_head.mlp.0.weight has {found} inputs"
        raise BadFile.of(directory, reason, key=key, expected=said, found=found)
    return found


def _features(config: _Config, top_p: Mlp | None, hidden_size: int, directory: Path) -> tuple[str, ...]:
    key = "use_enhanced_features"
    said = None if config.get(key) is None else _flag(config, key, directory)
    if top_p is None:
        return FEATURES[True]
    n_inputs = int(top_p.weights[0].shape[1])
    has = f"top_p_head.mlp.0.weight has {n_inputs} inputs"
    by_inputs = {hidden_size + len(names): enhanced for enhanced, names in FEATURES.items()}
    if n_inputs not in by_inputs:
        numbers = " or ".join(str(n - hidden_size) for n in sorted(by_inputs))
        reason = f"{has}, expected hidden size {hidden_size} + {numbers}"
        raise BadFile.of(directory, reason, key="top_p_head.mlp.0.weight", expected=sorted(by_inputs), found=n_inputs)
    found = by_inputs[n_inputs]
    if said is not None and said != found:
        sizes = f"hidden size {hidden_size} + {n_inputs - hidden_size}"
        reason = f"config.json says {key} {str(said).lower()}, but {has}, {sizes}"
        raise BadFile.of(directory, reason, key=key, expected=said, found=found)
    return FEATURES[found]


def _read_tensors(directory: Path) -> tuple[dict[str, Float32Array], set[Path]]:
    """The head tensors of a directory, wherever among its files they are, and those files."""
    arrays: dict[str, Float32Array] = {}
    files: set[Path] = set()
    with bad_file(directory, "cannot be read"):
        next(directory.iterdir(), None)  # a glob finds nothing in what it may not read
    weight_files = _named(directory, "*.safetensors") or [
        p for p in _named(directory, "*.bin") if p.name not in _OTHER_BIN
    ]
    for path in weight_files:
        if not path.is_file():
            raise BadFile.of(path, "is no regular file")
        for key, array in (_read_bin if path.suffix == ".bin" else _read_safetensors)(path):
            if key in arrays and not np.array_equal(arrays[key], array):
                raise BadFile.of(path, f"{key} differs from the one in {', '.join(map(str, files))}", key=key)
            arrays[key] = array
            files.add(path)
    for index in _named(directory, "*.safetensors.index.json"):
        for key, file in _files_of_heads(index).items():
            if key not in arrays:
                raise BadFile.of(index, f"says {key} is in {file}, which lacks it or is missing", key=key)
    if not arrays:
        what = f"{len(weight_files)} weight files" if weight_files else "no .safetensors or .bin file"
        raise BadFile.of(directory, f"{what}, and no temp_head or top_p_head in it")
    return arrays, files


def _named(directory: Path, pattern: str) -> list[Path]:
    """A directory's files of a name, without the hidden ones that macOS writes beside them (._model.safetensors)."""
    return sorted(path for path in directory.glob(pattern) if not path.name.startswith("."))


def _layers(arrays: Mapping[str, Float32Array], prefix: str) -> tuple[list[str], list[str]]:
    """The names of the weights and biases of a head, as many as there are without a gap, one at least."""
    names = [f"{prefix}.mlp.0"]
    while any(f"{prefix}.mlp.{2 * len(names)}.{part}" in arrays for part in ("weight", "bias")):
        names.append(f"{prefix}.mlp.{2 * len(names)}")
    return [f"{name}.weight" for name in names], [f"{name}.bias" for name in names]


def _mlp(arrays: Mapping[str, Float32Array], head: str, activation: str | None, directory: Path) -> Mlp:
    prefix = HEAD_PREFIX[head]
    weights, biases = _layers(arrays, prefix)
    for key in (*weights, *biases):
        if key not in arrays:
            raise BadFile.of(directory, f"tensor {key} is missing", key=key)
    others = [key for key in arrays if key.startswith(f"{prefix}.") and key not in {*weights, *biases}]
    odd = next((key for key in others if _LAYER_KEY.fullmatch(key) is None), None)
    if odd is not None:
        raise BadFile.of(directory, f"{odd} is unexpected: a head is of weight and bias of mlp.0, 2, 4, ...", key=odd)
    if others:
        key = f"{prefix}.mlp.{2 * len(weights)}.weight"
        raise BadFile.of(directory, f"tensor {key} is missing, but {others[0]} is there", key=key)
    for key in weights:
        shape = arrays[key].shape
        if len(shape) != 2:
            raise BadFile.of(directory, f"{key} is {list(shape)}, expected a matrix", key=key, found=shape)
    activation = activation or default_activation(len(weights))
    return Mlp(tuple(arrays[key] for key in weights), tuple(arrays[key] for key in biases), activation)


def _read_safetensors(path: Path) -> Iterator[tuple[str, Float32Array]]:
    try:
        with path.open("rb") as raw:
            header_size = int.from_bytes(raw.read(8), "little")
        if header_size > MAX_JSON:
            raise BadFile.of(path, f"not a safetensors file, or a broken one: a header of {header_size} bytes")
        with safe_open(path, framework="numpy") as f:
            keys = [key for key in f.keys() if _KEY.match(key)]  # noqa: SIM118
        # numpy has no bfloat16, so the bytes are read from where the header, just checked, says they are
        with path.open("rb") as raw:
            raw.seek(8)
            header = parse_json(raw.read(header_size))
            for key in keys:
                dtype, (begin, end) = header[key]["dtype"], header[key]["data_offsets"]
                if dtype not in _NUMPY:
                    allowed = ", ".join(_NUMPY)
                    raise BadFile.of(path, f"{key} is {dtype}, expected one of {allowed}", key=key, found=dtype)
                raw.seek(8 + header_size + begin)
                array = np.frombuffer(raw.read(end - begin), _NUMPY[dtype]).reshape(header[key]["shape"])
                yield key, _float32(array, bfloat16=dtype == "BF16")
    except BadFile:
        raise
    except Exception as e:  # of a header that the two parsers read differently, it can be any
        raise BadFile.of(path, f"not a safetensors file, or a broken one: {_first_line(e)}") from e


def _float32(array: np.ndarray[Any, Any], *, bfloat16: bool) -> Float32Array:
    if bfloat16:  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # an infinity is found, and named, by whoever checks the weights
        return array.astype(np.float32)


def _read_bin(path: Path) -> Iterator[tuple[str, Float32Array]]:
    try:
        with signals_wait():
            import torch
    except ImportError as e:
        raise not_installed(f"{path}: needs torch to be read", "torch", "torch") from e
    try:
        check_pickles(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, OSError) as e:
        raise BadFile.of(path, f"not a PyTorch file, or a broken one: {_first_line(e)}") from e
    except Exception as e:  # torch promises nothing about a broken file, and advises to let it run what it holds
        raise BadFile.of(path, "not a PyTorch file, or a broken one, or not of tensors alone") from e
    if not isinstance(state, dict):
        raise BadFile.of(path, f"holds a {type(state).__name__}, expected tensors by name")
    left = path.stat().st_size
    for key, tensor in _flat(state):
        if isinstance(key, str) and _KEY.match(key) and isinstance(tensor, torch.Tensor):
            plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
            if not plain or not tensor.is_floating_point():
                raise BadFile.of(path, f"{key} is {tensor.dtype}, {tensor.layout}, expected dense floats", key=key)
            nbytes = tensor.numel() * tensor.element_size()
            if nbytes > tensor.untyped_storage().nbytes():
                raise BadFile.of(path, f"{key} is {list(tensor.shape)}, more values than are stored", key=key)
            left -= nbytes
            if left < 0:  # the same values by many names
                raise BadFile.of(path, f"{key} makes the heads larger than the file", key=key)
            yield key, tensor.detach().to(torch.float32).numpy().copy()


def _flat(state: Mapping[object, object]) -> Iterator[tuple[object, object]]:
    """What a .bin has, by name: the official one of heads alone has a dict for each, trainers put all into another."""
    for part in (state, state.get("state_dict"), state.get("model")):
        for key, value in part.items() if isinstance(part, dict) else ():
            if key in HEAD_PREFIX.values() and isinstance(value, dict):
                yield from ((f"{key}.{name}", tensor) for name, tensor in value.items())
            else:
                yield key, value


def _first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0]
