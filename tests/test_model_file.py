"""GGUF files: opened without trust, gone stale and repaired, and never left half written."""

from __future__ import annotations

import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from broken import (
    STRIKE,
    STRINGS,
    Kind,
    Tensor,
    assert_refused,
    big_base,
    invoke,
    metadata_of,
    replaced,
    rewrite,
    spawn,
    without,
)
from conftest import Case, load, load_case
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import autodeco_gguf as ad
from autodeco_gguf import AutoDecoError, ModelFile


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


# ---- no GGUF, or a broken one ----

CUTS = (0, 3, 4, 8, 23, 24, 31, 60, 200, 4000, 9000, 18_000)
"""Bytes left of a merged file whose two headers take about 20,000."""


@pytest.mark.parametrize("nbytes", CUTS)
def test_cut_header(nbytes: int, merged: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(merged.read_bytes()[:nbytes])
    with pytest.raises(AutoDecoError, match=r"cut\.gguf: (not a GGUF|truncated)") as error:
        ModelFile.open(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("nbytes", [20_480, 100_000, -29, -100])
def test_cut_data(nbytes: int, merged: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(merged.read_bytes()[:nbytes])
    with pytest.raises(AutoDecoError, match=r"cut\.gguf: truncated: tensor [\w.]+ ends at byte \d+, the file at \d+"):
        ModelFile.open(path)


HUGE_ARRAY = (
    b"GGUF" + b"\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\1" + bytes(7) + b"k" + b"\x09\0\0\0\4\0\0\0" + b"\xff" * 8
)
NOT_GGUF: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "not a GGUF"),
    "text": (lambda p: p.write_text("hello, world " * 10), "not a GGUF"),
    "zeros": (lambda p: p.write_bytes(bytes(4096)), "not a GGUF"),
    "version 1": (lambda p: p.write_bytes(b"GGUF\1\0\0\0" + bytes(64)), "not a GGUF"),
    "version 99": (lambda p: p.write_bytes(b"GGUF\x63\0\0\0" + bytes(64)), "not a GGUF"),
    "big-endian": (lambda p: p.write_bytes(b"GGUF\0\0\0\3" + bytes(64)), "not a GGUF"),
    "an array of 2**64 - 1": (lambda p: p.write_bytes(HUGE_ARRAY), "not a GGUF"),
    "directory": (lambda p: p.mkdir(), "not a GGUF|is a directory"),
    "missing": (lambda p: None, "cannot be opened: No such file or directory"),
    "link to nothing": (lambda p: p.symlink_to("nowhere"), "cannot be opened: No such file or directory"),
}


@pytest.mark.parametrize("name", NOT_GGUF)
def test_not_a_gguf(name: str, tmp_path: Path) -> None:
    make, message = NOT_GGUF[name]
    path = tmp_path / "x.gguf"
    make(path)
    with pytest.raises(AutoDecoError, match=rf"x\.gguf: ({message})") as error:
        ModelFile.open(path)
    assert "\n" not in str(error.value)


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
    with pytest.raises(AutoDecoError, match=rf"broken\.gguf: .*{message}"):
        ModelFile.open(path).read_heads()


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


# ---- interrupted, killed, out of space ----

MOMENTS = ["os:open", "autodeco_gguf.heads.export:copy_range", "os:fsync", "os:replace"]
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_leaves_the_old_file(moment: str, number: signal.Signals, qwen2: Case, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    output.write_bytes(b"old")
    outcome = spawn(
        f"{moment}:{number:d}",
        "export",
        "--base",
        qwen2.base,
        "--heads",
        qwen2.heads,
        "-o",
        output,
        "--force",
        python=("-c", STRIKE),
    )
    assert outcome.status == SIGNALS[number]
    assert output.read_bytes() == b"old"
    left = {p.name for p in tmp_path.iterdir()} - {"out.gguf"}
    if number == signal.SIGKILL:
        assert all(re.fullmatch(r"\.out\.gguf\.\w+\.tmp", name) for name in left)
    else:
        assert left == set()
        assert outcome.err.strip() == ("interrupted" if number == signal.SIGINT else "")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_during_repack_leaves_the_file(number: signal.Signals, merged: Path, tmp_path: Path) -> None:
    path = rewrite(merged, tmp_path / "m.gguf", metadata={"general.name": ("Other", Kind.STRING)})
    before = path.read_bytes()
    assert spawn(f"os:replace:{number:d}", "repack", path, python=("-c", STRIKE)).status == SIGNALS[number]
    assert path.read_bytes() == before


@dataclass(frozen=True)
class Disk:
    """A directory with room for about a megabyte; what a process needs to run out of it; what it is then told."""

    path: Path
    options: dict[str, Any]
    message: str


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """A small tmpfs; where none can be mounted, a limit on the size of the files that a process writes."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", "size=1000k", "tmpfs", str(path)]
    mounted = mount is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        if mounted:
            yield Disk(path, {}, "No space left on device")
        else:
            yield Disk(
                path,
                {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000,) * 2)},
                "File too large",
            )
    finally:
        if mounted:
            subprocess.run(["umount", str(path)], check=True)


def test_full_disk(qwen2: Case, merged: Path, small_disk: Disk, tmp_path: Path) -> None:
    stale = rewrite(merged, small_disk.path / "stale.gguf", metadata={"general.name": ("Other", Kind.STRING)})
    before, output = stale.read_bytes(), small_disk.path / "out.gguf"
    for command in (
        ("export", "--base", qwen2.base, "--heads", qwen2.heads, "-o", output),
        ("extract", merged, "--base", output),
        ("repack", stale),
    ):
        outcome = spawn(*command, **small_disk.options)
        assert_refused(outcome, ": cannot be written: ", small_disk.message, small_disk.path)
        assert [p.name for p in small_disk.path.iterdir()] == ["stale.gguf"]
    assert stale.read_bytes() == before


PEAK = """
import re, resource, sys
import autodeco_gguf as ad
ad.export(*sys.argv[1:4])
ad.extract(sys.argv[3], base=sys.argv[4])
try:  # unlike ru_maxrss, it leaves out what the parent had when it forked
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
except FileNotFoundError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
print(peak)
"""


def test_peak_memory_is_bounded(qwen2: Case, tmp_path: Path) -> None:
    base = big_base(tmp_path / "base.gguf", 320_000_000)
    paths = [str(p) for p in (base, qwen2.heads, tmp_path / "merged.gguf", tmp_path / "out.gguf")]
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True)
    assert (tmp_path / "merged.gguf").stat().st_size > 320_000_000
    assert int(done.stdout) < 150e6  # found: 52e6
    for path in tmp_path.iterdir():  # pytest keeps the folder
        path.unlink()
