"""Settings out of range, and shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autodeco_gguf.errors import AutoDecoError, BadFile
from autodeco_gguf.evaluation.settings import EvalSettings, Shard, make_directory


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"k": 0}, "k 0, expected at least 1"),
        ({"seeds": 0}, "seeds 0, expected at least 1"),
        ({"max_tokens": 0}, "max_tokens 0, expected at least 1"),
        ({"search_samples": 0}, "search_samples 0, expected at least 1"),
        ({"k": 4, "search_samples": 5}, "search_samples 5, expected at most k, which is 4"),
        ({"seed": -1}, "seed -1, expected 0 to"),
        ({"seed": 1 << 32}, "seed 4294967296, expected 0 to"),
        ({"tasks": ("a", "b", "a")}, "two tasks are called 'a'; rename a file"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], words: str) -> None:
    with pytest.raises(AutoDecoError, match=words):
        EvalSettings(**values).check()


def test_a_search_takes_k_samples_by_default() -> None:
    assert EvalSettings(k=5).n_search == 5
    assert EvalSettings(k=5, search_samples=2).n_search == 2


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "0/2", "3/2", "1/2/3", "a/b", "-1/2", "1.0/2", "²/3"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(AutoDecoError, match="expected I/N with I from 1 to N, such as 1/4"):
        Shard.parse(text)


def test_a_shard_of_thousands_of_digits() -> None:
    """Python reads none of them."""
    with pytest.raises(AutoDecoError, match=rf"^shard '1/{'9' * 38}…', expected I/N with I from 1 to N, such as 1/4$"):
        Shard.parse("1/" + "9" * 5000)


def test_shards_share_the_problems() -> None:
    shards = [Shard.parse(f"{i}/3") for i in (1, 2, 3)]
    assert [[n for n in range(8) if shard.holds(n)] for shard in shards] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert str(shards[1]) == "2/3"


def test_standard_output_is_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadFile, match=r"^-: is not standard output here; give another name$"):
        make_directory(Path("-"))
    assert not list(tmp_path.iterdir())
