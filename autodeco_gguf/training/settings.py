"""What a training is told."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.weights import HEADS
from autodeco_gguf.model.machine import MAX_CONTEXT
from autodeco_gguf.model.sampling import MAX_SEED
from autodeco_gguf.training.losses import ALPHA, SORT_TOLERANCE
from autodeco_gguf.training.module import HeadKind


@dataclass(frozen=True)
class Objective:
    """Which losses, and how; where the sources differ, ``recipes`` has what each of them takes.

    Attributes:
        heads: the heads to train, of "temperature" and "top_p".
        frozen: heads that take part as they are. One that is in neither is not there: T = 1, or P = 1.
        losses: "two": a loss of T, and one of the cut distribution; "one": the latter alone, as the paper writes it.
        average: of the losses; "token": over all tokens of a batch; "example": over its examples, of each one's mean
            over its tokens.
        easy_mask: share of the positions whose most likely token is right that are dropped.
        easy_in: "temperature": from the temperature loss where there are two; "both": from both.
        dynamic_fine_tuning: weigh every position by the probability of its target.
        weight_at: where that probability is taken for the temperature loss: "1", the model's own, or "T", at the
            predicted temperature. The top-p loss has the model's own.
        feature_gradient: whether the top-p loss reaches T through what the top-p head sees, too.
        alpha: steepness of the soft top-p mask.
        sort_tolerance: error of the top-p loss, in nats, for which the vocabulary need not be sorted to the end.
        control_weight: of the ranking loss.
        control_margin: the gap in mean T and P that the ranking loss asks for.
    """

    heads: tuple[str, ...] = ("temperature", "top_p")
    frozen: tuple[str, ...] = ()
    losses: Literal["two", "one"] = "two"
    average: Literal["token", "example"] = "token"
    easy_mask: float = 0.6
    easy_in: Literal["temperature", "both"] = "temperature"
    dynamic_fine_tuning: bool = True
    weight_at: Literal["1", "T"] = "1"
    feature_gradient: bool = False
    alpha: float = ALPHA
    sort_tolerance: float = SORT_TOLERANCE
    control_weight: float = 1.0
    control_margin: float = 0.1

    @property
    def temperature(self) -> bool:
        """Whether the temperature head is trained."""
        return "temperature" in self.heads

    @property
    def top_p(self) -> bool:
        """Whether the top-p head is trained."""
        return "top_p" in self.heads

    @property
    def there(self) -> frozenset[str]:
        """The heads that predict, trained or not."""
        return frozenset((*self.heads, *self.frozen))

    @property
    def temperature_loss(self) -> bool:
        """Whether there is a loss of T alone: where the cut distribution has none, it is the one loss."""
        return self.temperature and not (self.losses == "one" and "top_p" in self.there)

    @property
    def top_p_loss(self) -> bool:
        """Whether there is a loss of the cut distribution."""
        return self.top_p or (self.losses == "one" and "top_p" in self.there)

    @property
    def masks_top_p(self) -> bool:
        """Whether easy positions are dropped from the loss of the cut distribution."""
        return self.easy_in == "both" or self.losses == "one"

    def check(self) -> None:
        """Raise InvalidInput for a value out of range, naming it."""
        if not self.heads or not set(self.heads) <= HEADS:
            raise InvalidInput.of("heads", list(self.heads), f"some of {sorted(HEADS)}")
        if not set(self.frozen) <= HEADS - set(self.heads):
            raise InvalidInput.of("frozen", list(self.frozen), f"some of {sorted(HEADS - set(self.heads))}")
        check_ranges(
            ("easy_mask", self.easy_mask, 0.0, 1.0),
            ("alpha", self.alpha, 1e-3, 1e6),
            ("sort_tolerance", self.sort_tolerance, 0.0, 1e3),
            ("control_weight", self.control_weight, 0.0, 1e6),
            ("control_margin", self.control_margin, 0.0, 2.0),
        )
        check_choices(self, losses=("two", "one"), average=("token", "example"))
        check_choices(self, easy_in=("temperature", "both"), weight_at=("1", "T"))


def check_ranges(*limits: tuple[str, float, float, float]) -> None:
    """Raise InvalidInput for a value that is not within its limits: its name, the value, the least and the most."""
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise InvalidInput.of(name, f"{value:g}", f"{low:g} to {high:g}")


def check_choices(settings: object, **choices: Iterable[str]) -> None:
    """Raise InvalidInput for an attribute of the settings that is none of its choices."""
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise InvalidInput.of(name, repr(getattr(settings, name)), f"one of {', '.join(allowed)}")


@dataclass(frozen=True)
class TrainingSettings:
    """A training, but for its data and its base.

    Attributes:
        objective: the losses.
        kind: how new heads are built, and what they begin with; heads to begin with bring their own.
        max_tokens: of a sequence; None: as many as memory allows (``lengths.longest_by_memory``).
        too_long: what becomes of longer ones: "cut", or "leave-out".
        batch: examples a step; None: ``MAX_BATCH``, or less, down to ``MIN_BATCH``, for ``LEAST_STEPS`` an epoch.
        epochs: passes over the data; None: one, or as many as it takes for ``LEAST_STEPS``.
        steps: instead of epochs, where given.
        lr: peak learning rate of AdamW; None: ``LR_WIDTH`` / hidden size.
        weight_decay: of AdamW.
        warmup: over how much of the training the rate rises: a share of its steps, or, from 2 on, a number of them.
        schedule: how it falls then: "linear" to 0, or "cosine", as NeMo has it (``schedule.rate``).
        clip: largest norm of the gradient.
        validation: share of the examples held out, at most ``MAX_VALIDATION`` of them.
        evaluations: number of validations, evenly spread over the steps.
        patience: validations without a better loss after which training stops; 0: never.
        seed: of everything that is random.
    """

    objective: Objective = field(default_factory=Objective)
    kind: HeadKind = field(default_factory=HeadKind)
    max_tokens: int | None = None
    too_long: Literal["cut", "leave-out"] = "cut"
    batch: int | None = None
    epochs: float | None = None
    steps: int | None = None
    lr: float | None = None
    weight_decay: float = 0.0
    warmup: float = 0.03
    schedule: Literal["linear", "cosine"] = "linear"
    clip: float = 1.0
    validation: float = 0.05
    evaluations: int = 10
    patience: int = 3
    seed: int = 0

    def resolved(self, examples: int, hidden_size: int) -> tuple[int, int, float]:
        """The batch, the steps and the rate for so many examples to train on."""
        batch = self.batch or min(MAX_BATCH, max(MIN_BATCH, examples // LEAST_STEPS))
        epoch = math.ceil(examples / batch)
        steps = self.steps
        if steps is None:
            steps = max(epoch, LEAST_STEPS) if self.epochs is None else max(1, round(self.epochs * epoch))
        return batch, steps, LR_WIDTH / hidden_size if self.lr is None else self.lr

    def check(self) -> None:
        """Raise InvalidInput for a value out of range, naming it."""
        self.objective.check()
        self.kind.check()
        check_ranges(
            ("max_tokens", 2 if self.max_tokens is None else self.max_tokens, 2, MAX_CONTEXT),
            ("batch", 1 if self.batch is None else self.batch, 1, 2**16),
            ("epochs", 1.0 if self.epochs is None else self.epochs, 1e-9, 1e6),
            ("steps", 1 if self.steps is None else self.steps, 1, 2**31),
            ("lr", self.lr or 0.0, 0.0, 10.0),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
            ("warmup", self.warmup, 0.0, 2**31),
            ("clip", self.clip, 1e-9, 1e9),
            ("validation", self.validation, 0.0, 0.5),
            ("evaluations", self.evaluations, 1, 10**6),
            ("patience", self.patience, 0, 10**6),
            ("seed", self.seed, 0, MAX_SEED),
        )
        if 1 < self.warmup < 2:
            raise InvalidInput.of("warmup", f"{self.warmup:g}", "a share up to 1, or a number of steps from 2 on")
        check_choices(self, too_long=("cut", "leave-out"), schedule=("linear", "cosine"))


LEAST_STEPS = 60
"""Of a training whose length is not set: enough for heads that begin at T = 1 and P = 0.92 to come to their means."""

MIN_BATCH, MAX_BATCH = 8, 32
"""Of a training whose batch is not set."""

LR_WIDTH = 0.1
"""Default learning rate times hidden size: the wider the input of a layer, the further one step moves its output. At
4,096 it is 2.4e-5; the official script has 5e-6 for about a thousand steps."""

MAX_VALIDATION = 512
"""Examples held out at most: a validation reads them all."""
