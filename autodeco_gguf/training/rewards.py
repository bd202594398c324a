"""What an answer is worth among the answers to one problem.

The weight of an answer in a step is its reward minus the mean of its group of k. The sum over a group of weight times
the gradient of the log-probability is then an unbiased estimate of the gradient of

    correct, module:function   (k - 1) E[reward of one answer]
    any                        pass@(k - 1): that one of k - 1 answers is right
    distinct                   the sum over m < k of distinct@m / m, the different right answers among m

For ``any`` an answer's reward is what the group's value f loses without it, f(all) - f(all but i). The weights are then
the mean of f over the k groups of k - 1, minus f(all but i). That mean is an unbiased estimate of f@(k - 1), where each
term multiplies the gradients of its own answers, and f(all but i) does not depend on answer i, so that it adds no bias.
For ``distinct`` an answer's reward, 1 over the number of equal ones, is its Shapley value: the mean of
f(S and i) - f(S) over the sizes of S from 0 to k - 1, which makes their sum an estimate for f@m / m, m = 1 to k. Taking
off the mean, f(all) / k, takes away the last of these terms, and nothing else. ``correct`` is both: f is a sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from autodeco_gguf.answers.stream import Answer
from autodeco_gguf.errors import InvalidInput, ModelFailed
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.scoring import Scorer

MAX_VALIDATION = 32
"""Problems that a training holds out at most: a validation answers each of them k times."""

REWARDS = ("correct", "any", "distinct")
"""By name, besides ``module:function`` of the user's own."""


def check_reward(name: str) -> None:
    """Raise InvalidInput for a name that is no reward."""
    if name not in REWARDS and not all(name.partition(":")):
        message = f"reward {name!r}, expected one of {', '.join(REWARDS)}, or module:function of your own"
        raise InvalidInput(message, key="reward", found=name, expected=REWARDS)


def no_answer(problem: Problem, error: str | None) -> ModelFailed:
    """The error for a problem whose answers all failed in the model, the first as ``error`` says: none has a value."""
    return ModelFailed(f"{problem.where}: every answer failed in the model: {error}", file=problem.file)


def rewards_of(name: str, right: Sequence[bool], keys: Sequence[str]) -> list[float]:
    """The rewards [k] of a group by "correct", "any" or "distinct"; answers of one key are the same.

    Examples:
        >>> rewards_of("distinct", [True, True, True, False], ["a", "a", "b", "c"])
        [0.5, 0.5, 1.0, 0.0]
        >>> rewards_of("any", [True, False, False], ["a", "b", "c"])
        [1.0, 0.0, 0.0]
        >>> rewards_of("any", [True, True, False], ["a", "b", "c"])
        [0.0, 0.0, 0.0]
    """
    if name == "any":
        return [float(one and sum(right) == 1) for one in right]
    if name == "distinct":
        equal = Counter(key for key, one in zip(keys, right, strict=True) if one)
        return [1.0 / equal[key] if one else 0.0 for key, one in zip(keys, right, strict=True)]
    return [float(one) for one in right]


def weights_of(rewards: Sequence[float]) -> list[float]:
    """The rewards minus their mean; all 0 where there is no difference."""
    if max(rewards) == min(rewards):
        return [0.0] * len(rewards)
    mean = sum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


@dataclass(frozen=True)
class Group:
    """The k graded answers to one problem, what each is worth, and what they are worth together.

    ``value`` is what a reward is after, for one group: the share of right answers, whether one is right, the number of
    different right ones, or the mean of the user's own, which has no answers that failed in the model.
    """

    answers: tuple[Answer, ...]
    rewards: tuple[float, ...]
    value: float

    @property
    def right(self) -> int:
        """How many answers are right."""
        return sum(bool(one.grade.correct) for one in self.answers)

    @property
    def different(self) -> int:
        """How many different right answers there are."""
        return len({one.key for one in self.answers if one.grade.correct})

    @property
    def weights(self) -> list[float]:
        """Of the answers in a step."""
        return weights_of(self.rewards)

    @property
    def flat(self) -> bool:
        """Whether there is no difference to learn from."""
        return not any(self.weights)


class Reward:
    """A reward by its name; a context manager, since a function of the user's own has a process of its own."""

    def __init__(self, name: str, time_limit: float = 10.0) -> None:
        """Raises InvalidInput for a name that is no reward; ``time_limit`` is in seconds, of one call."""
        check_reward(name)
        self.name, self._time_limit = name, time_limit
        self._scorer: Scorer | None = None

    def __enter__(self) -> Reward:
        """Start the process; raises InvalidInput where the function cannot be imported."""
        with ExitStack() as stack:
            if self.name not in REWARDS:
                self._scorer = stack.enter_context(Scorer(self.name, self._time_limit))
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def group(self, answers: Sequence[Answer]) -> Group:
        """The rewards of all answers to one problem; one that failed in the model is wrong, and no function sees it.

        Raises:
            BadFile: the checker, or the function, failed on one; the problem is named as file:line.
            ModelFailed: the function has none to see.
        """
        if self._scorer is not None:
            first = answers[0]
            answers = [one for one in answers if one.result.finish_reason != "error"]
            if not answers:
                raise no_answer(first.item.problem, first.result.error)
        right = [one.graded() for one in answers]
        if self._scorer is None:
            rewards = rewards_of(self.name, right, [one.key for one in answers])
        else:
            rewards = [self._score(self._scorer, one) for one in answers]
        value = sum(rewards) / len(rewards)
        if self.name == "any":
            value = float(any(right))
        elif self.name == "distinct":
            value = sum(rewards)
        return Group(tuple(answers), tuple(rewards), value)

    def _score(self, scorer: Scorer, one: Answer) -> float:
        problem = one.item.problem
        with problem.located():
            return scorer.score(problem.text, one.result.text, problem.answer)
