"""GGUF headers and the bytes behind them, read and written without trusting either."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from autodeco_gguf._native import core
from autodeco_gguf.errors import AutoDecoError

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while tensor data is copied."""

KeyValue = tuple[str, str, object]
"""A metadata entry to write: key, type ("u32", "u64", "f32", "str" or "[str]"), value."""

TensorSpec = tuple[str, str, tuple[int, ...]]
"""A tensor to declare: name, ggml type, shape in row-major order."""

_COPY_BYTES = 4 << 20


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


class GgufFile:
    """A GGUF header, at the beginning of a file or inside one, with the tensors it lists."""

    def __init__(self, path: Path, start: int = 0) -> None:
        """Parse the header at byte ``start`` and check that every tensor lies within the file.

        Raises:
            AutoDecoError: not a GGUF, broken, or truncated.
        """
        self.path = path
        try:
            self.header: Any = core.GgufHeader(os.fsencode(path), start)
        except AutoDecoError as e:
            raise AutoDecoError(f"{path}: {e}") from e
        self.start = start
        self.data: int = self.header.data
        self.file_size: int = self.header.file_size
        self.alignment: int = self.header.alignment
        self.tensors = tuple(TensorInfo(*row) for row in self.header.tensors())
        for tensor in self.tensors:
            if tensor.offset + tensor.nbytes > self.file_size:
                raise AutoDecoError(
                    f"{path}: truncated: tensor {tensor.name} ends at byte {tensor.offset + tensor.nbytes}, "
                    f"the file at {self.file_size}"
                )

    @property
    def end(self) -> int:
        """Where the last tensor's data ends in the file, without padding."""
        return max((t.offset + t.nbytes for t in self.tensors), default=self.data)

    def pad(self, n: int) -> int:
        """Round n up to the file's alignment."""
        return -(-n // self.alignment) * self.alignment

    def keys(self) -> list[str]:
        """The metadata keys, in file order."""
        return list(self.header.keys())

    def get(self, key: str, kind: type[Any], default: Any = None) -> Any:
        """A metadata value of the given Python type, or default where the key is missing.

        Raises:
            AutoDecoError: the value has another type.
        """
        try:
            value = self.header.value(key)
        except KeyError:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise AutoDecoError(f"{self.path}: {key} is {value!r}, expected {kind.__name__}")
        return value

    def array_length(self, key: str) -> int:
        """Entries of an array; 0 where the key is missing or no array."""
        return int(self.header.array_length(key))

    def fingerprint(self) -> str:
        """Tells one model from another, without reading all of it: its tensors' types, shapes and first 4 KiB each."""
        digest = hashlib.sha256()
        for tensor in self.tensors:
            digest.update(repr(tensor.spec).encode("utf-8", "surrogatepass"))
            digest.update(self.read_range(tensor.offset, min(tensor.nbytes, 4096)))
        return digest.hexdigest()

    def read(self, tensor: TensorInfo) -> bytes:
        """The bytes of one tensor."""
        return self.read_range(tensor.offset, tensor.nbytes)

    def read_range(self, offset: int, nbytes: int) -> bytes:
        """Bytes of the file at an offset from its start."""
        with self.path.open("rb") as f:
            f.seek(offset)
            data = f.read(nbytes)
        if len(data) != nbytes:
            raise AutoDecoError(f"{self.path}: ended while it was read, at byte {offset + len(data)}")
        return data


def copy_range(source: Path, offset: int, nbytes: int, out: BinaryIO, step: Callable[[int], None]) -> None:
    """Append bytes of a file to an open one, in bounded memory; step gets the size of every piece.

    Raises:
        AutoDecoError: the source ends early.
    """
    buffer = memoryview(bytearray(min(nbytes, _COPY_BYTES)))
    try:
        f = source.open("rb", buffering=0)
    except OSError as e:
        raise AutoDecoError(f"{source}: cannot be read: {e.strerror}") from e
    with f:
        f.seek(offset)
        while nbytes:
            n = f.readinto(buffer[: min(nbytes, len(buffer))])
            if not n:
                raise AutoDecoError(f"{source}: ended while it was copied")
            out.write(buffer[:n])
            step(n)
            nbytes -= n


def check_output(path: Path, *, inputs: Iterable[Path], force: bool) -> None:
    """Refuse an output that is an input under any name, that exists without force, or that cannot be made.

    Raises:
        AutoDecoError: refused.
    """
    if path.exists():
        for source in inputs:
            if source.exists() and path.samefile(source):
                raise AutoDecoError(f"{path}: is the input {source}; choose another output")
        if path.is_dir():
            raise AutoDecoError(f"{path}: is a directory; give a file name")
        if not path.is_file():
            raise AutoDecoError(f"{path}: is no regular file; give another name")
        if not force:
            raise AutoDecoError(f"{path}: exists; use --force to replace it")
    if not path.absolute().parent.is_dir():
        raise AutoDecoError(f"{path}: no such directory as {path.absolute().parent}")


def write_atomically(path: Path, write: Callable[[BinaryIO], None], verify: Callable[[Path], None]) -> None:
    """Write a file so that, whatever happens, path holds the old content or all of the new.

    A temporary file in the same directory is written, synced, checked with ``verify`` and renamed; on any
    error, an interrupt included, it is removed.

    Raises:
        AutoDecoError: the directory cannot be written or is full; what ``write`` and ``verify`` raise.
    """
    path = path.absolute()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666), "wb") as f:
                write(f)
                if path.exists():
                    os.fchmod(f.fileno(), path.stat().st_mode & 0o7777)
                f.flush()
                os.fsync(f.fileno())
            verify(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except AutoDecoError as e:
        raise AutoDecoError(str(e).replace(str(temporary), str(path))) from e
    except OSError as e:
        raise AutoDecoError(f"{path}: cannot be written: {e.strerror or e}") from e


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a small file atomically.

    Raises:
        AutoDecoError: it cannot be written.
    """

    def write(f: BinaryIO) -> None:
        f.write(content)

    write_atomically(path, write, lambda _: None)
