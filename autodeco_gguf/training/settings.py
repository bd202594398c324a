"""What a training is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.heads.weights import HEADS
from autodeco_gguf.model.sampling import MAX_SEED
from autodeco_gguf.training.losses import ALPHA, SORT_TOLERANCE


@dataclass(frozen=True)
class Objective:
    """Which losses, and how; the paper's values are the defaults.

    Attributes:
        heads: the heads to train, of "temperature" and "top_p".
        easy_mask: share of the positions whose most likely token is right that the temperature loss drops.
        dynamic_fine_tuning: weigh every position by the model's probability of its target.
        alpha: steepness of the soft top-p mask.
        sort_tolerance: error of the top-p loss, in nats, for which the vocabulary need not be sorted to the end.
        control_weight: of the ranking loss.
        control_margin: the gap in mean T and P that the ranking loss asks for.
    """

    heads: tuple[str, ...] = ("temperature", "top_p")
    easy_mask: float = 0.6
    dynamic_fine_tuning: bool = True
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


@dataclass(frozen=True)
class TrainingSettings:
    """A training, but for its data and its base.

    Attributes:
        objective: the losses.
        max_tokens: of a sequence; longer ones are cut.
        batch: examples a step; None: ``MAX_BATCH``, or less, down to ``MIN_BATCH``, for ``LEAST_STEPS`` an epoch.
        epochs: passes over the data; None: one, or as many as it takes for ``LEAST_STEPS``.
        steps: instead of epochs, where given.
        lr: peak learning rate of AdamW; None: ``LR_WIDTH`` / hidden size.
        weight_decay: of AdamW.
        warmup: share of the steps over which the learning rate rises; then it falls linearly to 0.
        clip: largest norm of the gradient.
        validation: share of the examples held out, at most ``MAX_VALIDATION`` of them.
        evaluations: number of validations, evenly spread over the steps.
        patience: validations without a better loss after which training stops; 0: never.
        seed: of everything that is random.
    """

    objective: Objective = field(default_factory=Objective)
    max_tokens: int = 2048
    batch: int | None = None
    epochs: float | None = None
    steps: int | None = None
    lr: float | None = None
    weight_decay: float = 0.0
    warmup: float = 0.03
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
        o = self.objective
        if not o.heads or not set(o.heads) <= HEADS:
            raise InvalidInput.of("heads", list(o.heads), f"some of {sorted(HEADS)}")
        for name, value, low, high in (
            ("easy_mask", o.easy_mask, 0.0, 1.0),
            ("alpha", o.alpha, 1e-3, 1e6),
            ("sort_tolerance", o.sort_tolerance, 0.0, 1e3),
            ("control_weight", o.control_weight, 0.0, 1e6),
            ("control_margin", o.control_margin, 0.0, 2.0),
            ("max_tokens", self.max_tokens, 2, 2**24),
            ("batch", 1 if self.batch is None else self.batch, 1, 2**16),
            ("epochs", 1.0 if self.epochs is None else self.epochs, 1e-9, 1e6),
            ("steps", 1 if self.steps is None else self.steps, 1, 2**31),
            ("lr", self.lr or 0.0, 0.0, 10.0),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
            ("warmup", self.warmup, 0.0, 1.0),
            ("clip", self.clip, 1e-9, 1e9),
            ("validation", self.validation, 0.0, 0.5),
            ("evaluations", self.evaluations, 1, 10**6),
            ("patience", self.patience, 0, 10**6),
            ("seed", self.seed, 0, MAX_SEED),
        ):
            if not low <= value <= high:
                raise InvalidInput.of(name, f"{value:g}", f"{low:g} to {high:g}")


LEAST_STEPS = 60
"""Of a training whose length is not set: enough for heads that begin at T = 1 and P = 0.93 to come to their means."""

MIN_BATCH, MAX_BATCH = 8, 32
"""Of a training whose batch is not set."""

LR_WIDTH = 0.1
"""Default learning rate times hidden size: the wider the input of a layer, the further one step moves its output. At
4,096 it is 2.4e-5; the official script has 5e-6 for about a thousand steps."""

MAX_VALIDATION = 512
"""Examples held out at most: a validation reads them all."""
