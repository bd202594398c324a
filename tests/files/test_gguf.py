"""GGUF headers, opened without trust."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken import Kind, rewrite
from conftest import Case

from autodeco_gguf import AutoDecoError, ModelFile
from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.gguf import GgufFile


def test_values(qwen2: Case) -> None:
    file = GgufFile(qwen2.base)
    assert (file.start, file.alignment, file.architecture) == (0, 32, "qwen2")
    assert file.get("qwen2.embedding_length", int) == 64
    assert file.get("no.such.key", int) is None
    assert file.get("no.such.key", int, 5) == 5
    assert file.array_length("tokenizer.ggml.tokens") == 384
    assert file.array_length("general.name") == file.array_length("no.such.key") == 0
    assert file.end == file.pad(file.end) == file.file_size


def test_a_value_of_another_type(qwen2: Case) -> None:
    with pytest.raises(BadFile, match=r"base\.gguf: general\.architecture is 'qwen2', expected int$") as error:
        GgufFile(qwen2.base).get("general.architecture", int)
    assert error.value.file == str(qwen2.base)
    assert (error.value.key, error.value.expected, error.value.found) == ("general.architecture", "int", "qwen2")


def test_a_flag_is_no_number_and_is_worded_as_llama_cpp_does(qwen2: Case, tmp_path: Path) -> None:
    flag = GgufFile(rewrite(qwen2.base, tmp_path / "x.gguf", metadata={"x.flag": (True, Kind.BOOL)}))
    assert (flag.get("x.flag", bool), flag.metadata()["x.flag"]) == (True, "true")
    with pytest.raises(BadFile, match=r"x\.gguf: x\.flag is True, expected int$"):
        flag.get("x.flag", int)


def test_a_long_value_of_another_type(qwen2: Case, tmp_path: Path) -> None:
    long = rewrite(qwen2.base, tmp_path / "long.gguf", metadata={"qwen2.context_length": ("a" * 10**6, Kind.STRING)})
    with pytest.raises(BadFile, match=r"long\.gguf: qwen2\.context_length is 'a{200}', expected int$"):
        GgufFile(long).get("qwen2.context_length", int)


@pytest.mark.parametrize("beyond", [1, 2**63, 2**64])
def test_a_header_that_would_begin_behind_the_end(beyond: int, qwen2: Case) -> None:
    start = min(qwen2.base.stat().st_size + beyond, 2**64 - 1)
    with pytest.raises(BadFile, match=rf"base\.gguf: ends before byte {start}$"):
        GgufFile(qwen2.base, start)


def test_a_fingerprint_is_of_what_decides(qwen2: Case, merged: Path, tmp_path: Path) -> None:
    def written(name: str, **kwargs: Any) -> GgufFile:
        return GgufFile(rewrite(qwen2.base, tmp_path / f"{name}.gguf", **kwargs))

    def damaged(place: float) -> GgufFile:
        """A byte of the largest tensor is another."""
        path = tmp_path / f"{place}.gguf"
        content = bytearray(qwen2.base.read_bytes())
        largest = max(GgufFile(qwen2.base).tensors, key=lambda tensor: tensor.nbytes)
        content[largest.offset + int(place * (largest.nbytes - 1))] ^= 1
        path.write_bytes(content)
        return GgufFile(path)

    names = {"general.name": ("Other", Kind.STRING), "tokenizer.chat_template": ("x", Kind.STRING)}
    ours = GgufFile(qwen2.base)
    same = [written("same", metadata=names), ModelFile.open(merged).base()]
    others = [
        written("rope", metadata={"qwen2.rope.freq_base": (10.0, Kind.FLOAT32)}),
        written("eos", metadata={"tokenizer.ggml.eos_token_id": (7, Kind.UINT32)}),
        written("epsilon", metadata={"qwen2.attention.layer_norm_rms_epsilon": (1.0001e-6, Kind.FLOAT32)}),
        written("one less", edit=lambda tensors: tensors[1:]),
        written("another name", edit=lambda tensors: [(f"{tensors[0][0]}s", *tensors[0][1:]), *tensors[1:]]),
        *map(damaged, (0.0, 0.5, 1.0)),
    ]
    assert {file.fingerprint() for file in same} == {ours.fingerprint()}
    assert len({file.fingerprint() for file in (ours, *others)}) == 9


def test_a_file_that_shrinks_while_it_is_read(qwen2: Case, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(qwen2.base.read_bytes())
    file = GgufFile(path)
    path.write_bytes(qwen2.base.read_bytes()[: file.data + 10])
    with pytest.raises(BadFile, match=rf"x\.gguf: ended while it was read, at byte {file.data + 10}$"):
        file.read(file.tensors[0])


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


@pytest.mark.parametrize("opener", [GgufFile, ModelFile.open])
@pytest.mark.parametrize(("name", "reason"), [("x\0.gguf", "embedded null byte"), ("x\ud800", ".*surrogates")])
def test_a_name_that_no_file_can_have(opener: Callable[[Path], object], name: str, reason: str) -> None:
    with pytest.raises(BadFile, match=rf"^x\S+: cannot be opened: {reason}") as error:
        opener(Path(name))
    assert "\n" not in str(error.value)


def changed(source: Path, path: Path, old: bytes, new: bytes) -> Path:
    raw = source.read_bytes()
    assert len(old) == len(new)
    assert old in raw
    path.write_bytes(raw.replace(old, new))
    return path


@pytest.mark.parametrize("name", [b"general.name", b"output.weight"])
def test_a_name_with_a_zero_byte(name: bytes, qwen2: Case, tmp_path: Path) -> None:
    path = changed(qwen2.base, tmp_path / "x.gguf", name, name[:3] + b"\0" + name[4:])
    with pytest.raises(BadFile, match=rf"^{path}: .*a name with a zero byte"):
        GgufFile(path)


def test_a_key_that_is_no_text(qwen2: Case, tmp_path: Path) -> None:
    file = GgufFile(changed(qwen2.base, tmp_path / "x.gguf", b"general.name", b"general.n\xff\xfee"))
    assert file.metadata()["general.architecture"] == "qwen2"
    assert file.header.diff(GgufFile(qwen2.base).header, []) == "general.n\ufffd\ufffde"


def test_an_alignment_that_would_write_gigabytes(qwen2: Case, tmp_path: Path) -> None:
    for alignment in (2**17, 2**28):
        path = rewrite(qwen2.base, tmp_path / "x.gguf", metadata={"general.alignment": (alignment, Kind.UINT32)})
        with pytest.raises(BadFile, match=r"^\S+: (general\.alignment is|not a GGUF)"):
            GgufFile(path)


def test_a_header_without_end(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    size = 100 << 20
    key = b"general.name"
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 2, len(key)) + key
    with path.open("wb") as f:
        f.write(head + struct.pack("<IIQ", 9, 0, size))
        f.truncate(size + (1 << 20))
    with pytest.raises(BadFile, match=r"its header is larger than 67108864 bytes"):
        GgufFile(path)
