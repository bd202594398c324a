"""Official checkpoints, whole and broken."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken import checkpoint, save_raw
from conftest import Case, load_case
from safetensors.numpy import load_file, save_file

from autodeco_gguf import AutoDecoError, Checkpoint, read_checkpoint
from autodeco_gguf.errors import BadFile

ENHANCED = ("temperature", "max_prob", "entropy", "prob_variance", "top5_prob")
Change = Callable[[Path], object]
TEMP0, TEMP2 = "temp_head.mlp.0", "temp_head.mlp.2"


def zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


def arrays_of(read: Checkpoint) -> dict[str, np.ndarray[Any, Any]]:
    """The weights under the names that the official file gives them."""
    official = {"temperature": "temp_head", "top_p": "top_p_head"}
    return {
        f"{official[head]}.mlp.{2 * i}.{part}": array
        for head, mlp in read.weights.mlps.items()
        for part, arrays in (("weight", mlp.weights), ("bias", mlp.biases))
        for i, array in enumerate(arrays)
    }


# ---- what is read ----

FACTS = {
    "llama": ({"temperature", "top_p"}, ENHANCED, 96, 512, "tiny-llama", "llama"),
    "qwen2": ({"temperature", "top_p"}, ENHANCED, 64, 384, "tiny-qwen2", "qwen2"),
    "qwen2_plain": ({"temperature", "top_p"}, ("temperature",), 64, 384, "tiny-qwen2", "qwen2"),
    "qwen2_temp_only": ({"temperature"}, ENHANCED, 64, 384, "tiny-qwen2", "qwen2"),
    "qwen3_moe": ({"temperature", "top_p"}, ENHANCED, 64, 384, "tiny-qwen3-moe", "qwen3_moe"),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_of_every_fixture(name: str) -> None:
    heads, features, hidden_size, vocab_size, base_model, model_type = FACTS[name]
    read = read_checkpoint(load_case(name).heads)
    assert set(read.weights.mlps) == heads
    assert read.weights.features == features
    assert (read.weights.hidden_size, read.weights.vocab_size, read.vocab_size) == (hidden_size, vocab_size, vocab_size)
    assert (read.weights.base_model, read.base_model_type) == (base_model, model_type)
    assert [mlp.activation for mlp in read.weights.mlps.values()] == ["relu"] * len(heads)
    assert [path.name for path in read.files] == ["model.safetensors"]


def test_weights_are_the_files(qwen2: Case) -> None:
    expected = load_file(qwen2.heads / "model.safetensors")
    arrays = arrays_of(read_checkpoint(qwen2.heads))
    assert arrays.keys() == expected.keys()
    for key, array in arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[key])


DTYPES = {
    "F32": (np.array([1.0, -2.5], "<f4").tobytes(), [1.0, -2.5]),
    "F16": (np.array([1.0, -2.5], "<f2").tobytes(), [1.0, -2.5]),
    "F64": (np.array([1.0, 0.1], "<f8").tobytes(), [1.0, np.float32(0.1)]),
    "BF16": (bytes.fromhex("803f 4940"), [1.0, 3.140625]),  # 0x3f80, 0x4049
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_need_no_torch(dtype: str, qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    raw, values = DTYPES[dtype]
    config = {"enable_top_p_head": False, "temperature_hidden_size": 2, "hidden_size": 2}
    directory = checkpoint(qwen2.heads, tmp_path / "heads", config=config)
    bias = np.zeros(1, np.float32).tobytes()
    save_raw(
        directory / "model.safetensors",
        {"temp_head.mlp.0.weight": (dtype, (1, 2), raw), "temp_head.mlp.0.bias": ("F32", (1,), bias)},
    )
    weights = read_checkpoint(directory).weights
    assert weights.temperature is not None
    np.testing.assert_array_equal(weights.temperature.weights[0], [values])


# ---- layouts ----


def renamed(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "autodeco_heads.safetensors")


def with_index(directory: Path) -> None:
    """Merged with the base: two shards, the heads spread over both, and an index."""
    heads = load_file(directory / "model.safetensors")
    first = {key: heads.pop(key) for key in list(heads)[:3]}
    base = {"llm.model.embed_tokens.weight": zeros(4, 4)}
    save_file({**first, **base}, directory / "model-00001-of-00002.safetensors")
    save_file(heads, directory / "model-00002-of-00002.safetensors")
    where = {
        **dict.fromkeys((*first, *base), "model-00001-of-00002.safetensors"),
        **dict.fromkeys(heads, "model-00002-of-00002.safetensors"),
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (directory / "model.safetensors").unlink()


def same_heads_twice(directory: Path) -> None:
    shutil.copy(directory / "model.safetensors", directory / "autodeco_heads.safetensors")


def beside_what_macos_writes(directory: Path) -> None:
    for name in ("model.safetensors", "model.safetensors.index.json"):
        (directory / f"._{name}").write_bytes(b"\0\5\x16\7")


LAYOUTS = [renamed, with_index, same_heads_twice, beside_what_macos_writes]


@pytest.mark.parametrize("change", LAYOUTS, ids=lambda change: change.__name__)
def test_layouts(change: Change, qwen2: Case, tmp_path: Path) -> None:
    expected = arrays_of(read_checkpoint(qwen2.heads))
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    change(directory)
    arrays = arrays_of(read_checkpoint(directory))
    assert arrays.keys() == expected.keys()
    assert all(np.array_equal(arrays[key], expected[key]) for key in expected)


BASE_NAMES = {
    "repository": ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
    "plain": ("tiny", "tiny"),
    "absolute path": ("/home/someone/models/Qwen2.5-7B/", "Qwen2.5-7B"),
    "relative path": ("../models/Qwen2.5-7B", "Qwen2.5-7B"),
    "home": ("~/Qwen2.5-7B", "Qwen2.5-7B"),
    "deep path": ("data/models/Qwen2.5-7B", "Qwen2.5-7B"),
    "windows": ("C:\\models\\Qwen2.5-7B", "Qwen2.5-7B"),
    "missing": (None, ""),
}


@pytest.mark.parametrize("said", BASE_NAMES)
def test_base_model_is_never_a_local_path(said: str, qwen2: Case, tmp_path: Path) -> None:
    name, expected = BASE_NAMES[said]
    directory = checkpoint(qwen2.heads, tmp_path / "heads", config={"base_model_name_or_path": name})
    assert read_checkpoint(directory).weights.base_model == expected


def deep_temperature_head() -> dict[str, np.ndarray[Any, Any]]:
    """Four layers, as SimpleDeco trains: 64 -> 8 -> 8 -> 8 -> 1."""
    sizes = [64, 8, 8, 8, 1]
    shapes = {f"temp_head.mlp.{2 * i}": (sizes[i + 1], sizes[i]) for i in range(4)}
    return {
        **{f"{key}.weight": zeros(*shape) for key, shape in shapes.items()},
        **{f"{key}.bias": zeros(shape[0]) for key, shape in shapes.items()},
    }


@pytest.mark.parametrize(
    ("asked", "temperature", "top_p"), [(None, "gelu", "relu"), ("relu", "relu", "relu"), ("gelu", "gelu", "gelu")]
)
def test_activation_follows_depth(asked: str | None, temperature: str, top_p: str, qwen2: Case, tmp_path: Path) -> None:
    directory = checkpoint(qwen2.heads, tmp_path / "heads", tensors=deep_temperature_head())
    mlps = read_checkpoint(directory, activation=asked).weights.mlps
    assert [len(mlps["temperature"].weights), len(mlps["top_p"].weights)] == [4, 2]
    assert [mlps["temperature"].activation, mlps["top_p"].activation] == [temperature, top_p]


@pytest.mark.parametrize(
    ("flags", "heads"),
    [
        ({"enable_temperature_head": False}, {"top_p"}),
        ({"enable_top_p_head": False}, {"temperature"}),
        ({"enable_top_p_head": None, "enable_temperature_head": None}, {"temperature", "top_p"}),
    ],
    ids=["top-p alone", "temperature alone", "flags missing"],
)
def test_flags_decide_the_heads(flags: dict[str, bool | None], heads: set[str], qwen2: Case, tmp_path: Path) -> None:
    directory = checkpoint(qwen2.heads, tmp_path / "heads", config=flags)
    assert set(read_checkpoint(directory).weights.mlps) == heads


def test_disabled_head_may_be_missing(qwen2: Case, tmp_path: Path) -> None:
    dropped = {f"top_p_head.mlp.{i}.{part}": None for i in (0, 2) for part in ("weight", "bias")}
    directory = checkpoint(qwen2.heads, tmp_path / "heads", config={"enable_top_p_head": False}, tensors=dropped)
    assert set(read_checkpoint(directory).weights.mlps) == {"temperature"}


# ---- refused: configuration and tensors ----

NAN = zeros(256, 64)
NAN[3, 5] = np.nan
INF = zeros(256)
INF[7] = np.inf

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "both heads off": (
        {"enable_temperature_head": False, "enable_top_p_head": False},
        {},
        r"config\.json: both heads are disabled",
    ),
    "flag is no flag": ({"enable_top_p_head": "yes"}, {}, r"config\.json: enable_top_p_head is 'yes'"),
    "enabled, but missing": (
        {},
        {f"temp_head.mlp.{i}.{part}": None for i in (0, 2) for part in ("weight", "bias")},
        r"heads: tensor temp_head\.mlp\.0\.weight is missing",
    ),
    "enhanced, shape says plain": (
        {},
        {"top_p_head.mlp.0.weight": zeros(256, 65)},
        r"heads: config\.json says use_enhanced_features true, but top_p_head\.mlp\.0\.weight has 65 inputs",
    ),
    "plain, shape says enhanced": (
        {"use_enhanced_features": False},
        {},
        r"heads: config\.json says use_enhanced_features false, but top_p_head\.mlp\.0\.weight has 69 inputs",
    ),
    "features are no flag": ({"use_enhanced_features": "false"}, {}, r"use_enhanced_features is 'false'"),
    "shape of no feature set": (
        {},
        {"top_p_head.mlp.0.weight": zeros(256, 67)},
        r"top_p_head\.mlp\.0\.weight has 67 inputs, expected hidden size 64 \+ 1 or 5",
    ),
    "hidden size": (
        {"temperature_hidden_size": 80, "hidden_size": 80},
        {},
        r"config\.json says temperature_hidden_size 80, temp_head\.mlp\.0\.weight has 64 inputs",
    ),
    "top-p alone, no hidden size": (
        {"enable_temperature_head": False, "temperature_hidden_size": None, "hidden_size": None},
        {},
        r"config\.json: no hidden_size",
    ),
    "missing bias": ({}, {f"{TEMP2}.bias": None}, r"tensor temp_head\.mlp\.2\.bias is missing"),
    "missing layer": (
        {},
        {f"{TEMP2}.weight": None, f"{TEMP2}.bias": None, "temp_head.mlp.4.weight": zeros(1, 256)},
        r"tensor temp_head\.mlp\.2\.weight is missing",
    ),
    "last layer not one": ({}, {f"{TEMP2}.weight": zeros(2, 256)}, r"temp_head: weight of layer 1 is \[2, 256\]"),
    "layers do not connect": ({}, {f"{TEMP2}.weight": zeros(1, 255)}, r"layer 1 is \[1, 255\], expected \[1, 256\]"),
    "bias of another size": ({}, {f"{TEMP0}.bias": zeros(255)}, r"bias of layer 0 is \[255\], expected \[256\]"),
    "no matrix": ({}, {f"{TEMP0}.weight": zeros(64)}, r"temp_head\.mlp\.0\.weight is \[64\], expected a matrix"),
    "odd layer": ({}, {"temp_head.mlp.1.weight": zeros(4, 4)}, r"temp_head\.mlp\.1\.weight is unexpected"),
    "norm": ({}, {"temp_head.norm.weight": zeros(64)}, r"temp_head\.norm\.weight is unexpected: a head is of weight"),
    "scale": ({}, {f"{TEMP0}.weight_scale": zeros(1)}, r"temp_head\.mlp\.0\.weight_scale is unexpected: "),
    "NaN": ({}, {f"{TEMP0}.weight": NAN}, r"heads: temp_head: weight of layer 0 holds NaN"),
    "infinity": ({}, {f"{TEMP0}.bias": INF}, r"heads: temp_head: bias of layer 0 holds NaN or infinity"),
    "over float32": ({}, {f"{TEMP0}.bias": np.full(256, 1e300)}, r"temp_head: bias of layer 0 holds NaN or inf"),
    "integers": ({}, {f"{TEMP0}.bias": np.zeros(256, np.int32)}, r"temp_head\.mlp\.0\.bias is I32, expected"),
    "no heads": (
        {},
        {f"{h}_head.mlp.{i}.{p}": None for h in ("temp", "top_p") for i in (0, 2) for p in ("weight", "bias")}
        | {"llm.x": zeros(2)},
        r"and no temp_head or top_p_head in it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_contradictions_are_refused(name: str, qwen2: Case, tmp_path: Path) -> None:
    config, tensors, message = REFUSED[name]
    directory = checkpoint(qwen2.heads, tmp_path / "heads", config=config, tensors=tensors)
    with pytest.raises(AutoDecoError, match=message):
        read_checkpoint(directory)


# ---- refused: files ----


def write(name: str, data: bytes) -> Change:
    return lambda directory: (directory / name).write_bytes(data)


def cut(nbytes: int) -> Change:
    def change(directory: Path) -> None:
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:nbytes])

    return change


def lost_shard(directory: Path) -> None:
    with_index(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()


def differing_copies(directory: Path) -> None:
    same_heads_twice(directory)
    arrays = load_file(directory / "model.safetensors")
    save_file({**arrays, f"{TEMP2}.bias": np.ones(1, np.float32)}, directory / "model.safetensors")


BROKEN: dict[str, tuple[Change, str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), r"config\.json: missing"),
    "config not JSON": (write("config.json", b'{"a": '), r"config\.json: not JSON: .*column 7"),
    "config not UTF-8": (write("config.json", b'{"a": "\xff"}'), r"config\.json: not UTF-8 at byte 7"),
    "config a list": (write("config.json", b"[]"), r"config\.json: is a list, expected an object"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), r"heads: no \.safetensors or \.bin file"),
    "empty weights": (cut(0), r"model\.safetensors: not a safetensors file"),
    "cut in the length": (cut(5), r"model\.safetensors: not a safetensors file"),
    "cut in the header": (cut(100), r"model\.safetensors: not a safetensors file"),
    "cut in the data": (cut(-1), r"model\.safetensors: not a safetensors file"),
    "huge header": (write("model.safetensors", b"\xff" * 64), r"model\.safetensors: not a safetensors file"),
    "a shard is gone": (lost_shard, r"index\.json: says temp_head\.mlp\.2\.weight is in model-00002|which lacks it"),
    "copies differ": (differing_copies, r"model\.safetensors: temp_head\.mlp\.2\.bias differs"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name: str, qwen2: Case, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    change(directory)
    with pytest.raises(AutoDecoError, match=message) as error:
        read_checkpoint(directory)
    assert "\n" not in str(error.value)


def test_a_file_is_no_directory(qwen2: Case) -> None:
    with pytest.raises(AutoDecoError, match=r"model\.safetensors: is a file; give the checkpoint's directory"):
        read_checkpoint(qwen2.heads / "model.safetensors")


def test_a_missing_directory() -> None:
    with pytest.raises(BadFile, match=r"^x{300}: cannot be read: File name too long$"):
        read_checkpoint("x" * 300)
    with pytest.raises(AutoDecoError, match=r"^/no/such/heads: no such directory$"):
        read_checkpoint("/no/such/heads")


# ---- .bin ----


def test_bin_without_torch(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    (directory / "model.safetensors").rename(directory / "autodeco_heads.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(AutoDecoError, match=r'autodeco_heads\.bin: needs torch .*pip install "\.\[torch\]"'):
        read_checkpoint(directory)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bin_with_torch(dtype: str, qwen2: Case, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    arrays = load_file(directory / "model.safetensors")
    state = {key: torch.from_numpy(array).to(getattr(torch, dtype)) for key, array in arrays.items()}
    torch.save(state, directory / "autodeco_heads.bin")
    (directory / "model.safetensors").unlink()
    read = arrays_of(read_checkpoint(directory))
    assert read.keys() == arrays.keys()
    for key, array in read.items():
        np.testing.assert_array_equal(array, state[key].float().numpy())


@pytest.mark.parametrize("outer", [None, "state_dict", "model"])
def test_a_bin_with_a_dict_for_each_head(outer: str | None, qwen2: Case, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    arrays = load_file(directory / "model.safetensors")
    state: dict[str, Any] = {"temp_head": {}, "top_p_head": {}}
    for key, array in arrays.items():
        head, _, name = key.partition(".")
        state[head][name] = torch.from_numpy(array)
    torch.save(state if outer is None else {outer: state, "epoch": 3}, directory / "autodeco_heads.bin")
    (directory / "model.safetensors").unlink()
    read = arrays_of(read_checkpoint(directory))
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[key], arrays[key]) for key in arrays)


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_bin_is_never_executed(qwen2: Case, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    (directory / "model.safetensors").unlink()
    sign = tmp_path / "executed"
    torch.save({f"{TEMP0}.weight": _Malicious(sign)}, directory / "autodeco_heads.bin")
    with pytest.raises(AutoDecoError, match=r"autodeco_heads\.bin: not a PyTorch file, or a broken one"):
        read_checkpoint(directory)
    assert not sign.exists()


BAD_BINS = {
    "empty": b"",
    "text": b"hello",
    "plain pickle": pickle.dumps([1, 2], 2),
}


@pytest.mark.parametrize("name", BAD_BINS)
def test_broken_bin(name: str, qwen2: Case, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    (directory / "model.safetensors").unlink()
    (directory / "autodeco_heads.bin").write_bytes(BAD_BINS[name])
    with pytest.raises(AutoDecoError, match=r"autodeco_heads\.bin: not a PyTorch file, or a broken one") as error:
        read_checkpoint(directory)
    assert "\n" not in str(error.value)


def test_bin_without_names(qwen2: Case, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    (directory / "model.safetensors").unlink()
    torch.save([1, 2], directory / "autodeco_heads.bin")
    with pytest.raises(AutoDecoError, match=r"autodeco_heads\.bin: holds a list, expected tensors by name"):
        read_checkpoint(directory)


ODD_TENSORS: dict[str, Callable[[Any], Any]] = {
    "sparse": lambda torch: torch.zeros(256, 64).to_sparse(),
    "rows of a sparse one": lambda torch: torch.zeros(256, 64).to_sparse_csr(),
    "nowhere": lambda torch: torch.zeros(256, 64, device="meta"),
    "one value for a trillion": lambda torch: torch.zeros(1).expand(10**6, 10**6),
    "a sparse trillion": lambda torch: torch.sparse_coo_tensor(size=(10**6, 10**6)),
    "complex": lambda torch: torch.zeros(256, 64, dtype=torch.complex64),
    "whole numbers": lambda torch: torch.zeros(256, 64, dtype=torch.int64),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("name", ODD_TENSORS)
def test_bin_tensors_that_are_no_arrays(name: str, qwen2: Case, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    state = {**load_file(directory / "model.safetensors"), "temp_head.mlp.0.weight": ODD_TENSORS[name](torch)}
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin")
    with pytest.raises(BadFile, match=r"pytorch_model\.bin: "):
        read_checkpoint(directory)


def test_a_bin_that_unpacks_to_more_is_not_unpacked(qwen2: Case, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    (directory / "model.safetensors").unlink()
    with zipfile.ZipFile(directory / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00." + b"\0" * 10_000_000)
    with pytest.raises(BadFile, match=r"pytorch_model\.bin: not a PyTorch file.*: its parts are larger than the file"):
        read_checkpoint(directory)


def test_a_bin_that_asks_for_memory(qwen2: Case, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    (directory / "model.safetensors").unlink()
    torch.save({"x": bytearray(5)}, directory / "pytorch_model.bin")
    with pytest.raises(BadFile, match=r"pytorch_model\.bin: not a PyTorch file.*: holds __builtin__\.bytearray, expec"):
        read_checkpoint(directory)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_bin_with_one_tensor_under_many_names(dtype: str, qwen2: Case, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    (directory / "model.safetensors").unlink()
    tensor = torch.zeros(1000, 1000, dtype=getattr(torch, dtype))
    torch.save({f"temp_head.mlp.{i}.weight": tensor for i in range(3)}, directory / "pytorch_model.bin")
    with pytest.raises(BadFile, match=r"bin: temp_head\.mlp\.1\.weight makes the heads larger than the file$"):
        read_checkpoint(directory)


def test_a_header_of_any_size(qwen2: Case, tmp_path: Path) -> None:
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    with (directory / "model.safetensors").open("r+b") as f:
        f.write((99 << 20).to_bytes(8, "little"))
        f.truncate(100 << 20)
    with pytest.raises(BadFile, match=r"model\.safetensors: .*a header of 103809024 bytes"):
        read_checkpoint(directory)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
)
def test_pipes_are_refused_at_once(name: str, qwen2: Case, tmp_path: Path) -> None:
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    if name == "pytorch_model.bin":
        (directory / "model.safetensors").unlink()
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    with pytest.raises(BadFile, match=rf"{name}: is no regular file"):
        read_checkpoint(directory)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"hidden_size": ' + b"9" * 5000 + b"}"])
def test_a_config_that_nobody_can_read(text: bytes, qwen2: Case, tmp_path: Path) -> None:
    directory = checkpoint(qwen2.heads, tmp_path / "heads")
    (directory / "config.json").write_bytes(text)
    with pytest.raises(BadFile, match=r"config\.json: not JSON"):
        read_checkpoint(directory)
