"""Results of hand-made samples, the table, the verdict's words, and the plots."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.evaluation import plots
from autodeco_gguf.evaluation.methods import Method
from autodeco_gguf.evaluation.report import label, summarize, table, verdict
from autodeco_gguf.evaluation.settings import EvalSettings

# ---- results ----

AUTODECO = Method("autodeco", "predicted", "autodeco")
GREEDY = Method("greedy", "constant", "static:0,1")
ORACLE = Method("oracle", "constant", "static:0.1,0.2")
SETTINGS = EvalSettings(tasks=("t",), k=2, seeds=2)
T = [{"mean": 0.5, "sd": 0.1}, {"mean": 1.0, "sd": 0.3}]
"""Of the samples of two problems."""


def bins(**counts: int) -> dict[str, list[int]]:
    return {"bins": [counts.get(f"_{i}", 0) for i in range(40)]}


def make(config: str, problem: int, seed: int, number: int, answer: str | None, **more: Any) -> dict[str, Any]:
    """A sample: right with this text, or wrong."""
    return {
        "task": "t",
        "problem": problem,
        "config": config,
        "seed": seed,
        "sample": number,
        "text": answer or "no",
        "correct": answer is not None,
        "error": None,
        "finish_reason": "stop",
        "tokens": 10,
        "temperature": {"mean": 0.0, "sd": 0.0},
        "top_p": {"mean": 1.0, "sd": 0.0},
        **more,
    }


def hand_made() -> list[dict[str, Any]]:
    """AutoDeco: right, right | right, wrong on the first problem, all wrong on the second; greedy the other way."""
    predicted: list[dict[str, Any]] = [
        {"temperature": {**T[0], **bins(_10=10)}, "top_p": {"mean": 0.5, "sd": 0.0, **bins(_20=10)}},
        {"temperature": {**T[1], **bins(_19=20)}, "top_p": {"mean": 0.5, "sd": 0.0, **bins(_20=20)}, "tokens": 20},
    ]
    answers = [["a", "a", "b", None], [None] * 4]
    samples = [
        make("autodeco", p, i // 2, i % 2, answer, **predicted[p])
        for p, row in enumerate(answers)
        for i, answer in enumerate(row)
    ]
    samples[0]["finish_reason"] = "length"
    samples += [make("static:0,1", 0, 0, 0, None), make("static:0,1", 1, 0, 0, "x")]
    searched = [make("static:0.5,1", 0, 0, 0, "a"), make("static:0.5,1", 0, 0, 1, None)]
    return [*samples, *searched, make("static:0.5,1", 0, 0, 2, "beyond k")]


def about(value: float) -> Any:
    return pytest.approx(value, abs=1e-9)


def test_every_figure_of_autodeco() -> None:
    results = summarize(hand_made(), [AUTODECO, GREEDY], SETTINGS, {"autodeco": 50.0})
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
    }
    assert results["tasks"] == {"t": 2}
    assert results["verdict"] == verdict(results)


def test_greedy_counts_as_all_its_samples() -> None:
    row = summarize(hand_made(), [GREEDY], SETTINGS, {})["methods"][0]
    assert row["deterministic"]
    assert row["overall"] == row["tasks"]["t"]
    stats = row["overall"]
    assert (stats["samples"], stats["se_seeds"], stats["se_problems"]) == (2, 0.0, about(0.5))
    assert stats["pass@k"] == stats["distinct@k"] == {"1": 0.5, "2": 0.5, "4": 0.5}
    assert (stats["distinct"], stats["tokens_s"], stats["boxes"]) == (0.5, None, {})
    assert stats["temperature"] == row["temperature"] == {"mean": 0.0, "sd": 0.0}


def test_comparisons_are_autodeco_minus_the_other() -> None:
    methods = [GREEDY, AUTODECO, Method("static:0,1", "constant", "static:0,1")]
    first, second, *rest = summarize(hand_made(), methods, SETTINGS, {})["comparisons"]
    assert [first[key] for key in ("method", "config", "metric")] == ["greedy", "static:0,1", "pass@1"]
    assert (first["difference"], first["p"] >= 0.5) == (about((3 / 4 - 1) / 2), True)
    assert first["ci"] == [-1.0, 1.0], "two problems tell nothing"
    assert (second["metric"], second["difference"]) == ("distinct", about((4 / 3 - 1) / 2))
    assert [(c["method"], c["metric"]) for c in rest] == [("static:0,1", "pass@1"), ("static:0,1", "distinct")]
    assert summarize(hand_made(), [GREEDY], SETTINGS, {})["comparisons"] == []


def test_comparisons_are_made_within_tasks() -> None:
    """AutoDeco is ahead by 1 on every problem of one task and by 1/2 on every one of another: no doubt about 3/4."""
    settings = EvalSettings(tasks=("s", "t"), k=2, seeds=1)
    places = [(task, problem) for task in "st" for problem in range(4)]
    samples = [{**make("static:0,1", problem, 0, 0, None), "task": task} for task, problem in places]
    for task, problem in places:
        samples += [
            {**make("autodeco", problem, 0, i, "a" if i or task == "s" else None), "task": task} for i in (0, 1)
        ]
    first = summarize(samples, [AUTODECO, GREEDY], settings, {})["comparisons"][0]
    assert (first["difference"], first["ci"], first["p"]) == (0.75, [0.75, 0.75], 0.5**7)


def test_the_grid_has_every_static_pair() -> None:
    rows = summarize(hand_made(), [AUTODECO], SETTINGS, {})["grid"]
    assert [(row["config"], row["temperature"], row["top_p"]) for row in rows] == [
        ("static:0,1", 0.0, 1.0),
        ("static:0.5,1", 0.5, 1.0),
    ]
    greedy = {"problems": 2, "pass@1": 0.5, "se": about(0.5), "distinct": 0.5, "k": 2}
    assert {key: rows[0][key] for key in greedy} == rows[0]["tasks"]["t"] == greedy
    searched = {"problems": 1, "pass@1": 0.5, "se": None, "distinct": 1.0, "k": 2}
    assert {key: rows[1][key] for key in searched} == rows[1]["tasks"]["t"] == searched


def test_a_grid_of_fewer_samples_says_so() -> None:
    samples = [s for s in hand_made() if s["config"] != "static:0.5,1" or s["sample"] == 0]
    row = summarize(samples, [AUTODECO], SETTINGS, {})["grid"][1]
    assert (row["k"], row["distinct"], row["pass@1"]) == (1, 1.0, 1.0)


def test_several_tasks() -> None:
    """Every problem counts the same, and speed belongs to no single task."""
    samples = [*hand_made(), *({**s, "task": "s", "problem": 7} for s in hand_made() if s["problem"] == 0)]
    settings = EvalSettings(tasks=("s", "t"), k=2, seeds=2)
    results = summarize(samples, [AUTODECO], settings, {"autodeco": 50.0})
    assert results["tasks"] == {"s": 1, "t": 2}
    overall, tasks = results["methods"][0]["overall"], results["methods"][0]["tasks"]
    assert (overall["pass@1"], tasks["s"]["pass@1"], tasks["t"]["pass@1"]) == (about(0.5), about(0.75), about(0.375))
    assert (overall["tokens_s"], tasks["s"]["tokens_s"], tasks["t"]["tokens_s"]) == (50.0, None, None)
    assert (tasks["s"]["problems"], tasks["s"]["se_problems"], overall["problems"]) == (1, None, 3)


def test_what_is_not_known_is_null() -> None:
    unknown = {"temperature": {"mean": None, "sd": None}, "tokens": 3}
    samples = [make("dynatemp:0.5", p, s, i, "a", **unknown) for p in (0, 1) for s in (0, 1) for i in (0, 1)]
    samples[0] = {**samples[0], "correct": None, "finish_reason": "error", "tokens": 0}
    row = summarize(samples, [Method("dynatemp", "peer", "dynatemp:0.5")], SETTINGS, {})["methods"][0]
    assert (row["temperature"], row["top_p"]) == (None, {"mean": 1.0, "sd": 0.0})
    assert (row["overall"]["ungraded"], row["overall"]["failed"], row["overall"]["pass@1"]) == (1, 1, 1.0)
    assert row["overall"]["tokens_mean"] == about(21 / 8)


def test_one_seed_has_no_error_over_seeds() -> None:
    settings = EvalSettings(tasks=("t",), k=2, seeds=1)
    assert summarize(hand_made(), [AUTODECO], settings, {})["methods"][0]["overall"]["se_seeds"] is None


def test_missing_samples() -> None:
    with pytest.raises(AutoDecoError, match=r"^autodeco: task t, problem 1: 3 samples, expected 4; run the evaluation"):
        summarize(
            [s for s in hand_made() if not (s["problem"] and s["seed"] and s["sample"])], [AUTODECO], SETTINGS, {}
        )
    with pytest.raises(AutoDecoError, match=r"^static:0\.1,0\.2: task t, problem 0: 0 samples, expected 4"):
        summarize(hand_made(), [AUTODECO, ORACLE], SETTINGS, {})
    with pytest.raises(AutoDecoError, match=r"^autodeco: task t, problem 0: 4 samples, expected 10"):
        summarize(hand_made(), [AUTODECO], EvalSettings(tasks=("t",), k=5, seeds=2), {})
    with pytest.raises(AutoDecoError, match=r"^method oracle: has no config yet, expected what its search found$"):
        summarize(hand_made(), [Method("oracle", "constant", None)], SETTINGS, {})


# ---- table ----


def stats(passed: float, distinct: float, **more: Any) -> dict[str, Any]:
    return {
        "problems": 40,
        "samples": 640,
        "pass@1": passed,
        "se_seeds": 0.0123,
        "se_problems": 0.03,
        "pass@k": {"1": passed, "4": 0.987},
        "distinct": distinct,
        "distinct_se": 0.25,
        "tokens_mean": 123.4,
        "temperature": {"mean": 0.7, "sd": 0.25},
        "top_p": {"mean": 0.9, "sd": 0.1},
        "tokens_s": 321.0,
        "truncated": 0.0,
        "ungraded": 0,
        "failed": 0,
        **more,
    }


def method(name: str, kind: str, config: str, overall: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "config": config,
        "deterministic": config == "static:0,1",
        "overall": overall,
        "tasks": {"stories": overall},
    }


CONSTANT = {"temperature": {"mean": 0.1, "sd": 0.0}, "top_p": {"mean": 0.1, "sd": 0.0}}


def crafted(**more: Any) -> dict[str, Any]:
    """Results with four methods; AutoDeco is ahead of greedy by 2.1 points."""
    methods = [
        method("autodeco", "predicted", "autodeco", stats(0.912, 3.21, truncated=3 / 640)),
        method("greedy", "constant", "static:0,1", stats(0.891, 0.9, se_seeds=0.0, samples=40, **CONSTANT)),
        method("oracle", "constant", "static:0.1,0.1", stats(0.88, 1.0, ungraded=2, tokens_s=None, **CONSTANT)),
        method("mirostat2", "peer", "mirostat2", stats(0.5, 2.0, top_p=None)),
    ]
    comparisons = [
        compared("greedy", "static:0,1", "pass@1", 0.021, (-0.0004, 0.0424), 0.06),
        compared("greedy", "static:0,1", "distinct", 2.31, (2.0, 2.6), 0.0001),
        compared("oracle", "static:0.1,0.1", "pass@1", 0.032, (0.001, 0.063), 0.04),
        compared("oracle", "static:0.1,0.1", "distinct", 2.21, (2.0, 2.4), 0.0001),
        compared("mirostat2", "mirostat2", "pass@1", -0.412, (-0.5, -0.3), 0.0001),
    ]
    results = {"settings": {"k": 4, "seeds": 4}, "tasks": {"stories": 40}, "methods": methods}
    return {**results, "comparisons": comparisons, "grid": [], **more}


def compared(name: str, config: str, metric: str, difference: float, ci: Sequence[float], p: float) -> dict[str, Any]:
    return {"method": name, "config": config, "metric": metric, "difference": difference, "ci": list(ci), "p": p}


TABLE = """\
stories, 40 problems:

| method                   |  pass@1, % |    autodeco ahead by | pass@4, % |  distinct@4 | tokens |           T |           P | tokens/s |
|--------------------------|-----------:|---------------------:|----------:|------------:|-------:|------------:|------------:|---------:|
| autodeco                 | 91.2 ± 1.2 |                      |      98.7 | 3.21 ± 0.25 |    123 | 0.70 ± 0.25 | 0.90 ± 0.10 |      321 |
| greedy                   |       89.1 |    +2.1 [+0.0, +4.2] |      98.7 | 0.90 ± 0.25 |    123 |        0.10 |        0.10 |      321 |
| oracle: T = 0.1, P = 0.1 | 88.0 ± 1.2 |    +3.2 [+0.1, +6.3] |      98.7 | 1.00 ± 0.25 |    123 |        0.10 |        0.10 |          |
| mirostat2                | 50.0 ± 1.2 | -41.2 [-50.0, -30.0] |      98.7 | 2.00 ± 0.25 |    123 | 0.70 ± 0.25 |             |      321 |

- pass@1 ± standard error over 4 seeds; 16 samples a problem. T and P ± standard deviation.
- distinct@4: different right answers among 4 samples ± standard error over problems.
- autodeco ahead by: points of pass@1 with a 95 % interval, problem by problem (bootstrap-t).
- greedy: deterministic, one sample a problem that counts for all.
- oracle: chosen on these test problems themselves, which favours it.
- samples cut off by length: autodeco 3 of 640.
- samples not graded, which count neither as right nor as wrong: oracle 2 of 640."""  # noqa: E501


def test_the_table() -> None:
    assert table(crafted()) == TABLE


def test_the_table_fits_a_terminal() -> None:
    results = crafted()
    results["methods"][2] |= {"name": "mean-shift", "config": "static:0.6858,0.7561"}
    results["methods"][2]["overall"] |= {"pass@1": 1.0, "distinct": 14.29, "temperature": {"mean": 0.6858, "sd": 0.31}}
    assert max(map(len, table(results).splitlines())) <= 150
    assert "| mean-shift: T = 0.6858, P = 0.7561 | 100.0 ± 1.2 |" in table(results)
    assert "- mean-shift: autodeco's own mean T and P, as constants.\n" in table(results)


def test_the_table_of_several_tasks() -> None:
    results = crafted(tasks={"stories": 40, "sums": 1})
    for row in results["methods"]:
        row["tasks"] |= {"sums": stats(0.25, 1.0, tokens_s=None)}
    text = table(results)
    assert [line for line in text.splitlines() if line.endswith(":")] == [
        "stories, 40 problems:",
        "sums, 1 problem:",
        "all tasks, 41 problems:",
    ]
    stories, sums, together = (part for part in text.split("\n\n") if part.startswith("|"))
    assert "autodeco ahead by" not in stories + sums
    assert "autodeco ahead by" in together
    assert "tokens/s" not in sums
    assert sums.count("25.0") == 4
    assert "\n- all tasks: every problem counts the same.\n" in text


def test_the_table_of_one_sample_a_problem() -> None:
    """No pass@1 twice, and the error is over problems, for greedy as well."""
    results = crafted(settings={"k": 1, "seeds": 1}, comparisons=[])
    for row in results["methods"]:
        row["overall"] |= {"se_seeds": None}
    head, _, first, second, *_ = table(results).split("\n\n")[1].splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "method",
        "pass@1, %",
        "tokens",
        "T",
        "P",
        "tokens/s",
    ]
    assert "91.2 ± 3.0" in first
    assert "89.1 ± 3.0" in second
    assert "- pass@1 ± standard error over problems; 1 sample a problem." in table(results)


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("oracle", "static:0.1,0.95", "oracle: T = 0.1, P = 0.95"),
        ("distinct", "static:2,0.3", "distinct: T = 2, P = 0.3"),
        ("greedy", "static:0,1", "greedy"),
        ("static:0.60,1", "static:0.6,1", "static:0.60,1"),
        ("autodeco", "autodeco", "autodeco"),
    ],
)
def test_labels(name: str, config: str, expected: str) -> None:
    assert label({"name": name, "config": config}) == expected


# ---- verdict ----


def judged(
    passed: tuple[Any, ...], distinct: tuple[Any, ...], shift: Sequence[tuple[Any, ...]] = (), n: int = 40
) -> str:
    """The verdict where greedy is best on pass@1 and another pair on different answers; a tuple: difference, ci, p."""
    methods = [
        method("autodeco", "predicted", "autodeco", stats(0.9, 3.0)),
        method("default", "constant", "static:1,1", stats(0.5, 1.0)),
        method("greedy", "constant", "static:0,1", stats(0.8, 0.8)),
        method("distinct", "constant", "static:2,0.3", stats(0.7, 2.5)),
        method("llama.cpp", "peer", "llama.cpp", stats(0.99, 3.9)),
    ]
    comparisons = [
        compared("default", "static:1,1", "pass@1", 0.4, (0.3, 0.5), 0.0001),
        compared("greedy", "static:0,1", "pass@1", *passed),
        compared("distinct", "static:2,0.3", "distinct", *distinct),
    ]
    if shift:
        methods.append(method("mean-shift", "constant", "static:0.69,0.76", stats(0.6, 0.9)))
        pairs = zip(("pass@1", "distinct"), shift, strict=True)
        comparisons += [compared("mean-shift", "static:0.69,0.76", metric, *values) for metric, values in pairs]
    return verdict(crafted(methods=methods, comparisons=comparisons, tasks={"stories": n}))


FAVOURED = "Which constant is best was seen on these same problems, which favours it; "
BETTER, WORSE = (0.1, (0.05, 0.15), 0.0001), (-0.5, (-0.82, -0.18), 0.002)
NEITHER = (0.004, (-0.011, 0.019), 0.4)


def test_better_and_worse() -> None:
    assert judged(BETTER, WORSE) == (
        "On pass@1 AutoDeco is better than the best constant (greedy): by 10.0 points (95 % interval +5.0 to +15.0, "
        "p < 0.001). On different right answers among 4 AutoDeco is worse than the constant with the most (distinct: "
        "T = 2, P = 0.3): by 0.50 (95 % interval -0.82 to -0.18, p = 0.002). "
        + FAVOURED
        + "p is corrected for 2 claims (Holm), the intervals are not."
    )


def test_no_difference_is_not_called_equal() -> None:
    text = judged(NEITHER, (0.0, (0.0, 0.0), 1.0))
    assert text.startswith(
        "On pass@1 AutoDeco is not shown to differ from the best constant (greedy): +0.4 points (95 % interval -1.1 to "
        "+1.9, p = 0.80), so it may be up to 1.1 worse or 1.9 better. On different right answers among 4 "
        "AutoDeco is as good as the constant with the most (distinct: T = 2, P = 0.3): the same on every problem. "
    )


def test_several_claims_have_to_be_clearer() -> None:
    """0.03 is no finding among four, of which two are as unclear; nor does the interval hide it."""
    unclear = (0.02, (0.001, 0.039), 0.03)
    alone = judged(unclear, (0.5, (0.1, 0.9), 0.01))
    assert "On pass@1 AutoDeco is better than the best constant (greedy): by 2.0 points" in alone
    assert "p = 0.030). " in alone
    text = judged(unclear, (0.5, (0.1, 0.9), 0.01), [NEITHER, NEITHER])
    assert (
        "On pass@1 AutoDeco is not shown to differ from the best constant (greedy): +2.0 points (95 % interval +0.1 to "
        "+3.9, p = 0.090), so it may be up to 3.9 better. "
    ) in text
    assert (
        "the constant with the most (distinct: T = 2, P = 0.3): by 0.50 (95 % interval +0.10 to +0.90, p = 0.040). "
        in text
    )
    assert text.endswith("p is corrected for 4 claims (Holm), the intervals are not.")


def test_what_choosing_token_by_token_adds() -> None:
    text = judged(NEITHER, NEITHER, [WORSE, (1.5, (1.2, 1.8), 0.0001)])
    assert (
        " Against its own mean T and P as constants (mean-shift: T = 0.69, P = 0.76) it is worse on pass@1: by 50.0 "
        "points (95 % interval -82.0 to -18.0, p = 0.006); and better on different right answers among 4: by 1.50 "
        "(95 % interval +1.20 to +1.80, p < 0.001). "
    ) in text
    assert "mean-shift" not in judged(NEITHER, NEITHER)


def test_few_problems() -> None:
    assert judged(BETTER, BETTER, n=29).endswith(" With 29 problems only large differences show.")
    assert "only large" not in judged(BETTER, BETTER, n=30)


def test_small_differences_keep_their_digits() -> None:
    text = judged((0.0004, (0.0001, 0.0007), 0.001), BETTER)
    assert "by 0.04 points (95 % interval +0.01 to +0.07, p = 0.001)" in text


def test_level_constants() -> None:
    """Of two with the same pass@1 the one with more different answers is the one to beat; a claim is counted once."""
    results = crafted()
    results["methods"][1]["overall"]["pass@1"] = results["methods"][2]["overall"]["pass@1"]
    text = verdict(results)
    assert "the best constant (oracle: T = 0.1, P = 0.1)" in text
    assert "corrected for 2 claims" in text
    results["methods"][2] |= {"name": "mean-shift"}
    assert "the best constant (mean-shift: T = 0.1, P = 0.1)" in verdict(results)
    assert "corrected for 2 claims" in verdict(results)


def test_one_sample_has_one_metric() -> None:
    results = crafted(settings={"k": 1, "seeds": 1})
    assert "different" not in verdict(results)
    assert verdict(results).endswith(" Which constant is best was seen on these same problems, which favours it.")


def test_without_autodeco() -> None:
    results = crafted(comparisons=[])
    del results["methods"][0]
    assert verdict(results) == (
        "AutoDeco is not among the methods. The best constant on pass@1 is greedy (89.1 %), that with the most "
        "different right answers among 4 is oracle: T = 0.1, P = 0.1 (1.00 ± 0.25), as seen on these same problems, "
        "which favours the best."
    )
    del results["methods"][:2]
    assert verdict(results) == "There is neither AutoDeco nor a constant to compare."


def test_without_constants() -> None:
    results = crafted()
    del results["methods"][1:3]
    assert verdict(results) == "There is no constant to compare AutoDeco with."


# ---- plots ----


def sampled(tasks: Sequence[str] = ("t",), heads: bool = True) -> dict[str, Any]:
    """Results with a line of constants at P = 1, which fewer problems have at T = 2."""
    samples, methods = [], [GREEDY, ORACLE, Method("mirostat2", "peer", "mirostat2")]
    for task in tasks:
        line = [
            {**make(f"static:{t},1", p, 0, 0, "a" if t < 1.5 else None), "task": task} for t in (1, 1.5) for p in (0, 1)
        ]
        samples += [{**s, "task": task} for s in hand_made() if s["config"] != "static:0.5,1"]
        samples += [*line, {**make("static:2,1", 0, 0, 0, "a"), "task": task}]
        for config in ("static:0.1,0.2", "mirostat2"):
            samples += [{**make(config, i // 4, i // 2 % 2, i % 2, "a"), "task": task} for i in range(8)]
    settings = EvalSettings(tasks=tuple(tasks), k=2, seeds=2)
    return summarize(samples, [AUTODECO, *methods] if heads else methods, settings, {})


def size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 5000
    return struct.unpack(">II", content[16:24])


def figures(results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be written."""
    found = {}

    def keep(figure: Any, path: Path) -> None:
        found[path.name] = figure

    with monkeypatch.context() as patch:
        patch.setattr(plots, "write_png", keep)
        plots.plot(results, Path())
    return found


def test_three_plots(tmp_path: Path) -> None:
    written = plots.plot(sampled(), tmp_path)
    assert written == [tmp_path / name for name in ("accuracy.png", "pass_at_k.png", "parameters.png")]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert [size(path) for path in written] == [(744, 432), (1320, 504), (768, 456)]


def test_nothing_predicted_has_no_box_plot(tmp_path: Path) -> None:
    assert [path.name for path in plots.plot(sampled(heads=False), tmp_path)] == ["accuracy.png", "pass_at_k.png"]


def test_accuracy_has_the_line_and_autodeco_across(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = figures(sampled(), monkeypatch)["accuracy.png"].axes[0]
    lines = {
        line.get_label(): line.get_xydata().tolist() for line in axes.lines if not line.get_label().startswith("_")
    }
    assert lines["constant T, P = 1"] == [[0, 50], [1, 100], [1.5, 0]], "T = 2 has not all problems"
    assert [y for _, y in lines["AutoDeco"]] == [37.5, 37.5]
    points = {text.get_text() for text in axes.figure.legends[0].get_texts()}
    assert points == {"constant T, P = 1", "AutoDeco", "greedy", "oracle: T = 0.1, P = 0.2"}
    assert (axes.get_title(), axes.get_xlabel()) == ("t, 2 problems", "temperature")


def test_six_tasks_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [f"task {i}" for i in range(8)]
    drawn = figures(sampled(tasks), monkeypatch)
    assert [axes.get_title() for axes in drawn["accuracy.png"].axes] == [f"{task}, 2 problems" for task in tasks[:6]]
    assert [label.get_text() for label in drawn["parameters.png"].axes[0].get_xticklabels()] == tasks


def test_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = figures(sampled(), monkeypatch)["pass_at_k.png"].axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert list(curves) == ["autodeco", "greedy", "oracle: T = 0.1, P = 0.2", "mirostat2"]
    assert curves["autodeco"] == [[1, 37.5], [2, about(50)], [4, about(50)]]
    assert right.lines[0].get_xydata().tolist() == [[1, 0.375], [2, about(2 / 3)], [4, about(1)]]
    assert len({(line.get_color(), line.get_marker()) for line in left.lines}) == 4


def test_eight_curves_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    results = sampled()
    peers = [{**results["methods"][-1], "name": f"peer {i}"} for i in range(9)]
    results["methods"] = [*peers, *results["methods"]]
    left, _ = figures(results, monkeypatch)["pass_at_k.png"].axes
    names = ["autodeco", "greedy", "oracle: T = 0.1, P = 0.2", *(f"peer {i}" for i in range(5))]
    assert [line.get_label() for line in left.lines] == names
    assert len({line.get_color() for line in left.lines}) == 8


def test_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    temperature, top_p = figures(sampled(), monkeypatch)["parameters.png"].axes
    levels = {round(float(y), 5) for line in temperature.lines for y in line.get_ydata()}
    assert levels == {0.5, 0.5375, 0.9625, 0.98125, 1.0}
    assert (temperature.get_ylabel(), top_p.get_ylabel()) == ("predicted temperature, T", "predicted top-p, P")


def test_plots_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(AutoDecoError, match=r'^matplotlib is not installed; pip install "autodeco-gguf\[eval\]"$'):
        plots.plot(sampled(), tmp_path)
    assert list(tmp_path.iterdir()) == []
