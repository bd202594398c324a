"""What is written is what was read, and what was read is of one moment; otherwise nothing is written."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from broken import Kind, checkpoint, odd_tail, rewrite
from conftest import FIXTURES, Case

import autodeco_gguf as ad
from autodeco_gguf import BadFile, ModelFile
from autodeco_gguf.files import atomic
from autodeco_gguf.heads import export as exporting
from autodeco_gguf.heads import model_writer as module
from autodeco_gguf.heads.weights import HeadWeights

TEMP_ONLY = FIXTURES / "qwen2_temp_only" / "heads"


# ---- the size of the source in a merged file ----


Size = Callable[[int], tuple[Any, ...]]


def sized(case: Case, directory: Path, size: Size) -> tuple[Path, int]:
    """A merged file whose base lacks its 20 bytes of padding, with another size in it; where the base's data ends."""
    source = rewrite(case.base, directory / "base.gguf", edit=odd_tail)
    end = source.stat().st_size - 20
    os.truncate(source, end)
    ad.export(source, case.heads, directory / "whole.gguf")
    metadata = {"autodeco.base_size": size(end)}
    return rewrite(directory / "whole.gguf", directory / "merged.gguf", metadata=metadata), end


SIZES: dict[str, Size] = {
    "one less": lambda end: (end - 1, Kind.UINT64),
    "one more than the padding": lambda end: (end + 21, Kind.UINT64),
    "the heads too": lambda end: (end + 4096, Kind.UINT64),
    "none": lambda end: (0, Kind.UINT64),
    "negative": lambda end: (-5, Kind.INT64),
    "the largest": lambda end: (2**64 - 1, Kind.UINT64),
    "a fraction": lambda end: (float(end), Kind.FLOAT64),
    "true": lambda end: (True, Kind.BOOL),
    "a text": lambda end: (str(end), Kind.STRING),
    "a list": lambda end: ([end], Kind.ARRAY, Kind.UINT64),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_cannot_be(name: str, qwen2: Case, tmp_path: Path) -> None:
    merged, end = sized(qwen2, tmp_path, SIZES[name])
    out = tmp_path / "out.gguf"
    said = (
        rf"merged\.gguf: stale base view \(autodeco\.base_size is .*, expected {end} to {end + 20}\); run: autodeco-gg"
    )
    for act in (lambda: ad.export(merged, TEMP_ONLY, out), lambda: ad.extract(merged, base=out)):
        with pytest.raises(BadFile, match=said):
            act()
    assert not out.exists()
    ad.repack(merged)
    ad.export(merged, TEMP_ONLY, out)
    assert set(ModelFile.open(out).read_heads().mlps) == {"temperature"}
    ad.extract(merged, base=tmp_path / "again.gguf")
    whole = (tmp_path / "base.gguf").read_bytes() + bytes(20)
    assert (tmp_path / "again.gguf").read_bytes() == whole


@pytest.mark.parametrize("more", [0, 7, 20])
def test_a_size_that_can_be(more: int, qwen2: Case, tmp_path: Path) -> None:
    merged, _ = sized(qwen2, tmp_path, lambda end: (end + more, Kind.UINT64))
    ad.extract(merged, base=tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "base.gguf").read_bytes() + bytes(more)
    ad.export(merged, TEMP_ONLY, tmp_path / "other.gguf")
    heads = ModelFile.open(tmp_path / "other.gguf").read_heads()
    np.testing.assert_equal(heads.tensors, ad.read_checkpoint(TEMP_ONLY).weights.tensors)


# ---- a source that changes ----


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as f:
        f.seek(place)
        byte = f.read(1)[0]
        f.seek(place)
        f.write(bytes([byte ^ 1]))


def flip_unseen(path: Path, place: int) -> None:
    """As rsync --times --inplace, or a program that has the file mapped: neither size nor time tells."""
    times = path.stat()
    flip(path, place)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(path: Path, place: int) -> None:
    times = path.stat()
    other = path.with_name("other")
    shutil.copy(path, other)
    flip(other, place)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(other, path)


CHANGES: dict[str, tuple[Callable[[Path, int], None], str]] = {
    "overwritten": (flip, r"source\.gguf: changed since it was first read; start again when nothing writes to it$"),
    "overwritten, time restored": (flip_unseen, r"gguf: other bytes at \d+ than in what it was made of; nothing was"),
    "replaced": (replace, r"source\.gguf: changed since it was first read"),
    "truncated": (lambda path, place: os.truncate(path, place), r"source\.gguf: (ended|changed) \w+ it was"),
    "removed": (lambda path, place: path.unlink(), r"source\.gguf: (changed since it was first|cannot be) read"),
}
WRITERS: dict[str, Callable[[Path, Case, Path, atomic.Progress], object]] = {
    "export": lambda source, case, out, progress: ad.export(source, case.heads, out, progress=progress),
    "extract": lambda source, case, out, progress: ad.extract(
        source, base=out, adapter=out.with_name("adapter.gguf"), progress=progress
    ),
    "repack": lambda source, case, out, progress: ad.repack(source, progress=progress),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_source_that_changes(
    writer: str, change: str, qwen2: Case, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, said = CHANGES[change]
    source = tmp_path / "source.gguf"
    if writer == "repack":
        rewrite(merged, source, metadata={"general.name": ("Other", Kind.STRING)})
    else:
        shutil.copy(merged, source)
    monkeypatch.setattr(atomic, "_COPY_BYTES", 1 << 16)
    place = gguf.GGUFReader(source).tensors[1].data_offset
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 3:
            make(source, place)

    with pytest.raises(BadFile, match=said):
        WRITERS[writer](source, qwen2, tmp_path / "out.gguf", progress)
    assert [p.name for p in tmp_path.iterdir()] == ["source.gguf"] * (change != "removed")


def test_heads_that_change(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = checkpoint(qwen2.heads, tmp_path / "heads")
    (heads / "optimizer.bin").write_bytes(b"x")

    def read_and(change: str) -> Callable[..., ad.Checkpoint]:
        def read(*args: Any, **kwargs: Any) -> ad.Checkpoint:
            found = ad.read_checkpoint(*args, **kwargs)
            (heads / change).write_bytes((heads / change).read_bytes() + b" ")
            return found

        return read

    for change in ("model.safetensors", "config.json"):
        monkeypatch.setattr(exporting, "read_checkpoint", read_and(change))
        with pytest.raises(BadFile, match=rf"{change}: changed since it was first read"):
            ad.export(qwen2.base, heads, tmp_path / "out.gguf")
        shutil.copy(qwen2.heads / change, heads)
    assert not (tmp_path / "out.gguf").exists()
    monkeypatch.setattr(exporting, "read_checkpoint", read_and("optimizer.bin"))  # another's business
    ad.export(qwen2.base, heads, tmp_path / "out.gguf")


# ---- what is written is looked at ----


@pytest.mark.parametrize("name", ["token_embd.weight", "output_norm.weight", "autodeco.temp_head.0.weight"])
def test_a_wrong_byte_is_found(
    name: str, qwen2: Case, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk or a bug would make it."""
    place = next(t.data_offset for t in gguf.GGUFReader(merged).tensors if t.name == name)
    verify = module._verify

    def damaged(file: Any, step: Any, path: Path) -> None:
        flip(path, place)
        verify(file, step, path)

    monkeypatch.setattr(module, "_verify", damaged)
    with pytest.raises(
        BadFile, match=r"out\.gguf: other bytes at \d+ than in what it was made of; nothing was written"
    ):
        ad.export(qwen2.base, qwen2.heads, tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def test_another_kind_than_was_written_is_found(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = ModelFile.open
    monkeypatch.setattr(ModelFile, "open", lambda path: dataclasses.replace(opened(path), kind="plain"))
    with pytest.raises(BadFile, match=r"m\.gguf: reads back as plain, None; nothing was written$"):
        ad.export(qwen2.base, qwen2.heads, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_heads_of_other_shapes_are_found(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = iter(range(9))
    monkeypatch.setattr(HeadWeights, "shapes", property(lambda _: next(shapes)))
    with pytest.raises(BadFile, match=r"m\.gguf: its heads read back with other shapes; nothing was written$"):
        ad.export(qwen2.base, qwen2.heads, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_in_another_place_is_found(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = ModelFile.open

    def moved(path: Path) -> ModelFile:
        model = opened(path)
        if path.suffix == ".tmp":
            *others, last = model.outer.tensors
            model.outer.tensors = (*others, dataclasses.replace(last, offset=last.offset - 32))
        return model

    monkeypatch.setattr(ModelFile, "open", moved)
    with pytest.raises(BadFile, match=r"m\.gguf: autodeco\.\S+ reads back at \d+, expected \d+; nothing was written$"):
        ad.export(qwen2.base, qwen2.heads, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_bytes_too_many_are_found(qwen2: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify = module._verify

    def longer(file: Any, step: Any, path: Path) -> None:
        with path.open("ab") as f:
            f.write(bytes(32))
        verify(file, step, path)

    monkeypatch.setattr(module, "_verify", longer)
    with pytest.raises(BadFile, match=r"out\.gguf: \d+ bytes, expected \d+; nothing was written"):
        ad.export(qwen2.base, qwen2.heads, tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_up_to_all_of_it(merged: Path, tmp_path: Path) -> None:
    seen = []
    ad.extract(
        merged, base=tmp_path / "b", adapter=tmp_path / "a", progress=lambda done, total: seen.append((done, total))
    )
    (total,) = {total for _, total in seen}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)
    assert total == pytest.approx(sum((tmp_path / name).stat().st_size for name in "ab"), rel=0.01)


# ---- two at once, two outputs ----


def test_two_exports_to_one_new_name(qwen2: Case, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"

    def progress(done: int, total: int) -> None:
        if not out.exists():
            ad.export(qwen2.base, TEMP_ONLY, out)

    with pytest.raises(BadFile, match=r"out\.gguf: exists; use --force to replace it"):
        ad.export(qwen2.base, qwen2.heads, out, progress=progress)
    assert set(ModelFile.open(out).read_heads().mlps) == {"temperature"}
    assert os.listdir(tmp_path) == ["out.gguf"]


def test_both_outputs_or_none(merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify = module._verify

    def refuse(file: Any, step: Any, path: Path) -> None:
        verify(file, step, path)
        if file.kind == "adapter":
            raise BadFile.of(path, "no")

    monkeypatch.setattr(module, "_verify", refuse)
    (tmp_path / "b.gguf").write_bytes(b"old")
    with pytest.raises(BadFile, match=r"a\.gguf: no$"):
        ad.extract(merged, base=tmp_path / "b.gguf", adapter=tmp_path / "a.gguf", force=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"b.gguf": b"old"}


def test_force_writes_through_a_link(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    (tmp_path / "real.gguf").write_bytes(b"old")
    (tmp_path / "link.gguf").symlink_to("real.gguf")
    ad.export(qwen2.base, qwen2.heads, tmp_path / "link.gguf", force=True)
    assert (tmp_path / "link.gguf").is_symlink()
    assert (tmp_path / "real.gguf").read_bytes() == merged.read_bytes()
