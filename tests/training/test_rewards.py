"""What answers are worth: literal rewards, and weights whose mean gradient is what they claim to climb."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autodeco_gguf.answers.items import Item
from autodeco_gguf.answers.stream import Answer
from autodeco_gguf.errors import BadFile, InvalidInput, ModelFailed
from autodeco_gguf.tasks.grading import Grade
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.training.rewards import Reward, check_reward, rewards_of, weights_of

ITEM = Item("t", 0, Problem("Say it", "it", 3, "p.jsonl"), [1])


def answer(text: str, correct: bool | None, error: str | None = None, reason: str = "stop") -> Answer:
    result: Any = SimpleNamespace(text=text, finish_reason=reason, temperature=[1.0], error=error)
    return Answer(ITEM, 0, result, Grade(correct, error), 0.0)


TABLE: dict[str, tuple[str, list[bool], str, list[float]]] = {
    "correct": ("correct", [True, False, True, True], "aabc", [1, 0, 1, 1]),
    "any: the only right one": ("any", [False, True, False], "abc", [0, 1, 0]),
    "any: two of them": ("any", [False, True, True], "abb", [0, 0, 0]),
    "any: none": ("any", [False, False], "ab", [0, 0]),
    "distinct": ("distinct", [True, True, True, True, False], "aabcb", [0.5, 0.5, 1, 1, 0]),
    "distinct: equal and wrong": ("distinct", [False, False, True], "aaa", [0, 0, 1]),
}


@pytest.mark.parametrize("name", TABLE)
def test_rewards(name: str) -> None:
    reward, right, texts, expected = TABLE[name]
    assert rewards_of(reward, right, list(texts)) == expected


def test_what_a_group_is_worth_together() -> None:
    answers = [answer("a", True), answer(" a\n", True), answer("b", True), answer("c", False)]
    for name, value, rewards in (
        ("correct", 0.75, (1, 1, 1, 0)),
        ("any", 1.0, (0, 0, 0, 0)),
        ("distinct", 2.0, (0.5, 0.5, 1, 0)),
    ):
        with Reward(name) as reward:
            group = reward.group(answers)
        assert (group.value, group.rewards, group.right, group.different) == (value, rewards, 3, 2)
        assert group.flat == (name == "any")
        assert sum(group.weights) == pytest.approx(0)


def test_weights_of_equal_rewards_are_exactly_0() -> None:
    assert weights_of([0.1] * 3) == [0, 0, 0]  # whose mean is 0.10000000000000002
    assert weights_of([1.0, 0.0, 0.5]) == [0.5, -0.5, 0.0]


def test_a_checker_that_failed_is_named() -> None:
    with Reward("correct") as reward, pytest.raises(BadFile, match=r"^p\.jsonl:3: the checker failed .*: no way$"):
        reward.group([answer("a", True), answer("b", None, "no way")])


def test_a_function_sees_no_answer_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_length.py").write_text("def score(prompt, text, answer):\n    return len(text)\n")
    monkeypatch.chdir(tmp_path)
    failed = answer("part of", False, "out of memory", "error")
    with Reward("of_length:score") as reward:
        group = reward.group([failed, answer("a", True), answer("abc", False)])
        assert (len(group.answers), group.rewards, group.value) == (2, (1, 3), 2)
        with pytest.raises(ModelFailed, match=r"^p\.jsonl:3: every answer failed in the model: out of memory$"):
            reward.group([failed] * 2)
    with Reward("correct") as reward:
        assert reward.group([failed, answer("a", True)]).rewards == (0, 1)


@pytest.mark.parametrize("name", ["", "best", "own", "own:", ":score", "Correct"])
def test_no_such_reward(name: str) -> None:
    with pytest.raises(InvalidInput, match="expected one of correct, any, distinct, or module:function of your own"):
        check_reward(name)


# ---- what they climb: three answers, "a" and "b" right and "c" wrong, with probabilities of three parameters ----

ANSWERS = "abc"
Value = Callable[[Sequence[str]], float]


def correct(group: Sequence[str]) -> float:
    return sum(one != "c" for one in group)


def any_right(group: Sequence[str]) -> float:
    return float(any(one != "c" for one in group))


def distinct(group: Sequence[str]) -> float:
    return len(set(group) - {"c"})


def expected(value: Value, p: Sequence[float], m: int) -> float:
    """The mean value of m draws, over all of them."""
    probs = dict(zip(ANSWERS, p, strict=True))
    return sum(math.prod(probs[x] for x in g) * value(g) for g in itertools.product(ANSWERS, repeat=m))


def climbs(p: Sequence[float], objective: Callable[[Sequence[float]], float]) -> list[float]:
    """Its derivatives by the logits, by finite differences."""
    logits = [math.log(x) for x in p]

    def at(i: int, step: float) -> float:
        moved = [math.exp(x + step * (i == j)) for j, x in enumerate(logits)]
        return objective([x / sum(moved) for x in moved])

    return [(at(i, 1e-5) - at(i, -1e-5)) / 2e-5 for i in range(3)]


@pytest.mark.parametrize("p", [(0.2, 0.3, 0.5), (0.05, 0.05, 0.9), (0.7, 0.2, 0.1)])
@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("correct", lambda p, k: (k - 1) * expected(correct, p, 1)),
        ("any", lambda p, k: expected(any_right, p, k - 1)),
        ("distinct", lambda p, k: sum(expected(distinct, p, m) / m for m in range(1, k))),
    ],
)
@pytest.mark.parametrize("k", [2, 4])
def test_the_mean_step_is_the_gradient_of_what_they_claim(
    name: str, objective: Any, p: tuple[float, ...], k: int
) -> None:
    found = [0.0, 0.0, 0.0]
    for group in itertools.product(ANSWERS, repeat=k):
        chance = math.prod(p[ANSWERS.index(x)] for x in group)
        weights = weights_of(rewards_of(name, [x != "c" for x in group], group))
        for weight, x in zip(weights, group, strict=True):
            for j in range(3):  # the derivative of log softmax
                found[j] += chance * weight * ((ANSWERS[j] == x) - p[j])
    assert found == pytest.approx(climbs(p, lambda q: objective(q, k)), abs=1e-8)
