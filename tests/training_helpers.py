"""What the tests of the training share: data sets, a chat model, and the objective written down a second time."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken import Kind, load_raw, rewrite
from conftest import Case
from torch import Tensor

from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.features import Features, Tokens
from autodeco_gguf.tasks import checkers, grading
from autodeco_gguf.training.data import Counts, Dataset
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.objective import Losses
from autodeco_gguf.training.settings import TrainingSettings
from autodeco_gguf.training.trainer import Trainer

NO_TRIPLES = torch.zeros(0, 3, dtype=torch.long)
SMALL = TrainingSettings(batch=4, steps=6, lr=1e-3, evaluations=3, patience=0, validation=0.25)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_base(source: Path, path: Path, template: str = CHATML, **metadata: tuple[Any, ...]) -> Path:
    """A fixture's base with a chat template and other metadata of the tokenizer."""
    entries = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return rewrite(source, path, metadata={"tokenizer.chat_template": (template, Kind.STRING), **entries})


def jsonl(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def predicted(*tokens: int, after: int = 1) -> Tokens:
    """A sequence whose tokens from the given place on are predicted."""
    array = np.array(tokens, np.int32)
    array[after:] = ~array[after:]
    return array


def dataset(
    directory: Path, examples: Sequence[Sequence[Tokens]], digest: str = "x", prompts: Sequence[int] | None = None
) -> Dataset:
    """What encode_files leaves, of examples with these prompts; each its own by default."""
    directory.mkdir(parents=True, exist_ok=True)
    sequences = [s for example in examples for s in example]
    np.concatenate(sequences).astype(np.int32).tofile(directory / "tokens")
    np.cumsum([0, *(len(s) for s in sequences)], dtype=np.int64).tofile(directory / "ends")
    np.cumsum([0, *(len(e) for e in examples)], dtype=np.int64).tofile(directory / "firsts")
    np.array(range(len(examples)) if prompts is None else prompts, np.uint64).tofile(directory / "prompts")
    return Dataset(directory, Counts(examples=len(examples)), digest)


def random_sequences(rng: np.random.Generator, lengths: Sequence[int], n_vocab: int = 384) -> list[Tokens]:
    """One example each, everything but the first token predicted."""
    return [predicted(*rng.integers(3, n_vocab, n).tolist()) for n in lengths]


def module_of(case: Case) -> HeadsModule:
    """The module with a fixture's weights."""
    arrays = load_raw(case.heads / "model.safetensors")
    hidden = arrays["temp_head.mlp.0.weight"].shape[1]
    module = HeadsModule(hidden, 0)
    module.load_state_dict({key: torch.tensor(value) for key, value in arrays.items()})
    return module


def random_features(n: int = 60, n_vocab: int = 70, hidden: int = 12, parts: int = 3) -> tuple[list[Features], Tensor]:
    """Features of seven sequences: four plain ones, and variants of the first, as long as it, in two triples."""
    rng = np.random.default_rng(4)
    logits = (rng.normal(size=(n, n_vocab)) * 3).astype(np.float32)
    targets = np.where(rng.random(n) < 0.4, logits.argmax(1), rng.integers(0, n_vocab, n))
    lengths = [n // 6 if i in (0, 4, 5, 6) else 1 for i in range(7)]
    lengths[1] += n - sum(lengths)
    whole = Features(
        rng.permutation(np.repeat(np.arange(7), lengths)),
        targets,
        rng.normal(size=(n, hidden)).astype(np.float32),
        logits,
    )
    cuts = np.array_split(np.arange(n), parts)
    return [whole[c[0] : c[-1] + 1] for c in cuts], torch.tensor([[0, 4, 5], [0, 6, 5]])


def trainer(
    context: Context, data: Dataset, settings: TrainingSettings, directory: Path, identity: str = "x"
) -> Trainer:
    directory.mkdir(parents=True, exist_ok=True)
    return Trainer(context, data, settings, directory, directory, {"base": identity})


def log_of(directory: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in r.items() if key != "tok_s"} for r in records]


@contextmanager
def no_room(nbytes: int) -> Iterator[None]:
    """No file can become larger, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def constant_losses(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let validations give these losses."""
    left = iter(values)
    original = Losses.mean
    monkeypatch.setattr(
        Losses, "mean", classmethod(lambda cls, *of: replace(original(*of), temperature=next(left), top_p=0.0))
    )


# ---- the objective, as the paper and the official trainer have it: over all of the vocabulary ----


def plain_temperature_loss(logits: Tensor, targets: Tensor, t: Tensor) -> Tensor:
    probs = torch.softmax(logits / t.clamp(min=0.01)[:, None], -1)
    return -probs[torch.arange(len(targets)), targets].log()


def plain_top_p_loss(logits: Tensor, targets: Tensor, t: Tensor, p: Tensor, alpha: float = 30.0) -> Tensor:
    rows = torch.arange(len(targets))
    probs = torch.softmax(logits / t.clamp(min=1e-8)[:, None], -1)
    order = probs.argsort(-1, descending=True)
    cumulative = probs.gather(-1, order).cumsum(-1)
    decay = torch.exp(-alpha * (cumulative - p[:, None]).clamp(min=0.0))
    kept = probs * torch.empty_like(probs).scatter(-1, order, decay)
    return -torch.log(kept[rows, targets] / (kept.sum(-1) + 1e-9) + 1e-9)


def plain_features(logits: Tensor, t: Tensor) -> Tensor:
    probs = torch.softmax(logits / (t + 1e-8)[:, None], -1)
    entropy = -(probs * (probs + 1e-8).log()).sum(-1)
    n = probs.shape[-1]
    variance = ((probs - 1.0 / n) ** 2).sum(-1) / (n - 1)
    ordered = probs.sort(-1, descending=True).values
    return torch.stack([t, ordered[:, 0], entropy, variance, ordered[:, :5].sum(-1)], -1)


# ---- rollouts ----

CHECKERS = {"even": lambda text, answer: len(text) % 2 == 0, "never": lambda text, answer: False}


@contextmanager
def tame() -> Iterator[None]:
    """A random model ends an answer once in a while, and a checker takes about half of what it says."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        drawn = Generation.drawn
        monkeypatch.setattr(Generation, "drawn", lambda self, token, ends: drawn(self, token, token % 8 == 0))
        monkeypatch.setattr(grading, "IN_PROCESS", {*grading.IN_PROCESS, *CHECKERS, "boxed"})
        for name, checker in CHECKERS.items():
            monkeypatch.setitem(checkers.CHECKERS, name, checker)
        yield
