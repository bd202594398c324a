"""What a GGUF is to this project: a plain model, a merged one with a base view, or an adapter."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from autodeco_gguf._native import core
from autodeco_gguf.errors import AutoDecoError, BadFile, InvalidInput
from autodeco_gguf.files.gguf import GgufFile, TensorInfo
from autodeco_gguf.heads.format import BASE_SIZE, BASE_VIEW, PREFIX, VERSION, head_key, tensor_name
from autodeco_gguf.heads.hub import find, is_hub_id
from autodeco_gguf.heads.known import KnownModel, known_model
from autodeco_gguf.heads.weights import Float32Array, HeadWeights, Mlp

T = TypeVar("T")
Kind = Literal["plain", "merged", "adapter"]


@dataclass(frozen=True)
class ModelFile:
    """A GGUF and what is in it; its headers are read once, its tensors when they are asked for.

    ``view`` is the base model's own header inside a merged file, None where it is missing or unreadable;
    ``stale`` says why the view does not fit the file any more, None where it does or where there is none;
    ``known`` is the model whose name it was opened by.

    Examples:
        >>> from autodeco_gguf.model.shipped import DEMO_MODEL
        >>> model = ModelFile.open(DEMO_MODEL)
        >>> model.kind, sorted(model.read_heads().mlps)
        ('merged', ['temperature', 'top_p'])
    """

    path: Path
    kind: Kind
    outer: GgufFile
    view: GgufFile | None = None
    stale: str | None = None
    known: KnownModel | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ModelFile:
        """Read the headers.

        Args:
            path: a file, the name of a known model (:data:`~autodeco_gguf.heads.known.KNOWN`), or an id of the
                Hugging Face hub (:func:`~autodeco_gguf.heads.hub.find`).

        Raises:
            BadFile: not a GGUF, broken, truncated, of a newer format version, or not to be downloaded.
            InvalidInput: no id that the hub could have.
            AutoDecoError: a known model, or what downloads, is not installed.
        """
        path = Path(path)
        known = known_model(path)
        if known is not None:
            return replace(cls.open(known.find()), known=known)
        if is_hub_id(path):
            return cls.open(find(path))
        outer = GgufFile(path)
        if not any(t.name.startswith(PREFIX) for t in outer.tensors):
            return cls(path, "plain", outer)
        n_shards = outer.get("split.count", int, 1)
        if n_shards > 1:
            reason = f"split.count {n_shards}, a shard of a file with heads; join them with llama-gguf-split --merge"
            raise BadFile.of(path, reason, key="split.count", expected=1, found=n_shards)
        version = outer.get("autodeco.version", int)
        if version is None or not 1 <= version <= VERSION:
            said = "no autodeco.version" if version is None else f"autodeco.version {version}"
            reason = f"{said}, this program reads up to {VERSION}; update autodeco-gguf"
            raise BadFile.of(path, reason, key="autodeco.version", expected=VERSION, found=version)
        if outer.get("general.type", str) == "adapter":
            return cls(path, "adapter", outer)
        view, stale = _open_view(outer)
        return cls(path, "merged", outer, view, stale)

    @property
    def base_tensors(self) -> list[TensorInfo]:
        """The tensors that are not AutoDeco's."""
        return [t for t in self.outer.tensors if not t.name.startswith(PREFIX)]

    @property
    def head_tensors(self) -> list[TensorInfo]:
        """The heads' tensors."""
        return [t for t in self.outer.tensors if t.name.startswith(PREFIX) and t.name != BASE_VIEW]

    @property
    def heads_source(self) -> ModelFile:
        """The file with its heads: for a known model the adapter that is shipped for it, else this one."""
        return self if self.known is None else ModelFile.open(self.known.heads)

    @property
    def base_nbytes(self) -> int:
        """Size in bytes of the source file that stands in a merged one, from the view's first byte."""
        view = self.base()
        size = self.outer.get(BASE_SIZE, int)
        return view.pad(view.end - view.start) if size is None else size

    def base(self) -> GgufFile:
        """The header of the base model that llama.cpp is to load.

        Raises:
            BadFile: an adapter, which has no base in it, or a merged file with a stale view.
        """
        if self.kind == "adapter":
            reason = f"an adapter holds heads only; give the base model and --heads {self.path.name}"
            raise BadFile.of(self.path, reason)
        if self.stale is not None:
            raise BadFile.of(self.path, f"stale base view ({self.stale}); run: autodeco-gguf repack {self.path}")
        return self.view or self.outer

    def read_heads(self) -> HeadWeights:
        """The heads, dequantized to float32.

        Raises:
            BadFile: there are none, or a tensor or key is missing, unknown, misshapen or not finite.
        """
        if self.known is not None:
            return self.heads_source.read_heads()
        if self.kind == "plain":
            advice = "give some with --heads ADAPTER.gguf, or --temperature and --top-p"
            in_python = "in Python heads=, or heads_enabled=() for none"
            raise BadFile.of(self.path, f"no AutoDeco heads in it; {advice} ({in_python})")
        hidden_size, vocab_size = self._key("autodeco.hidden_size", int), self._key("autodeco.vocab_size", int)
        temperature, top_p = self._read_mlp("temperature"), self._read_mlp("top_p")
        features = tuple(self._key(head_key("top_p", "features"), list)) if top_p else HeadWeights.features
        scale = self._key(head_key("temperature", "scale"), float) if temperature else HeadWeights.temperature_scale
        base_model = self.outer.get("autodeco.base_model", str, "")
        weights = HeadWeights(hidden_size, vocab_size, base_model, temperature, top_p, features, scale)
        for tensor in self.head_tensors:
            if tensor.name not in weights.tensors:
                reason = f"tensor {tensor.name} belongs to no head that is complete"
                raise BadFile.of(self.path, reason, key=tensor.name)
        try:
            weights.check()
        except InvalidInput as e:
            raise BadFile.of(self.path, e) from e
        return weights

    def _key(self, key: str, kind: type[T]) -> T:
        value = self.outer.get(key, kind)
        if value is None:
            raise BadFile.of(self.path, f"metadata key {key} is missing", key=key)
        return value

    def _read_mlp(self, head: str) -> Mlp | None:
        tensors = {t.name: t for t in self.head_tensors}
        layers: list[tuple[Float32Array, Float32Array]] = []
        while (name := tensor_name(head, len(layers), "weight")) in tensors:
            bias = tensor_name(head, len(layers), "bias")
            if bias not in tensors:
                raise BadFile.of(self.path, f"tensor {bias} is missing", key=bias)
            layers.append((np.atleast_2d(self._array(tensors[name])), self._array(tensors[bias])))
        if not layers:
            return None
        weights, biases = zip(*layers, strict=True)
        return Mlp(weights, biases, self._key(head_key(head, "activation"), str))

    def _array(self, tensor: TensorInfo) -> Float32Array:
        data = self.outer.read(tensor)
        try:
            return core.dequantize(data, tensor.type, math.prod(tensor.shape)).reshape(tensor.shape)
        except InvalidInput as e:
            raise BadFile.of(self.path, f"{tensor.name}: {e}", key=tensor.name) from e


def _open_view(outer: GgufFile) -> tuple[GgufFile | None, str | None]:
    """The base's header inside a merged file, and why it does not fit the file if it does not."""
    tensor = outer.tensors[0]
    if all(t.name != BASE_VIEW for t in outer.tensors):
        return None, f"no tensor {BASE_VIEW}"
    if tensor.name != BASE_VIEW:
        return None, f"{BASE_VIEW} is not the first tensor"
    try:
        view = GgufFile(outer.path, tensor.offset)
    except AutoDecoError:
        return None, "its header does not parse"
    if view.data != tensor.offset + tensor.nbytes:
        return None, "its header has another length"
    return view, _view_mismatch(outer, view)


def _view_mismatch(outer: GgufFile, view: GgufFile) -> str | None:
    theirs = {t.name: t for t in outer.tensors if not t.name.startswith(PREFIX)}
    ours = {t.name: t for t in view.tensors}
    for name in theirs.keys() ^ ours.keys():
        return f"tensor {name} stands in one header only"
    for name, tensor in ours.items():
        if tensor != theirs[name]:
            return f"tensor {name} has another place, type or shape in it"
    key = view.header.diff(outer.header, [PREFIX])
    return f"metadata key {key} differs" if key else _size_mismatch(outer, view)


def _size_mismatch(outer: GgufFile, view: GgufFile) -> str | None:
    """The source file ends where its last tensor does, or in the padding that follows."""
    end = view.end - view.start
    size = outer.get(BASE_SIZE, object, end)
    if type(size) is int and end <= size <= view.pad(end):
        return None
    return f"{BASE_SIZE} is {size!r:.40}, expected {end} to {view.pad(end)}"
