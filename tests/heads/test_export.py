"""What export and extract write, read back with the gguf package, and what they refuse to write."""

from __future__ import annotations

import errno
import os
import re
import shutil
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
    assert_refused,
    checkpoint,
    invoke,
    load_raw,
    metadata_of,
    odd_tail,
    one_row,
    rewrite,
    shards,
)
from conftest import FIXTURES, Case, load
from gguf import GGMLQuantizationType as Ggml

import autodeco_gguf as ad
from autodeco_gguf import AutoDecoError, BadFile, InvalidInput, ModelFile

ENHANCED = ["temperature", "max_prob", "entropy", "prob_variance", "top5_prob"]
FACTS: dict[str, tuple[int, int, str, list[str] | None]] = {
    "llama": (96, 512, "tiny-llama", ENHANCED),
    "qwen2": (64, 384, "tiny-qwen2", ENHANCED),
    "qwen2_plain": (64, 384, "tiny-qwen2", ["temperature"]),
    "qwen2_temp_only": (64, 384, "tiny-qwen2", None),
    "qwen3_moe": (64, 384, "tiny-qwen3-moe", ENHANCED),
}
"""Fixture -> hidden size, vocabulary, base, features of the top-p head if there is one."""


def autodeco_metadata(name: str) -> dict[str, tuple[Any, ...]]:
    hidden_size, vocab_size, base_model, features = FACTS[name]
    entries: dict[str, tuple[Any, ...]] = {
        "autodeco.version": (1, Kind.UINT32),
        "autodeco.hidden_size": (hidden_size, Kind.UINT32),
        "autodeco.vocab_size": (vocab_size, Kind.UINT32),
        "autodeco.base_model": (base_model, Kind.STRING),
        "autodeco.temp_head.activation": ("relu", Kind.STRING),
        "autodeco.temp_head.scale": (2.0, Kind.FLOAT32),
    }
    if features is not None:
        entries["autodeco.top_p_head.activation"] = ("relu", Kind.STRING)
        entries["autodeco.top_p_head.features"] = (features, *STRINGS)
    return entries


def official_tensors(case: Case) -> dict[str, np.ndarray[Any, Any]]:
    """The checkpoint's exported tensors by their GGUF names."""
    arrays = {}
    for key, array in load_raw(case.heads / "model.safetensors").items():
        head, _, index, part = key.split(".")
        if head == "temp_head" or FACTS[case.name][3] is not None:
            arrays[f"autodeco.{head}.{int(index) // 2}.{part}"] = array
    return arrays


def head_tensors(path: Path) -> dict[str, gguf.ReaderTensor]:
    tensors = gguf.GGUFReader(path).tensors
    return {t.name: t for t in tensors if t.name.startswith("autodeco.") and t.name != "autodeco.base_view"}


def values(tensor: gguf.ReaderTensor) -> np.ndarray[Any, Any]:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


# ---- contents ----


def test_merged_metadata(case: Case, merged_of: Callable[[Case], Path]) -> None:
    assert metadata_of(merged_of(case)) == {**metadata_of(case.base), **autodeco_metadata(case.name)}


def test_merged_head_tensors(case: Case, merged_of: Callable[[Case], Path]) -> None:
    expected, found = official_tensors(case), head_tensors(merged_of(case))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.tensor_type == Ggml.F32
        assert tensor.data.shape == expected[name].shape
        np.testing.assert_array_equal(tensor.data, expected[name])


def test_merged_base_tensors(case: Case, merged_of: Callable[[Case], Path]) -> None:
    source = {t.name: t for t in gguf.GGUFReader(case.base).tensors}
    merged = {t.name: t for t in gguf.GGUFReader(merged_of(case)).tensors if not t.name.startswith("autodeco.")}
    assert list(merged) == list(source)
    for name, tensor in merged.items():
        assert tensor.tensor_type == source[name].tensor_type
        assert tensor.shape.tolist() == source[name].shape.tolist()
        assert tensor.data.tobytes() == source[name].data.tobytes()


def test_merged_holds_the_source_whole(case: Case, merged_of: Callable[[Case], Path]) -> None:
    merged, source = merged_of(case), case.base.read_bytes()
    view = gguf.GGUFReader(merged).tensors[0]
    assert (view.name, view.tensor_type, view.shape.tolist()) == (
        "autodeco.base_view",
        Ggml.I8,
        [gguf.GGUFReader(case.base).data_offset],
    )
    assert merged.read_bytes()[view.data_offset : view.data_offset + len(source)] == source


def test_adapter(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    result = ad.export(case.base, case.heads, path, adapter=True)
    general = {
        "general.type": ("adapter", Kind.STRING),
        "general.architecture": metadata_of(case.base)["general.architecture"],
        "adapter.type": ("autodeco", Kind.STRING),
    }
    assert metadata_of(path) == {**general, **autodeco_metadata(case.name)}
    expected = official_tensors(case)
    assert [t.name for t in gguf.GGUFReader(path).tensors] == list(head_tensors(path))
    assert {name: t.data.tolist() for name, t in head_tensors(path).items()} == {
        name: array.tolist() for name, array in expected.items()
    }
    assert (result.path, result.nbytes) == (path, path.stat().st_size)


HEAD_TYPES = {
    "f32": (Ggml.F32, Ggml.F32, 0.0),
    "f16": (Ggml.F16, Ggml.F16, 2**-11),
    "bf16": (Ggml.BF16, Ggml.BF16, 2**-8),
    "q8_0": (Ggml.Q8_0, Ggml.F16, 1 / 127),  # rows of 69 values do not divide into blocks of 32
}
"""Type asked for -> of matrices with rows of 32n values, of others, error relative to a row's largest value."""


@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_head_types(head_type: str, qwen2: Case, tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    ad.export(qwen2.base, qwen2.heads, path, adapter=True, head_type=head_type)
    even, odd, error = HEAD_TYPES[head_type]
    for name, tensor in head_tensors(path).items():
        array = official_tensors(qwen2)[name]
        if name.endswith(".bias"):
            assert tensor.tensor_type == Ggml.F32
            np.testing.assert_array_equal(tensor.data, array)
        else:
            assert tensor.tensor_type == (odd if name == "autodeco.top_p_head.0.weight" else even)
            assert (np.abs(values(tensor) - array) <= error * np.abs(array).max(axis=1, keepdims=True)).all()
    assert set(ad.Heads.load(path).names) == {"temperature", "top_p"}


@pytest.mark.parametrize("head_type", ["f16", "bf16", "q8_0"])
def test_a_value_that_does_not_fit_the_type(head_type: str, qwen2: Case, tmp_path: Path) -> None:
    weight = np.full((1, 256), np.finfo(np.float32).max)
    heads = checkpoint(qwen2.heads, tmp_path / "heads", tensors={"temp_head.mlp.2.weight": weight})
    with pytest.raises(BadFile, match=r"^autodeco\.temp_head\.1\.weight: a value does not fit") as error:
        ad.export(qwen2.base, heads, tmp_path / "out.gguf", head_type=head_type)
    assert (error.value.file, error.value.key) == (str(heads), "autodeco.temp_head.1.weight")
    assert [p.name for p in tmp_path.iterdir()] == ["heads"]


def generated(llama: ad.Llama, tokens: list[int]) -> list[int]:
    llama.set_seed(11)
    return [token for token, _ in zip(llama.generate(tokens), range(32), strict=False)]


def test_merged_and_adapter_generate_the_same(case: Case, merged_of: Callable[[Case], Path], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.gguf"
    ad.export(case.base, case.heads, adapter, adapter=True)
    tokens = case.tokens[:8]
    merged = generated(load(merged_of(case)), tokens)
    assert merged == generated(load(case.base, heads=adapter), tokens)
    assert len(set(merged)) > 8  # it is no repetition of one token


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_merged_is_memory_mapped(merged: Path) -> None:
    llama = load(merged)
    assert str(merged) in Path("/proc/self/maps").read_text()
    llama.close()


def test_default_names(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sharded = shards(qwen2.base, tmp_path, [10])
    assert ad.export(qwen2.base, qwen2.heads).path == Path("base-autodeco.gguf")
    assert ad.export(sharded, qwen2.heads, adapter=True).path == Path("base-autodeco-adapter.gguf")
    assert {p.name for p in tmp_path.iterdir()} == {
        "base-00001-of-00002.gguf",
        "base-00002-of-00002.gguf",
        "base-autodeco.gguf",
        "base-autodeco-adapter.gguf",
    }


# ---- bases of every kind ----


def tail(path: Path, drop: int, add: bytes = b"") -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - drop] + add)
    return path


def second_version(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[4] = 2  # GGUF version 2, the same layout
    path.write_bytes(content)
    return path


BASES: dict[str, Callable[[Path, Path], Path]] = {
    "plain": lambda base, d: Path(shutil.copy(base, d)),
    "aligned to 64": lambda base, d: rewrite(base, d / "b.gguf", edit=odd_tail, alignment=64),
    "aligned to 8": lambda base, d: rewrite(base, d / "b.gguf", edit=odd_tail, alignment=8),
    "padded": lambda base, d: rewrite(base, d / "b.gguf", edit=odd_tail),
    "padding missing": lambda base, d: tail(rewrite(base, d / "b.gguf", edit=odd_tail), 20),
    "padding cut": lambda base, d: tail(rewrite(base, d / "b.gguf", edit=odd_tail), 13),
    "padding not zero": lambda base, d: tail(rewrite(base, d / "b.gguf", edit=odd_tail), 20, b"\xaa" * 20),
    "a tensor of one row": lambda base, d: rewrite(base, d / "b.gguf", edit=one_row),
    "GGUF version 2": lambda base, d: second_version(Path(shutil.copy(base, d))),
    "one shard": lambda base, d: shards(base, d, []),
}


@pytest.mark.parametrize("name", BASES)
def test_extract_gives_the_base_back(name: str, qwen2: Case, tmp_path: Path) -> None:
    base = BASES[name](qwen2.base, tmp_path)
    merged, out = tmp_path / "merged.gguf", tmp_path / "out.gguf"
    ad.export(base, qwen2.heads, merged)
    (result,) = ad.extract(merged, base=out)
    assert out.read_bytes() == base.read_bytes()
    assert (result.path, result.nbytes, result.heads) == (out, base.stat().st_size, ())
    assert tensors_equal(merged, base)


def tensors_equal(merged: Path, base: Path) -> bool:
    """Whether every tensor of the base stands in the merged file with the same shape and bytes."""
    found = {t.name: (t.shape.tolist(), t.data.tobytes()) for t in gguf.GGUFReader(merged).tensors}
    return all(found[t.name] == (t.shape.tolist(), t.data.tobytes()) for t in gguf.GGUFReader(base).tensors)


@pytest.mark.parametrize("alignment", [8, 64])
def test_other_alignments_load(alignment: int, qwen2: Case, tmp_path: Path) -> None:
    base = rewrite(qwen2.base, tmp_path / "base.gguf", alignment=alignment)
    ad.export(base, qwen2.heads, tmp_path / "merged.gguf")
    assert_predicts(tmp_path / "merged.gguf", qwen2)


def assert_predicts(path: Path, case: Case) -> None:
    temperature, top_p = load(path, f32_cache=True).predict(case.tokens)
    np.testing.assert_allclose(temperature, case.golden["temperature"], atol=1e-5)
    np.testing.assert_allclose(top_p, case.golden["top_p"], atol=1e-5)


SHARDS: dict[str, tuple[list[int], list[int | None]]] = {
    "three": ([9, 18], []),
    "first without tensors": ([0, 18], []),
    "aligned to 256, 32, 32": ([9, 18], [256]),  # the alignment stands in the first shard's metadata only
    "aligned to 32, 256, 512": ([9, 18], [None, 256, 512]),
}


@pytest.mark.parametrize("name", SHARDS)
def test_shards_become_one_file(name: str, qwen2: Case, tmp_path: Path) -> None:
    cuts, alignments = SHARDS[name]
    base = shards(qwen2.base, tmp_path, cuts, alignments)
    ad.export(base, qwen2.heads, tmp_path / "merged.gguf")
    assert tensors_equal(tmp_path / "merged.gguf", qwen2.base)
    assert not any(key.startswith("split.") for key in metadata_of(tmp_path / "merged.gguf"))
    assert_predicts(tmp_path / "merged.gguf", qwen2)


def test_a_merged_base_gets_other_heads(qwen2: Case, tmp_path: Path) -> None:
    first, second, fresh = tmp_path / "1.gguf", tmp_path / "2.gguf", tmp_path / "3.gguf"
    ad.export(rewrite(qwen2.base, tmp_path / "b.gguf", edit=odd_tail), qwen2.heads, first)
    heads = FIXTURES / "qwen2_temp_only" / "heads"
    ad.export(first, heads, second)
    ad.export(tmp_path / "b.gguf", heads, fresh)
    assert second.read_bytes() == fresh.read_bytes()


def test_extract_adapter(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    ad.export(qwen2.base, qwen2.heads, tmp_path / "exported.gguf", adapter=True)
    ad.extract(merged, adapter=tmp_path / "extracted.gguf", base=tmp_path / "base.gguf")
    assert (tmp_path / "extracted.gguf").read_bytes() == (tmp_path / "exported.gguf").read_bytes()
    assert (tmp_path / "base.gguf").read_bytes() == qwen2.base.read_bytes()


@pytest.mark.parametrize("alignment", [8, 64])
def test_extract_adapter_of_another_alignment(alignment: int, merged: Path, tmp_path: Path) -> None:
    ad.extract(merged, adapter=tmp_path / "32.gguf")
    source = rewrite(tmp_path / "32.gguf", tmp_path / "source.gguf", alignment=alignment)
    ad.extract(source, adapter=tmp_path / "extracted.gguf")
    weights, expected = (ModelFile.open(tmp_path / n).read_heads() for n in ("extracted.gguf", "32.gguf"))
    assert all(np.array_equal(weights.tensors[name], array) for name, array in expected.tensors.items())


# ---- what does not fit together ----


def test_bytes_after_the_last_tensor(qwen2: Case, tmp_path: Path) -> None:
    base = tail(Path(shutil.copy(qwen2.base, tmp_path)), 0, b"trailing")
    with pytest.raises(AutoDecoError, match=r"base\.gguf: 8 bytes follow the last tensor"):
        ad.export(base, qwen2.heads, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


# ---- outputs ----


def same_names(base: Path, directory: Path) -> dict[str, Path]:
    """Other names of a file."""
    (directory / "sub").mkdir()
    (directory / "link.gguf").symlink_to(base)
    (directory / "dirlink").symlink_to(base.parent, target_is_directory=True)
    os.link(base, directory / "hard.gguf")
    return {
        "the same": base,
        "with dots": directory / "sub" / ".." / base.name,
        "relative": Path(os.path.relpath(base)),
        "symlink": directory / "link.gguf",
        "through a linked directory": directory / "dirlink" / base.name,
        "hard link": directory / "hard.gguf",
    }


NAMES = ["the same", "with dots", "relative", "symlink", "through a linked directory", "hard link"]


@pytest.mark.parametrize("name", NAMES)
def test_output_is_the_base(name: str, qwen2: Case, tmp_path: Path) -> None:
    base = Path(shutil.copy(qwen2.base, tmp_path))
    output = same_names(base, tmp_path)[name]
    with pytest.raises(AutoDecoError, match=rf"{re.escape(str(output))}: is the input .*base\.gguf; choose another"):
        ad.export(base, qwen2.heads, output, force=True)
    assert base.read_bytes() == qwen2.base.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_output_is_the_merged_file(name: str, merged: Path, tmp_path: Path) -> None:
    source = Path(shutil.copy(merged, tmp_path))
    output = same_names(source, tmp_path)[name]
    for base, adapter in ((output, None), (None, output), (tmp_path / "b.gguf", output)):
        with pytest.raises(AutoDecoError, match=r": is the input .*qwen2\.gguf"):
            ad.extract(source, base=base, adapter=adapter, force=True)
    assert not (tmp_path / "b.gguf").exists()
    assert source.read_bytes() == merged.read_bytes()


def test_output_is_a_shard_or_a_part_of_the_checkpoint(qwen2: Case, tmp_path: Path) -> None:
    base = shards(qwen2.base, tmp_path, [9, 18])
    heads = Path(shutil.copytree(qwen2.heads, tmp_path / "heads"))
    outputs = [tmp_path / "base-00002-of-00003.gguf", heads / "model.safetensors", heads / "config.json"]
    before = [path.read_bytes() for path in outputs]
    for output in outputs:
        with pytest.raises(AutoDecoError, match=rf"{output.name}: is the input"):
            ad.export(base, heads, output, force=True)
    assert [path.read_bytes() for path in outputs] == before


def test_both_parts_into_one_file(merged: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(InvalidInput, match=r"out\.gguf: given as both outputs"):
        ad.extract(merged, base=tmp_path / "out.gguf", adapter=tmp_path / "sub" / ".." / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
    ck = tmp_path / "ck"
    ad.extract(merged, checkpoint=ck)
    before = (ck / "model.safetensors").read_bytes()
    (tmp_path / "link.gguf").symlink_to(ck / "config.json")
    for output in (ck, ck / "model.safetensors", tmp_path / "link.gguf"):
        with pytest.raises(InvalidInput, match=rf"{output}: given as both outputs"):
            ad.extract(merged, adapter=output, checkpoint=ck, force=True)
    assert (ck / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_the_checkpoint_is_the_merged_file(name: str, merged: Path, tmp_path: Path) -> None:
    source, ck = Path(shutil.copy(merged, tmp_path)), tmp_path / "ck"
    ck.mkdir()
    (ck / name).symlink_to(source)
    with pytest.raises(BadFile, match=rf"ck/{name}: is the input .*qwen2\.gguf; choose another output"):
        ad.extract(source, checkpoint=ck, force=True)
    assert source.read_bytes() == merged.read_bytes()


def test_existing_output_needs_force(qwen2: Case, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    output.write_bytes(b"old")
    with pytest.raises(AutoDecoError, match=r"out\.gguf: exists; use --force to replace it"):
        ad.export(qwen2.base, qwen2.heads, output)
    assert output.read_bytes() == b"old"
    ad.export(qwen2.base, qwen2.heads, output, force=True)
    assert ModelFile.open(output).kind == "merged"


def locked(directory: Path) -> Path:
    """A directory in which nobody can make a file; root may do so wherever permissions alone forbid it."""
    path = directory / "locked"
    path.mkdir(mode=0o555)
    return Path("/proc/self") if os.geteuid() == 0 else path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


BAD_OUTPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no such directory": (lambda d: d / "no" / "out.gguf", r"no such directory as .*/no"),
    "below a file": (lambda d: Path(shutil.copy(__file__, d)) / "out.gguf", r"no such directory as .*\.py"),
    "a directory": (lambda d: d, r": is a directory"),
    "unwritable": (lambda d: locked(d) / "out.gguf", r"out\.gguf: cannot be written: "),
    "name too long": (lambda d: d / ("x" * 256), r"x: cannot be written: File name too long"),
    "pipe": (lambda d: pipe(d / "pipe"), r"pipe: is no regular file"),
}


@pytest.mark.parametrize("name", BAD_OUTPUTS)
def test_bad_outputs(name: str, qwen2: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, message = BAD_OUTPUTS[name]
    output = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    outcome = invoke(capfd, "export", "--base", qwen2.base, "--heads", qwen2.heads, "-o", output, "--force")
    assert_refused(outcome, output)
    assert re.search(message, outcome.err)
    assert sorted(tmp_path.iterdir()) == before


def test_directories_that_cannot_be_looked_into(
    qwen2: Case, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadFile, match=r"^x{300}: cannot be read: File name too long$"):
        ad.export(qwen2.base, "x" * 300, tmp_path / "out.gguf")
    with pytest.raises(BadFile, match=r"^x{300}: cannot be written: File name too long$"):
        ad.extract(merged, checkpoint="x" * 300)

    def refuse(path: Path) -> object:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may look into any
    with pytest.raises(BadFile, match=r"heads: cannot be read: Permission denied$"):
        ad.export(qwen2.base, qwen2.heads, tmp_path / "out.gguf")
    with pytest.raises(BadFile, match=rf"^{tmp_path}: cannot be read: Permission denied$"):
        ad.extract(merged, checkpoint=tmp_path)
    with pytest.raises(BadFile, match=r"heads: cannot be read: Permission denied$"):
        ad.read_checkpoint(qwen2.heads)
    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(BadFile, match=r"heads/config\.json: cannot be read: Permission denied$"):
        ad.read_checkpoint(qwen2.heads)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"head_type": "q4_0"}, "head type 'q4_0', expected one of f32, f16, bf16, q8_0"),
        ({"activation": "tanh"}, "activation 'tanh', expected one of "),
    ],
)
def test_arguments_that_there_are_not(given: dict[str, Any], said: str, qwen2: Case, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=said):
        ad.export(qwen2.base, qwen2.heads, tmp_path / "m.gguf", **given)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_extract(merged: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^nothing to extract: give --base OUT, --adapter OUT, --checkpoint DIR or"):
        ad.extract(merged)


def test_a_merged_file_without_a_base_cannot_be_repacked(merged: Path, tmp_path: Path) -> None:
    bare = rewrite(merged, tmp_path / "m.gguf", edit=lambda ts: [t for t in ts if t[0].startswith("autodeco.")])
    with pytest.raises(BadFile, match=r"m\.gguf: no base model's tensors in it$"):
        ad.repack(bare)


def test_a_vocabulary_that_nobody_knows(qwen2: Case, tmp_path: Path) -> None:
    base = rewrite(qwen2.base, tmp_path / "b.gguf", metadata={"tokenizer.ggml.tokens": None, "qwen2.vocab_size": None})
    heads = checkpoint(qwen2.heads, tmp_path / "heads", config={"vocab_size": None})
    with pytest.raises(BadFile, match=r"b\.gguf: neither it nor the checkpoint says how large the vocabulary is$"):
        ad.export(base, heads, tmp_path / "m.gguf")
