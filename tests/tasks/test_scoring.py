"""Rewards of the user's own: called in a process of their own, and named where they fail."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.scoring import Score, Scorer, rate

OWN = """
    import os, time

    def length(prompt, text, answer):
        return len(text) / (len(prompt) + len(answer))

    def odd(prompt, text, answer):
        if text == "raise":
            raise KeyError("no such word")
        if text == "nan":
            return float("nan")
        if text == "text":
            return "1"
        if text == "none":
            return None
        if text == "huge":
            return -1e308
        if text == "exit":
            os._exit(3)
        if text == "sleep":
            time.sleep(60)
        print("seen")
        return True

    number = 5
"""


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)


def test_a_number_of_prompt_text_and_answer() -> None:
    with Scorer("own_rewards:length") as scorer:
        assert scorer.score("ab", "abc", "d") == 1.0
        assert scorer.score("ab", "é\n\U0001f600\ud800", "cd") == 1.0


FAILURES = {
    "raise": "KeyError: 'no such word'",
    "nan": "returned nan, expected a finite number",
    "text": "returned '1', expected a finite number",
    "none": "returned None, expected a finite number",
    "huge": "returned -1e+308, expected -1e+09 to 1e+09",
    "exit": "ended its process (exit status 3)",
    "sleep": "took longer than 0.5 s",
}


@pytest.mark.parametrize("text", FAILURES)
def test_a_failure_is_named_and_the_next_answer_is_scored(text: str) -> None:
    with Scorer("own_rewards:odd", 0.5) as scorer:
        begin = time.monotonic()
        with pytest.raises(InvalidInput) as info:
            scorer.score("p", text, "a")
        assert str(info.value) == f"reward own_rewards:odd: {FAILURES[text]}"
        assert (info.value.key, info.value.found) == ("reward", "own_rewards:odd")
        assert time.monotonic() - begin < 10
        assert scorer.score("p", "fine", "a") == 1.0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:f", "reward 'nowhere:f': 'nowhere' cannot be imported: ModuleNotFoundError"),
        ("own_rewards:g", "reward 'own_rewards:g': 'g' of 'own_rewards' is missing, expected a function"),
        ("own_rewards:number", "reward 'own_rewards:number': 'number' of 'own_rewards' is of type int, expected"),
    ],
)
def test_what_cannot_be_imported(name: str, words: str) -> None:
    with pytest.raises(InvalidInput) as info:
        Scorer(name)
    assert str(info.value).startswith(words)
    assert info.value.key == "reward"


def test_scalars_of_numpy() -> None:
    import numpy as np

    assert rate(lambda *a: np.float32(0.5), "", "", "") == Score(0.5)
    assert rate(lambda *a: 10**400, "", "", "") == Score(None, "OverflowError: int too large to convert to float")
