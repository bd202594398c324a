"""Heads to begin a training with that are there already."""

from __future__ import annotations

from pathlib import Path

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.heads.base_model import BaseModel, fitting_heads
from autodeco_gguf.heads.checkpoint import read_checkpoint
from autodeco_gguf.heads.hub import is_hub_id
from autodeco_gguf.heads.known import known_model
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.settings import Objective

NEW = "new"
"""What to begin with where it is no file: new heads."""


def read_start(model: BaseModel, path: str | Path, objective: Objective, seed: int) -> HeadsModule | None:
    """The heads of a checkpoint (``read_checkpoint``), an adapter or a merged file, checked to fit; None for NEW.

    Those that take part in the objective are read; another one is new.

    Raises:
        BadFile: broken ones, those of another model, or without a head that is to take part.
        InvalidInput: NEW, where one is to stay as it is.
    """
    if path == NEW:
        if objective.frozen:
            raise InvalidInput(f"frozen {' and '.join(objective.frozen)} head: there is none; give heads to start from")
        return None
    if Path(path).is_file() or str(path).endswith(".gguf") or known_model(path) or is_hub_id(path):
        weights = fitting_heads(model.file, path)
    else:
        checkpoint = read_checkpoint(path)
        weights = checkpoint.weights
        model.check_fit(weights.hidden_size, checkpoint.vocab_size, checkpoint.base_model_type, path)
    heads = HeadsModule(weights.hidden_size, seed)
    try:
        heads.take(weights, objective.there)
    except InvalidInput as e:
        raise BadFile.of(path, e, key=e.key) from e
    return heads


def start_files(path: str | Path) -> list[Path]:
    """The files that it is read from, as far as they are on this machine."""
    path = Path(path)
    return sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []


def start_identity(heads: HeadsModule | None) -> str:
    """What tells them from others, as the state of a training keeps it."""
    return NEW if heads is None else heads.weights(vocab_size=0, base_model="").fingerprint()
