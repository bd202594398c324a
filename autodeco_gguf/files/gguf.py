"""GGUF headers and the bytes behind them, read and written without trusting either."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

from autodeco_gguf._native import core
from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.atomic import check_unchanged, identity, read_range

T = TypeVar("T")

KeyValue = tuple[str, str, object]
"""A metadata entry to write: key, type ("u32", "u64", "f32", "str" or "[str]"), value."""

TensorSpec = tuple[str, str, tuple[int, ...]]
"""A tensor to declare: name, ggml type, shape in row-major order."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a GGUF: row-major shape, ggml type name, offset from the start of the file, in bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def spec(self) -> TensorSpec:
        """What it takes to declare the same tensor in another file."""
        return self.name, self.type, self.shape


_NOT_OF_THE_MODEL = ["general.", "split.", "autodeco.", "tokenizer.chat_template"]
"""Beginnings of keys that do not decide what it computes of tokens."""


class GgufFile:
    """A GGUF header, at the beginning of a file or inside one, with the tensors it lists."""

    def __init__(self, path: Path, start: int = 0) -> None:
        """Parse the header at byte ``start`` and check that every tensor lies within the file.

        Raises:
            BadFile: not a GGUF, broken, or truncated; no regular file, or no path; a header of more than 64 MiB.
            ModelFailed: the process forked while another thread loaded a model.
        """
        self.path = path
        self.overrides: Mapping[str, object] = {}  # metadata in the place of the file's
        try:
            self.identity = identity(path)
            self.header = core.GgufHeader(os.fsencode(path), start)
        except BadFile as e:
            raise BadFile.of(path, e) from e
        except ValueError as e:  # a zero byte, or half of a surrogate pair
            raise BadFile.of(path, f"cannot be opened: {e}") from e
        self.start = start
        self.data = self.header.data
        self.file_size = self.header.file_size
        self.alignment = self.header.alignment
        self.tensors = tuple(TensorInfo(*row) for row in self.header.tensors())
        for tensor in self.tensors:
            end = tensor.offset + tensor.nbytes
            if end > self.file_size:
                reason = f"truncated: tensor {tensor.name} ends at byte {end}, the file at {self.file_size}"
                raise BadFile.of(path, reason, key=tensor.name, expected=end, found=self.file_size)

    def check_unchanged(self) -> None:
        """Raise BadFile where the file has been written to or replaced since its header was read."""
        check_unchanged(self.path, self.identity)

    @property
    def architecture(self) -> str:
        """``general.architecture``; empty where the file does not say."""
        return self.get("general.architecture", str, "")

    @property
    def end(self) -> int:
        """Where the last tensor's data ends in the file, without padding."""
        return max((t.offset + t.nbytes for t in self.tensors), default=self.data)

    def pad(self, n: int) -> int:
        """Round n up to the file's alignment."""
        return -(-n // self.alignment) * self.alignment

    @overload
    def get(self, key: str, kind: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, kind: type[T], default: T) -> T: ...
    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """A metadata value of the given Python type, default where the key is missing; BadFile for another type."""
        try:
            value = self.overrides[key] if key in self.overrides else self.header.value(key)
        except KeyError:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            shown = repr(value[:200] if isinstance(value, str) else value)
            reason = f"{key} is {shown if len(shown) < 300 else shown[:300] + '...'}, expected {kind.__name__}"
            raise BadFile.of(self.path, reason, key=key, expected=kind.__name__, found=value)
        return value

    def metadata(self) -> dict[str, str]:
        """The metadata but for arrays, as llama.cpp words its values; bytes that are no UTF-8 as U+FFFD."""
        found: dict[str, str] = {}
        for key in self.header.scalar_keys():
            try:
                value = self.header.value(key)  # llama.cpp has the file's, whatever the overrides
            except KeyError:  # the key is no text
                continue
            if isinstance(value, bool):
                found[key] = str(value).lower()
            elif isinstance(value, float):
                found[key] = f"{value:f}"
            elif isinstance(value, int | str):
                found[key] = str(value)
        return found

    def array_length(self, key: str) -> int:
        """Entries of an array; 0 where the key is missing or no array."""
        return self.header.array_length(key)

    def fingerprint(self) -> str:
        """Tells one model from another, without reading all of it.

        Of its metadata but for names, the chat template and heads; its tensors' types and shapes; and of each tensor
        the first, the middle and the last 4 KiB.
        """
        digest = hashlib.sha256(self.architecture.encode("utf-8", "surrogatepass"))
        digest.update(self.header.build(_NOT_OF_THE_MODEL, [], []))
        for tensor in self.tensors:
            digest.update(repr(tensor.spec).encode("utf-8", "surrogatepass"))
            size = min(tensor.nbytes, 4096)
            for place in (0, (tensor.nbytes - size) // 2, tensor.nbytes - size):
                digest.update(self.read_range(tensor.offset + place, size))
        return digest.hexdigest()

    def read(self, tensor: TensorInfo) -> bytes:
        """The bytes of one tensor."""
        return self.read_range(tensor.offset, tensor.nbytes)

    def read_range(self, offset: int, nbytes: int) -> bytes:
        """Bytes of the file at an offset from its start; BadFile where it ends before."""
        return b"".join(map(bytes, read_range(self.path, offset, nbytes)))
