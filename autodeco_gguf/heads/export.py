"""Putting heads into GGUF files and taking them out again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from autodeco_gguf._native import core
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import Progress, check_output, copy_range, write_atomically
from autodeco_gguf.files.gguf import GgufFile, KeyValue, TensorSpec
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.heads.checkpoint import Checkpoint, read_checkpoint
from autodeco_gguf.heads.format import ACTIVATIONS, BASE_SIZE, BASE_VIEW, HEAD_TYPES, PREFIX, VERSION, head_key
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
        progress: called as tensor data is copied.

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
    checkpoint_files = Path(heads).iterdir() if Path(heads).is_dir() else ()
    check_output(path, inputs=[*model.paths, *checkpoint_files], force=force)
    weights = _fit(read_checkpoint(heads, activation=activation), model, heads)
    tensors = _encode(weights, head_type, heads)
    if adapter:
        return _write_adapter(path, model.parts[0], tensors, weights)
    return _write_merged(path, model, tensors, weights, progress)


def extract(
    merged: str | Path,
    *,
    base: str | Path | None = None,
    adapter: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> list[ExportResult]:
    """Take a merged file apart: the base, bit-identical to the file it was made of, and the heads.

    Raises:
        BadFile: not a merged file, a stale base view, an output that cannot be written.
        InvalidInput: no output is given, or one twice.
    """
    model = _open_merged(Path(merged), merged, "extract takes a merged file")
    if base is None and adapter is None:
        raise InvalidInput("nothing to extract: give --base OUT, --adapter OUT or both")
    if base is not None and adapter is not None and Path(base).resolve() == Path(adapter).resolve():
        raise InvalidInput(f"{base}: given as both outputs", file=base)
    model.base()  # refuses a stale view
    for path in (base, adapter):
        if path is not None:
            check_output(Path(path), inputs=[model.path], force=force)
    weights = model.read_heads()
    results = []
    if base is not None:
        source = _Range(model.path, model.base().start, model.base_nbytes)
        results.append(_write(Path(base), [source], 1, "plain", None, progress))
    if adapter is not None:
        tensors = zip(_head_specs(model, weights), map(model.outer.read, model.head_tensors), strict=True)
        results.append(_write_adapter(Path(adapter), model.outer, list(tensors), weights))
    return results


def repack(path: str | Path, *, progress: Progress | None = None) -> ExportResult | None:
    """Rebuild the stale base view of a merged file that another tool has rewritten, in place.

    Returns:
        What was written; None where the view is fresh and nothing had to be.

    Raises:
        BadFile: not a merged file, broken heads, or no room beside the file.
    """
    model = _open_merged(Path(path).resolve(), path, "only a merged file has a base view")  # of a link, its file
    if model.stale is None:
        return None
    if not model.base_tensors:
        raise BadFile.of(path, "no base model's tensors in it")
    weights, outer = model.read_heads(), model.outer
    specs = [t.spec for t in model.base_tensors]
    view = outer.header.build([PREFIX], [], specs)
    header = outer.header.build([BASE_SIZE], [], [_view_spec(view), *specs, *_head_specs(model, weights)])
    copied = [_Range(model.path, t.offset, t.nbytes) for t in (*model.base_tensors, *model.head_tensors)]
    return _write(model.path, [header + view, *copied], outer.alignment, "merged", weights, progress)


def _open_merged(path: Path, given: str | Path, need: str) -> ModelFile:
    model = ModelFile.open(path)
    if model.kind != "merged":
        found = "is an adapter" if model.kind == "adapter" else "no AutoDeco heads in it"
        raise BadFile.of(given, f"{found}; {need}", expected="merged", found=model.kind)
    return model


# ---- writing ----


def _write_merged(
    path: Path, base: BaseModel, tensors: _Tensors, weights: HeadWeights, progress: Progress | None
) -> ExportResult:
    first, alone = base.parts[0], len(base.parts) == 1
    specs = [t.spec for part in base.parts for t in part.tensors]
    entries = _metadata(weights)
    if alone:
        view = first.read_range(first.start, first.data - first.start)  # byte for byte: the source stands in it whole
        end = _source_end(base)
        copied = [_Range(first.path, first.data, end - first.data)]
        if end < first.start + first.pad(first.end - first.start):
            entries.append((BASE_SIZE, "u64", end - first.start))
    else:
        view = first.header.build(["split."], [], specs)
        copied = [_Range(part.path, t.offset, t.nbytes) for part in base.parts for t in part.tensors]
    drop = [PREFIX] if alone else ["split.", PREFIX]
    header = first.header.build(drop, entries, [_view_spec(view), *specs, *(spec for spec, _ in tensors)])
    chunks: list[bytes | _Range] = [header + view, *copied, *(data for _, data in tensors)]
    return _write(path, chunks, first.alignment, "merged", weights, progress)


def _source_end(base: BaseModel) -> int:
    """Where the one source file ends; the padding after its last tensor may be missing, nothing may follow it."""
    part = base.parts[0]
    if base.file.kind == "merged":
        return part.start + base.file.base_nbytes
    extra = part.file_size - part.pad(part.end)
    if extra > 0:
        raise BadFile.of(part.path, f"{extra} bytes follow the last tensor, expected the file to end there")
    return part.file_size


def _write_adapter(path: Path, template: GgufFile, tensors: _Tensors, weights: HeadWeights) -> ExportResult:
    general: list[KeyValue] = [
        ("general.type", "str", "adapter"),
        ("general.architecture", "str", template.architecture),
        ("adapter.type", "str", "autodeco"),
    ]
    header = template.header.build([""], [*general, *_metadata(weights)], [spec for spec, _ in tensors])
    return _write(path, [header, *(data for _, data in tensors)], 32, "adapter", weights)


def _write(
    path: Path,
    chunks: Sequence[bytes | _Range],
    alignment: int,
    kind: Kind,
    weights: HeadWeights | None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write bytes and copies of bytes, each padded to the alignment, and read back what came of it."""
    total = sum(chunk.nbytes for chunk in chunks if isinstance(chunk, _Range))

    def write(out: BinaryIO) -> None:
        done = 0

        def step(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress is not None:
                progress(done, total)

        for chunk in chunks:
            if isinstance(chunk, _Range):
                copy_range(*chunk, out, step)
                out.write(b"\0" * (-chunk.nbytes % alignment))
            else:
                out.write(chunk + b"\0" * (-len(chunk) % alignment))

    write_atomically(path, write, lambda p: _verify(p, kind, weights))
    return ExportResult(path, path.stat().st_size, tuple(weights.mlps) if weights is not None else ())


def _verify(path: Path, kind: Kind, weights: HeadWeights | None) -> None:
    """Read back what was written with the reader that will have to live with it."""
    model = ModelFile.open(path)
    if model.kind != kind or model.stale is not None:
        raise BadFile.of(path, f"reads back as {model.kind}, {model.stale}; nothing was written")
    if weights is not None and _shapes(model.read_heads()) != _shapes(weights):
        raise BadFile.of(path, "its heads read back with other shapes; nothing was written")


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
