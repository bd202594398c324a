"""PyTorch files: what torch writes of tensors passes, what is made to cost more than the file does not."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autodeco_gguf.heads import pickles
from autodeco_gguf.heads.pickles import check_pickles

torch = pytest.importorskip("torch")

WEIGHT = torch.zeros(4, 2)


def saved(path: Path, value: object, *, is_zip: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=is_zip)
    return path


def made(path: Path, pickled: bytes) -> Path:
    """A zip of torch with another pickle."""
    buffer = io.BytesIO()
    torch.save({"x": WEIGHT}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    return path


# ---- what torch writes ----

HONEST: dict[str, Callable[[], object]] = {
    "a state dict, with what it says of itself": lambda: torch.nn.Sequential(torch.nn.Linear(2, 3)).state_dict(),
    "parameters": lambda: dict(torch.nn.Linear(2, 3).named_parameters()),
    "one tensor under two names": lambda: OrderedDict(a=WEIGHT, b=WEIGHT),
    "parts of a tensor": lambda: {"a": WEIGHT[1:], "b": WEIGHT.T, "c": WEIGHT[:0], "d": WEIGHT[0, 0].expand(9)},
    "types": lambda: {str(t): WEIGHT.to(t) for t in (torch.float16, torch.bfloat16, torch.float64, torch.int64)},
    "other values": lambda: {"n": -5, "big": 2**70, "f": 0.5, "none": None, "list": [1, {"x": True}], 1: torch.float16},
}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", HONEST)
def test_what_torch_writes(name: str, is_zip: bool, tmp_path: Path) -> None:
    check_pickles(saved(tmp_path / "x.bin", HONEST[name](), is_zip=is_zip))


# ---- what is made for harm ----


class Calling:
    """Is pickled as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


SHARED: dict[Any, Any] = {"x": 1}
REFUSED: dict[str, tuple[object, str]] = {
    "gigabytes of nothing": (Calling(bytearray, 10**12), r"holds __builtin__\.bytearray, expected tensors by name"),
    "a tensor without values": (Calling(torch.Tensor, 10**12), r"holds torch\._tensor\.Tensor|holds torch\.Tensor"),
    "a set": ({1, 2}, r"holds __builtin__\.set"),
    "bytes": (b"x", r"holds _codecs\.encode"),
    "a dict that is copied": (Calling(OrderedDict, [("x", 1)]), "a call that torch does not write"),
    "a dict in two places": ({"a": SHARED, "b": SHARED}, "one list, dict or tuple in several places"),
    "a key that takes long to hash": ({(1,): 2}, "a dict whose keys are neither texts nor numbers"),
}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_does_not_write_of_tensors(name: str, is_zip: bool, tmp_path: Path) -> None:
    value, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        check_pickles(saved(tmp_path / "x.bin", {"x": value}, is_zip=is_zip))


def storage(key: bytes, n: int) -> bytes:
    """A pickled storage."""
    text = b"X" + len(key).to_bytes(4, "little") + key
    return b"(X\x07\0\0\0storagectorch\nFloatStorage\n" + text + b"X\x03\0\0\0cpuJ" + n.to_bytes(4, "little") + b"tQ"


def tensor(key: bytes = b"0", n: int = 8, size: int = 8) -> bytes:
    """A pickled tensor of one dimension."""
    rebuild, length = b"ctorch._utils\n_rebuild_tensor\n", b"J" + size.to_bytes(4, "little") + b"\x85"
    return rebuild + b"(" + storage(key, n) + b"K\0" + length + b"K\x01\x85tR"


MADE: dict[str, tuple[bytes, str]] = {
    "more values than are stored": (tensor(size=9), "a tensor with more values than are stored"),
    "a record by another name": (tensor(b"A"), "a storage that torch would not name so"),
    "a name in memory": (b"X\x08\0\0\0builtinsX\x04\0\0\0eval\x93", "STACK_GLOBAL in a pickle"),
    "an old instance": (b"(ios\nsystem\n", "INST in a pickle"),
    "an object": (b"ccollections\nOrderedDict\n)\x81", "NEWOBJ in a pickle"),
    "twice on the stack": (b"]2", "DUP in a pickle"),
    "a storage of a tensor": (tensor() + b"}b", "attributes of what is no dict"),
    "a call of a type": (b"ctorch\nfloat16\n)R", "a call that torch does not write"),
}


@pytest.mark.parametrize("name", MADE)
def test_pickles_made_by_hand(name: str, tmp_path: Path) -> None:
    pickled, reason = MADE[name]
    path = made(tmp_path / "x.bin", b"\x80\x02" + pickled + b".")
    with pytest.raises(ValueError, match=reason):
        check_pickles(path)


def test_a_storage_that_torch_would_enlarge(tmp_path: Path) -> None:
    """And copy, whatever the old file has of it."""
    path = saved(tmp_path / "x.bin", {"x": torch.zeros(4)}, is_zip=False)
    honest = path.read_bytes()
    n, more = (b"J" + count.to_bytes(4, "little") for count in (10**9, 10**9 + 1))
    path.write_bytes(honest.replace(b"K\x04N", n + b"N").replace(b"K\x04\x85", more + b"\x85"))
    with pytest.raises(ValueError, match="a tensor with more values than are stored"):
        check_pickles(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_more_pickles_than_anybody_waits_for(is_zip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MAX_PICKLES", 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes before its values"):
        check_pickles(saved(tmp_path / "x.bin", list(range(500)), is_zip=is_zip))


def test_a_directory_for_python_and_one_for_torch(tmp_path: Path) -> None:
    """Python takes the one before the end, torch the one that the end points at."""
    path = tmp_path / "x.bin"
    torch.save({"x": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    size, start = struct.unpack_from("<2L", content, end + 12)
    name_end = 46 + struct.unpack_from("<H", content, start + 28)[0]
    harmless = bytearray(content[start : start + name_end].ljust(size, b"c"))  # the first record, and a comment
    struct.pack_into("<H", harmless, 32, size - name_end)
    path.write_bytes(content[:end] + harmless + content[end:])
    with zipfile.ZipFile(path) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) < path.stat().st_size < 10**5
    assert torch.load(path, weights_only=True)["x"].shape == (10**6,)
    with pytest.raises(ValueError, match="torch would find other parts in it than Python"):
        check_pickles(path)


def test_the_hand_writes_as_torch_does(tmp_path: Path) -> None:
    path = made(tmp_path / "x.bin", b"\x80\x02" + tensor() + b".")
    check_pickles(path)
    assert torch.load(path, weights_only=True).tolist() == [0.0] * 8


@pytest.mark.parametrize("content", [b"", b"PK\3\4", pickle.dumps(1), pickle.dumps(1, 2) * 4])
def test_what_is_no_file_of_torch(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(Exception, match=r"pickle|zip"):
        check_pickles(tmp_path / "x.bin")
