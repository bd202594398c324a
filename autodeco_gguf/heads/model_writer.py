"""GGUF files with heads in them, written whole or not at all, and compared with what they were made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.atomic import Output, Progress, read_range, write_together
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.model_file import Kind, ModelFile
from autodeco_gguf.heads.weights import HeadWeights


@dataclass(frozen=True)
class ExportResult:
    """What was written: the file, its size in bytes, and the heads in it."""

    path: Path
    nbytes: int
    heads: tuple[str, ...]


class Range(NamedTuple):
    """Bytes to copy from a file."""

    path: Path
    offset: int
    nbytes: int


class Part(NamedTuple):
    """Bytes of a file to write, in memory or elsewhere; the name of the tensor that begins with them, if one does."""

    content: bytes | Range
    tensor: str | None = None

    @property
    def nbytes(self) -> int:
        """How many they are, without padding."""
        return self.content.nbytes if isinstance(self.content, Range) else len(self.content)

    def blocks(self, *, ahead: bool = False) -> Iterable[bytes | memoryview]:
        """The bytes, in pieces that are valid until the next; of a file as :func:`read_range` reads them."""
        return read_range(*self.content, ahead=ahead) if isinstance(self.content, Range) else [self.content]


@dataclass(frozen=True)
class WrittenFile:
    """A file to write: parts, each padded to the alignment, what they are read from, what they are to be read as."""

    path: Path
    parts: Sequence[Part]
    alignment: int
    sources: Sequence[GgufFile]
    kind: Kind
    weights: HeadWeights | None = None


def write_models(
    files: Sequence[WrittenFile], progress: Progress | None, others: Iterable[Output] = (), *, new: bool = False
) -> list[ExportResult]:
    """Write files, all or none, and read back what came of them; ``others`` with them, and ``new`` as write_together.

    Raises:
        BadFile: what is to be copied changes meanwhile, what was written does not read back as it should, or
            :func:`~autodeco_gguf.files.atomic.write_together`'s reasons.
    """
    total = sum(part.nbytes for file in files for part in file.parts)
    done = 0

    def step(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done // 2, total)  # written, then compared

    outputs = [Output(f.path, partial(_write_parts, f, step), partial(_verify, f, step)) for f in files]
    write_together([*outputs, *others], new=new)
    return [ExportResult(f.path, f.path.stat().st_size, tuple(f.weights.mlps) if f.weights else ()) for f in files]


def _write_parts(file: WrittenFile, step: Callable[[int], None], out: BinaryIO) -> None:
    for part in file.parts:
        for block in part.blocks(ahead=True):
            out.write(block)
            step(len(block))
        out.write(b"\0" * (-part.nbytes % file.alignment))


def _verify(file: WrittenFile, step: Callable[[int], None], path: Path) -> None:
    """Read back what was written with the reader that will have to live with it, and compare every byte.

    The bytes of a copy are read from their source once more: a source that was overwritten meanwhile is noticed even
    where its time and size do not show it.
    """
    from concurrent.futures import ThreadPoolExecutor  # logging, which it imports, would make a start longer

    places, end = _layout(file)
    try:
        with ThreadPoolExecutor(1) as pool:
            headers = pool.submit(_check_headers, file, places, end, path)
            _compare(file, places, step, path)
            headers.result()
    finally:  # of an error too, where it is the cause
        for source in file.sources:
            source.check_unchanged()


def _check_headers(file: WrittenFile, places: Sequence[int], end: int, path: Path) -> None:
    """Raise BadFile unless what was written reads back as it should, every tensor in its place."""
    model = ModelFile.open(path)
    if model.kind != file.kind or model.stale is not None:
        raise BadFile.of(path, f"reads back as {model.kind}, {model.stale}; nothing was written")
    if file.weights is not None and model.read_heads().shapes != file.weights.shapes:
        raise BadFile.of(path, "its heads read back with other shapes; nothing was written")
    found = {t.name: t.offset for t in model.outer.tensors}
    for part, place in zip(file.parts, places, strict=True):
        if part.tensor is not None and found[part.tensor] != place:
            reason = f"{part.tensor} reads back at {found[part.tensor]}, expected {place}; nothing was written"
            raise BadFile.of(path, reason, key=part.tensor)
    if end != model.outer.file_size:
        raise BadFile.of(path, f"{model.outer.file_size} bytes, expected {end}; nothing was written")


def _layout(file: WrittenFile) -> tuple[list[int], int]:
    """Where each part begins, and where the last one's padding ends."""
    ends = list(accumulate(part.nbytes + -part.nbytes % file.alignment for part in file.parts))
    return [0, *ends[:-1]], ends[-1]


def _compare(file: WrittenFile, places: Sequence[int], step: Callable[[int], None], path: Path) -> None:
    """Raise BadFile unless what was written has every part in its place."""
    found = bytearray()  # whose comparison with a view is quick
    with path.open("rb", buffering=0) as f:
        for part, place in zip(file.parts, places, strict=True):
            f.seek(place)
            for block in part.blocks():
                if len(found) < len(block):
                    found = bytearray(len(block))
                if f.readinto(memoryview(found)[: len(block)]) != len(block) or not found.startswith(block):
                    reason = f"other bytes at {place} than in what it was made of; nothing was written, try again"
                    raise BadFile.of(path, reason, key=part.tensor)
                step(len(block))
