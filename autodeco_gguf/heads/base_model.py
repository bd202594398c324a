"""A base model to put heads on, and whether heads fit it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.files.gguf import GgufFile
from autodeco_gguf.heads.model_file import ModelFile
from autodeco_gguf.heads.weights import HeadWeights

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


_ARCHITECTURE_ALIASES = {
    "mistral": "llama",
    "mixtral": "llama",
    "deepseekv2": "deepseek2",
    "deepseekv3": "deepseek2",
    "gemma3text": "gemma3",
    "graniteforcausallm": "granite",
    "phi": "phi2",
    "phi4": "phi3",
    "smollm": "llama",
}
"""transformers model type -> llama.cpp architecture, where the two are not the same word."""


@dataclass(frozen=True)
class BaseModel:
    """A base model to put heads on: one GGUF, the base inside a merged one, or shards."""

    path: Path
    parts: tuple[GgufFile, ...]

    @classmethod
    def open(cls, path: Path) -> BaseModel:
        """Read the header, and those of the other shards where there are some.

        Raises:
            AutoDecoError: not a GGUF, an adapter, a missing shard, no tensors, or bytes after the last tensor.
        """
        first = ModelFile.open(path).base()
        parts = [first]
        n_shards = int(first.get("split.count", int, 1))
        if n_shards > 1:
            parts += [GgufFile(p) for p in _other_shards(path, first, n_shards)]
            _check_shards(path, parts)
        if not any(part.tensors for part in parts):
            raise AutoDecoError(f"{path}: no tensors in it; give a model, not a vocabulary")
        return cls(path, tuple(parts))

    @property
    def paths(self) -> list[Path]:
        """The files it consists of."""
        return [part.path for part in self.parts]

    @property
    def architecture(self) -> str:
        """``general.architecture``; empty where the file does not say."""
        return str(self.parts[0].get("general.architecture", str, ""))

    @property
    def hidden_size(self) -> int | None:
        """Width of the hidden state, None where the file does not say."""
        value = self.parts[0].get(f"{self.architecture}.embedding_length", int)
        return None if value is None else int(value)

    @property
    def vocab_size(self) -> int | None:
        """Number of tokens, None where the file does not say."""
        first = self.parts[0]
        return first.array_length("tokenizer.ggml.tokens") or first.get(f"{self.architecture}.vocab_size", int)

    def check_fit(self, hidden_size: int, vocab_size: int | None, source: str) -> None:
        """Raise AutoDecoError, with both values, unless heads of these sizes fit."""
        for what, ours, theirs in (
            ("hidden size", hidden_size, self.hidden_size),
            ("vocabulary", vocab_size, self.vocab_size),
        ):
            if ours is not None and theirs is not None and ours != theirs:
                raise AutoDecoError(
                    f"{source}: heads for {what} {ours}, the base model {self.path} has {theirs}; "
                    "use the heads trained for this base"
                )

    def check_architecture(self, name: str, source: str) -> None:
        """Raise AutoDecoError unless the architecture is this one; names that llama.cpp does not know pass.

        Args:
            name: transformers' or llama.cpp's name of the architecture the heads were trained on.
            source: where the heads come from.
        """
        from gguf.constants import MODEL_ARCH_NAMES

        known = {_plain(arch) for arch in MODEL_ARCH_NAMES.values()}
        ours = _ARCHITECTURE_ALIASES.get(_plain(name), _plain(name))
        theirs = _plain(self.architecture)
        if ours in known and theirs in known and ours != theirs:
            raise AutoDecoError(
                f"{source}: heads for architecture {name}, the base model {self.path} is {self.architecture}; "
                "use the heads trained for this base"
            )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _check_shards(path: Path, parts: list[GgufFile]) -> None:
    """Raise AutoDecoError unless the shards are all different and make up the whole model."""
    for i, part in enumerate(parts):
        if part.get("split.no", int, i) != i:
            raise AutoDecoError(f"{part.path}: says it is shard {part.get('split.no', int)}, expected {i}")
    names = [t.name for part in parts for t in part.tensors]
    expected = parts[0].get("split.tensors.count", int, len(names))
    if len(names) != expected or len(set(names)) != len(names):
        raise AutoDecoError(
            f"{path}: its shards have {len(set(names))} tensors, expected {expected}; "
            "one is damaged or of another model"
        )


def _other_shards(path: Path, first: GgufFile, n_shards: int) -> list[Path]:
    match = _SHARD.search(path.name)
    if match is None or int(match[2]) != n_shards:
        raise AutoDecoError(f"{path}: a shard of {n_shards}, but not named like -00001-of-{n_shards:05}.gguf")
    if int(match[1]) != 1 or first.get("split.no", int, 0) != 0:
        raise AutoDecoError(f"{path}: not the first shard; give the one named -00001-of-{n_shards:05}.gguf")
    stem = path.name[: match.start()]
    return [path.with_name(f"{stem}-{i:05}-of-{n_shards:05}.gguf") for i in range(2, n_shards + 1)]


def fitting_heads(model: ModelFile, other: str | os.PathLike[str] | None = None) -> HeadWeights:
    """A model's own heads, or those of another file, checked to fit.

    Raises:
        AutoDecoError: no heads, broken ones, or heads for another hidden size, vocabulary or architecture.
    """
    if other is None:
        return model.read_heads()
    source = ModelFile.open(Path(other))
    weights = source.read_heads()
    base = BaseModel(model.path, (model.base(),))
    base.check_fit(weights.hidden_size, weights.vocab_size, str(source.path))
    base.check_architecture(str(source.outer.get("general.architecture", str, "")), str(source.path))
    return weights
