"""Other families of models: tiny random ones of transformers, made by llama.cpp's converter, and what torch computed.

``families/NAME.npz`` has tokens [n], and for each the hidden state after the final norm and ``lm_head`` of it, which is
what upstream's heads read: of gemma2, cohere and granite before the soft cap or the scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import autodeco_gguf as ad
from autodeco_gguf.heads.checkpoint_writer import write_checkpoint
from autodeco_gguf.heads.weights import HeadWeights, Mlp
from autodeco_gguf.model.machine import Machine

FAMILIES = Path(__file__).parent / "families"
NAMES = sorted(path.stem for path in FAMILIES.glob("*.gguf"))


def random_heads(hidden_size: int, vocab_size: int) -> HeadWeights:
    rng = np.random.default_rng(0)

    def mlp(n_more: int) -> Mlp:
        first = rng.standard_normal((16, hidden_size + n_more)) / np.sqrt(hidden_size)
        first[:, hidden_size:] *= 1.5  # the features matter
        layers = first.astype(np.float32), rng.standard_normal((1, 16)).astype(np.float32)
        return Mlp(layers, (np.zeros(16, np.float32), np.zeros(1, np.float32)), "relu")

    return HeadWeights(hidden_size, vocab_size, "tiny", mlp(0), mlp(5))


class Family:
    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        with np.load(FAMILIES / f"{name}.npz") as golden:
            self.tokens: list[int] = golden["tokens"].tolist()
            self.hidden, self.raw = golden["hidden"], golden["raw"]
        self.heads = random_heads(self.hidden.shape[1], self.raw.shape[1])
        (directory / "heads").mkdir()
        both = ("temperature", "top_p")
        write_checkpoint(directory / "heads", self.heads, enabled=both, base_model_type="", base_config={})
        self.base = FAMILIES / f"{name}.gguf"
        self.merged = ad.export(self.base, directory / "heads", directory / "m.gguf").path

    def engine(self, n_parallel: int, **kwargs: Any) -> ad.Engine:
        machine = Machine(n_threads=1, cache_type="f32")
        return ad.Engine(self.merged, n_parallel=n_parallel, n_ctx=256, machine=machine, **kwargs)
