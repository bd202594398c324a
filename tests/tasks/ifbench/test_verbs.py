from __future__ import annotations

import pytest

from autodeco_gguf.tasks.ifbench.verbs import starts_with_verb

VERBS = ["Write it", "Understand this.", "building a house", "Gone are the days", "Let's go", "RUN!", "Re-evaluate it"]
OTHERS = [
    "",
    "...",
    "I run",
    "To run",
    "Hundred men",
    "Something else",
    "Name: Bo",
    "Bing it",
    "The end",
    "5 run",
    "Ed ran",
]


@pytest.mark.parametrize("text", VERBS)
def test_verbs(text: str) -> None:
    assert starts_with_verb(text) is True


@pytest.mark.parametrize("text", OTHERS)
def test_others(text: str) -> None:
    assert starts_with_verb(text) is False
