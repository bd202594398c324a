"""A base model to put heads on, and whether heads fit it."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from autodeco_gguf.errors import BadFile
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.architecture import are_different
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.weights import HeadWeights

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True)
class BaseModel:
    """A base model to put heads on: one GGUF, the base inside a merged one, or shards."""

    file: ModelFile
    parts: tuple[GgufFile, ...]

    @classmethod
    def open(cls, path: Path) -> BaseModel:
        """Read the header, and those of the other shards where there are some.

        Raises:
            BadFile: not a GGUF, an adapter, a stale base view, a missing shard or one of another model, or no tensors.
        """
        file = ModelFile.open(path)
        path, first = file.path, file.base()
        parts = [first]
        n_shards = first.get("split.count", int, 1)
        if n_shards > 1:
            parts += [GgufFile(p) for p in _other_shards(path, first, n_shards)]
            _check_shards(path, parts)
        if not any(part.tensors for part in parts):
            raise BadFile.of(path, "no tensors in it; give a model, not a vocabulary")
        return cls(file, tuple(parts))

    @property
    def path(self) -> Path:
        """The file, or the first of its shards."""
        return self.file.path

    @property
    def name(self) -> str:
        """The id of a known model, else what the file calls itself, else how it is called."""
        if self.file.known is not None:
            return self.file.known.base
        return self.parts[0].get("general.name", str, "") or self.path.stem

    @property
    def paths(self) -> list[Path]:
        """The files it consists of."""
        return [part.path for part in self.parts]

    @property
    def hidden_size(self) -> int | None:
        """Width of the hidden state, None where the file does not say."""
        first = self.parts[0]
        return first.get(f"{first.architecture}.embedding_length", int)

    @property
    def vocab_size(self) -> int | None:
        """Number of tokens, None where the file does not say."""
        first = self.parts[0]
        return first.array_length("tokenizer.ggml.tokens") or first.get(f"{first.architecture}.vocab_size", int)

    def check_fit(self, hidden_size: int, vocab_size: int | None, architecture: str, source: str | Path) -> None:
        """Raise BadFile, with both values, unless the heads of ``source``, trained on such a base, fit.

        What is unknown fits; the architecture may have transformers' name or llama.cpp's.
        """
        sizes = ("hidden size", hidden_size, self.hidden_size), ("vocabulary", vocab_size, self.vocab_size)
        for what, ours, theirs in sizes:
            if ours is not None and theirs is not None and ours != theirs:
                raise self._unfit(source, what, ours, f"has {theirs}", theirs)
        name = self.parts[0].architecture
        if are_different(architecture, name):
            raise self._unfit(source, "architecture", architecture, f"is {name}", name)

    def _unfit(self, source: str | Path, what: str, found: object, verb: str, expected: object) -> BadFile:
        reason = f"heads for {what} {found}, the base model {self.path} {verb}; use the heads trained for this base"
        return BadFile.of(source, reason, key=what, expected=expected, found=found)


def parts_of(base: GgufFile) -> tuple[GgufFile, ...]:
    """A base, or all shards of which it is the first; BadFile where one is missing or of another model."""
    return _shards(base) if base.get("split.count", int, 1) > 1 else (base,)


def fingerprint_of(parts: tuple[GgufFile, ...]) -> str:
    """Tells one model from another: that of its file, or a digest of all its shards'."""
    found = [part.fingerprint() for part in parts]
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


@functools.lru_cache(maxsize=8)  # of models side by side: those of one that is loaded again are the same
def _shards(base: GgufFile) -> tuple[GgufFile, ...]:
    return BaseModel.open(base.path).parts


def _check_shards(path: Path, parts: list[GgufFile]) -> None:
    """Raise BadFile unless the shards are all different and make up the whole model."""
    for i, part in enumerate(parts):
        number = part.get("split.no", int, i)
        if number != i:
            reason = f"says it is shard {number}, expected {i}"
            raise BadFile.of(part.path, reason, key="split.no", expected=i, found=number)
    names: dict[str, Path] = {}
    for part in parts:
        for tensor in part.tensors:
            if tensor.name in names:
                reason = f"{tensor.name} stands in {names[tensor.name].name} too; one is damaged or of another model"
                raise BadFile.of(part.path, reason, key=tensor.name)
            names[tensor.name] = part.path
    found, expected = len(names), parts[0].get("split.tensors.count", int, len(names))
    if found != expected:
        reason = f"its shards have {found} tensors, expected {expected}; one is damaged or of another model"
        raise BadFile.of(path, reason, key="split.tensors.count", expected=expected, found=found)


def _other_shards(path: Path, first: GgufFile, n_shards: int) -> list[Path]:
    match = _SHARD.search(path.name)
    if match is None or int(match[2]) != n_shards:
        raise BadFile.of(path, f"a shard of {n_shards}, but not named like -00001-of-{n_shards:05}.gguf")
    if int(match[1]) != 1 or first.get("split.no", int, 0) != 0:
        raise BadFile.of(path, f"not the first shard; give the one named -00001-of-{n_shards:05}.gguf")
    stem = path.name[: match.start()]
    return [path.with_name(f"{stem}-{i:05}-of-{n_shards:05}.gguf") for i in range(2, n_shards + 1)]


def fitting_heads(model: ModelFile, other: str | os.PathLike[str] | None) -> HeadWeights:
    """A model's own heads, or those of another file, checked to fit.

    Raises:
        BadFile: no heads, broken ones, or heads for another hidden size, vocabulary or architecture.
    """
    if other is None:
        return model.read_heads()
    source = ModelFile.open(other).heads_source
    if source.kind == "plain":
        raise BadFile.of(source.path, "no AutoDeco heads in it; give an adapter, or a merged file")
    weights = source.read_heads()
    base = BaseModel(model, (model.base(),))
    base.check_fit(weights.hidden_size, weights.vocab_size, source.outer.architecture, source.path)
    return weights
