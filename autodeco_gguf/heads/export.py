"""Putting heads into GGUF files and taking them out again."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from autodeco_gguf._native import core
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.atomic import (
    Progress,
    bad_file,
    check_new,
    check_output,
    check_unchanged,
    identity,
    new_directory,
)
from autodeco_gguf.files.gguf import GgufFile, KeyValue, TensorInfo, TensorSpec
from autodeco_gguf.heads.base_model import BaseModel
from autodeco_gguf.heads.checkpoint import Checkpoint, read_checkpoint
from autodeco_gguf.heads.checkpoint_writer import FILES, extracted_checkpoint
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
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.model_writer import ExportResult, Part, Range, WrittenFile, write_models
from autodeco_gguf.heads.weights import HeadWeights

_BLOCK = {"q8_0": 32}
"""Values that a head type packs together; rows of another length are written as f16."""

_Tensors = list[tuple[TensorSpec, bytes]]


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
    with bad_file(Path(heads), "cannot be read"):
        checkpoint_files = {p: identity(p) for p in Path(heads).iterdir()} if Path(heads).is_dir() else {}
    check_output(path, inputs=[*model.paths, *checkpoint_files], force=force)
    checkpoint = read_checkpoint(heads, activation=activation)
    for source in checkpoint_files.keys() & {*checkpoint.files, Path(heads, "config.json")}:
        check_unchanged(source, checkpoint_files[source])
    weights = _fit(checkpoint, model, heads)
    tensors = _encode(weights, head_type, heads)
    file = _adapter(path, model.file, tensors, weights) if adapter else _merged(path, model, tensors, weights)
    (result,) = write_models([file], progress, new=not force)
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

    All outputs are written, or none. ``checkpoint`` is a directory in the official layout. Where no
    ``base`` is wanted an adapter will do, and so will the name of a known model.

    Raises:
        BadFile: not a merged file, a stale base view, an output that cannot be written, heads that the official
            layout has no words for.
        InvalidInput: no output is given, or one twice.
    """
    checkpoint_files = [] if checkpoint is None else [Path(checkpoint, name) for name in FILES]
    outputs = [*(Path(path) for path in (base, adapter, checkpoint) if path is not None), *checkpoint_files]
    if not outputs:
        raise InvalidInput("nothing to extract: give --base OUT, --adapter OUT, --checkpoint DIR or several of them")
    twice = next((a for a, b in combinations(outputs, 2) if os.path.realpath(a) == os.path.realpath(b)), None)
    if twice is not None:
        raise InvalidInput(f"{twice}: given as both outputs", file=twice)
    model = _open_merged(Path(merged), merged, "extract takes a merged file", adapters=base is None)
    if model.kind == "merged":
        model.base()  # refuses a stale view
    for path in (base, adapter):
        if path is not None:
            check_output(Path(path), inputs=[model.path], force=force)
    with bad_file(Path(checkpoint or ""), "cannot be written"):
        check_new(checkpoint_files, inputs=[model.path], force=True)
    weights = model.read_heads()
    others = [] if checkpoint is None else extracted_checkpoint(Path(checkpoint), model, weights, force=force)
    files = []
    if base is not None:
        source = Range(model.path, model.base().start, model.base_nbytes)
        files.append(WrittenFile(Path(base), [Part(source)], 1, [model.outer], "plain"))
    if adapter is not None:
        tensors = zip(_head_specs(model, weights), map(model.outer.read, model.head_tensors), strict=True)
        files.append(_adapter(Path(adapter), model, list(tensors), weights, [model.outer]))
    with new_directory(checkpoint):
        results = write_models(files, progress, others, new=not force)
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
    with bad_file(Path(path), "cannot be opened"):
        target = Path(os.path.realpath(path, strict=True))  # of a link, its file
    model = _open_merged(target, path, "only a merged file has a base view")
    if model.stale is None:
        return None
    if not model.base_tensors:
        raise BadFile.of(path, "no base model's tensors in it")
    weights, outer = model.read_heads(), model.outer
    specs = [t.spec for t in model.base_tensors]
    view = outer.header.build([PREFIX], [], specs)
    header = outer.header.build([BASE_SIZE], [], [_view_spec(len(view)), *specs, *_head_specs(model, weights)])
    copied = [_copy(outer, t) for t in (*model.base_tensors, *model.head_tensors)]
    parts = [Part(header), Part(view, BASE_VIEW), *copied]
    (result,) = write_models([WrittenFile(model.path, parts, outer.alignment, [outer], "merged", weights)], progress)
    return result


def _open_merged(path: Path, given: str | Path, need: str, *, adapters: bool = False) -> ModelFile:
    model = ModelFile.open(path)
    if adapters:
        model = model.heads_source
    if model.kind != "merged" and not (adapters and model.kind == "adapter"):
        found = "is an adapter" if model.kind == "adapter" else "no AutoDeco heads in it"
        raise BadFile.of(given, f"{found}; {need}", expected="merged", found=model.kind)
    return model


# ---- files ----


def _merged(path: Path, base: BaseModel, tensors: _Tensors, weights: HeadWeights) -> WrittenFile:
    first, alone = base.parts[0], len(base.parts) == 1
    specs = [t.spec for part in base.parts for t in part.tensors]
    entries = _metadata(weights)
    if alone:  # the source stands in it whole, byte for byte, beginning with the view
        nbytes, end = _source_end(base) - first.start, first.end - first.start
        view_nbytes = first.data - first.start
        copied = [Part(Range(first.path, first.start, nbytes), BASE_VIEW)]
        if nbytes < first.pad(end):
            entries.append((BASE_SIZE, "u64", nbytes))
    else:
        view = first.header.build(["split."], [], specs)
        view_nbytes = len(view)
        copied = [Part(view, BASE_VIEW), *(_copy(part, t) for part in base.parts for t in part.tensors)]
    drop = [PREFIX] if alone else ["split.", PREFIX]
    header = first.header.build(drop, entries, [_view_spec(view_nbytes), *specs, *(spec for spec, _ in tensors)])
    parts = [Part(header), *copied, *_head_parts(tensors)]
    return WrittenFile(path, parts, first.alignment, base.parts, "merged", weights)


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
) -> WrittenFile:
    template, known = base.outer, base.known
    drop, entries, alignment = [""], _metadata(weights), 32
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
    if base.kind == "adapter":  # which says itself what it is for
        drop, general, entries, alignment = [], [], [], template.alignment
    header = template.header.build(drop, [*general, *entries], [spec for spec, _ in tensors])
    return WrittenFile(path, [Part(header), *_head_parts(tensors)], alignment, sources, "adapter", weights)


def _head_parts(tensors: _Tensors) -> list[Part]:
    return [Part(data, name) for (name, _, _), data in tensors]


def _copy(file: GgufFile, tensor: TensorInfo) -> Part:
    return Part(Range(file.path, tensor.offset, tensor.nbytes), tensor.name)


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


def _head_specs(model: ModelFile, weights: HeadWeights) -> list[TensorSpec]:
    """The head tensors of a file as they should be declared: another tool may have dropped dimensions of size 1."""
    shapes = weights.shapes
    return [(t.name, t.type, shapes[t.name]) for t in model.head_tensors]


def _view_spec(nbytes: int) -> TensorSpec:
    return BASE_VIEW, "i8", (nbytes,)


def _default_output(base: Path, adapter: bool) -> Path:
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", base.stem)
    return Path(f"{stem}-autodeco{'-adapter' if adapter else ''}.gguf")
