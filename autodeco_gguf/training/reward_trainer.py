"""The loop of a training on reward: answers by the heads as they are, one step, and again."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autodeco_gguf.answers.items import GradedTasks, Item
from autodeco_gguf.answers.stream import Wanted, answers, groups
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.files.journal import Journal
from autodeco_gguf.model.features import Tokens, stream
from autodeco_gguf.model.sampling import Sampling, seed_from
from autodeco_gguf.training.data import held_out
from autodeco_gguf.training.measures import Measures
from autodeco_gguf.training.module import HeadsModule
from autodeco_gguf.training.optimizer import HeadsOptimizer
from autodeco_gguf.training.output import BEGUN
from autodeco_gguf.training.policy import accumulate
from autodeco_gguf.training.reward_settings import RewardSettings
from autodeco_gguf.training.rewards import MAX_VALIDATION, Group, Reward
from autodeco_gguf.training.state import State


@dataclass(frozen=True)
class Round:
    """A round of a training that has ``rounds``; round 0 is the start, of which there is a validation alone.

    ``drawing_s`` and ``learning_s`` are the seconds that the answers and the step took.
    """

    round: int
    rounds: int
    lr: float = 0.0
    grad_norm: float = 0.0
    train: Measures | None = None
    drawing_s: float = 0.0
    learning_s: float = 0.0
    tok_s: float = 0.0
    validation: Measures | None = None
    validation_s: float = 0.0

    def record(self) -> dict[str, object]:
        """Its line of ``log.jsonl``."""
        return {key: value for key, value in asdict(self).items() if key != "rounds" and value is not None}


@dataclass
class _Progress:
    """How far it is, as the state keeps it: ``bad`` validations since the ``best``."""

    round: int = 0
    best: dict[str, torch.Tensor] | None = None
    best_round: int = 0
    best_reward: float = -math.inf
    bad: int = 0


VALIDATION = "validation"

BETA_2 = 0.95
"""Of AdamW: gradients shrink as groups lose their differences, and a long memory of the first would stop it there."""

Drawn = Callable[[str, int, int], None]
"""Called with what is drawn, the answers that are there, and those wanted."""


_ADVICE = "start anew with --force, or elsewhere"
_DIGESTS = {"base": "another base", "data": "other problems", "start": "another start", "split": "another split"}


class RewardTrainer:
    """Trains heads on the reward of answers that they draw themselves.

    Everything random follows from the seed and the round, and a round begins with an engine that has forgotten all, so
    that a resumed training gives what an undisturbed one would, with one thread.
    """

    def __init__(
        self,
        engine: Engine,
        tasks: GradedTasks,
        items: Sequence[Item],
        reward: Reward,
        settings: RewardSettings,
        files: tuple[Path, Path],
        identity: Mapping[str, object],
        kin: HeadsModule | None = None,
    ) -> None:
        """Prepare to train the heads of ``engine``'s model, or resume from the state there is.

        Args:
            engine: the model, with heads of which those that are trained are enabled.
            tasks: open, those of the items.
            items: the problems.
            reward: open.
            settings: of the training.
            files: the directories of the state and of the log, which exist.
            identity: all that tells this model, these problems and this start from others.
            kin: heads of the kind to train; by default that of the settings.

        Raises:
            BadFile: a state of another training, or a damaged one.
        """
        self._engine, self._tasks, self._reward, self._settings = engine, tasks, reward, settings
        first: dict[tuple[int, ...], int] = {}
        same = np.array([first.setdefault(tuple(item.tokens), i) for i, item in enumerate(items)], np.uint32)
        parts = held_out(len(items), settings.validation, MAX_VALIDATION, settings.seed, same)
        self.validation, self.training = ([items[i] for i in part] for part in parts)
        self.rounds = settings.rounds
        size = engine.context.hidden_size
        kin = kin or HeadsModule(size, settings.seed, settings.kind)
        self.heads, self._start = copy.deepcopy(kin), copy.deepcopy(kin)
        self._peak_lr = settings.peak_lr(size)
        how = {"lr": self._peak_lr, "weight_decay": settings.weight_decay, "clip": settings.clip}
        self._optimizer = HeadsOptimizer(self.heads, settings.objective.heads, beta_2=BETA_2, **how)
        self._at = _Progress()
        identity = {**asdict(settings), **identity}
        if len(first) < len(items):
            identity["split"] = hashlib.sha256(parts[0].tobytes()).hexdigest()
        self._state = State(files[0] / "state.pt", files[1] / "log.jsonl", identity)
        self.resumed = self._state.load(self._take)
        with Journal(files[0] / BEGUN, {"reward": 1, **identity}, advice=_ADVICE, digests=_DIGESTS):
            pass  # the start, of which no state says anything yet, is of the same training

    @property
    def round(self) -> int:
        """Rounds done."""
        return self._at.round

    @property
    def kept(self) -> int:
        """The round after which the heads were as they are kept."""
        return self._at.round if self._at.best is None else self._at.best_round

    def begin(self, start: HeadsModule) -> None:
        """Start from these heads; not where it was resumed."""
        for heads in (self.heads, self._start):
            heads.load_state_dict(start.state_dict())

    def run(
        self, on_round: Callable[[Round], None] = lambda _: None, drawn: Drawn = lambda name, done, of: None
    ) -> None:
        """Train to the end; the heads of the best validation stay."""
        every = -(-self.rounds // self._settings.evaluations)  # no more of them than that
        self._state.open_log()
        if not self.resumed:
            self._finish(self._validated(Round(0, self.rounds), drawn), on_round)
        while self._at.round < self.rounds and not 0 < self._settings.patience <= self._at.bad:
            done = self.train_round(drawn)
            if done.round % every == 0 or done.round == self.rounds:
                done = self._validated(done, drawn)
            self._finish(done, on_round)
        if self._at.best is not None:
            self.heads.load_state_dict(self._at.best)

    def _finish(self, done: Round, on_round: Callable[[Round], None]) -> None:
        self._state.write(done.record())
        kept = {"heads": self.heads.state_dict(), "start": self._start.state_dict()}
        self._state.save({**vars(self._at), **kept, "optimizer": self._optimizer.state_dict()})
        on_round(done)

    # ---- a round ----

    def train_round(self, drawn: Drawn) -> Round:
        """Draw, grade, and make a step, unless no group has a difference.

        Raises:
            ModelFailed: as ``Trainer``, :meth:`Reward.group` and :meth:`Measures.of` do.
        """
        at, settings, begin = self._at.round, self._settings, time.perf_counter()
        lr = self._peak_lr * 0.5 * (1.0 + math.cos(math.pi * at / self.rounds))
        found = self.draw(self.items_of(at), f"round {at}", drawn)
        drawing_s = time.perf_counter() - begin
        n_tokens = sum(len(one.result.temperature) for group in found for one in group.answers)
        norm = self._step(found, n_tokens, lr)
        self._at.round += 1
        seconds = time.perf_counter() - begin
        return Round(
            self._at.round,
            settings.rounds,
            lr,
            norm,
            Measures.of(found),
            round(drawing_s, 2),
            round(seconds - drawing_s, 2),
            round(n_tokens / seconds, 1),
        )

    def items_of(self, at: int) -> list[Item]:
        """The problems of the round after ``at`` others: each once in an epoch, but for what is left at its end."""
        n = min(self._settings.problems, len(self.training))
        epoch, place = divmod(at, len(self.training) // n)
        order = np.random.default_rng([self._settings.seed, 2, epoch]).permutation(len(self.training))
        return [self.training[i] for i in order[place * n :][:n]]

    def draw(self, items: Sequence[Item], what: str, drawn: Drawn) -> list[Group]:
        """Groups of answers by the heads as they are, in the order of the problems."""
        engine, settings = self._engine, self._settings
        engine.replace_heads(self.heads.weights(vocab_size=engine.context.n_vocab, base_model=""))
        wanted = [
            Wanted(item, n, seed_from(f"{settings.seed} {what} {item.task} {item.number} {n}"))
            for item in items
            for n in range(settings.k)
        ]
        found: dict[tuple[str, int], Group] = {}
        name = f"round {self._at.round + 1}: answers" if what != VALIDATION else "validation: answers"
        drawn(name, 0, len(wanted))
        with closing(answers(engine, self._tasks, wanted, Sampling(), settings.max_tokens)) as stream_of:
            for group in groups(stream_of, settings.k):
                found[group[0].item.key] = self._reward.group(group)
                drawn(name, len(found) * settings.k, len(wanted))
        return [found[item.key] for item in items]

    def _step(self, found: Sequence[Group], n_tokens: int, lr: float) -> float:
        """The norm of the gradient; 0, and nothing changed, where no group has a difference."""
        weighted = [
            (tokens_of(one.item, one.result.trace.ids), weight)
            for group in found
            for one, weight in zip(group.answers, group.weights, strict=True)
            if weight and len(one.result.temperature)
        ]
        if not weighted:
            return 0.0

        def add_gradients() -> None:
            features = stream(self._engine.context, [tokens for tokens, _ in weighted])
            weights, settings = torch.tensor([weight for _, weight in weighted]), self._settings
            accumulate(self.heads, self._start, features, weights, n_tokens, settings.objective, settings.limits)

        self._engine.forget()
        return self._optimizer.step(f"round {self._at.round + 1}", lr, add_gradients)

    # ---- validation ----

    def _validated(self, done: Round, drawn: Drawn) -> Round:
        """With a validation, each of them with the same seeds; the best heads are kept, of equal ones the later.

        The rate falls, so that later ones are less noisy. The start gives way to better ones alone.
        """
        if not self.validation:
            return done
        begin = time.perf_counter()
        measures = Measures.of(self.draw(self.validation, VALIDATION, drawn))
        better = measures.reward > self._at.best_reward
        if better or (measures.reward == self._at.best_reward and self._at.best_round):
            self._at.best_round, self._at.best_reward = done.round, measures.reward
            self._at.best = {k: v.clone() for k, v in self.heads.state_dict().items()}
        self._at.bad = 0 if better else self._at.bad + 1
        return replace(done, validation=measures, validation_s=round(time.perf_counter() - begin, 2))

    # ---- state ----

    def _take(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises what torch raises for one that is none."""
        at = _Progress(**{f.name: state[f.name] for f in fields(_Progress)})
        for weights in (state["heads"] if at.best is None else at.best, state["heads"]):
            self.heads.load_state_dict(weights)
        self._start.load_state_dict(state["start"])
        self._optimizer.load_state_dict(state["optimizer"])
        if not all(type(n) is int and n >= 0 for n in (at.round, at.best_round, at.bad)):
            raise ValueError("no numbers of rounds")
        self._at = at


def tokens_of(item: Item, drawn: Sequence[int]) -> Tokens:
    """A prompt and the very tokens that were drawn after it, the end-of-generation token included, as predicted."""
    return np.concatenate([np.array(item.tokens, np.int32), ~np.array(drawn, np.int32)])
