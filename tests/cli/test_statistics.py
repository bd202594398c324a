"""What is said about an answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from autodeco_gguf.cli._statistics import line, summarize, table

SUMMARY: dict[str, Any] = {
    "tokens": 3, "tok_s": 12.34, "prompt_tokens": 5, "prompt_tok_s": 99.96, "mean_temperature": 0.5,
    "mean_top_p": 0.75, "min_temperature": 0.125, "max_temperature": 1.0, "min_top_p": 0.5, "max_top_p": 1.0,
    "finish_reason": "stop", "seed": 7,
}  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "max_tokens", "words"),
    [("stop", None, ""), ("length", 3, " (cut by -n)"), ("length", 9, " (cut: the context is full)"),
     ("interrupt", None, " (stopped)")],
)  # fmt: skip
def test_a_line_or_all(reason: str, max_tokens: int | None, words: str) -> None:
    summary = {**SUMMARY, "finish_reason": reason}
    assert line(summary, max_tokens) == (
        f"3 tokens{words}, 12.3 tokens/s, mean temperature 0.500, mean top-p 0.750, seed 7"
    )
    assert table(summary, max_tokens).splitlines() == [
        "prompt       5 tokens, 100.0 tokens/s",
        f"answer       3 tokens{words}, 12.3 tokens/s",
        "temperature  mean 0.500, 0.125 to 1.000",
        "top-p        mean 0.750, 0.500 to 1.000",
        "seed         7",
    ]


def test_the_speed_of_a_prompt_is_that_of_what_was_computed() -> None:
    generation = SimpleNamespace(prompt=range(100), n_reused=90, finish_reason="stop")
    summary = summarize(SimpleNamespace(pieces=[], generation=generation, seed=7), 2.0, 3.0)  # type: ignore[arg-type]
    assert (summary["prompt_tokens"], summary["prompt_tok_s"]) == (100, 5.0)


def test_the_speed_of_an_answer_is_without_the_token_that_the_prompt_gave() -> None:
    tokens = [SimpleNamespace(token=SimpleNamespace(temperature=t, top_p=0.5)) for t in (0.5, 1.0, 1.5, 1.0, 1.0)]
    generation = SimpleNamespace(prompt=range(4), n_reused=0, finish_reason="cancelled")
    given = SimpleNamespace(pieces=tokens, generation=generation, seed=7)
    summary = summarize(given, 2.0, 4.0)  # type: ignore[arg-type]
    assert (summary["tokens"], summary["tok_s"], summary["finish_reason"]) == (5, 2.0, "interrupt")
    assert [summary[f"{what}_temperature"] for what in ("mean", "min", "max")] == [1.0, 0.5, 1.5]


def test_of_an_answer_without_tokens() -> None:
    summary = {**SUMMARY, "tokens": 0, "finish_reason": "interrupt"}
    assert line(summary, None) == "0 tokens (stopped), seed 7"
    assert len(table(summary, None).splitlines()) == 3
