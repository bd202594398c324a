"""The training loop: streamed batches, validation, early stopping, and a state to resume from."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.model.context import Context
from autodeco_gguf.model.features import Features, Tokens, stream
from autodeco_gguf.tasks.commands import VARIANTS
from autodeco_gguf.training.data import Dataset, Ids, held_out
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.objective import Losses, Positions, backward, batch_losses, collect
from autodeco_gguf.training.optimizer import HeadsOptimizer
from autodeco_gguf.training.schedule import rate
from autodeco_gguf.training.settings import MAX_VALIDATION, TrainingSettings
from autodeco_gguf.training.state import State

SAVE_S = 60.0
"""Seconds between saved states; what is lost by a kill, and computed again."""


@dataclass(frozen=True)
class Step:
    """A step of a training that has ``steps``: its own losses, and those of a validation where one was made."""

    step: int
    steps: int
    epoch: float
    lr: float
    grad_norm: float
    train: Losses
    tok_s: float
    validation: Losses | None = None

    def record(self) -> dict[str, object]:
        """Its line of ``log.jsonl``."""
        return {key: value for key, value in asdict(self).items() if key != "steps" and value is not None}


@dataclass
class _Progress:
    """How far it is, as the state keeps it: ``bad`` validations since the ``best``."""

    step: int = 0
    best: dict[str, torch.Tensor] | None = None
    best_step: int = 0
    best_loss: float = math.inf
    bad: int = 0


class Trainer:
    """Trains heads on the features of one model.

    Everything random follows from the seed and the step, so that a resumed training gives what an undisturbed one
    would (with one thread: torch's and llama.cpp's sums depend on how they are split).
    """

    def __init__(
        self,
        context: Context,
        data: Dataset,
        settings: TrainingSettings,
        output: Path,
        state: Path,
        identity: Mapping[str, object],
        start: HeadsModule | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Prepare to train the base of ``context``, or resume from the state there is.

        ``identity`` is all that tells the features of ``context`` from others: the "base", how it is run. ``start`` are
        heads to begin with, which are kept where no step is better; new ones by default. ``device`` is where torch
        works on them, by default the CPU.

        ``log.jsonl`` is written into the directory ``output``, ``state.pt`` into ``state``; both exist. Raises BadFile
        for a state of another training, or a damaged one.
        """
        self.prompts = data.prompts()
        parts = held_out(len(data), settings.validation, MAX_VALIDATION, settings.seed, self.prompts)
        self.validation_ids, self._training_ids = map(np.sort, parts)
        if np.isin(
            self.prompts[self.validation_ids], self.prompts[self._training_ids]
        ).any():  # there is hardly another
            self.prompts = np.arange(len(data), dtype=np.uint32)
        self.batch, self.steps, self._peak_lr = settings.resolved(len(self._training_ids), context.hidden_size)
        settings = replace(settings, batch=self.batch, steps=self.steps, lr=self._peak_lr)
        self._context, self._data, self._settings = context, data, settings
        self._steps_epoch = math.ceil(len(self._training_ids) / self.batch)
        self.given = start is not None
        heads = start or HeadsModule(context.hidden_size, settings.seed, settings.kind)
        self.heads = heads.to(device or torch.device("cpu"))
        how = {"lr": self._peak_lr, "weight_decay": settings.weight_decay, "clip": settings.clip}
        self._optimizer = HeadsOptimizer(self.heads, settings.objective.heads, **how)
        self._at = _Progress()
        self._order: tuple[int, Ids] = (-1, self._training_ids)
        split = hashlib.sha256(self.validation_ids.tobytes()).hexdigest()
        described = {**asdict(settings), "data": data.digest, "split": split, **identity}
        del described["max_tokens"]  # by default it goes with the memory; what it cut, the data tell
        self._state = State(state / "state.pt", output / "log.jsonl", described)
        self._state.load(self._take)

    # ---- the loop ----

    def run(self, on_step: Callable[[Step], None] = lambda _: None) -> None:
        """Train to the end; the best heads by validation loss stay.

        Raises:
            ModelFailed: what the model gives for an example is not finite, and for which, or a gradient or the loss on
                validation data is not.
        """
        saved = time.monotonic()
        every = -(-self.steps // self._settings.evaluations)  # no more of them than that
        self._state.open_log()
        if self.given and self._at.step == 0:
            self._validate()
        while self._at.step < self.steps and not 0 < self._settings.patience <= self._at.bad:
            done = self.train_step()
            if done.step % every == 0 or done.step == self.steps:
                done = replace(done, validation=self._validate())
            self._state.write(done.record())
            on_step(done)
            if time.monotonic() - saved > SAVE_S or done.validation is not None or done.step == self.steps:
                self._save()
                saved = time.monotonic()
        if self._at.best is not None:
            self.heads.load_state_dict(self._at.best)

    @property
    def step(self) -> int:
        """Steps done."""
        return self._at.step

    @property
    def kept(self) -> int:
        """The step after which the heads were as they are kept: that of the best validation, if there was any."""
        return self._at.step if self._at.best is None else self._at.best_step

    def train_step(self) -> Step:
        """One step, whatever was planned; raises ModelFailed as :meth:`run` does."""
        settings, begin = self._settings, time.monotonic()
        ids = self.batch_ids(self._at.step)
        sequences, triples = self._batch(ids)
        seed = np.random.SeedSequence([settings.seed, 3, self._at.step]).generate_state(1)  # torch takes 32 bits of it
        draws = torch.Generator().manual_seed(int(seed[0]))
        positions = self._collect(ids, sequences, draws, triples)
        losses = batch_losses(positions, triples, settings.objective)
        lr = rate(self._at.step, self.steps, self._peak_lr, settings.warmup, settings.schedule)

        def add_gradients() -> None:
            backward(self.heads, positions, triples, settings.objective)

        norm = self._optimizer.step(f"step {self._at.step + 1}", lr, add_gradients)
        self._at.step += 1
        tok_s = round(sum(map(len, sequences)) / max(time.monotonic() - begin, 1e-9), 1)
        return Step(self._at.step, self.steps, self._at.step / self._steps_epoch, lr, norm, losses, tok_s)

    def batch_ids(self, step: int) -> Ids:
        """The examples of the step after ``step`` others."""
        epoch, place = divmod(step, self._steps_epoch)
        if self._order[0] != epoch:
            rng = np.random.default_rng([self._settings.seed, 2, epoch])
            self._order = (epoch, rng.permutation(self._training_ids))
        return self._order[1][place * self.batch :][: self.batch]

    def _batch(self, ids: Ids) -> tuple[list[Tokens], torch.Tensor]:
        """The sequences of some examples, and which of them [m, 3] are ``VARIANTS`` of one."""
        sequences: list[Tokens] = []
        triples: list[tuple[int, int, int]] = []
        for i in ids:
            example, first = self._data[int(i)], len(sequences)
            triples += [(first, first + low, first + low + 1) for low in range(1, len(example), 2)]
            sequences += example
        return sequences, torch.tensor(triples, dtype=torch.long).reshape(-1, len(VARIANTS))

    def _collect(
        self, ids: Ids, sequences: list[Tokens], draws: torch.Generator | None, triples: torch.Tensor
    ) -> Positions:
        n = sum(int((tokens < 0).sum()) for tokens in sequences)
        features = self._finite(ids, stream(self._context, sequences))
        return collect(self.heads, features, n, self._settings.objective, draws, triples)

    def _finite(self, ids: Ids, features: Iterable[Features]) -> Iterator[Features]:
        """The same; raises ModelFailed where the model's numbers are not finite, which no rate mends."""
        for part in features:
            fine = np.isfinite(part.hidden).all(1) & (part.logits.max(1) < np.inf)  # -inf is of no token
            if not fine.all():
                owners = np.repeat(ids, [len(self._data[int(i)]) for i in ids])
                example = int(owners[part.sequence[~fine][0]]) + 1
                reason = f"the model's hidden state or logits are not finite for example {example} of the data"
                raise ModelFailed(f"{reason}; leave it out, or use another model", key="data", found=example)
            yield part

    # ---- validation ----

    def validation_features(self) -> Iterator[Features]:
        """Those of the held-out examples without their variants; ``sequence`` is the number of the prompt."""
        for ids in self._validation_batches():
            for part in stream(self._context, [self._data[int(i)][0] for i in ids]):
                yield replace(part, sequence=self.prompts[ids].astype(np.int64)[part.sequence])

    def _validation_batches(self) -> Iterator[Ids]:
        for first in range(0, len(self.validation_ids), self.batch):
            yield self.validation_ids[first : first + self.batch]

    def _validate(self) -> Losses | None:
        if not len(self.validation_ids):
            return None
        parts = []
        for ids in self._validation_batches():
            sequences, triples = self._batch(ids)
            positions = self._collect(ids, sequences, None, triples)
            parts.append(batch_losses(positions, triples, self._settings.objective))
        result = Losses.mean(parts, self._settings.objective.average)
        if math.isnan(result.total):
            raise ModelFailed(f"step {self._at.step}: the loss on validation data is not a number; lower --lr")
        if result.total < self._at.best_loss:
            self._at.best_step, self._at.best_loss, self._at.bad = self._at.step, result.total, 0
            self._at.best = {k: v.clone() for k, v in self.heads.state_dict().items()}
        else:
            self._at.bad += 1
        return result

    # ---- state ----

    def _save(self) -> None:
        kept = {"heads": self.heads.state_dict(), "optimizer": self._optimizer.state_dict()}
        self._state.save({**vars(self._at), **kept})

    def _take(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises what torch raises for one that is none."""
        at = _Progress(**{f.name: state[f.name] for f in fields(_Progress)})
        for weights in (state["heads"] if at.best is None else at.best, state["heads"]):
            self.heads.load_state_dict(weights)
        self._optimizer.load_state_dict(state["optimizer"])
        if not all(type(n) is int and n >= 0 for n in (at.step, at.best_step, at.bad)):
            raise ValueError("no numbers of steps")
        self._at = at
