"""What a training on reward is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.model.sampling import MAX_SEED
from autodeco_gguf.training.module import HeadKind
from autodeco_gguf.training.policy import Limits
from autodeco_gguf.training.rewards import check_reward
from autodeco_gguf.training.settings import Objective, check_ranges

LR_WIDTH = 0.25
"""Default peak learning rate times hidden size."""


@dataclass(frozen=True)
class RewardSettings:
    """A training on reward, but for its problems and its base.

    Attributes:
        reward: "correct", "any", "distinct", or ``module:function`` of the user's own.
        objective: the heads to train, and the soft cut; its losses take no part.
        kind: how new heads are built, and what they begin with.
        k: answers to a problem, at least 2.
        rounds: steps of the optimizer, each after answers of its own.
        problems: of a round.
        max_tokens: longest answer, the end-of-generation token included; None: until the context is full.
        lr: peak learning rate of AdamW; None: ``LR_WIDTH`` / hidden size. It falls as a cosine to 0.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        limits: what holds the heads back.
        start_rounds: so many rounds' answers at T = 1 are drawn for a start by likelihood.
        start_steps: of that.
        validation: share of the problems held out, at most ``MAX_VALIDATION`` of them.
        evaluations: number of validations, evenly spread over the rounds, besides that of the start.
        patience: validations without a better reward after which training stops; 0: never.
        seed: of everything that is random.
    """

    reward: str = "correct"
    objective: Objective = field(default_factory=Objective)
    kind: HeadKind = field(default_factory=HeadKind)
    k: int = 16
    rounds: int = 30
    problems: int = 24
    max_tokens: int | None = None
    lr: float | None = None
    weight_decay: float = 0.0
    clip: float = 1.0
    limits: Limits = field(default_factory=Limits)
    start_rounds: int = 4
    start_steps: int = 60
    validation: float = 0.2
    evaluations: int = 6
    patience: int = 3
    seed: int = 0

    def peak_lr(self, hidden_size: int) -> float:
        """The peak learning rate for a model of that width."""
        return LR_WIDTH / hidden_size if self.lr is None else self.lr

    def check(self) -> None:
        """Raise InvalidInput for a value out of range, naming it."""
        check_reward(self.reward)
        if self.k == 1:
            raise InvalidInput("k 1, expected at least 2: an answer is weighed against the others to its problem")
        self.objective.check()
        self.kind.check()
        check_ranges(
            ("k", self.k, 2, 2**16),
            ("rounds", self.rounds, 1, 2**31),
            ("problems", self.problems, 1, 2**16),
            ("max_tokens", 1 if self.max_tokens is None else self.max_tokens, 1, 2**31),
            ("lr", self.lr or 0.0, 0.0, 10.0),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
            ("clip", self.clip, 1e-9, 1e9),
            ("pull", self.limits.pull, 0.0, 1e6),
            ("start_rounds", self.start_rounds, 1, 10**6),
            ("start_steps", self.start_steps, 1, 2**31),
            ("validation", self.validation, 0.0, 0.5),
            ("evaluations", self.evaluations, 1, 10**6),
            ("patience", self.patience, 0, 10**6),
            ("seed", self.seed, 0, MAX_SEED),
        )
        for name, within, top in (("t_range", self.limits.temperature, 2.0), ("p_range", self.limits.top_p, 1.0)):
            if not 0.0 <= within[0] < within[1] <= top:
                found = f"{within[0]:g},{within[1]:g}"
                raise InvalidInput.of(name, found, f"two numbers LOW,HIGH from 0 to {top:g}")
