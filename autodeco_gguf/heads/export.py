"""Putting heads into GGUF files and taking them out again."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from autodeco_gguf._native import core
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import (
    Output,
    Progress,
    check_output,
    check_unchanged,
    identity,
    new_directory,
    read_range,
    write_together,
)
from autodeco_gguf.files.gguf import GgufFile, KeyValue, TensorInfo, TensorSpec
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.heads.checkpoint import Checkpoint, read_checkpoint
from autodeco_gguf.heads.checkpoint_writer import extracted_checkpoint
from autodeco_gguf.heads.format import (
    ACTIVATIONS,
    BASE_SHA256,
    BASE_SIZE,
    BASE_VIEW,
    HEAD_TYPES,
    PREFIX,
    VERSION,
    head_key,
)
from autodeco_gguf.heads.model_file import Kind, ModelFile
from autodeco_gguf.heads.weights import HeadWeights

_BLOCK = {"q8_0": 32}
"""Values that a head type packs together; rows of another length are written as f16."""


@dataclass(frozen=True)
class ExportResult:
    """What was written: the file, its size in bytes, and the heads in it."""

    path: Path
    nbytes: int
    heads: tuple[str, ...]


_Tensors = list[tuple[TensorSpec, bytes]]


class _Range(NamedTuple):
    """Bytes to copy from a file."""

    path: Path
    offset: int
    nbytes: int


class _Part(NamedTuple):
    """Bytes of a file to write, in memory or elsewhere; the name of the tensor that begins with them, if one does."""

    content: bytes | _Range
    tensor: str | None = None

    @property
    def nbytes(self) -> int:
        return self.content.nbytes if isinstance(self.content, _Range) else len(self.content)

    def blocks(self) -> Iterable[bytes | memoryview]:
        """The bytes, in pieces that are valid until the next."""
        return read_range(*self.content) if isinstance(self.content, _Range) else [self.content]


@dataclass(frozen=True)
class _File:
    """A file to write: parts, each padded to the alignment, what they are read from, what they are to be read as."""

    path: Path
    parts: Sequence[_Part]
    alignment: int
    sources: Sequence[GgufFile]
    kind: Kind
    weights: HeadWeights | None = None


def export(
    base: str | Path | BaseModel,
    heads: str | Path,
    output: str | Path | None = None,
    *,
    adapter: bool = False,
    head_type: str = "f32",
    activation: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write a merged GGUF, or an adapter, from a base GGUF and a checkpoint with trained heads.

    Args:
        base: a GGUF, the first shard of one, or a merged file, whose heads are then replaced.
        heads: a checkpoint (:func:`read_checkpoint`).
        output: the file to write; by default in the working directory, named after the base.
        adapter: write the heads alone, for use with an untouched base.
        head_type: "f32", "f16", "bf16" or "q8_0", of the weight matrices; biases stay f32. A matrix whose rows
            q8_0 cannot pack is written as f16.
        activation: overrides the activation that the heads' depth implies.
        force: replace an existing output.
        progress: called as the file is written and compared.

    Raises:
        BadFile: input that is broken or does not fit together, a value that does not fit the head type, an output
            that cannot be written. Nothing is left behind then.
        InvalidInput: no such head type or activation.
    """
    if head_type not in HEAD_TYPES:
        raise InvalidInput.of("head type", repr(head_type), f"one of {', '.join(HEAD_TYPES)}")
    if activation is not None and activation not in ACTIVATIONS:
        raise InvalidInput.of("activation", repr(activation), f"one of {', '.join(ACTIVATIONS)}")
    model = base if isinstance(base, BaseModel) else BaseModel.open(Path(base))
    path = Path(output) if output is not None else _default_output(model.path, adapter)
    checkpoint_files = {p: identity(p) for p in Path(heads).iterdir()} if Path(heads).is_dir() else {}
    check_output(path, inputs=[*model.paths, *checkpoint_files], force=force)
    checkpoint = read_checkpoint(heads, activation=activation)
    for source in checkpoint_files.keys() & {*checkpoint.files, Path(heads, "config.json")}:
        check_unchanged(source, checkpoint_files[source])
    weights = _fit(checkpoint, model, heads)
    tensors = _encode(weights, head_type, heads)
    file = _adapter(path, model.file, tensors, weights) if adapter else _merged(path, model, tensors, weights)
    (result,) = _write([file], progress, new=not force)
    return result


def extract(
    merged: str | Path,
    *,
    base: str | Path | None = None,
    adapter: str | Path | None = None,
    checkpoint: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> list[ExportResult]:
    """Take a merged file apart: the base, bit-identical to the file it was made of, and the heads.

    All outputs are written, or none. ``checkpoint`` is a directory in the official layout; an adapter will do for it.

    Raises:
        BadFile: not a merged file, a stale base view, an output that cannot be written, heads that the official
            layout has no words for.
        InvalidInput: no output is given, or one twice.
    """
    outputs = [Path(path) for path in (base, adapter, checkpoint) if path is not None]
    if not outputs:
        raise InvalidInput("nothing to extract: give --base OUT, --adapter OUT, --checkpoint DIR or several of them")
    if len(set(map(os.path.realpath, outputs))) < len(outputs):
        raise InvalidInput(f"{outputs[-1]}: given as both outputs", file=outputs[-1])
    model = _open_merged(Path(merged), merged, "extract takes a merged file", adapters=not (base or adapter))
    if model.kind == "merged":
        model.base()  # refuses a stale view
    for path in (base, adapter):
        if path is not None:
            check_output(Path(path), inputs=[model.path], force=force)
    weights = model.read_heads()
    others = [] if checkpoint is None else extracted_checkpoint(Path(checkpoint), model, weights, force=force)
    files = []
    if base is not None:
        source = _Range(model.path, model.base().start, model.base_nbytes)
        files.append(_File(Path(base), [_Part(source)], 1, [model.outer], "plain"))
    if adapter is not None:
        tensors = zip(_head_specs(model, weights), map(model.outer.read, model.head_tensors), strict=True)
        files.append(_adapter(Path(adapter), model, list(tensors), weights, [model.outer]))
    with new_directory(checkpoint):
        results = _write(files, progress, others, new=not force)
    if checkpoint is not None:
        results.append(ExportResult(Path(checkpoint), sum(o.path.stat().st_size for o in others), tuple(weights.mlps)))
    return results


def repack(path: str | Path, *, progress: Progress | None = None) -> ExportResult | None:
    """Rebuild the stale base view of a merged file that another tool has rewritten, in place.

    Returns:
        What was written; None where the view is fresh and nothing had to be.

    Raises:
        BadFile: not a merged file, broken heads, or no room beside the file.
    """
    target = Path(os.path.realpath(path))  # of a link, its file
    model = _open_merged(target, path, "only a merged file has a base view")
    if model.stale is None:
        return None
    if not model.base_tensors:
        raise BadFile.of(path, "no base model's tensors in it")
    weights, outer = model.read_heads(), model.outer
    specs = [t.spec for t in model.base_tensors]
    view = outer.header.build([PREFIX], [], specs)
    header = outer.header.build([BASE_SIZE], [], [_view_spec(view), *specs, *_head_specs(model, weights)])
    copied = [_copy(outer, t) for t in (*model.base_tensors, *model.head_tensors)]
    parts = [_Part(header), _Part(view, BASE_VIEW), *copied]
    (result,) = _write([_File(model.path, parts, outer.alignment, [outer], "merged", weights)], progress)
    return result


def _open_merged(path: Path, given: str | Path, need: str, *, adapters: bool = False) -> ModelFile:
    model = ModelFile.open(path)
    if model.kind != "merged" and not (adapters and model.kind == "adapter"):
        found = "is an adapter" if model.kind == "adapter" else "no AutoDeco heads in it"
        raise BadFile.of(given, f"{found}; {need}", expected="merged", found=model.kind)
    return model


# ---- files ----


def _merged(path: Path, base: BaseModel, tensors: _Tensors, weights: HeadWeights) -> _File:
    first, alone = base.parts[0], len(base.parts) == 1
    specs = [t.spec for part in base.parts for t in part.tensors]
    entries = _metadata(weights)
    if alone:  # the source stands in it whole, byte for byte, beginning with the view
        nbytes, end = _source_end(base) - first.start, first.end - first.start
        view = first.read_range(first.start, first.data - first.start)
        copied = [_Part(_Range(first.path, first.start, nbytes), BASE_VIEW)]
        if nbytes < first.pad(end):
            entries.append((BASE_SIZE, "u64", nbytes))
    else:
        view = first.header.build(["split."], [], specs)
        copied = [_Part(view, BASE_VIEW), *(_copy(part, t) for part in base.parts for t in part.tensors)]
    drop = [PREFIX] if alone else ["split.", PREFIX]
    header = first.header.build(drop, entries, [_view_spec(view), *specs, *(spec for spec, _ in tensors)])
    parts = [_Part(header), *copied, *_head_parts(tensors)]
    return _File(path, parts, first.alignment, base.parts, "merged", weights)


def _source_end(base: BaseModel) -> int:
    """Where the one source file ends; the padding after its last tensor may be missing, nothing may follow it."""
    part = base.parts[0]
    if base.file.kind == "merged":
        return part.start + base.file.base_nbytes
    extra = part.file_size - part.pad(part.end)
    if extra > 0:
        raise BadFile.of(part.path, f"{extra} bytes follow the last tensor, expected the file to end there")
    return part.file_size


def _adapter(
    path: Path, base: ModelFile, tensors: _Tensors, weights: HeadWeights, sources: Sequence[GgufFile] = ()
) -> _File:
    template, known = base.outer, base.known
    general: list[KeyValue] = [
        ("general.type", "str", "adapter"),
        ("general.architecture", "str", template.architecture),
        ("adapter.type", "str", "autodeco"),
    ]
    if known is not None:
        general += [
            ("general.name", "str", f"AutoDeco heads for {known.base}"),
            ("general.license", "str", known.license),
            (BASE_SHA256, "str", known.sha256),
        ]
    header = template.header.build([""], [*general, *_metadata(weights)], [spec for spec, _ in tensors])
    return _File(path, [_Part(header), *_head_parts(tensors)], 32, sources, "adapter", weights)


def _head_parts(tensors: _Tensors) -> list[_Part]:
    return [_Part(data, name) for (name, _, _), data in tensors]


def _copy(file: GgufFile, tensor: TensorInfo) -> _Part:
    return _Part(_Range(file.path, tensor.offset, tensor.nbytes), tensor.name)


# ---- writing ----


def _write(
    files: Sequence[_File], progress: Progress | None, others: Iterable[Output] = (), *, new: bool = False
) -> list[ExportResult]:
    """Write files, all or none, and read back what came of them."""
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


def _write_parts(file: _File, step: Callable[[int], None], out: BinaryIO) -> None:
    for part in file.parts:
        for block in part.blocks():
            out.write(block)
            step(len(block))
        out.write(b"\0" * (-part.nbytes % file.alignment))


def _verify(file: _File, step: Callable[[int], None], path: Path) -> None:
    """Read back what was written with the reader that will have to live with it, and compare every byte.

    The bytes of a copy are read from their source once more: a source that was overwritten meanwhile is noticed even
    where its time and size do not show it.
    """
    try:
        model = ModelFile.open(path)
        if model.kind != file.kind or model.stale is not None:
            raise BadFile.of(path, f"reads back as {model.kind}, {model.stale}; nothing was written")
        if file.weights is not None and _shapes(model.read_heads()) != _shapes(file.weights):
            raise BadFile.of(path, "its heads read back with other shapes; nothing was written")
        _compare(file, step, model.outer)
    finally:  # of an error too, where it is the cause
        for source in file.sources:
            source.check_unchanged()


def _compare(file: _File, step: Callable[[int], None], written: GgufFile) -> None:
    """Raise BadFile unless a file holds what it is to hold, every tensor where its header says."""
    places, place = {t.name: t.offset for t in written.tensors}, 0
    with written.path.open("rb", buffering=0) as f:
        for part in file.parts:
            place = place if part.tensor is None else places[part.tensor]
            f.seek(place)
            for block in part.blocks():
                if f.readinto(found := bytearray(len(block))) != len(block) or not found.startswith(block):
                    reason = f"other bytes at {place} than in what it was made of; nothing was written, try again"
                    raise BadFile.of(written.path, reason, key=part.tensor)
                step(len(block))
            place += part.nbytes + -part.nbytes % file.alignment
    if place != written.file_size:
        raise BadFile.of(written.path, f"{written.file_size} bytes, expected {place}; nothing was written")


# ---- contents ----


def _fit(checkpoint: Checkpoint, base: BaseModel, source: str | Path) -> HeadWeights:
    """The checkpoint's heads with the base's vocabulary filled in; BadFile where they do not fit."""
    weights = checkpoint.weights
    base.check_fit(weights.hidden_size, checkpoint.vocab_size, checkpoint.base_model_type, source)
    vocab_size = checkpoint.vocab_size or base.vocab_size
    if vocab_size is None:
        raise BadFile.of(base.path, "neither it nor the checkpoint says how large the vocabulary is")
    return replace(weights, vocab_size=vocab_size, base_model=weights.base_model or base.name)


def _metadata(weights: HeadWeights) -> list[KeyValue]:
    entries: list[KeyValue] = [
        ("autodeco.version", "u32", VERSION),
        ("autodeco.hidden_size", "u32", weights.hidden_size),
        ("autodeco.vocab_size", "u32", weights.vocab_size),
        ("autodeco.base_model", "str", weights.base_model),
        *((head_key(head, "activation"), "str", mlp.activation) for head, mlp in weights.mlps.items()),
    ]
    if weights.temperature is not None:
        entries.append((head_key("temperature", "scale"), "f32", weights.temperature_scale))
    if weights.top_p is not None:
        entries.append((head_key("top_p", "features"), "[str]", list(weights.features)))
    return entries


def _encode(weights: HeadWeights, head_type: str, source: str | Path) -> _Tensors:
    tensors = []
    for name, array in weights.tensors.items():
        kind = "f32" if array.ndim == 1 else "f16" if array.shape[1] % _BLOCK.get(head_type, 1) else head_type
        data = core.quantize(array, kind)
        if not np.isfinite(core.dequantize(data, kind, array.size)).all():
            reason = f"{name}: a value does not fit {kind}; use --head-type f32"
            raise BadFile(reason, file=source, key=name, expected=kind)
        tensors.append(((name, kind, array.shape), data))
    return tensors


def _shapes(weights: HeadWeights) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in weights.tensors.items()}


def _head_specs(model: ModelFile, weights: HeadWeights) -> list[TensorSpec]:
    """The head tensors of a file as they should be declared: another tool may have dropped dimensions of size 1."""
    shapes = _shapes(weights)
    return [(t.name, t.type, shapes[t.name]) for t in model.head_tensors]


def _view_spec(view: bytes) -> TensorSpec:
    return BASE_VIEW, "i8", (len(view),)


def _default_output(base: Path, adapter: bool) -> Path:
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", base.stem)
    return Path(f"{stem}-autodeco{'-adapter' if adapter else ''}.gguf")
