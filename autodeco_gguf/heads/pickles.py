"""Looks through the pickles of a PyTorch file before torch does, whose ``weights_only`` bounds neither time nor memory.

It lets a file of a few bytes ask for ``bytearray(10**10)``, copy one dict a million times, or load one record under a
million names. What ``torch.save`` writes of tensors by name does nothing of the kind, and all else is refused here.
"""

from __future__ import annotations

import pickletools
import re
import struct
import zipfile
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

_GLOBALS: Final = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(?:tensor|tensor_v2|parameter)"
    r"|torch [A-Z][A-Za-z0-9]*Storage|torch (?:float|bfloat|int|uint|complex|bool)[0-9]*"
)
_MARK: Final = object()
_CONTAINER: Final = object()
_TENSOR: Final = object()

_MAX_PICKLES: Final = 1 << 22
"""Bytes of all pickles: some 200 are those of a tensor, and a second goes by for each million."""

_LEGACY_PICKLES: Final = 5
"""At the beginning of a file of torch before 1.6: magic number, version, system, what was saved, names of storages."""


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    n: int


def check_pickles(path: Path) -> None:
    """Raise for a file that holds anything but tensors, texts and numbers, by name or in lists, as torch writes them.

    Raises:
        ValueError: it does, or unpacks to more than it has; OSError: it cannot be read; any other where it is broken.
    """
    import torch

    with path.open("rb") as f:
        is_zip = f.read(4) == b"PK\3\4"  # as torch tells them apart
        f.seek(0)
        if is_zip:
            with zipfile.ZipFile(f) as archive:  # torch does not compress; what unpacks to more is made to fill memory
                if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                    raise ValueError("its parts are larger than the file")
                if _directories(f) != {archive.start_dir}:
                    raise ValueError("torch would find other parts in it than Python")
            f.seek(0)
            # what torch will read there, which Python may find elsewhere in a file made for it
            _check(BytesIO(torch._C.PyTorchFileReader(f).get_record("data.pkl")))  # noqa: SLF001
        else:
            for _ in range(_LEGACY_PICKLES):
                _check(f)


def _directories(f: BinaryIO) -> set[int]:
    """Where the directory of a zip is, by the end of the file and by the one for 64 bits, which torch always writes."""
    end = f.seek(-22, SEEK_END)
    magic, at = struct.unpack("<4s12xL2x", f.read(22))
    f.seek(max(0, end - 76))
    record, at64, locator, place = struct.unpack("<4s44xQ4s4xQ4x", f.read(76).rjust(76, b"\0"))
    found = {at} if magic == b"PK\5\6" else set()
    if locator == b"PK\6\7":
        found = found - {0xFFFFFFFF} | ({at64} if (record, place) == (b"PK\6\6", end - 76) else {-1})
    return found


def _check(file: BinaryIO) -> None:
    """Go through a pickle with what its values are in place of them, up to its end."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    arg: Any
    for op, arg, place in pickletools.genops(file):
        if (place or 0) > _MAX_PICKLES:
            raise ValueError(f"more than {_MAX_PICKLES} bytes before its values")
        if op.name == "STOP":
            return
        if op.name in ("BINPUT", "LONG_BINPUT"):
            memo[arg] = stack[-1]
        elif op.name in ("BINGET", "LONG_BINGET"):
            value = memo[arg]
            if value is _CONTAINER or type(value) is tuple:  # each could be copied again and again
                raise ValueError("one list, dict or tuple in several places")
            stack.append(value)
        else:
            _step(op.name, arg, stack)


def _step(name: str, arg: Any, stack: list[Any]) -> None:
    match name:
        case "PROTO":
            pass
        case "MARK":
            stack.append(_MARK)
        case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
            stack.append(arg)
        case "NONE" | "NEWTRUE" | "NEWFALSE":
            stack.append(None)
        case "EMPTY_DICT" | "EMPTY_LIST":
            stack.append(_CONTAINER)
        case "GLOBAL":
            if _GLOBALS.fullmatch(arg) is None:
                raise ValueError(f"holds {arg.replace(' ', '.')}, expected tensors by name")
            stack.append(_Global(arg))
        case "EMPTY_TUPLE":
            stack.append(())
        case "TUPLE":
            stack.append(tuple(_to_mark(stack)))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        case "APPEND":
            stack.pop()
        case "APPENDS":
            _to_mark(stack)
        case "SETITEM":
            _check_keys([stack.pop(), stack.pop()][1:])
        case "SETITEMS":
            _check_keys(_to_mark(stack)[::2])
        case "BINPERSID":
            stack.append(_storage(stack.pop()))
        case "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduced(function, arguments))
        case "BUILD":  # what a state dict says of itself
            stack.pop()
            if stack[-1] is not _CONTAINER:
                raise ValueError("attributes of what is no dict")
        case _:
            raise ValueError(f"{name} in a pickle, which torch does not write")


def _to_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (value := stack.pop()) is not _MARK:
        items.append(value)
    return items[::-1]


def _check_keys(keys: list[Any]) -> None:
    if not all(isinstance(key, str | int) for key in keys):  # a deep tuple ends the process when it is hashed
        raise ValueError("a dict whose keys are neither texts nor numbers")


def _storage(value: Any) -> _Storage:
    match value:
        # names that differ in their case alone are one record to torch
        case ("storage", _Global(name), str(key), str(), int(n)) | (
            "storage", _Global(name), str(key), str(), int(n), None
        ) if name.endswith("Storage") and key.isdigit() and key.isascii():  # fmt: skip
            return _Storage(n)
    raise ValueError("a storage that torch would not name so")


def _reduced(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case _Global("collections OrderedDict"), ():
            return _CONTAINER
        case _Global("torch._utils _rebuild_parameter"), (tensor, None, hooks):
            if tensor is _TENSOR and hooks is _CONTAINER:
                return _TENSOR
        case (
            _Global("torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2"),
            (_Storage(n), offset, tuple(size), tuple(stride), *rest),
        ):
            if all(value is None or value is _CONTAINER for value in rest) and _fits(n, offset, size, stride):
                return _TENSOR
            raise ValueError("a tensor with more values than are stored")
    raise ValueError("a call that torch does not write")


def _fits(n: int, offset: Any, size: tuple[Any, ...], stride: tuple[Any, ...]) -> bool:
    """Whether a tensor lies in a storage of so many values: torch enlarges one that is too small."""
    if len(size) != len(stride) or not all(isinstance(v, int) and v >= 0 for v in (offset, *size, *stride)):
        return False
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    return 0 in size or bool(last < n)
