"""The verdict: for each outcome its words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from explain_helpers import BOTH, made_up

from autodeco_gguf.explain.explain import findings
from autodeco_gguf.explain.findings import Estimate, temperature_findings, top_p_findings
from autodeco_gguf.explain.verdict import verdict

PLUS, ZERO, MINUS = (Estimate(value, 0.01, 30) for value in (0.1, 0.01, -0.1))
FOUND = findings(made_up(), BOTH)
T, P = temperature_findings(made_up()), top_p_findings(made_up())


@pytest.mark.parametrize(
    ("gain", "over_best", "words"),
    [
        (PLUS, PLUS, "T pays. Over"),
        (PLUS, ZERO, "T pays over the constant with the mean of its 1/T, but the best single T does as well."),
        (PLUS, MINUS, "T pays over the constant with the mean of its 1/T, but the best single T does better."),
        (ZERO, ZERO, "T is not shown to pay."),
        (ZERO, MINUS, "T does not pay."),
        (ZERO, PLUS, "T is not shown to pay."),  # no better than their own mean, whatever others are
        (MINUS, ZERO, "T costs more than it gains."),
        (MINUS, MINUS, "T costs more than it gains."),
    ],
)
def test_whether_t_pays(gain: Estimate, over_best: Estimate, words: str) -> None:
    found = replace(FOUND, temperature=replace(T, gain=gain, gain_over_best=over_best), top_p=None)
    assert verdict(found).startswith(words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"oracle_gain": 0.004}, "There is little to gain:"),
        ({"correlation": None}, "The heads give every token the same T"),
        ({"correlation": -0.4}, "a correlation of -0.40 (first order"),
        ({"correlation": -0.4}, "It goes the wrong way."),
        ({"correlation": 0.04}, "It hardly knows where it helps."),
        ({"correlation": 0.4, "best_scale": 0.3}, "the deviations are too large: 0.30 times theirs would do best."),
        (
            {"correlation": 0.4, "best_scale": 4.0, "scaled_gain": 0.25},
            "4.0 times theirs would do best, and gain 0.25",
        ),
        ({"first_order": 0.1, "penalty": 0.02, "remainder": -0.06}, "too large for the second order alone"),
    ],
)
def test_why(change: dict[str, float | None], words: str) -> None:
    assert words in verdict(replace(FOUND, temperature=replace(T, **change)))  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [{"first_order": 0.2, "penalty": 0.01}, {"first_order": 0.01, "penalty": 0.2}])
def test_the_rest_counts_where_it_is_half_of_the_larger_part(parts: dict[str, float]) -> None:
    for remainder, counts in ((0.09, False), (-0.11, True)):
        words = verdict(replace(FOUND, temperature=replace(T, **parts, remainder=remainder)))
        assert ("too large for the second order alone" in words) == counts


@pytest.mark.parametrize(
    ("lost_less", "gain", "words"),
    [
        (PLUS, PLUS, "P pays: it loses fewer right tokens than its mean as a constant, and cuts more"),
        (PLUS, ZERO, "P pays: it loses fewer right tokens than its mean as a constant."),
        (PLUS, None, "P pays: it loses fewer right tokens than its mean as a constant."),
        (ZERO, PLUS, "P pays: it cuts more"),
        (PLUS, MINUS, "P trades: it loses fewer"),
        (MINUS, PLUS, "P trades: it cuts more"),
        (ZERO, ZERO, "P is not shown to matter."),
        (MINUS, ZERO, "P costs more than it gains."),
        (ZERO, MINUS, "P costs more than it gains."),
    ],
)
def test_whether_p_pays(lost_less: Estimate, gain: Estimate | None, words: str) -> None:
    found = replace(FOUND, temperature=None, top_p=replace(P, lost_less=lost_less, gain=gain))
    assert verdict(found).startswith(words)


def test_the_constants_and_losses_that_it_names() -> None:
    t = replace(T, constant=0.71, mean=0.72, best_constant=0.73, gain_over_mean=ZERO, gain_over_best=MINUS)
    t = replace(t, leverage=replace(t.leverage, half=0.125, ninety=0.5))
    p = replace(P, constant=0.74, lost=0.01, constant_lost=0.02, gain=MINUS, over_no_cut=PLUS, share=0.25)
    words = verdict(replace(FOUND, temperature=t, top_p=p))
    for part in (
        "the mean of their 1/T (0.71) the heads gain",
        "their T (0.72) +0.0100 ± 0.0100 nats a token, over the best single T (0.73) -0.1000 ± 0.0100",
        "another set than the constant (0.74)",
        "Half of the leverage lies on 12.5 % of the tokens, 90 % of it on 50.0 %.",
        "is left out at 1.00 % of the tokens, by the constant at 2.00 %.",
        "the difference of the cuts is worth -0.1000 ± 0.0100 nats a token.",
        "Over no cut the heads' gains +0.1000 ± 0.0100 nats a token where it keeps the right token, 25 % of what the",
    ):
        assert part in words


def test_a_paragraph_for_each_head() -> None:
    assert [line[0] for line in FOUND.verdict.split("\n")] == ["T", "P"]


def test_one_problem_is_too_few() -> None:
    """Without a standard error every sign is 0, whatever the gains."""
    one = findings(replace(made_up(), problem=np.zeros(400, int)), BOTH)
    assert one.temperature is not None
    assert one.temperature.gain.se is None
    assert one.verdict == (
        "20 answers to 1 problem are too few for a verdict: errors are over problems, at least 2 are needed."
    )
    assert verdict(replace(FOUND, problems=2)) == FOUND.verdict


def test_too_few() -> None:
    assert verdict(replace(FOUND, answers=9)) == (
        "400 tokens of 9 answers are too few for a verdict: at least 200 of 10 are needed."
    )
    assert verdict(replace(FOUND, tokens=199)).startswith("199 tokens of 20 answers are too few")
