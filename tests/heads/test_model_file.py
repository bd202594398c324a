"""GGUF files: opened without trust, gone stale and repaired, and never left half written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from broken import (
    STRINGS,
    Kind,
    Tensor,
    assert_refused,
    invoke,
    metadata_of,
    replaced,
    rewrite,
    without,
)
from conftest import Case, load, load_case
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import autodeco_gguf as ad
from autodeco_gguf import AutoDecoError, BadFile, ModelFile


@pytest.fixture(scope="module", params=["merged", "adapter"])
def whole(request: pytest.FixtureRequest, qwen2: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with heads, of each kind."""
    path = tmp_path_factory.mktemp("whole") / f"{request.param}.gguf"
    return ad.export(qwen2.base, qwen2.heads, path, adapter=request.param == "adapter").path


# ---- kinds ----


def test_kinds(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    adapter = ad.export(qwen2.base, qwen2.heads, tmp_path / "adapter.gguf", adapter=True).path
    assert [ModelFile.open(path).kind for path in (qwen2.base, merged, adapter)] == ["plain", "merged", "adapter"]
    model = ModelFile.open(merged)
    assert (len(model.base_tensors), len(model.head_tensors), model.stale) == (27, 8, None)
    assert (model.base().start, model.base_nbytes) == (model.outer.tensors[0].offset, qwen2.base.stat().st_size)


def test_heads_read_back(case: Case, merged_of: Callable[[Case], Path]) -> None:
    expected, found = ad.read_checkpoint(case.heads).weights, ModelFile.open(merged_of(case)).read_heads()
    assert (found.hidden_size, found.vocab_size, found.base_model) == (
        expected.hidden_size,
        expected.vocab_size,
        expected.base_model,
    )
    assert (found.features, found.temperature_scale) == (expected.features, 2.0)
    assert found.mlps.keys() == expected.mlps.keys()
    for name, mlp in found.mlps.items():
        assert mlp.activation == "relu"
        for ours, theirs in zip(
            (*mlp.weights, *mlp.biases), (*expected.mlps[name].weights, *expected.mlps[name].biases), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(flips=[(114, 128), (127, 1)], cut=None)  # a key that is not UTF-8, named in ggml's message
@given(
    flips=st.lists(st.tuples(st.integers(0, 1200) | st.integers(0, 4095), st.integers(1, 255)), max_size=4),
    cut=st.none() | st.integers(0, 4095),
)
def test_damaged_header_is_an_error_or_harmless(
    whole: Path, tmp_path: Path, flips: list[tuple[int, int]], cut: int | None
) -> None:
    content = bytearray(whole.read_bytes())
    for position, mask in flips:
        content[position] ^= mask
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content[:cut])
    message = ""
    try:
        model = ModelFile.open(path)
        model.read_heads()
        model.base()
    except AutoDecoError as e:
        message = str(e)
    assert str(path) in message or (message == "" and cut is None)


# ---- heads that are broken ----

NAN = np.zeros((256, 64), np.float32)
NAN[0, 0] = np.nan
TEMP0 = "autodeco.temp_head.0.weight"

BROKEN_HEADS: dict[str, tuple[dict[str, Any], Callable[[list[Tensor]], list[Tensor]], str]] = {
    "version 2": ({"autodeco.version": (2, Kind.UINT32)}, list, r"autodeco\.version 2, this program reads up to 1"),
    "version 0": ({"autodeco.version": (0, Kind.UINT32)}, list, r"autodeco\.version 0"),
    "a shard": (
        {"split.count": (2, Kind.UINT16)},
        list,
        r"split\.count 2, a shard of a file with heads; join them with llama-gguf-split --merge",
    ),
    "no version": ({"autodeco.version": None}, list, r"no autodeco\.version"),
    "version a text": ({"autodeco.version": ("1", Kind.STRING)}, list, r"autodeco\.version is '1', expected int"),
    "no hidden size": ({"autodeco.hidden_size": None}, list, r"metadata key autodeco\.hidden_size is missing"),
    "no vocabulary": ({"autodeco.vocab_size": None}, list, r"metadata key autodeco\.vocab_size is missing"),
    "no activation": ({"autodeco.temp_head.activation": None}, list, r"key autodeco\.temp_head\.activation is missing"),
    "no features": ({"autodeco.top_p_head.features": None}, list, r"key autodeco\.top_p_head\.features is missing"),
    "no scale": ({"autodeco.temp_head.scale": None}, list, r"key autodeco\.temp_head\.scale is missing"),
    "activation": ({"autodeco.temp_head.activation": ("tanh", Kind.STRING)}, list, r"temp_head: activation 'tanh'"),
    "features": ({"autodeco.top_p_head.features": (["max_prob"], *STRINGS)}, list, r"top-p features \['max_prob'\]"),
    "hidden size": (
        {"autodeco.hidden_size": (96, Kind.UINT32)},
        list,
        r"temp_head: weight of layer 0 is \[256, 64\], expected \[256, 96\]",
    ),
    "scale is NaN": (
        {"autodeco.temp_head.scale": (float("nan"), Kind.FLOAT32)},
        list,
        r"temperature scale nan, expected a number > 0",
    ),
    "missing weight": ({}, without(TEMP0), r"tensor autodeco\.temp_head\.\d\.\w+ belongs to no head that is complete"),
    "missing bias": ({}, without("autodeco.temp_head.1.bias"), r"tensor autodeco\.temp_head\.1\.bias is missing"),
    "missing last layer": (
        {},
        lambda tensors: [t for t in tensors if not t[0].startswith("autodeco.temp_head.1")],
        r"temp_head: weight of layer 0 is \[256, 64\], expected \[1, 64\]",
    ),
    "wrong shape": (
        {},
        replaced(TEMP0, np.zeros((256, 63), np.float32)),
        r"temp_head: weight of layer 0 is \[256, 63\]",
    ),
    "wrong bias": (
        {},
        replaced("autodeco.temp_head.0.bias", np.zeros(3, np.float32)),
        r"temp_head: bias of layer 0 is \[3\]",
    ),
    "NaN": ({}, replaced(TEMP0, NAN), r"temp_head: weight of layer 0 holds NaN"),
    "integers": ({}, replaced(TEMP0, np.zeros((256, 64), np.int8)), r"autodeco\.temp_head\.0\.weight: type i8"),
    "unknown tensor": (
        {},
        lambda tensors: [*tensors, ("autodeco.third_head", np.ones(2, np.float32), gguf.GGMLQuantizationType.F32)],
        r"tensor autodeco\.third_head belongs to no head",
    ),
}


@pytest.mark.parametrize("name", BROKEN_HEADS)
def test_broken_heads(name: str, whole: Path, tmp_path: Path) -> None:
    metadata, edit, message = BROKEN_HEADS[name]
    path = rewrite(whole, tmp_path / "broken.gguf", metadata=metadata, edit=edit)
    with pytest.raises(BadFile, match=rf"broken\.gguf: .*{message}") as error:
        ModelFile.open(path).read_heads()
    assert error.value.file == str(path)
    assert error.value.key
    assert error.value.key in str(error.value)


# ---- stale views ----


def rotated(tensors: list[Tensor]) -> list[Tensor]:
    return [tensors[0], *tensors[2:], tensors[1]]


STALE: dict[str, tuple[dict[str, Any], Callable[[list[Tensor]], list[Tensor]], str]] = {
    "name changed": ({"general.name": ("Other", Kind.STRING)}, list, r"metadata key general\.name differs"),
    "template added": (
        {"tokenizer.chat_template": ("{{ 1 }}", Kind.STRING)},
        list,
        r"metadata key tokenizer\.chat_template differs",
    ),
    "key dropped": ({"general.size_label": None}, list, r"metadata key general\.size_label differs"),
    "type changed": (
        {"general.quantization_version": (2, Kind.INT32)},
        list,
        r"metadata key general\.quantization_version differs",
    ),
    "float changed": (
        {"qwen2.rope.freq_base": (5e5, Kind.FLOAT32)},
        list,
        r"metadata key qwen2\.rope\.freq_base differs",
    ),
    "view gone": ({}, without("autodeco.base_view"), r"no tensor autodeco\.base_view"),
    "view last": ({}, lambda tensors: [*tensors[1:], tensors[0]], r"autodeco\.base_view is not the first tensor"),
    "tensors moved": ({}, rotated, r"tensor [\w.]+ has another place, type or shape"),
    "tensor gone": ({}, without("output.weight"), r"tensor "),
    "view emptied": (
        {},
        replaced("autodeco.base_view", np.zeros(9568, np.int8)),
        r"its header does not parse",
    ),
}


@pytest.mark.parametrize("name", STALE)
def test_stale_view_is_seen_and_never_loaded(name: str, merged: Path, tmp_path: Path) -> None:
    metadata, edit, reason = STALE[name]
    path = rewrite(merged, tmp_path / "edited.gguf", metadata=metadata, edit=edit)
    with pytest.raises(
        AutoDecoError, match=rf"edited\.gguf: stale base view \({reason}.*\); run: autodeco-gguf repack"
    ):
        ad.Llama(path, n_ctx=64, verbose=False)


@pytest.mark.parametrize("name", [name for name in STALE if name != "tensor gone"])
def test_repack_repairs(name: str, qwen2: Case, merged: Path, tmp_path: Path) -> None:
    metadata, edit, _ = STALE[name]
    path = rewrite(merged, tmp_path / "edited.gguf", metadata=metadata, edit=edit)
    result = ad.repack(path)
    assert result is not None
    assert (result.path, result.nbytes) == (path, path.stat().st_size)
    assert [p.name for p in tmp_path.iterdir()] == ["edited.gguf"]
    assert ModelFile.open(path).stale is None
    wanted = {**metadata_of(merged), **metadata}
    assert metadata_of(path) == {key: entry for key, entry in wanted.items() if entry is not None}
    shapes = {t.name: t.shape.tolist() for t in gguf.GGUFReader(path).tensors}
    assert shapes["autodeco.temp_head.1.weight"] == [256, 1]
    if name != "float changed":
        temperature, _ = load(path, f32_cache=True).predict(qwen2.tokens)
        np.testing.assert_allclose(temperature, qwen2.golden["temperature"], atol=1e-5)


def test_new_metadata_is_used(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    path = rewrite(
        merged,
        tmp_path / "edited.gguf",
        metadata={"general.name": ("Other", Kind.STRING), "qwen2.rope.freq_base": (5e5, Kind.FLOAT32)},
    )
    ad.repack(path)
    llama = load(path, f32_cache=True)
    assert llama.metadata["general.name"] == "Other"
    other = rewrite(qwen2.base, tmp_path / "base.gguf", metadata={"qwen2.rope.freq_base": (5e5, Kind.FLOAT32)})
    ad.export(other, qwen2.heads, tmp_path / "direct.gguf")
    expected, _ = load(tmp_path / "direct.gguf", f32_cache=True).predict(qwen2.tokens)
    np.testing.assert_array_equal(llama.predict(qwen2.tokens)[0], expected)
    assert np.abs(expected - qwen2.golden["temperature"]).max() > 1e-3


def test_repack_leaves_a_fresh_file_alone(merged: Path) -> None:
    before, time = merged.read_bytes(), merged.stat().st_mtime_ns
    assert ad.repack(merged) is None
    assert (merged.read_bytes(), merged.stat().st_mtime_ns) == (before, time)


def test_repack_follows_a_link(merged: Path, tmp_path: Path) -> None:
    path = rewrite(merged, tmp_path / "edited.gguf", metadata={"general.name": ("Other", Kind.STRING)})
    link = tmp_path / "link.gguf"
    link.symlink_to(path.name)
    ad.repack(link)
    assert link.is_symlink()
    assert ModelFile.open(path).stale is None


# ---- re-quantizing ----

QUANTIZE = """
import sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
params.nthread = 1
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params))
"""


@pytest.fixture(scope="session", params=["qwen2", "llama"])
def quantized(
    request: pytest.FixtureRequest, merged_of: Callable[[Case], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Case, Path]:
    """A merged file after llama.cpp's own quantization to Q8_0."""
    case = load_case(request.param)
    path = tmp_path_factory.mktemp("quantized") / "q8_0.gguf"
    subprocess.run([sys.executable, "-c", QUANTIZE, str(merged_of(case)), str(path)], check=True, capture_output=True)
    return case, path


def test_run_refuses_a_quantized_file(quantized: tuple[Case, Path], capfd: pytest.CaptureFixture[str]) -> None:
    _, path = quantized
    assert ModelFile.open(path).stale is not None
    assert_refused(invoke(capfd, "run", path, "-p", "x", "-n", 2), path, f"run: autodeco-gguf repack {path}")


def test_repacked_file_predicts_as_the_base_does(
    quantized: tuple[Case, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case, source = quantized
    path = Path(shutil.copy(source, tmp_path))
    assert invoke(capfd, "repack", path).status == 0
    assert invoke(capfd, "run", path, "-p", "x", "-n", 2).status == 0
    assert any(t.tensor_type == gguf.GGMLQuantizationType.Q8_0 for t in gguf.GGUFReader(path).tensors)
    for predicted, name in zip(load(path, f32_cache=True).predict(case.tokens), ("temperature", "top_p"), strict=True):
        difference = np.abs(predicted - case.golden[name])
        assert 0 < difference.mean() <= 0.015  # found: 0.007
        assert difference.max() <= 0.06  # found: 0.028
