"""Base models: in shards, of another size or architecture than the heads', and none at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken import Kind, checkpoint, rewrite, shards, tensors_of
from conftest import FIXTURES, Case

import autodeco_gguf as ad
from autodeco_gguf import AutoDecoError
from autodeco_gguf.errors import BadFile
from autodeco_gguf.heads.base_model import BaseModel


def test_what_a_base_is(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    for path in (qwen2.base, merged):
        base = BaseModel.open(path)
        assert (base.file.path, base.path, base.paths) == (path, path, [path])
        assert (base.name, base.hidden_size, base.vocab_size) == ("Tiny Qwen2", 64, 384)
    nameless = rewrite(qwen2.base, tmp_path / "nameless.gguf", metadata={"general.name": None})
    assert BaseModel.open(nameless).name == "nameless"
    sharded = BaseModel.open(shards(qwen2.base, tmp_path, [9, 18]))
    assert [path.name for path in sharded.paths] == [f"base-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert (sharded.hidden_size, sharded.vocab_size) == (64, 384)


def test_export_takes_an_open_base(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    ad.export(BaseModel.open(qwen2.base), qwen2.heads, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == merged.read_bytes()


@pytest.mark.parametrize(
    ("sizes", "key", "expected", "found"),
    [
        ((80, 384, "qwen2"), "hidden size", 64, 80),
        ((64, 512, "qwen2"), "vocabulary", 384, 512),
        ((64, None, "llama"), "architecture", "qwen2", "llama"),
    ],
)
def test_what_does_not_fit(
    sizes: tuple[int, int | None, str], key: str, expected: object, found: object, qwen2: Case
) -> None:
    with pytest.raises(BadFile, match=rf"^heads: heads for {key} {found}, the base model .* {expected}; use") as error:
        BaseModel.open(qwen2.base).check_fit(*sizes, "heads")
    assert (error.value.file, error.value.key) == ("heads", key)
    assert (error.value.expected, error.value.found) == (expected, found)


def test_the_number_of_a_shard(qwen2: Case, tmp_path: Path) -> None:
    base = shards(qwen2.base, tmp_path, [9, 18])
    second = base.with_name("base-00002-of-00003.gguf")
    rewrite(second, second, metadata={"split.no": (2, Kind.UINT16)})
    with pytest.raises(BadFile, match=r"base-00002-of-00003\.gguf: says it is shard 2, expected 1$") as error:
        BaseModel.open(base)
    assert error.value.file == str(second)
    assert (error.value.key, error.value.expected, error.value.found) == ("split.no", 1, 2)


def drop_shard(base: Path) -> Path:
    base.with_name("base-00002-of-00003.gguf").unlink()
    return base


def repeat_shard(base: Path) -> Path:
    shutil.copy(base.with_name("base-00002-of-00003.gguf"), base.with_name("base-00003-of-00003.gguf"))
    return base


def thin_shard(base: Path) -> Path:
    shard = base.with_name("base-00003-of-00003.gguf")
    return rewrite(shard, shard, edit=lambda tensors: tensors[:-1]).with_name(base.name)


def two_tensors(base: Path) -> Path:
    shard = base.with_name("base-00003-of-00003.gguf")
    (first, *_) = tensors_of(base.with_name("base-00002-of-00003.gguf"))
    return rewrite(shard, shard, edit=lambda tensors: [*tensors, first]).with_name(base.name)


BAD_SHARDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one is gone": (drop_shard, r"base-00002-of-00003\.gguf: cannot be opened: No such file"),
    "not the first": (lambda b: b.with_name("base-00002-of-00003.gguf"), r"00002-of-00003\.gguf: not the first shard"),
    "renamed": (
        lambda b: b.rename(b.with_name("b.gguf")),
        r"b\.gguf: a shard of 3, but not named like -00001-of-00003",
    ),
    "one stands twice": (repeat_shard, r"base-0000[13]-of-00003\.gguf: "),
    "a tensor stands twice": (
        two_tensors,
        r"base-00003-of-00003\.gguf: \S+ stands in base-00002-of-00003\.gguf too; one",
    ),
    "one lacks a tensor": (thin_shard, r"base-0000[13]-of-00003\.gguf: .*(26.*27|27.*26)"),
}


@pytest.mark.parametrize("name", BAD_SHARDS)
def test_bad_shards(name: str, qwen2: Case, tmp_path: Path) -> None:
    change, message = BAD_SHARDS[name]
    base = change(shards(qwen2.base, tmp_path, [9, 18]))
    with pytest.raises(AutoDecoError, match=message):
        ad.export(base, qwen2.heads, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("base", "config", "message"),
    [
        ("llama", {}, r"heads: heads for hidden size 64, the base model .*llama/base\.gguf has 96"),
        ("qwen2", {"vocab_size": 512}, r"heads: heads for vocabulary 512, the base model .*qwen2/base\.gguf has 384"),
        ("qwen3_moe", {}, r"heads: heads for architecture qwen2, the base model .*base\.gguf is qwen3moe"),
    ],
    ids=["hidden size", "vocabulary", "architecture"],
)
def test_heads_of_another_base(base: str, config: dict[str, Any], message: str, qwen2: Case, tmp_path: Path) -> None:
    heads = checkpoint(qwen2.heads, tmp_path / "heads", config=config)
    with pytest.raises(AutoDecoError, match=message):
        ad.export(FIXTURES / base / "base.gguf", heads, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_vocabulary_is_no_base(qwen2: Case, tmp_path: Path) -> None:
    base = rewrite(qwen2.base, tmp_path / "base.gguf", edit=lambda tensors: [])
    with pytest.raises(AutoDecoError, match=r"base\.gguf: no tensors in it"):
        ad.export(base, qwen2.heads, tmp_path / "out.gguf")
