"""Scores and results of hand-made samples."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hand_made import AUTODECO, GREEDY, ORACLE, SETTINGS, about, hand_made, make, sample, summarized

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.evaluation.methods import Config, Method, config_of
from autodeco_gguf.evaluation.report import verdict
from autodeco_gguf.evaluation.results import Results
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.evaluation.summary import all_problems, by_config, complete_scores, score

# ---- scores ----


def of(config: str, problem: int, seed: int, number: int, correct: bool | None = True, **more: Any) -> dict[str, Any]:
    return make(config, problem, seed, number, "a", **{"correct": correct, **more})


DEFAULT = Method("default", "constant", config_of("static:1,1"))
X = config_of("x")
"""Of which nothing is known."""


def complete(config: str, problems: int = 2, k: int = 2, seeds: int = 2) -> list[dict[str, Any]]:
    places = itertools.product(range(problems), range(seeds), range(k))
    return [of(config, problem, seed, number) for problem, seed, number in places]


def test_only_what_was_asked_for() -> None:
    samples = [*complete("x", k=3, seeds=3), {**of("x", 0, 0, 0), "task": "other"}, of("x", 0, 0, 0, text="later")]
    grouped = by_config(map(sample, samples), SETTINGS)
    assert Counter((s.problem, s.seed, s.sample) for group in grouped[X].values() for s in group) == Counter(
        itertools.product(range(2), repeat=3)
    )
    assert grouped[X]["t", 0][0].text == "later"


def test_problems_are_those_of_any_config() -> None:
    settings = EvalSettings(tasks=("t", "s"), k=2, seeds=2)
    samples = [of("x", 10, 0, 0), of("x", 9, 0, 0), {**of("y", 4, 0, 0), "task": "s"}]
    assert all_problems(by_config(map(sample, samples), settings), settings) == [("t", 9), ("t", 10), ("s", 4)]
    with pytest.raises(AutoDecoError, match=r"^no samples of these tasks; run the evaluation again to draw them$"):
        all_problems({}, settings)


def scores_of(samples: list[dict[str, Any]], config: Config = X) -> Any:
    grouped = by_config(map(sample, samples), SETTINGS)
    return complete_scores(config, grouped.get(config, {}), [("t", 0), ("t", 1)], SETTINGS)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            complete("x")[:-1],
            r"^x: task t, problem 1: 3 samples, expected 4; run the evaluation again to draw the rest$",
        ),
        (complete("x", problems=1), r"^x: task t, problem 1: 0 samples, expected 4"),
        (complete("x", k=1), r"^x: task t, problem 0: 2 samples, expected 4"),
        ([], r"^x: task t, problem 0: 0 samples, expected 4"),
        (
            [*complete("x"), *(of("x", 1, 0, i, None, error="timed out") for i in (0, 1)), of("x", 1, 1, 0, None)],
            r"^x: task t, problem 1: 4 samples, 3 of them not graded: timed out; run again to grade them$",
        ),
    ],
)
def test_incomplete_samples(samples: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(AutoDecoError, match=message):
        scores_of(samples)


def test_ungraded_samples_count_neither_way() -> None:
    scores = scores_of([*complete("x"), of("x", 1, 0, 0, None), of("x", 1, 0, 1, False)])
    assert scores.right.tolist() == [1.0, pytest.approx(2 / 3)]
    assert scores.by_seed.tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert sorted(scores.passed) == [1, 2, 3]
    assert scores.passed[2].tolist() == [1.0, pytest.approx(1.0)]


def test_one_sample_of_greedy_counts_for_all() -> None:
    scores = scores_of([of("static:0,1", 0, 0, 0), of("static:0,1", 1, 0, 0, False)], config_of("static:0,1"))
    assert scores.by_seed.tolist() == [[1.0, 0.0], [1.0, 0.0]]
    for k in (1, 2, 4):
        assert scores.passed[k].tolist() == scores.distinct[k].tolist() == [1.0, 0.0]


def test_white_space_is_no_difference() -> None:
    texts = ["a b", " a b\n", "a  b", "c"]
    samples = [of("x", p, s, i, text=texts[2 * s + i]) for p, s, i in itertools.product(range(2), repeat=3)]
    assert scores_of(samples).distinct[4].tolist() == [3.0, 3.0]


# ---- results ----


def test_what_is_answered_votes_and_differs() -> None:
    """Three texts with two right answers, a wrong one and an empty one on one problem, two wrong ones on the other."""
    answers = {
        0: [("a", "7"), ("it is a", "7"), ("b", "8"), (None, "")],
        1: [(None, "1"), (None, "1"), ("c", "2"), (None, "")],
    }
    samples = [
        {**make("static:1,1", p, i // 2, i % 2, text), "answer": answer}
        for p, row in answers.items()
        for i, (text, answer) in enumerate(row)
    ]
    greedy = [{**make("static:0,1", p, 0, 0, "a" if p else None), "answer": "2"} for p in (0, 1)]
    results = summarized([*samples, *greedy], [DEFAULT, GREEDY], EvalSettings(tasks=("t",), k=2, seeds=2), {})
    stats, sure = (row["overall"] for row in results["methods"])
    # of two of 7, 7, 8, none: 7 and 8 are different in two choices of six
    assert stats["distinct"] == about((2 * 2 + 4 * 1) / 6 / 2 + 1 / 2 / 2)
    # all choices of two are right on the one; on the other 1-1 and 1-none are wrong, 1-2 is level, 2-none is right
    assert stats["maj"] == about((1 + (2 * 0.5 + 1) / 6) / 2)
    assert stats["majority_se"] == about((1 - 1 / 3) / 2)
    assert (stats["formless"], sure["formless"]) == (2, 0)
    assert sure["maj"] == sure["pass@1"] == 0.5
    assert sum(s["answer"] == "" for s in samples) == 2


def test_a_task_of_whole_texts_has_no_majority() -> None:
    samples = [make("static:0,1", p, 0, 0, "a") for p in (0, 1)]
    samples += [{**make("static:0,1", 0, 0, 0, "a"), "answer": "a", "task": "u"}]
    settings = EvalSettings(tasks=("t", "u"), k=2, seeds=2)
    row = summarized(samples, [GREEDY], settings, {})["methods"][0]
    assert (row["overall"]["maj"], row["tasks"]["t"]["maj"], row["tasks"]["u"]["maj"]) == (None, None, 1.0)


def test_differences_of_the_majority() -> None:
    samples = [{**s, "answer": s["text"]} for s in hand_made()]
    comparisons = summarized(samples, [AUTODECO, GREEDY], SETTINGS, {})["comparisons"]
    # a, a, b, wrong: of two, aa 1, ab 2, a-wrong 2, b-wrong 1: level ones count by halves; and 0. Greedy: 0 and 1
    found = {c["metric"]: c["difference"] for c in comparisons}
    assert found["maj"] == about((1 + 2 * 1 + 2 / 2 + 1 / 2) / 6 / 2 - 1 / 2)
    assert {c["ahead"] for c in comparisons} == {"autodeco"}


def test_many_samples_a_problem_are_affordable() -> None:
    """distinct@128 of 512 samples to each of a hundred problems, in seconds."""
    config = config_of("static:1,1")
    rng = random.Random(0)
    keys = [(p, i) for p in range(100) for i in range(512)]
    samples = [
        replace(sample(make("static:1,1", p, i // 128, i % 128, None)), text=str(rng.randrange(300)), correct=True)
        for p, i in keys
    ]
    settings = EvalSettings(tasks=("t",), k=128, seeds=4)
    start = time.process_time()
    scores = score(config, by_config(samples, settings)[config], settings)
    assert time.process_time() - start < 10
    expected = 300 * (1 - (1 - 1 / 300) ** 128)
    assert scores.distinct[128].mean() == pytest.approx(expected, rel=0.01)


def test_every_figure_of_autodeco() -> None:
    results = summarized(hand_made(), [AUTODECO, GREEDY], SETTINGS, {"autodeco": 50.0})
    json.dumps(results, allow_nan=False)
    variance = (10 * (0.1**2 + (0.5 - 5 / 6) ** 2) + 20 * (0.3**2 + (1 - 5 / 6) ** 2)) / 30
    temperature = {"mean": about(5 / 6), "sd": about(math.sqrt(variance))}
    stats = {
        "problems": 2,
        "samples": 8,
        "pass@1": about(3 / 8),
        "se_seeds": about(1 / 8),  # 1/2 and 1/4
        "se_problems": about(3 / 8),  # 3/4 and 0
        "pass@k": {"1": about(3 / 8), "2": about(1 / 2), "4": about(1 / 2)},
        "distinct": about(2 / 3),  # of two of a, a, b, wrong: 5/6 times a, 1/2 times b
        "distinct_se": about(2 / 3),
        "distinct@k": {"1": about(3 / 8), "2": about(2 / 3), "4": about(1)},
        "tokens_mean": about(15),
        "temperature": temperature,
        "top_p": {"mean": about(0.5), "sd": about(0)},
        "tokens_s": 50.0,
        "truncated": about(1 / 8),
        "ungraded": 0,
        "failed": 0,
        "boxes": {
            "temperature": [about(x) for x in (0.5, 0.5375, 0.9625, 0.98125, 1.0)],
            "top_p": [about(x) for x in (0.5, 0.50625, 0.5125, 0.51875, 0.525)],
        },
        "maj": None,
        "majority_se": None,
        "formless": 0,
        "sd_seeds": about(1 / 8),
        "mean_of_tasks": None,
        "mean_of_tasks_sd": None,
    }
    assert results["methods"][0] == {
        "name": "autodeco",
        "kind": "predicted",
        "config": "autodeco",
        "deterministic": False,
        "temperature": temperature,
        "top_p": {"mean": about(0.5), "sd": about(0)},
        "overall": stats,
        "tasks": {"t": stats},
    }
    assert results["settings"] == {
        "tasks": ["t"],
        "k": 2,
        "seeds": 2,
        "seed": 0,
        "max_tokens": None,
        "search_samples": None,
        "validation": None,
    }
    assert results["tasks"] == {"t": 2}
    assert results["verdict"] == verdict(from_json(Results, results))


def test_greedy_counts_as_all_its_samples() -> None:
    row = summarized(hand_made(), [GREEDY], SETTINGS, {})["methods"][0]
    assert row["deterministic"]
    assert row["overall"] == row["tasks"]["t"]
    stats = row["overall"]
    assert (stats["samples"], stats["se_seeds"], stats["se_problems"]) == (2, 0.0, about(0.5))
    assert stats["pass@k"] == stats["distinct@k"] == {"1": 0.5, "2": 0.5, "4": 0.5}
    assert (stats["distinct"], stats["tokens_s"], stats["boxes"]) == (0.5, None, {})
    assert stats["temperature"] == row["temperature"] == {"mean": 0.0, "sd": 0.0}


def test_comparisons_are_autodeco_minus_the_other() -> None:
    methods = [GREEDY, AUTODECO, Method("static:0,1", "constant", config_of("static:0,1"))]
    first, second, third, *rest = summarized(hand_made(), methods, SETTINGS, {})["comparisons"]
    assert [first[key] for key in ("method", "config", "metric")] == ["greedy", "static:0,1", "pass@1"]
    assert (first["difference"], first["p"] >= 0.5) == (about((3 / 4 - 1) / 2), True)
    assert first["ci"] == [-1.0, 1.0], "two problems tell nothing"
    assert (second["metric"], second["difference"]) == ("distinct", about((4 / 3 - 1) / 2))
    assert (third["metric"], third["difference"]) == ("distinct@4", about((2 - 1) / 2)), "of both seeds"
    assert [(c["method"], c["metric"]) for c in rest] == [
        ("static:0,1", metric) for metric in ("pass@1", "distinct", "distinct@4")
    ]
    one = [[s for s in hand_made() if s["seed"] == 0], replace(SETTINGS, seeds=1)]
    assert {c["metric"] for c in summarized(one[0], methods, one[1], {})["comparisons"]} == {"pass@1", "distinct"}
    assert summarized(hand_made(), [GREEDY], SETTINGS, {})["comparisons"] == []


def test_the_interval_of_different_answers_reaches_to_k() -> None:
    settings = EvalSettings(tasks=("t",), k=2, seeds=1)
    samples = [make("autodeco", p, 0, i, "ab"[i * (p > 0)]) for p in range(6) for i in range(2)]
    samples += [make("static:0,1", p, 0, 0, None) for p in range(6)]
    comparisons = summarized(samples, [AUTODECO, GREEDY], settings, {})["comparisons"]
    (found,) = [c for c in comparisons if c["metric"] == "distinct"]
    assert found["difference"] == about(11 / 6)
    assert found["ci"][0] < 11 / 6 < found["ci"][1] <= 2


def test_comparisons_are_made_within_tasks() -> None:
    """AutoDeco is ahead by 1 on every problem of one task and by 1/2 on every one of another: no doubt about 3/4."""
    settings = EvalSettings(tasks=("s", "t"), k=2, seeds=1)
    places = [(task, problem) for task in "st" for problem in range(4)]
    samples = [{**make("static:0,1", problem, 0, 0, None), "task": task} for task, problem in places]
    for task, problem in places:
        samples += [
            {**make("autodeco", problem, 0, i, "a" if i or task == "s" else None), "task": task} for i in (0, 1)
        ]
    first = summarized(samples, [AUTODECO, GREEDY], settings, {})["comparisons"][0]
    assert (first["difference"], first["ci"], first["p"]) == (0.75, [0.75, 0.75], 0.5**7)


def test_the_grid_has_every_static_pair() -> None:
    rows = summarized(hand_made(), [AUTODECO], SETTINGS, {})["grid"]
    assert [(row["config"], row["temperature"], row["top_p"]) for row in rows] == [
        ("static:0,1", 0.0, 1.0),
        ("static:0.5,1", 0.5, 1.0),
    ]
    greedy = {"problems": 2, "pass@1": 0.5, "se": about(0.5), "distinct": 0.5, "k": 2}
    assert {key: rows[0][key] for key in greedy} == rows[0]["tasks"]["t"] == greedy
    searched = {"problems": 1, "pass@1": 0.5, "se": None, "distinct": 1.0, "k": 2}
    assert {key: rows[1][key] for key in searched} == rows[1]["tasks"]["t"] == searched
    ungraded = make("static:0.5,1", 1, 0, 0, None, correct=None)
    assert summarized([*hand_made(), ungraded], [AUTODECO], SETTINGS, {})["grid"] == rows


def test_a_grid_of_fewer_samples_says_so() -> None:
    samples = [s for s in hand_made() if s["config"] != "static:0.5,1" or s["sample"] == 0]
    row = summarized(samples, [AUTODECO], SETTINGS, {})["grid"][1]
    assert (row["k"], row["distinct"], row["pass@1"]) == (1, 1.0, 1.0)


def test_several_tasks() -> None:
    """Every problem counts the same, and speed belongs to no single task."""
    samples = [*hand_made(), *({**s, "task": "s", "problem": 7} for s in hand_made() if s["problem"] == 0)]
    settings = EvalSettings(tasks=("s", "t"), k=2, seeds=2)
    results = summarized(samples, [AUTODECO], settings, {"autodeco": 50.0})
    assert results["tasks"] == {"s": 1, "t": 2}
    overall, tasks = results["methods"][0]["overall"], results["methods"][0]["tasks"]
    assert (overall["pass@1"], tasks["s"]["pass@1"], tasks["t"]["pass@1"]) == (about(0.5), about(0.75), about(0.375))
    assert (overall["tokens_s"], tasks["s"]["tokens_s"], tasks["t"]["tokens_s"]) == (50.0, None, None)
    # by seed 1 and 1/2 of the one task, 1/2 and 1/4 of the other
    assert (overall["mean_of_tasks"], overall["mean_of_tasks_sd"]) == (about(9 / 16), about(3 / 16))
    ungraded = [{**s, "correct": None} if (s["task"], s["seed"]) == ("s", 1) else s for s in samples]
    overall = summarized(ungraded, [AUTODECO], settings, {})["methods"][0]["overall"]
    assert (overall["mean_of_tasks"], overall["mean_of_tasks_sd"]) == (about((1 + 3 / 8) / 2), None)
    assert (tasks["s"]["problems"], tasks["s"]["se_problems"], overall["problems"]) == (1, None, 3)


def test_what_is_not_known_is_null() -> None:
    unknown = {"temperature": {"mean": None, "sd": None}, "tokens": 3}
    samples = [make("dynatemp:0.5", p, s, i, "a", **unknown) for p in (0, 1) for s in (0, 1) for i in (0, 1)]
    samples[0] = {**samples[0], "correct": None, "finish_reason": "error", "tokens": 0}
    row = summarized(samples, [Method("dynatemp", "peer", config_of("dynatemp:0.5"))], SETTINGS, {})["methods"][0]
    assert (row["temperature"], row["top_p"]) == (None, {"mean": 1.0, "sd": 0.0})
    assert (row["overall"]["ungraded"], row["overall"]["failed"], row["overall"]["pass@1"]) == (1, 1, 1.0)
    assert row["overall"]["tokens_mean"] == about(21 / 8)


def test_one_seed_has_no_error_over_seeds() -> None:
    settings = EvalSettings(tasks=("t",), k=2, seeds=1)
    assert summarized(hand_made(), [AUTODECO], settings, {})["methods"][0]["overall"]["se_seeds"] is None


def test_missing_samples() -> None:
    with pytest.raises(AutoDecoError, match=r"^autodeco: task t, problem 1: 3 samples, expected 4; run the evaluation"):
        summarized(
            [s for s in hand_made() if not (s["problem"] and s["seed"] and s["sample"])], [AUTODECO], SETTINGS, {}
        )
    with pytest.raises(AutoDecoError, match=r"^static:0\.1,0\.2: task t, problem 0: 0 samples, expected 4"):
        summarized(hand_made(), [AUTODECO, ORACLE], SETTINGS, {})
    with pytest.raises(AutoDecoError, match=r"^autodeco: task t, problem 0: 4 samples, expected 10"):
        summarized(hand_made(), [AUTODECO], EvalSettings(tasks=("t",), k=5, seeds=2), {})
    with pytest.raises(AutoDecoError, match=r"^method oracle: has no config yet, expected what its search found$"):
        summarized(hand_made(), [Method("oracle", "constant", None)], SETTINGS, {})
