"""The table, and the verdict's words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.evaluation.report import page, summary, table, verdict
from autodeco_gguf.evaluation.results import Results

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
        "distinct@k": {"1": passed, "4": distinct},
        "tokens_mean": 123.4,
        "temperature": {"mean": 0.7, "sd": 0.25},
        "top_p": {"mean": 0.9, "sd": 0.1},
        "tokens_s": 321.0,
        "truncated": 0.0,
        "ungraded": 0,
        "failed": 0,
        "boxes": {},
        **more,
    }


def method(name: str, kind: str, config: str, overall: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "config": config,
        "deterministic": config == "static:0,1",
        "temperature": overall["temperature"],
        "top_p": overall["top_p"],
        "overall": overall,
        "tasks": {"stories": overall},
    }


CONSTANT = {"temperature": {"mean": 0.1, "sd": 1e-9}, "top_p": {"mean": 0.1, "sd": 0.0}}
"""Of which rounding makes a deviation."""


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
    return {**results, "comparisons": comparisons, "grid": [], "verdict": "", **more}


def read(results: dict[str, Any]) -> Results:
    return from_json(Results, results)


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
    assert table(read(crafted())) == TABLE


NARROW = """\
stories, 40 problems:

method      pass@1, %  autodeco ahead  distinct     T     P  tokens  tokens/s
autodeco   91.2 ± 1.2                      3.21  0.70  0.90     123       321
greedy           89.1    +0.0 to +4.2      0.90  0.10  0.10     123       321
oracle     88.0 ± 1.2    +0.1 to +6.3      1.00  0.10  0.10     123
mirostat2  50.0 ± 1.2  -50.0 to -30.0      2.00  0.70           123       321

- pass@1 ± standard error over 4 seeds; 16 samples a problem.
- distinct: different right answers among 4 samples.
- autodeco ahead: by so many points of pass@1 (95 % interval).
- T and P: means.
- greedy: deterministic, one sample a problem that counts for all.
- oracle: chosen on these test problems themselves, which favours it.
- samples cut off by length: autodeco 3 of 640.
- samples not graded, which count neither as right nor as wrong: oracle 2 of
  640.
- All columns: --wide, or report.md.

It is so.
Because of a reason that is given at some length, since otherwise this line
would fit a terminal as it is."""


def test_the_table_of_a_terminal() -> None:
    reason = (
        "Because of a reason that is given at some length, since otherwise this line would fit a terminal as it is."
    )
    results = read(crafted(verdict=f"It is so.\n{reason}"))
    assert summary(results) == NARROW
    assert summary(results, wide=True) == f"{TABLE}\n\nIt is so.\n{reason}"


def test_a_majority_and_what_has_no_form() -> None:
    results = crafted()
    rows = [{"maj": 0.95, "majority_se": 0.02, "formless": 320}, {"maj": 0.9, "formless": 40}, {}, {"formless": 321}]
    for row, more in zip(results["methods"], rows, strict=True):
        row["overall"].update(more)
    lines = table(read(results)).splitlines()
    column = [line.split("|")[5].strip() for line in lines if line.startswith("|")]
    assert column == ["maj@4, %", "-----------:", "95.0 ± 2.0", "90.0", "", ""]
    level = "of those that are level one at random"
    assert f"- maj@4: the most frequent answer of 4 is right, {level} ± standard error over problems." in lines
    form = "samples without the form that the checker looks for, which is another thing than a wrong answer"
    assert f"- {form}: greedy 40 of 40, mirostat2 321 of 640." in lines
    assert f"- maj: the most frequent answer of 4 is right, {level}." in " ".join(summary(read(results)).split())


def test_what_is_of_one_of_several_tasks_is_noted() -> None:
    results = crafted(tasks={"stories": 40, "sums": 1})
    for row, formless in zip(results["methods"], (9, 8, 0, 0), strict=True):
        row["tasks"] |= {"sums": stats(0.25, 1.0, samples=16, maj=0.5, formless=formless)}
        row["overall"] = {**row["overall"], "formless": formless}
    text = table(read(results))
    assert ", which is another thing than a wrong answer: autodeco on sums 9 of 16.\n" in text
    assert "\n- maj@4: the most frequent answer of 4 is right, " in text


def test_a_share_of_samples_is_a_whole_number_of_them() -> None:
    """1 / 49 * 49 is less than 1."""
    results = crafted()
    results["methods"][0]["overall"] |= {"samples": 49, "truncated": 1 / 49}
    assert "- samples cut off by length: autodeco 1 of 49." in table(read(results)).splitlines()


def test_what_is_not_finished() -> None:
    note = "- not finished, and not in the table: default, oracle; the same command goes on."
    assert note in table(read(crafted(unfinished=["default", "oracle"]))).splitlines()


def test_the_verdict_on_its_own_values_at_other_tokens() -> None:
    results = crafted()
    results["methods"].append(method("shuffle", "peer", "shuffle:4,4", stats(0.9, 3.0)))
    results["comparisons"] += [
        compared("shuffle", "shuffle:4,4", "pass@1", 0.012, (-0.001, 0.025), 0.08),
        compared("shuffle", "shuffle:4,4", "distinct", 0.21, (0.1, 0.32), 0.001),
    ]
    said = verdict(read(results))
    assert "On pass@1 AutoDeco is not shown to differ from its own T and P at other tokens (shuffle)." in said
    assert "among 4 AutoDeco is better than its own T and P at other tokens (shuffle)." in said
    assert "- shuffle: autodeco's own pairs of T and P, at other tokens." in table(read(results))


def test_the_table_fits_a_terminal() -> None:
    """Whatever stands in it: columns to the right are left out."""
    results = crafted(tasks={"stories": 40, "sums": 1})
    results["methods"][2] |= {"name": "static:12.3456,0.123456", "config": "static:12.3456,0.123456"}
    results["methods"][2]["overall"] |= {"pass@1": 1.0, "distinct": 14.29, "tokens_s": 123456.0, "tokens_mean": 12345.0}
    for row in results["methods"]:
        row["tasks"] |= {"sums": stats(0.25, 1.0)}
    results["comparisons"][2] |= {"ci": [-1.0, -0.999]}
    for comparison in results["comparisons"][2:4]:
        comparison["config"] = "static:12.3456,0.123456"
    results["verdict"] = verdict(read(results))
    text = summary(read(results))
    assert max(map(len, text.splitlines())) <= 80
    assert "static:12.3456,0.123456  100.0 ± 1.2  -100.0 to -99.9     14.29  0.10  0.10" in text
    assert "tokens/s" not in text.rpartition("all tasks")[2]


def test_what_a_search_found_stands_in_the_wide_table() -> None:
    results = crafted()
    results["methods"][2] |= {"name": "mean-shift", "config": "static:0.6858,0.7561"}
    results["methods"][2]["overall"] |= {"pass@1": 1.0, "distinct": 14.29, "temperature": {"mean": 0.6858, "sd": 0.31}}
    assert max(map(len, table(read(results)).splitlines())) <= 150
    assert "| mean-shift: T = 0.6858, P = 0.7561 | 100.0 ± 1.2 |" in table(read(results))
    assert "- mean-shift: autodeco's own mean T and P on these same problems, as constants.\n" in table(read(results))


ORIGIN = {
    "model": "m-q4_0.gguf", "model_digest": "0123456789abcdef",
    "heads": ["temperature", "top_p"], "heads_file": "h.gguf", "heads_digest": "fedcba9876543210",
    "context": 4096, "cache_type": "f16", "flash_attn": True,
    "version": "1.2", "llama_cpp_python": "0.3", "date": "2026-01-02T03:04:05+00:00",
}  # fmt: skip


def test_the_page_says_of_what_it_is() -> None:
    text = page(read(crafted(verdict="It is so.\nFor a reason.", origin=ORIGIN)))
    head, _, rest = text.partition(f"\n\n{TABLE}\n\n")
    assert rest == "It is so.\n\nFor a reason.\n"
    assert head.splitlines() == [
        "# Evaluation of stories",
        "",
        "- model: m-q4_0.gguf (0123456789abcdef)",
        "- heads: temperature, top_p, of h.gguf (fedcba9876543210)",
        "- context: 4096 tokens, f16 cache, with flash attention",
        "- made by autodeco-gguf 1.2, llama-cpp-python 0.3; last samples of 2026-01-02T03:04:05+00:00",
    ]
    own = page(read(crafted(origin={**ORIGIN, "heads_file": None, "flash_attn": False, "date": None})))
    assert "- heads: temperature, top_p, the model's own (fedcba9876543210)\n" in own
    assert "f16 cache, without flash attention\n" in own
    assert "llama-cpp-python 0.3\n" in own
    none = page(read(crafted(origin={**ORIGIN, "heads": [], "heads_file": None, "heads_digest": None})))
    assert "- heads: none\n" in none
    assert page(read(crafted())).startswith("# Evaluation of stories\n\nstories, 40 problems:\n")


def test_the_table_of_several_tasks() -> None:
    results = crafted(tasks={"stories": 40, "sums": 1})
    for row in results["methods"]:
        row["tasks"] |= {"sums": stats(0.25, 1.0, tokens_s=None)}
    text = table(read(results))
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
    head, _, first, second, *_ = table(read(results)).split("\n\n")[1].splitlines()
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
    assert "- pass@1 ± standard error over problems; 1 sample a problem." in table(read(results))


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
    return verdict(read(crafted(methods=methods, comparisons=comparisons, tasks={"stories": n})))


FAVOURED = "Which constant is best was seen on these same problems, which favours it. "
BETTER, WORSE = (0.1, (0.05, 0.15), 0.0001), (-0.5, (-0.82, -0.18), 0.002)
NEITHER = (0.004, (-0.011, 0.019), 0.4)


def test_better_and_worse() -> None:
    assert judged(BETTER, WORSE) == (
        "On pass@1 AutoDeco is better than the best constant (greedy). The difference is +10.0 points (95 % interval "
        "+5.0 to +15.0, p < 0.001).\n"
        "On different right answers among 4 AutoDeco is worse than the constant with the most (distinct: T = 2, "
        "P = 0.3). The difference is -0.50 (95 % interval -0.82 to -0.18, p = 0.002).\n"
        + FAVOURED
        + "p is corrected for 2 claims (Holm), the intervals are not."
    )


def test_no_difference_is_not_called_equal() -> None:
    text = judged(NEITHER, (0.0, (0.0, 0.0), 1.0))
    assert text.startswith(
        "On pass@1 AutoDeco is not shown to differ from the best constant (greedy). The difference is +0.4 points "
        "(95 % interval -1.1 to +1.9, p = 0.80). It may be up to 1.1 worse or 1.9 better.\n"
        "On different right answers among 4 AutoDeco is not shown to differ from the constant with the most "
        "(distinct: T = 2, P = 0.3): the same on every problem.\n"
    )


def test_several_claims_have_to_be_clearer() -> None:
    """0.03 is no finding among four, of which two are as unclear; nor does the interval hide it."""
    unclear = (0.02, (0.001, 0.039), 0.03)
    alone = judged(unclear, (0.5, (0.1, 0.9), 0.01))
    assert "On pass@1 AutoDeco is better than the best constant (greedy). The difference is +2.0 points" in alone
    assert "p = 0.030).\n" in alone
    text = judged(unclear, (0.5, (0.1, 0.9), 0.01), [NEITHER, NEITHER])
    assert (
        "On pass@1 AutoDeco is not shown to differ from the best constant (greedy). The difference is +2.0 points "
        "(95 % interval +0.1 to +3.9, p = 0.090). It may be up to 3.9 better.\n"
    ) in text
    assert (
        "the constant with the most (distinct: T = 2, P = 0.3). The difference is +0.50 (95 % interval +0.10 to "
        "+0.90, p = 0.040).\n" in text
    )
    assert text.endswith("p is corrected for 4 claims (Holm), the intervals are not.")


def test_what_choosing_token_by_token_adds() -> None:
    text = judged(NEITHER, NEITHER, [WORSE, (1.5, (1.2, 1.8), 0.0001)])
    assert (
        "\nOn pass@1 AutoDeco is worse than its own mean T and P as constants (mean-shift). The difference is -50.0 "
        "points (95 % interval -82.0 to -18.0, p = 0.006).\n"
        "On different right answers among 4 AutoDeco is better than its own mean T and P as constants (mean-shift). "
        "The difference is +1.50 (95 % interval +1.20 to +1.80, p < 0.001).\n"
    ) in text
    assert "mean-shift" not in judged(NEITHER, NEITHER)


def test_few_problems() -> None:
    assert judged(BETTER, BETTER, n=29).endswith(" With 29 problems only large differences show.")
    assert "only large" not in judged(BETTER, BETTER, n=30)


def test_small_differences_keep_their_digits() -> None:
    text = judged((0.0004, (0.0001, 0.0007), 0.001), BETTER)
    assert "The difference is +0.04 points (95 % interval +0.01 to +0.07, p = 0.001)" in text


def test_level_constants() -> None:
    """Of two with the same pass@1 the one with more different answers is the one to beat; a claim is counted once."""
    results = crafted()
    results["methods"][1]["overall"]["pass@1"] = results["methods"][2]["overall"]["pass@1"]
    text = verdict(read(results))
    assert "the best constant (oracle: T = 0.1, P = 0.1)" in text
    assert "corrected for 2 claims" in text
    results["methods"][2] |= {"name": "mean-shift"}
    assert "the best constant (mean-shift: T = 0.1, P = 0.1)" in verdict(read(results))
    assert "its own mean" not in verdict(read(results)), "it is said already"
    assert "corrected for 2 claims" in verdict(read(results))


def test_one_sample_has_one_metric() -> None:
    results = crafted(settings={"k": 1, "seeds": 1})
    assert "different" not in verdict(read(results))
    assert verdict(read(results)).endswith(
        "\nWhich constant is best was seen on these same problems, which favours it."
    )


def test_without_autodeco() -> None:
    results = crafted(comparisons=[])
    del results["methods"][0]
    assert verdict(read(results)) == (
        "AutoDeco is not among the methods. The best constant on pass@1 is greedy (89.1 %). The constant with the most "
        "different right answers among 4 is oracle: T = 0.1, P = 0.1 (1.00 ± 0.25). The best was seen on these same "
        "problems, which favours it."
    )
    del results["methods"][:2]
    assert verdict(read(results)) == "There is neither AutoDeco nor a constant to compare."


def test_without_constants() -> None:
    results = crafted()
    del results["methods"][1:3]
    assert verdict(read(results)) == "There is no constant to compare AutoDeco with."


def test_sentences_are_short() -> None:
    text = judged(NEITHER, WORSE, [NEITHER, NEITHER], n=20)
    sentences = re.split(r"(?<=[.)])\s", text)
    assert max(map(len, sentences)) <= 130, sentences


def test_the_official_figures_are_named() -> None:
    more = {"sd_seeds": 0.034, "mean_of_tasks": 0.61, "mean_of_tasks_sd": 0.02}
    results = crafted()
    results["methods"][0]["overall"] |= more
    text = table(read(results))
    assert "| pass@1 ± sd over seeds | mean of tasks ± sd over seeds |" in text
    assert "± 3.4 |" in text
    assert "| " + "61.0 ± 2.0".rjust(len("mean of tasks ± sd over seeds")) + " |" in text
