"""What to take, and why, on made-up results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autodeco_gguf.evaluation.estimates import Difference
from autodeco_gguf.evaluation.methods import Config
from autodeco_gguf.tuning.plan import FEWEST_TEST
from autodeco_gguf.tuning.scores import Row
from autodeco_gguf.tuning.verdict import MEANS, Claim, Unit, Verdict, decide, words

N = 60
CONFIGS = {
    "greedy": Config.static(0, 1),
    "default": Config.static(1, 1),
    "llama.cpp": Config("llama.cpp"),
    "pair": Config.static(0.7, 0.85),
    "heads": Config("autodeco"),
    "own heads": Config("autodeco"),
    "mean of heads": Config.static(0.5717, 0.7312),
    "mean of own heads": Config.static(0.5717, 0.7312),
}


def rows(**means: float) -> dict[str, Row]:
    """Rows of these means: problems differ much, what one row is ahead of another is nearly the same on each."""
    rng = np.random.default_rng(0)
    problems = rng.uniform(0.2, 0.6, N)
    problems -= problems.mean()
    found = {}
    for name, mean in means.items():
        noise = rng.normal(0, 0.05, N)
        key = name.replace("_", " ").replace("llama", "llama.cpp")
        found[key] = Row(key, CONFIGS[key], mean + problems + noise - noise.mean(), 20.0, 0.5, 0.9)
    return with_means(found)


def with_means(found: dict[str, Row], ahead: float = -0.2) -> dict[str, Row]:
    """With the heads' means, so much ahead of the heads themselves."""
    noise = np.random.default_rng(1).normal(0, 0.05, N)
    for name in set(found) & set(MEANS):
        values = found[name].values + ahead + noise - noise.mean()
        found[MEANS[name]] = Row(MEANS[name], CONFIGS[MEANS[name]], values, 20.0, 0.57, 0.73)
    return found


def verdict(found: dict[str, Row], pair: str = "pair") -> Verdict:
    return decide(found, pair, ["task"] * N, 1.0)


def said(found: dict[str, Row], pair: str = "pair", measure: str = "pass@1") -> list[str]:
    return words(verdict(found, pair), found, pair, Unit.of(measure, 1.0))


def test_as_few_problems_as_there_may_be() -> None:
    """On all of which one way is ahead, beside the claims of two sets of heads."""
    rng = np.random.default_rng(0)
    means = {"greedy": 0.0, "default": 0.0, "llama.cpp": 0.0, "pair": 1.0, "heads": 0.0, "own heads": 0.0}
    found = {name: Row(name, CONFIGS[name], np.full(FEWEST_TEST, m), 20.0, 0.5, 0.9) for name, m in means.items()}
    for name, heads in MEANS.items():
        found[heads] = Row(heads, CONFIGS[heads], found[name].values, 20.0, 0.57, 0.73)
    found = {n: replace(row, values=row.values + rng.choice([-0.06, 0, 0.06], FEWEST_TEST)) for n, row in found.items()}
    got = decide(found, "pair", ["task"] * FEWEST_TEST, 1.1)
    assert (got.chosen, len(got.claims)) == ("pair", 13)


def test_heads_win() -> None:
    found = rows(greedy=0.40, default=0.30, llama=0.42, pair=0.46, heads=0.52)
    assert verdict(found).chosen == "heads"
    first, *others = said(found)
    assert first == "Take the trained heads."
    assert others[0].startswith("The trained heads are better than T = 0.7, P = 0.85: +6.0 points (95 % interval +")
    assert others[0].endswith(", p < 0.001).")
    assert others[1].startswith("The trained heads are better than T = 0.57, P = 0.73, the mean of heads: +20.0 points")
    assert others[2].startswith("T = 0.7, P = 0.85 is better than greedy (T = 0): +6.0 points (95 % interval +")
    assert len(others) == 5


def test_a_better_mean() -> None:
    found = with_means(rows(greedy=0.40, default=0.30, llama=0.42, pair=0.46, heads=0.52), 0.0)
    assert verdict(found).chosen == "mean of heads"
    first, *others = said(found)
    assert first == "Take T = 0.57, P = 0.73, the mean of heads."
    assert others[0].startswith(
        "The trained heads are not shown to differ from T = 0.57, P = 0.73, the mean of heads: +0.0 "
    )
    for behind in (0.03, 0.08):  # between the heads and the pair, and behind both
        found = with_means(rows(greedy=0.40, default=0.30, llama=0.42, pair=0.46, heads=0.52), -behind)
        assert verdict(found).chosen == "heads"


def test_a_mean_that_is_behind_the_pair_is_no_reason_against_heads() -> None:
    found = rows(greedy=0.40, default=0.30, llama=0.42, pair=0.46, heads=0.52)
    row, noise = found["mean of heads"], np.random.default_rng(2).normal(0, 2, N)
    found[row.name] = Row(row.name, row.config, row.values + noise - noise.mean(), 20.0, 0.57, 0.73)
    claim = next(c for c in verdict(found).claims if c.of == "mean of heads")
    assert not claim.better
    assert verdict(found).chosen == "heads"


def test_the_pair_wins() -> None:
    found = rows(greedy=0.40, default=0.30, llama=0.42, pair=0.46, heads=0.462)
    assert verdict(found).chosen == "pair"
    first, *others = said(found)
    assert first == "Take T = 0.7, P = 0.85."
    assert others[3].startswith("The trained heads are not shown to differ from T = 0.7, P = 0.85: +0.2 points (95 %")
    worse = rows(greedy=0.40, default=0.30, llama=0.42, pair=0.46, heads=0.35)
    assert verdict(worse).chosen == "pair"
    assert said(worse)[4].startswith("The trained heads are worse than T = 0.7, P = 0.85: -11.0 points")


def test_without_heads() -> None:
    found = rows(greedy=0.40, default=0.30, llama=0.42, pair=0.46)
    assert verdict(found).chosen == "pair"
    assert len(verdict(found).claims) == 3


def test_intervals_are_within_tasks_and_end_at_the_largest_difference() -> None:
    found = rows(greedy=0.40, default=0.30, llama=0.42, pair=0.46)
    assert max(claim.difference.high for claim in verdict(found).claims) > 0.165
    assert max(claim.difference.high for claim in decide(found, "pair", ["task"] * N, 0.165).claims) == 0.165
    easy = np.repeat([0.3, -0.3], N // 2)
    found["pair"] = replace(found["pair"], values=found["pair"].values + easy)
    tasks = ["easy"] * (N // 2) + ["hard"] * (N // 2)
    one, two = (decide(found, "pair", strata, 1.0).claims[0].difference for strata in (["task"] * N, tasks))
    assert two.high - two.low < (one.high - one.low) / 2


def test_greedy_is_taken_where_others_are_worse() -> None:
    found = rows(greedy=0.46, default=0.30, llama=0.42, pair=0.40)
    assert verdict(found).chosen == "greedy"
    assert not any(s.startswith("Nothing that was tried") for s in said(found))


def test_nothing_differs_from_greedy() -> None:
    found = with_means(rows(greedy=0.4, default=0.4, llama=0.4, pair=0.401, heads=0.401), 0.0)
    assert verdict(found).chosen == "greedy"
    first, second, *others = said(found)
    assert first == "Take greedy (T = 0)."
    assert second == "Nothing that was tried is shown to differ from it by pass@1 on 60 problems."
    assert any(
        s.startswith("The trained heads are not shown to differ from greedy (T = 0): +0.1 points") for s in others
    )


def test_greedy_is_taken_where_heads_only_beat_the_pair() -> None:
    found = rows(greedy=0.46, default=0.30, llama=0.42, pair=0.40, heads=0.461)
    assert verdict(found).chosen == "greedy"


def test_heads_beat_greedy_where_the_pair_does_not() -> None:
    found = rows(greedy=0.40, default=0.30, llama=0.3, pair=0.40, heads=0.46)
    assert verdict(found).chosen == "heads"
    assert any(s.startswith("The trained heads are better than greedy (T = 0)") for s in said(found))


def test_the_search_found_greedy_or_the_default() -> None:
    found = rows(greedy=0.46, default=0.30, llama=0.42, heads=0.461)
    result = verdict(found, "greedy")
    assert result.chosen == "greedy"
    assert [(c.ahead, c.of) for c in result.claims] == [
        ("greedy", "default"),
        ("greedy", "llama.cpp"),
        ("heads", "greedy"),
        ("heads", "default"),
        ("heads", "llama.cpp"),
        ("heads", "mean of heads"),
    ]
    found = rows(greedy=0.30, default=0.46, llama=0.42)
    assert verdict(found, "default").chosen == "default"
    assert said(found, "default")[0] == "Take T = 1, P = 1."


def test_a_default_that_beats_the_pair() -> None:
    found = rows(greedy=0.30, default=0.40, llama=0.5, pair=0.42)
    assert verdict(found).chosen == "llama.cpp"
    assert said(found)[0] == "Take llama.cpp's defaults."


def test_heads_that_beat_the_pair_only_are_not_taken_for_a_default_that_does() -> None:
    found = rows(greedy=0.30, default=0.40, llama=0.5, pair=0.42, heads=0.501)
    result = verdict(found)
    assert (result.chosen, result.without_heads) == ("llama.cpp", "llama.cpp")
    assert next(c for c in result.claims if (c.ahead, c.of) == ("heads", "pair")).better
    sentences = said(found)
    assert sentences[0] == "Take llama.cpp's defaults."
    assert any(
        s.startswith("The trained heads are not shown to differ from llama.cpp's defaults: +0.1") for s in sentences
    )
    found = rows(greedy=0.30, default=0.5, llama=0.4, pair=0.42, heads=0.501)
    assert verdict(found).chosen == "default"


def test_heads_that_beat_a_default_that_beats_the_pair() -> None:
    found = rows(greedy=0.30, default=0.40, llama=0.5, pair=0.42, heads=0.56)
    assert verdict(found).chosen == "heads"
    assert said(found)[1].startswith("The trained heads are better than llama.cpp's defaults: +6.0 points")
    found = with_means(rows(greedy=0.30, default=0.40, llama=0.5, pair=0.42, heads=0.56), 0.0)
    assert verdict(found).chosen == "mean of heads"


def test_own_heads_are_a_candidate() -> None:
    found = rows(greedy=0.40, default=0.30, llama=0.42, pair=0.43, own_heads=0.52, heads=0.50)
    assert verdict(found).chosen == "own heads"
    assert said(found)[0] == "Take the model's own heads."


def test_equal_answers() -> None:
    row = rows(greedy=0.4)["greedy"]
    found = {name: Row(name, CONFIGS[name], row.values, 20.0, 0.0, 1.0) for name in ("greedy", "default", "llama.cpp")}
    assert verdict(found, "greedy").chosen == "greedy"
    assert said(found, "greedy")[2] == (
        "Greedy (T = 0) is not shown to differ from T = 1, P = 1: the same on every problem."
    )


def test_few_problems_are_said() -> None:
    found = {name: Row(name, row.config, row.values[:8], 9.0, None, None) for name, row in rows(
        greedy=0.4, default=0.3, llama=0.42, pair=0.46).items()}  # fmt: skip
    result = decide(found, "pair", ["task"] * 8, 1.0)
    said = words(result, found, "pair", Unit.of("pass@1", 1.0))
    assert said[-1] == "With 8 problems to compare on only large differences show."


def test_p_values_are_corrected() -> None:
    found = rows(greedy=0.40, default=0.30, llama=0.42, pair=0.46, heads=0.462)
    claims = verdict(found).claims
    assert len(claims) == 8
    tied = next(c for c in claims if (c.ahead, c.of) == ("heads", "pair"))
    assert tied.p == pytest.approx(tied.difference.p)  # the largest of all
    smallest = min(claims, key=lambda c: c.difference.p)
    assert smallest.p == pytest.approx(8 * smallest.difference.p)


@pytest.mark.parametrize(("p", "shown"), [(0.04, True), (0.08, False)])
def test_claims_are_judged_by_their_corrected_p(p: float, shown: bool) -> None:
    more, less = (Claim("pair", "greedy", Difference(d, d - 0.09, d + 0.09, 0.01), p) for d in (0.1, -0.1))
    assert (more.better, more.worse) == (shown, False)
    assert (less.better, less.worse) == (False, shown)


@pytest.mark.parametrize(
    ("measure", "value", "signed"),
    [
        ("pass@1", "41.2", "+41.2"),
        ("pass@16", "41.2", "+41.2"),
        ("distinct@16", "0.41", "+0.41"),
        ("mean m:f", "0.41", "+0.41"),
    ],
)
def test_units(measure: str, value: str, signed: str) -> None:
    unit = Unit.of(measure, 0.9)
    assert (unit.value(0.412), unit.signed(0.412)) == (value, signed)
    assert unit.signed(-1e-9) == f"+{unit.value(0)}"


@pytest.mark.parametrize(
    ("largest", "digits"), [(0.0, 2), (-1234.0, 2), (1.0, 2), (0.1, 2), (0.0999, 3), (-0.0052, 4), (3e-7, 8)]
)
def test_small_values_of_a_function_have_two_digits(largest: float, digits: int) -> None:
    assert Unit.of("mean m:f", largest).digits == digits
    assert Unit.of("pass@1", largest).digits == 1
