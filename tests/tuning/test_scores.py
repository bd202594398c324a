"""Values for every problem, from the answers that an evaluation has kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_engine import TASKS, FakeEngine, FakeGrader, samples_of

from autodeco_gguf.answers import items
from autodeco_gguf.answers.items import GradedTasks
from autodeco_gguf.errors import BadFile, InvalidInput, ModelFailed
from autodeco_gguf.evaluation.methods import parse_methods
from autodeco_gguf.evaluation.results import Results
from autodeco_gguf.evaluation.runner import evaluate
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.files.jsonl import write_lines
from autodeco_gguf.tuning.scores import Row, measuring, rows

SETTINGS = EvalSettings(k=4, seeds=3)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    directory, engine = tmp_path_factory.mktemp("evaluated"), FakeEngine()
    methods = parse_methods(["greedy", "static:1,1", "autodeco"], engine.heads, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(items, "Grader", FakeGrader)
        with GradedTasks(TASKS) as graded:
            results = evaluate(engine, graded, directory, methods, SETTINGS, also=())  # type: ignore[arg-type]
    return directory, results


def found(evaluated: tuple[Path, Results], reward: str) -> dict[str, Row]:
    with measuring(reward, 10.0) as measure:
        return {row.name: row for row in rows(*evaluated, TASKS, measure)}


def answers(evaluated: tuple[Path, Results], config: str) -> dict[tuple[str, int], list[tuple[str, bool]]]:
    """The answers to each problem in the order of the tasks, read by hand."""
    groups: dict[tuple[str, int], list[tuple[str, bool]]] = {
        (t.name, i): [] for t in TASKS for i in range(len(t.problems))
    }
    for s in samples_of(evaluated[0]):
        if s["config"] == config:
            groups[s["task"], s["problem"]].append((s["text"], s["correct"]))
    return groups


def test_correct(evaluated: tuple[Path, Results]) -> None:
    row = found(evaluated, "correct")["static:1,1"]
    expected = [np.mean([right for _, right in group]) for group in answers(evaluated, "static:1,1").values()]
    assert row.values.tolist() == pytest.approx(expected)
    assert 0 < row.values.mean() < 1
    assert (row.temperature, row.top_p) == (1.0, 1.0)
    assert row.tokens == evaluated[1].methods[1].overall.tokens_mean


def test_any(evaluated: tuple[Path, Results]) -> None:
    """Drawn by hand: the share of all sets of 4 of the 12 answers that have a right one."""
    from itertools import combinations

    row = found(evaluated, "any")["static:1,1"]
    expected = [
        np.mean([any(right for _, right in four) for four in combinations(group, 4)])
        for group in answers(evaluated, "static:1,1").values()
    ]
    assert row.values.tolist() == pytest.approx(expected)


def test_distinct(evaluated: tuple[Path, Results]) -> None:
    from itertools import combinations

    row = found(evaluated, "distinct")["static:1,1"]
    expected = [
        np.mean([len({text for text, right in four if right}) for four in combinations(group, 4)])
        for group in answers(evaluated, "static:1,1").values()
    ]
    assert row.values.tolist() == pytest.approx(expected)
    assert row.values.mean() > found(evaluated, "any")["static:1,1"].values.mean()


@pytest.mark.parametrize("reward", ["correct", "any", "distinct"])
def test_greedy_is_one_answer_that_counts_for_all(evaluated: tuple[Path, Results], reward: str) -> None:
    assert found(evaluated, reward)["greedy"].values.tolist() == [1.0] * 5


def test_heads_have_means(evaluated: tuple[Path, Results]) -> None:
    row = found(evaluated, "correct")["autodeco"]
    assert row.temperature is not None
    assert 0.5 < row.temperature < 1.5
    assert row.config.key == "autodeco"


def test_only_what_was_asked_for_counts(evaluated: tuple[Path, Results]) -> None:
    directory, results = evaluated
    fewer = replace(results, settings=replace(results.settings, seeds=1))
    with measuring("correct", 10.0) as measure:
        (row,) = rows(directory, replace(fewer, methods=fewer.methods[1:2]), TASKS, measure)
    first = [s for s in samples_of(directory) if s["config"] == "static:1,1" and s["seed"] == 0]
    assert row.values.mean() == pytest.approx(np.mean([s["correct"] for s in first]))


def test_a_function_of_ones_own(
    evaluated: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its values are computed here once more; where it fails, the problem is named."""
    source = "def score(prompt, text, answer):\n    return len(text) + (prompt == 'sums 1') * 100 - len(answer) / 2\n"
    (tmp_path / "scored.py").write_text(
        f"{source}\ndef broken(prompt, text, answer):\n    return 1 / (prompt != 'sums 2')\n"
    )
    monkeypatch.chdir(tmp_path)
    row = found(evaluated, "scored:score")["static:1,1"]
    expected = [
        np.mean([len(text) for text, _ in group]) + (key == ("sums", 1)) * 100 - len(f"{key[0]}{key[1]}") / 2
        for key, group in answers(evaluated, "static:1,1").items()
    ]
    assert row.values.tolist() == pytest.approx(expected)
    with pytest.raises(BadFile, match=r"^sums\.jsonl:3: reward scored:broken: ZeroDivisionError"):
        found(evaluated, "scored:broken")
    with pytest.raises(InvalidInput, match="reward 'missing:f': 'missing' cannot be imported"):
        found(evaluated, "missing:f")


def test_a_function_sees_no_answer_that_failed(
    evaluated: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first problem one failed, and then all of them."""
    (tmp_path / "of_length.py").write_text("def score(prompt, text, answer):\n    return len(text)\n")
    monkeypatch.chdir(tmp_path)
    results = replace(evaluated[1], methods=evaluated[1].methods[1:2])
    lines = [s for s in samples_of(evaluated[0]) if s["config"] == "static:1,1"]
    first = [s for s in lines if (s["task"], s["problem"]) == ("sums", 0)]
    with measuring("of_length:score", 10.0) as measure:
        first[0].update(text="part of what it is", finish_reason="error", error="out of memory")
        write_lines(tmp_path / "samples.jsonl", lines)
        (row,) = rows(tmp_path, results, TASKS, measure)
        assert row.values[0] == pytest.approx(np.mean([len(s["text"]) for s in first[1:]]))
        for s in first:
            s.update(finish_reason="error", error="out of memory")
        write_lines(tmp_path / "samples.jsonl", lines)
        with pytest.raises(ModelFailed, match=r"^sums\.jsonl:1: every answer failed in the model: out of memory$"):
            rows(tmp_path, results, TASKS, measure)
