"""Two parts: whole, apart, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autodeco_gguf.errors import BadFile
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.questions import kinds
from autodeco_gguf.tasks.tasks import Task
from autodeco_gguf.tuning.split import size, split


def task(name: str, n: int, texts: int | None = None) -> Task:
    return asking(name, [f"{name} {i % (texts or n)}" for i in range(n)])


def asking(name: str, texts: list[str]) -> Task:
    problems = (Problem(text, str(i), i + 1, f"{name}.jsonl") for i, text in enumerate(texts))
    return Task(name, tuple(problems), "exact")


def texts(tasks: tuple[Task, ...]) -> list[str]:
    return [problem.text for task in tasks for problem in task.problems]


def test_every_problem_is_in_one_part() -> None:
    parts = split([task("a", 50), task("b", 10)], 0)
    assert [[len(t.problems) for t in part] for part in (parts.search, parts.test)] == [[30, 6], [20, 4]]
    everything = texts(parts.search) + texts(parts.test)
    assert sorted(everything) == sorted(texts((task("a", 50), task("b", 10))))
    assert all(t.checker == "exact" for t in parts.search)


def test_the_seed_decides() -> None:
    tasks = [task("a", 50)]
    assert split(tasks, 1) == split(tasks, 1)
    assert split(tasks, 1) != split(tasks, 2)
    assert texts(split(tasks, 1).test) != sorted(texts(split(tasks, 1).test))


def test_the_same_problem_is_never_in_two_parts() -> None:
    parts = split([task("a", 90, texts=30)], 0)
    found = [set(texts(part)) for part in (parts.search, parts.test)]
    assert [len(part) for part in found] == [18, 12]
    assert not found[0] & found[1]
    assert size(parts.search) + size(parts.test) == 90


@pytest.mark.parametrize("order", [lambda i: i % 30, lambda i: i // 32], ids=["in turns", "together"])
def test_a_problem_comes_again_after_all_others(order: Callable[[int], int]) -> None:
    """So that a few lines of a part, as a plan may have, are different problems."""
    parts = split([asking("a", [f"a {order(i)}" for i in range(30 * 32)])], 0)
    for part, n in ((parts.search, 18), (parts.test, 12)):
        found = texts(part)
        assert len(found) == 32 * n
        assert all(len({*found[at : at + n]}) == n for at in range(0, len(found), n))


def test_wordings_of_a_question_stay_together() -> None:
    names = [*kinds()][:30]
    asked = [Problem(f"Name {kinds()[name].asks[0]}, {i}", name, 1, "q.jsonl") for name in names for i in range(4)]
    parts = split([Task("q", tuple(asked), "member")], 0)
    found = [[problem.answer for task in part for problem in task.problems] for part in (parts.search, parts.test)]
    assert not {*found[0]} & {*found[1]}
    assert [len(answers) for answers in found] == [72, 48]
    own = [Problem(f"p {i}", '["yes"]', 1, "o.jsonl") for i in range(30)]  # a list of one's own says nothing of kinds
    assert size(split([Task("o", tuple(own), "member")], 0).test) == 12


@pytest.mark.parametrize("seed", range(5))
def test_the_same_problem_of_two_tasks_is_never_in_two_parts(seed: int) -> None:
    shared = [f"p {i}" for i in range(40)]
    tasks = [asking("all", shared), asking("some", shared[:30]), asking("few", shared[25:30]), task("other", 10)]
    parts = split(tasks, seed)
    assert not {*texts(parts.search)} & {*texts(parts.test)}
    for part, sizes in ((parts.search, [24, 18, 3, 6]), (parts.test, [16, 12, 2, 4])):
        assert [(t.name, len(t.problems)) for t in part] == list(
            zip(["all", "some", "few", "other"], sizes, strict=True)
        )


def test_other_tasks_leave_nothing_for_a_part() -> None:
    others = [[f"{name} {i}" for i in range(5)] for name in "abcde"]
    tasks = [*map(asking, "abcde", others), asking("f", [first for first, *_ in others])]
    seed = next(s for s in range(100) if not {t[0] for t in others} & {*texts(split(tasks[:5], s).test)})
    with pytest.raises(BadFile, match=r"^f\.jsonl: all its problems are of other tasks too, and fall into one part"):
        split(tasks, seed)


def test_too_few() -> None:
    shared = [f"p {i}" for i in range(24)]
    with pytest.raises(BadFile, match=r"^a\.jsonl, b\.jsonl: 24 different problems, expected at least 25"):
        split([asking("a", shared), asking("b", shared)], 0)
    with pytest.raises(
        BadFile, match=r"^a\.jsonl: 24 different problems, expected at least 25: they are split into those"
    ):
        split([task("a", 24)], 0)
    with pytest.raises(BadFile, match=r"^a\.jsonl: 24 different problems"):
        split([task("a", 100, texts=24)], 0)
    with pytest.raises(BadFile, match=r"^b\.jsonl: 4 different problems, expected at least 5"):
        split([task("a", 50), task("b", 4)], 0)
    with pytest.raises(BadFile, match=r"^b\.jsonl: 1 different problem, expected"):
        split([task("a", 50), task("b", 1)], 0)
    assert size(split([task("a", 25)], 0).test) == 10
    assert size(split([task("a", 10), task("b", 15)], 0).test) == 10
