"""The training loop: streamed batches, validation, early stopping, and a state to resume from."""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.files.atomic import write_atomically
from autodeco_gguf.model.context import Context
from autodeco_gguf.training.data import VARIANTS, Dataset, Tokens
from autodeco_gguf.training.features import stream
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.objective import Losses, backward, batch_losses, collect
from autodeco_gguf.training.settings import LR_WIDTH, MAX_VALIDATION, Settings

_SAVE_S = 60.0
"""Seconds between saved states; what is lost by a kill, and computed again."""


@dataclass(frozen=True)
class Step:
    """How far a training is: after ``step`` of ``steps``; ``validation`` where one was made."""

    step: int
    steps: int
    losses: Losses
    validation: Losses | None
    lr: float
    tok_s: float


class Trainer:
    """Trains heads on the features of one model.

    Everything random follows from the seed and the step, so that a resumed training gives what an undisturbed one
    would (with one thread: torch's and llama.cpp's sums depend on how they are split).
    """

    def __init__(
        self, context: Context, data: Dataset, settings: Settings, output: Path, state: Path, identity: str
    ) -> None:
        """Prepare, or resume from the state there is.

        Args:
            context: the base; at least ``settings.max_tokens`` cells.
            data: what to train on; a part of it is held out for validation.
            settings: checked.
            output: the directory of ``log.jsonl``; must exist.
            state: the directory of ``state.pt``; must exist.
            identity: of the base model.

        Raises:
            AutoDecoError: the state there is of another training.
        """
        self._peak_lr = LR_WIDTH / context.hidden_size if settings.lr is None else settings.lr
        settings = replace(settings, lr=self._peak_lr)
        self._context, self._data, self._settings = context, data, settings
        self._log, self._state = output / "log.jsonl", state / "state.pt"
        self.vocab_size = context.n_vocab
        order = np.random.default_rng([settings.seed, 1]).permutation(len(data))
        n_validation = min(round(settings.validation * len(data)), MAX_VALIDATION, len(data) - 1)
        if settings.validation > 0 and len(data) > 1:
            n_validation = max(1, n_validation)
        self.validation_ids = np.sort(order[:n_validation])
        self._training_ids = np.sort(order[n_validation:]).astype(np.uint32)
        self._steps_epoch = math.ceil(len(self._training_ids) / settings.batch)
        self.steps = settings.steps or max(1, round(settings.epochs * self._steps_epoch))
        self.heads = HeadsModule(context.hidden_size, settings.seed)
        self._optimizer = torch.optim.AdamW(
            [p for head in self._trained() for p in head.parameters()],
            lr=self._peak_lr,
            weight_decay=settings.weight_decay,
        )
        self._step = 0
        self._best: dict[str, Any] | None = None
        self._best_loss = math.inf
        self._bad = 0
        self._order: tuple[int, npt.NDArray[np.uint32]] = (-1, self._training_ids)
        described = {**asdict(settings), "data": data.digest, "base": identity}
        self._identity = json.loads(json.dumps(described))
        self._log_bytes = 0
        self._resume()

    # ---- the loop ----

    def run(self, on_step: Callable[[Step], None] = lambda _: None) -> None:
        """Train to the end; the best heads by validation loss stay."""
        saved = time.monotonic()
        every = max(1, self.steps // self._settings.evaluations)
        with self._log.open("r+b" if self._log_bytes else "wb") as log:
            log.truncate(self._log_bytes)
            log.seek(self._log_bytes)
            while self._step < self.steps and not self._stopped():
                begin = time.monotonic()
                losses, n_tokens, norm, lr = self._train_step()
                seconds = time.monotonic() - begin
                validation = None
                if self._step % every == 0 or self._step == self.steps:
                    validation = self._validate()
                done = Step(self._step, self.steps, losses, validation, lr, n_tokens / seconds)
                log.write((json.dumps(self._record(done, norm)) + "\n").encode())
                on_step(done)
                if time.monotonic() - saved > _SAVE_S or validation is not None or self._step == self.steps:
                    log.flush()
                    self._log_bytes = log.tell()
                    self._save()
                    saved = time.monotonic()
        if self._best is not None:
            self.heads.load_state_dict(self._best)

    @property
    def step(self) -> int:
        """Steps done."""
        return self._step

    @property
    def best_loss(self) -> float:
        """The best validation loss so far; infinite before the first."""
        return self._best_loss

    def _batch(self, ids: npt.NDArray[Any]) -> tuple[list[Tokens], torch.Tensor]:
        """The sequences of some examples, and which of them [m, 3] are variants of one."""
        sequences: list[Tokens] = []
        triples = []
        for i in ids:
            example = self._data[int(i)]
            if len(example) > 1:
                triples.append([len(sequences) + j for j in range(len(example))])
            sequences += example
        return sequences, torch.tensor(triples, dtype=torch.long).reshape(-1, len(VARIANTS))

    def _trained(self) -> list[torch.nn.Module]:
        objective = self._settings.objective
        return [
            head
            for on, head in ((objective.temperature, self.heads.temp_head), (objective.top_p, self.heads.top_p_head))
            if on
        ]

    def _stopped(self) -> bool:
        return 0 < self._settings.patience <= self._bad

    def _train_step(self) -> tuple[Losses, int, float, float]:
        settings = self._settings
        sequences, triples = self._batch(self._batch_ids())
        seed = np.random.SeedSequence([settings.seed, 3, self._step]).generate_state(1)  # torch takes 32 bits of it
        draws = torch.Generator().manual_seed(int(seed[0]))
        positions = collect(self.heads, stream(self._context, sequences), settings.objective, draws, triples)
        losses = batch_losses(positions, triples, settings.objective)
        lr = self._lr()
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad()
        backward(self.heads, positions, triples, settings.objective)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.clip))
        if not math.isfinite(norm):
            raise AutoDecoError(f"step {self._step + 1}: the gradient is not finite; lower --lr")
        self._optimizer.step()
        self._step += 1
        return losses, sum(map(len, sequences)), norm, lr

    def _batch_ids(self) -> npt.NDArray[np.uint32]:
        epoch, place = divmod(self._step, self._steps_epoch)
        if self._order[0] != epoch:
            rng = np.random.default_rng([self._settings.seed, 2, epoch])
            self._order = (epoch, rng.permutation(self._training_ids))
        begin = place * self._settings.batch
        return self._order[1][begin : begin + self._settings.batch]

    def _lr(self) -> float:
        warmup = max(1, round(self._settings.warmup * self.steps))
        rise = (self._step + 1) / warmup
        fall = (self.steps - self._step) / max(1, self.steps - warmup)
        return self._peak_lr * min(1.0, rise, fall)

    # ---- validation ----

    def validation_plain(self) -> Iterator[list[Tokens]]:
        """The held-out examples without their variants, a batch at a time."""
        for i in range(0, len(self.validation_ids), self._settings.batch):
            yield [self._data[int(j)][0] for j in self.validation_ids[i : i + self._settings.batch]]

    def _validate(self) -> Losses | None:
        if not len(self.validation_ids):
            return None
        parts = []
        for i in range(0, len(self.validation_ids), self._settings.batch):
            sequences, triples = self._batch(self.validation_ids[i : i + self._settings.batch])
            positions = collect(self.heads, stream(self._context, sequences), self._settings.objective, None, triples)
            parts.append(batch_losses(positions, triples, self._settings.objective))
        result = Losses.mean(parts)
        if result.total < self._best_loss:
            self._best_loss, self._bad = result.total, 0
            self._best = {k: v.clone() for k, v in self.heads.state_dict().items()}
        else:
            self._bad += 1
        return result

    def _record(self, done: Step, norm: float) -> dict[str, Any]:
        record: dict[str, Any] = {
            "step": done.step,
            "epoch": done.step / self._steps_epoch,
            "lr": done.lr,
            "grad_norm": norm,
        }
        record |= {"train": asdict(done.losses), "tok_s": round(done.tok_s, 1)}
        return record if done.validation is None else {**record, "validation": asdict(done.validation)}

    # ---- state ----

    def _save(self) -> None:
        state = {
            "identity": self._identity,
            "step": self._step,
            "heads": self.heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "best_loss": self._best_loss,
            "bad": self._bad,
            "log_bytes": self._log_bytes,
        }
        write_atomically(self._state, lambda f: torch.save(state, f), lambda _: None)

    def _resume(self) -> None:
        path = self._state
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True)
            identity = state["identity"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as e:
            raise AutoDecoError(f"{path}: cannot be read; start anew with --force") from e
        if identity != self._identity:
            difference = _difference(identity, self._identity)
            raise AutoDecoError(f"{path}: of a training with {difference}; start anew with --force, or elsewhere")
        self._step, self._best, self._bad = state["step"], state["best"], state["bad"]
        self._best_loss, self._log_bytes = state["best_loss"], state["log_bytes"]
        self.heads.load_state_dict(state["heads"])
        self._optimizer.load_state_dict(state["optimizer"])
        if not self._log.exists() or os.path.getsize(self._log) < self._log_bytes:
            raise AutoDecoError(f"{self._log}: shorter than when {path} was written; start anew with --force")


def _difference(theirs: Any, ours: Any, name: str = "") -> str:
    """The first setting in which two trainings differ, for a reader."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            if theirs.get(key) != ours.get(key):
                return _difference(theirs.get(key), ours.get(key), key)
    if name in ("data", "base"):
        return f"other {name}"
    return f"{name} {theirs}, now {ours}"
