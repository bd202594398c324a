"""A GGUF taken apart into what stands in it, to be changed anywhere and put together again, right or not."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

SCALARS = "BbHhIif?  QqD"  # struct's names by GGUF type; 8 is a string, 9 an array
STRING, ARRAY, U32, F32, BOOL, U64, I32 = 8, 9, 4, 6, 7, 10, 5
WIDTH = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8]


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def u32(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


def array(kind: int, items: list[bytes], n: int | None = None) -> bytes:
    return struct.pack("<IQ", kind, len(items) if n is None else n) + b"".join(items)


@dataclass
class Entry:
    key: bytes
    kind: int
    value: bytes


@dataclass
class Tensor:
    name: bytes
    dims: list[int]
    kind: int
    offset: int


@dataclass
class Gguf:
    """A file's parts; the counts are written as they stand here, the lengths as they are."""

    magic: bytes
    version: int
    n_tensors: int
    n_entries: int
    entries: list[Entry]
    tensors: list[Tensor]
    alignment: int
    data: bytes

    @classmethod
    def read(cls, path: Path) -> Gguf:
        raw = path.read_bytes()
        at = 24
        version, n_tensors, n_entries = struct.unpack_from("<IQQ", raw, 4)

        def string() -> bytes:
            nonlocal at
            (n,) = struct.unpack_from("<Q", raw, at)
            at += 8 + n
            return raw[at - n : at]

        def skip(kind: int) -> None:
            nonlocal at
            if kind == STRING:
                string()
            elif kind == ARRAY:
                item, n = struct.unpack_from("<IQ", raw, at)
                at += 12
                for _ in range(n):
                    skip(item)
            else:
                at += WIDTH[kind]

        entries = []
        for _ in range(n_entries):
            key = string()
            (kind,) = struct.unpack_from("<I", raw, at)
            at += 4
            begin = at
            skip(kind)
            entries.append(Entry(key, kind, raw[begin:at]))
        tensors = []
        for _ in range(n_tensors):
            name = string()
            (n_dims,) = struct.unpack_from("<I", raw, at)
            dims = list(struct.unpack_from(f"<{n_dims}Q", raw, at + 4))
            kind, offset = struct.unpack_from("<IQ", raw, at + 4 + 8 * n_dims)
            at += 16 + 8 * n_dims
            tensors.append(Tensor(name, dims, kind, offset))
        alignment = next((struct.unpack("<I", e.value)[0] for e in entries if e.key == b"general.alignment"), 32)
        return cls(raw[:4], version, n_tensors, n_entries, entries, tensors, alignment, raw[at + -at % alignment :])

    def header(self) -> bytes:
        raw = self.magic + struct.pack("<IQQ", self.version, self.n_tensors & 2**64 - 1, self.n_entries & 2**64 - 1)
        raw += b"".join(text(e.key) + u32(e.kind) + e.value for e in self.entries)
        for t in self.tensors:
            raw += text(t.name) + u32(len(t.dims)) + struct.pack(f"<{len(t.dims)}Q", *(d & 2**64 - 1 for d in t.dims))
            raw += struct.pack("<IQ", t.kind, t.offset & 2**64 - 1)
        return raw

    def bytes(self) -> bytes:
        header = self.header()
        return header + b"\0" * (-len(header) % self.alignment) + self.data

    def find(self, key: bytes) -> Entry | None:
        return next((e for e in self.entries if e.key == key), None)

    def set(self, key: bytes, kind: int, value: bytes) -> None:
        entry = self.find(key)
        if entry is None:
            self.entries.append(Entry(key, kind, value))
            self.n_entries += 1
        else:
            entry.kind, entry.value = kind, value
