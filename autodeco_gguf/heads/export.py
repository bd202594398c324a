"""Putting heads into GGUF files and taking them out again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from autodeco_gguf._native import core
from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.files.atomic import Progress, check_output, copy_range, write_atomically
from autodeco_gguf.files.gguf import GgufFile, KeyValue, TensorInfo, TensorSpec
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.heads.checkpoint import Checkpoint, read_checkpoint
from autodeco_gguf.heads.format import (
    ACTIVATIONS,
    BASE_SIZE,
    BASE_VIEW,
    HEAD_PREFIX,
    HEAD_TYPES,
    PREFIX,
    VERSION,
    tensor_name,
)
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.weights import HeadWeights

_BLOCK = {"q8_0": 32}
"""Values that a head type packs together; rows of another length are written as f16."""


@dataclass(frozen=True)
class ExportResult:
    """What was written: the file, its size in bytes, and the heads in it."""

    path: Path
    nbytes: int
    heads: tuple[str, ...]


@dataclass(frozen=True)
class _HeadTensor:
    spec: TensorSpec
    data: bytes


def export(
    base: str | Path,
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
        AutoDecoError: input that is broken or does not fit together, an output that cannot be written. Nothing
            is left behind then.
    """
    if head_type not in HEAD_TYPES:
        raise AutoDecoError(f"head type {head_type!r}, expected one of {', '.join(HEAD_TYPES)}")
    if activation is not None and activation not in ACTIVATIONS:
        raise AutoDecoError(f"activation {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    base_model = BaseModel.open(Path(base))
    path = Path(output) if output is not None else _default_output(base_model.path, adapter)
    check_output(path, inputs=[*base_model.paths, *_checkpoint_files(heads)], force=force)
    checkpoint = read_checkpoint(heads, activation=activation)
    weights = _fit(checkpoint, base_model, str(heads))
    tensors = _encode(weights, head_type)
    entries = _metadata(weights)
    if adapter:
        return _write_adapter(path, base_model.parts[0], base_model.architecture, entries, tensors, weights)
    return _write_merged(path, base_model, entries, tensors, weights, progress)


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
        AutoDecoError: not a merged file, a stale base view, an output that cannot be written.
    """
    model = ModelFile.open(Path(merged))
    if model.kind != "merged":
        raise AutoDecoError(f"{merged}: {_describe(model.kind)}; extract takes a merged file")
    if base is None and adapter is None:
        raise AutoDecoError("nothing to extract: give --base OUT, --adapter OUT or both")
    if base is not None and adapter is not None and Path(base).resolve() == Path(adapter).resolve():
        raise AutoDecoError(f"{base}: given as both outputs")
    view = model.base()
    outputs = [Path(p) for p in (base, adapter) if p is not None]
    for path in outputs:
        check_output(path, inputs=[model.path], force=force)
    weights = model.read_heads()
    results = []
    if base is not None:
        results.append(_extract_base(Path(base), model, view, progress))
    if adapter is not None:
        tensors = [_HeadTensor(spec, model.outer.read(t)) for t, spec in _head_specs(model, weights)]
        architecture = str(view.get("general.architecture", str, ""))
        results.append(_write_adapter(Path(adapter), model.outer, architecture, _metadata(weights), tensors, weights))
    return results


def repack(path: str | Path, *, progress: Progress | None = None) -> ExportResult | None:
    """Rebuild the stale base view of a merged file that another tool has rewritten, in place.

    Returns:
        What was written; None where the view is fresh and nothing had to be.

    Raises:
        AutoDecoError: not a merged file, broken heads, or no room beside the file.
    """
    model = ModelFile.open(Path(path).resolve())  # of a link, the file it leads to
    if model.kind != "merged":
        raise AutoDecoError(f"{path}: {_describe(model.kind)}; only a merged file has a base view")
    if model.stale is None:
        return None
    if not model.base_tensors:
        raise AutoDecoError(f"{path}: no base model's tensors in it")
    weights = model.read_heads()
    outer = model.outer
    view = outer.header.build([PREFIX], [], [t.spec for t in model.base_tensors])
    heads = _head_specs(model, weights)
    specs = [_view_spec(view), *(t.spec for t in model.base_tensors), *(spec for _, spec in heads)]
    header = outer.header.build([BASE_SIZE], [], specs)

    def write(out: BinaryIO) -> None:
        step = _steps(sum(t.nbytes for t in outer.tensors), progress)
        out.write(header + view)
        _copy_tensors(out, outer, [*model.base_tensors, *(t for t, _ in heads)], outer.alignment, step)

    write_atomically(model.path, write, lambda p: _verify(p, "merged", weights))
    return _result(model.path, weights)


# ---- writing ----


def _write_merged(
    path: Path,
    base: BaseModel,
    entries: list[KeyValue],
    tensors: list[_HeadTensor],
    weights: HeadWeights,
    progress: Progress | None,
) -> ExportResult:
    first = base.parts[0]
    alone = len(base.parts) == 1
    specs = [t.spec for part in base.parts for t in part.tensors]
    end = _source_end(base) if alone else 0
    if alone:
        view = first.read_range(first.start, first.data - first.start)  # byte for byte: the source stands in it whole
        if end < first.start + first.pad(first.end - first.start):
            entries = [*entries, (BASE_SIZE, "u64", end - first.start)]
    else:
        view = first.header.build(["split."], [], specs)
    drop = [PREFIX] if alone else ["split.", PREFIX]
    header = first.header.build(drop, entries, [_view_spec(view), *specs, *(t.spec for t in tensors)])

    def write(out: BinaryIO) -> None:
        step = _steps(sum(part.end - part.data for part in base.parts), progress)
        out.write(header + view)
        if alone:
            copy_range(first.path, first.data, end - first.data, out, step)
            _pad(out, end - first.data, first.alignment)
        for part in () if alone else base.parts:
            _copy_tensors(out, part, part.tensors, first.alignment, step)
        _write_heads(out, tensors, first.alignment)

    write_atomically(path, write, lambda p: _verify(p, "merged", weights))
    return _result(path, weights)


def _source_end(base: BaseModel) -> int:
    """Where the one source file ends; the padding after its last tensor may be missing, nothing may follow it."""
    part = base.parts[0]
    model = ModelFile.open(part.path)
    if model.kind == "merged":
        return part.start + model.base_nbytes
    padded_end = part.pad(part.end)
    if part.file_size > padded_end:
        raise AutoDecoError(
            f"{part.path}: {part.file_size - padded_end} bytes follow the last tensor, expected the file to end there"
        )
    return part.file_size


def _write_adapter(
    path: Path,
    template: GgufFile,
    architecture: str,
    entries: list[KeyValue],
    tensors: list[_HeadTensor],
    weights: HeadWeights,
) -> ExportResult:
    general: list[KeyValue] = [
        ("general.type", "str", "adapter"),
        ("general.architecture", "str", architecture),
        ("adapter.type", "str", "autodeco"),
    ]
    header = template.header.build([""], [*general, *entries], [t.spec for t in tensors])

    def write(out: BinaryIO) -> None:
        out.write(header)
        _write_heads(out, tensors, 32)

    write_atomically(path, write, lambda p: _verify(p, "adapter", weights))
    return _result(path, weights)


def _extract_base(path: Path, model: ModelFile, view: GgufFile, progress: Progress | None) -> ExportResult:
    nbytes = model.base_nbytes

    def write(out: BinaryIO) -> None:
        copy_range(model.path, view.start, nbytes, out, _steps(nbytes, progress))

    def verify(temporary: Path) -> None:
        if ModelFile.open(temporary).kind != "plain":
            raise AutoDecoError(f"{path}: came out as another kind of file; {model.path} may be damaged")

    write_atomically(path, write, verify)
    return ExportResult(path, nbytes, ())


def _verify(path: Path, kind: str, weights: HeadWeights) -> None:
    """Read back what was written with the reader that will have to live with it."""
    model = ModelFile.open(path)
    if model.kind != kind or model.stale is not None:
        raise AutoDecoError(f"{path}: reads back as {model.kind}, {model.stale}; nothing was written")
    found = model.read_heads()
    if {n: [w.shape for w in m.weights] for n, m in found.mlps.items()} != {
        n: [w.shape for w in m.weights] for n, m in weights.mlps.items()
    }:
        raise AutoDecoError(f"{path}: its heads read back with other shapes; nothing was written")


def _result(path: Path, weights: HeadWeights) -> ExportResult:
    return ExportResult(path, path.stat().st_size, tuple(weights.mlps))


def _copy_tensors(
    out: BinaryIO, source: GgufFile, tensors: Iterable[TensorInfo], alignment: int, step: Callable[[int], None]
) -> None:
    for tensor in tensors:
        copy_range(source.path, tensor.offset, tensor.nbytes, out, step)
        _pad(out, tensor.nbytes, alignment)


def _write_heads(out: BinaryIO, tensors: list[_HeadTensor], alignment: int) -> None:
    for tensor in tensors:
        out.write(tensor.data)
        _pad(out, len(tensor.data), alignment)


def _pad(out: BinaryIO, nbytes: int, alignment: int) -> None:
    out.write(b"\0" * (-nbytes % alignment))


def _steps(total: int, progress: Progress | None) -> Callable[[int], None]:
    done = 0

    def step(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    return step


# ---- contents ----


def _fit(checkpoint: Checkpoint, base: BaseModel, source: str) -> HeadWeights:
    """The checkpoint's heads with the base's vocabulary filled in; AutoDecoError where they do not fit."""
    weights = checkpoint.weights
    base.check_fit(weights.hidden_size, checkpoint.vocab_size, source)
    base.check_architecture(checkpoint.base_model_type, source)
    vocab_size = checkpoint.vocab_size or base.vocab_size
    if vocab_size is None:
        raise AutoDecoError(f"{base.path}: neither it nor the checkpoint says how large the vocabulary is")
    name = weights.base_model or str(base.parts[0].get("general.name", str, "")) or base.path.stem
    return replace(weights, vocab_size=vocab_size, base_model=name)


def _metadata(weights: HeadWeights) -> list[KeyValue]:
    entries: list[KeyValue] = [
        ("autodeco.version", "u32", VERSION),
        ("autodeco.hidden_size", "u32", weights.hidden_size),
        ("autodeco.vocab_size", "u32", weights.vocab_size),
        ("autodeco.base_model", "str", weights.base_model),
    ]
    for head, mlp in weights.mlps.items():
        entries.append((f"{PREFIX}{HEAD_PREFIX[head]}.activation", "str", mlp.activation))
    if weights.temperature is not None:
        entries.append(("autodeco.temp_head.scale", "f32", weights.temperature_scale))
    if weights.top_p is not None:
        entries.append(("autodeco.top_p_head.features", "[str]", list(weights.features)))
    return entries


def _encode(weights: HeadWeights, head_type: str) -> list[_HeadTensor]:
    tensors = []
    for head, mlp in weights.mlps.items():
        for i, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
            kind = "f16" if weight.shape[1] % _BLOCK.get(head_type, 1) else head_type
            for part, array, type_ in (("weight", weight, kind), ("bias", bias, "f32")):
                name = tensor_name(head, i, part)
                data = core.quantize(array, type_)
                if not np.isfinite(core.dequantize(data, type_, array.size)).all():
                    raise AutoDecoError(f"{name}: a value does not fit {type_}; use --head-type f32")
                tensors.append(_HeadTensor((name, type_, array.shape), data))
    return tensors


def _head_specs(model: ModelFile, weights: HeadWeights) -> list[tuple[TensorInfo, TensorSpec]]:
    """The head tensors of a file as they should be declared: another tool may have dropped dimensions of size 1."""
    shapes = {
        tensor_name(head, i, "weight"): weight.shape
        for head, mlp in weights.mlps.items()
        for i, weight in enumerate(mlp.weights)
    }
    return [(t, (t.name, t.type, shapes.get(t.name, t.shape))) for t in model.head_tensors]


def _view_spec(view: bytes) -> TensorSpec:
    return BASE_VIEW, "i8", (len(view),)


def _default_output(base: Path, adapter: bool) -> Path:
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", base.stem)
    return Path(f"{stem}-autodeco{'-adapter' if adapter else ''}.gguf")


def _checkpoint_files(heads: str | Path) -> list[Path]:
    return list(Path(heads).iterdir()) if Path(heads).is_dir() else []


def _describe(kind: str) -> str:
    return {"plain": "no AutoDeco heads in it", "adapter": "is an adapter"}[kind]
