"""How much of what fits into the minutes there are: pure arithmetic, made once and then kept."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import TypeAlias

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tuning.search import Rung

RESERVE = 0.1
"""Of the time, for what goes slower than measured."""

SEARCH, TRAINING, TEST = 0.25, 0.5, 0.25
"""Shares of the rest. Without training its share goes to the search."""

TEMPERATURES = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2)
TOP_PS = (1.0, 0.95, 0.85, 0.7, 0.5)
_COARSE = (0.4, 0.7, 1.0), (1.0, 0.8)

FINALISTS, ETA = 4, 3.0
"""A round keeps a third of the candidates, as long as these are more than so many."""

FIRST_LOOK = 8
"""Problems that every pair of the whole grid is tried on at least; of the coarse grid half as many."""

MOST_PASSES = 16
"""So often is a problem asked with the same pair at most, as is one of the test with the same method."""

FEWEST_TEST = 10
"""Different problems to compare on: a difference on all of them is shown beside 12 other claims."""

FEWEST_ROUNDS, MOST_ROUNDS = 15, 40
"""Of training: with fewer, heads learn little; with more they were not seen to gain."""

LEARNING = 0.8
"""What it takes to learn from an answer, in the time that it takes to draw one."""

LIKELIHOOD_BATCH = 32
"""Answers of a step of the start by likelihood."""


Pair = tuple[float, float]


def grid(*, coarse: bool) -> list[Pair]:
    """The pairs T, P of a search, greedy first, then from the least random on."""
    temperatures, top_ps = _COARSE if coarse else (TEMPERATURES, TOP_PS)
    return [(0.0, 1.0), *((t, p) for t in temperatures for p in top_ps)]


@dataclass(frozen=True)
class Training:
    """A training on reward, but for its number of rounds: problems and answers to each of a round, and so on."""

    problems: int
    k: int
    validations: int
    start_rounds: int
    start_steps: int

    @property
    def round_answers(self) -> float:
        """What a round costs, in answers."""
        return self.problems * self.k * (1 + LEARNING)

    def fixed_answers(self, validation_problems: int, start: bool) -> float:
        """What all but the rounds costs, in answers; ``start`` is whether heads begin by likelihood."""
        validation = (1 + self.validations) * validation_problems * self.k
        drawn = self.start_rounds * self.problems * self.k
        return validation + start * (drawn + LEARNING * self.start_steps * LIKELIHOOD_BATCH)


TRAININGS = (Training(24, 16, 6, 4, 60), Training(12, 16, 4, 4, 60), Training(8, 8, 2, 4, 40))
"""The first for which there is time for enough rounds."""


@dataclass(frozen=True)
class Speed:
    """What was measured: seconds for an answer when many are under way, grading included; tokens of one; tokens/s.

    ``unended`` is the share of answers that had not ended, which are taken for as long as they may get.
    """

    answer_s: float
    tokens: float
    tokens_s: float
    unended: float = 0.0

    @property
    def words(self) -> str:
        """How long an answer is."""
        unended = f" ({self.unended:.0%} had not ended and count as long as they may get)" if self.unended else ""
        return f"{self.tokens:.0f} tokens{unended}"


@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        search_problems: to search on.
        test_problems: to compare on.
        fewest_test: the first of these, of which FEWEST_TEST differ.
        group: answers to a problem that are judged together, 1 where each is by itself.
        methods: with random answers, compared on the test, without the trained heads and their mean.
        at_once: answers that the model draws at a time: the last ones of a batch run without company.
        trains: whether heads are to be trained, if there is time.
        validation_problems: that training asks again and again.
        likelihood: whether heads begin by likelihood, having no others to begin from.
        start_s: what it takes to load the model for training and to compare the heads, besides their answers.
    """

    search_problems: int
    test_problems: int
    group: int = 1
    methods: int = 3
    at_once: int = 16
    trains: bool = True
    validation_problems: int = 0
    likelihood: bool = True
    start_s: float = 0.0
    fewest_test: int = FEWEST_TEST


@dataclass(frozen=True)
class Plan:
    """What will be done, with the seconds for each part. ``training`` is None where no heads are trained.

    ``seconds`` is all there was, what was used before included. ``test_times`` is how often a group of answers to a
    test problem is drawn. ``heads_s`` are the seconds with which heads could be trained too, None where they are, or
    cannot be.
    """

    seconds: float
    coarse: bool
    rungs: tuple[Rung, ...]
    training: Training | None
    rounds: int
    test_problems: int
    test_times: int
    search_s: float
    training_s: float
    test_s: float
    heads_s: float | None = None

    def check(self) -> None:
        """Raise ValueError unless it is one that could have been made."""
        numbers = [self.test_problems, self.test_times, *(rung.problems for rung in self.rungs)]
        if self.training is not None:
            numbers += [self.rounds, *astuple(self.training)]
        if [rung.candidates for rung in self.rungs] != _sizes(self.coarse) or min(numbers) < 1:
            raise ValueError("no plan")


_Search: TypeAlias = tuple[bool, tuple[Rung, ...], float]
_Test: TypeAlias = tuple[int, int, float]


def make_plan(seconds: float, speed: Speed, work: Work, *, used_s: float = 0.0) -> Plan:
    """The plan for so many seconds, of which some are used already; it takes all others but the reserve at most.

    Raises:
        InvalidInput: too little time even for fixed pairs alone.
    """
    usable = (1 - RESERVE) * max(0.0, seconds - used_s)
    training, rounds = _training(usable, speed, work)
    search, test = _compared(usable, speed, work, training is not None)
    if training is not None and (search is None or test is None):
        training, rounds = None, 0
        search, test = _compared(usable, speed, work, False)
    if search is None or test is None:
        needed = math.ceil((used_s + _least_seconds(speed, work)) / 6) / 10
        message = f"an answer of {speed.words} takes {duration(speed.answer_s)}; expected at least"
        raise InvalidInput(
            f"minutes {seconds / 60:g}: {message} {needed}, a smaller max_tokens, or a smaller model",
            key="minutes",
            expected=needed,
            found=seconds / 60,
        )
    coarse, rungs, search_s = search
    problems, times, test_s = test
    training_s = 0.0 if training is None else _training_s(training, rounds, speed, work)
    heads_s = None if training or not work.trains else used_s + _seconds_with_heads(speed, work)
    return Plan(seconds, coarse, rungs, training, rounds, problems, times, search_s, training_s, test_s, heads_s)


def _compared(usable: float, speed: Speed, work: Work, trains: bool) -> tuple[_Search | None, _Test | None]:
    """What there is time for beside a training, or without one."""
    share = SEARCH + (0.0 if trains else TRAINING)
    return _search(usable * share, speed, work), _test(usable * TEST, speed, work, work.methods + 2 * trains)


def duration(seconds: float) -> str:
    """A short one for a reader."""
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{1000 * seconds:.0f} ms"


# ---- training ----


def _training(usable: float, speed: Speed, work: Work) -> tuple[Training | None, int]:
    """Which, and its rounds."""
    for training in TRAININGS if work.trains else ():
        left = usable * TRAINING - _training_s(training, 0, speed, work)
        rounds = int(left / speed.answer_s / training.round_answers)
        if rounds >= FEWEST_ROUNDS:
            return training, min(rounds, MOST_ROUNDS)
    return None, 0


def _training_s(training: Training, rounds: int, speed: Speed, work: Work) -> float:
    fixed = training.fixed_answers(work.validation_problems, work.likelihood)
    return work.start_s + speed.answer_s * (fixed + rounds * training.round_answers)


def _seconds_with_heads(speed: Speed, work: Work) -> float:
    """The least time with which heads are trained as well."""
    training = _training_s(TRAININGS[-1], FEWEST_ROUNDS, speed, work) / TRAINING
    search = _least_search_s(speed, work) / SEARCH
    test = _test_s(_fewest(work), 1, speed, work, work.methods + 2) / TEST
    return max(training, search, test) / (1 - RESERVE) + 1e-6


# ---- search ----


def _sizes(coarse: bool) -> list[int]:
    """Candidates of each round."""
    sizes = [len(grid(coarse=coarse))]
    while sizes[-1] > FINALISTS:
        sizes.append(max(FINALISTS, round(sizes[-1] / ETA)))
    return sizes


def _least_search_s(speed: Speed, work: Work) -> float:
    """The seconds with which the first round, of the same time as the others, is long enough."""
    sizes, problems = _sizes(coarse=True), min(FIRST_LOOK // 2, work.search_problems)
    return len(sizes) * max(sizes) * speed.answer_s * (problems * work.group + work.at_once / 2)


def _search(seconds: float, speed: Speed, work: Work) -> _Search | None:
    """The grid, the rounds and their seconds; every round takes about the same time, if it can."""
    for coarse in (False, True):
        sizes = _sizes(coarse)
        rungs, left = [], MOST_PASSES * work.search_problems
        for number, size in enumerate(sizes):
            answers = seconds / len(sizes) / size / speed.answer_s - work.at_once / 2
            rest = len(sizes) - number  # that are to have at least as many
            problems = min(int(answers / work.group), left // rest)
            left -= problems
            rungs.append(Rung(size, problems))
        if min(rung.problems for rung in rungs) >= min(FIRST_LOOK // (1 + coarse), work.search_problems):
            return coarse, tuple(rungs), _rungs_s(rungs, speed, work)
    return None


def _rungs_s(rungs: list[Rung], speed: Speed, work: Work) -> float:
    """Every pair's answers are a batch of their own."""
    batches = (rung.candidates * (rung.problems * work.group + work.at_once / 2) for rung in rungs)
    return speed.answer_s * sum(batches)


# ---- test ----


def _fewest(work: Work) -> int:
    return min(work.fewest_test, work.test_problems)


def _test(seconds: float, speed: Speed, work: Work, methods: int) -> _Test | None:
    """Problems, how often, and seconds. More problems go before more answers."""
    answers = seconds / speed.answer_s - (methods + 1) * work.at_once / 2
    problems = min(work.test_problems, int(answers / (1 + methods * work.group)))
    if problems < _fewest(work):
        return None
    times = min(MOST_PASSES, int((answers / problems - 1) / (methods * work.group) + 1e-9))
    times = max(1, times if problems == work.test_problems else 1)
    return problems, times, _test_s(problems, times, speed, work, methods)


def _test_s(problems: int, times: int, speed: Speed, work: Work, methods: int) -> float:
    """Greedy answers once."""
    answers = problems * (1 + times * methods * work.group) + (methods + 1) * work.at_once / 2
    return speed.answer_s * answers


def _least_seconds(speed: Speed, work: Work) -> float:
    search = _least_search_s(speed, work) / (SEARCH + TRAINING)
    test = _test_s(_fewest(work), 1, speed, work, work.methods) / TEST
    return max(search, test) / (1 - RESERVE) + 1e-6
