"""autodeco-gguf join: shards of an evaluation become one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from broken import Outcome, assert_refused, invoke
from fake_engine import Loaded

Capture = pytest.CaptureFixture[str]
Invoke = Callable[..., Outcome]


def test_shards_and_join(run: Invoke, tasks: Path, capfd: Capture) -> None:
    whole = run("-o", "whole")
    for i in (1, 2):
        part = run("--shard", f"{i}/2", "-o", f"part{i}", methods="greedy,default,oracle,mean-shift")
        assert part.status == 0, part.err
        assert part.err.startswith(
            f"shard {i}/2: without oracle, mean-shift; evaluate the joined directory for those\n"
        )
    merged = invoke(capfd, "join", "part1", "part2", "-o", "all", "--no-plots")
    assert merged.status == 0, merged.err
    assert timeless(merged.out) == timeless(whole.out)
    assert merged.err == (
        "all: 15 samples; eval without --shard and with -o all adds methods that are not in its results\n"
    )
    assert "| method" in invoke(capfd, "join", "part1", "part2", "-o", "wide", "--no-plots", "--wide").out
    again = run("-o", "all")
    assert (again.status, Loaded.last.drawn) == (0, [])
    half = invoke(capfd, "join", "part1", "-o", "one half")
    assert half.status == 0, half.err
    assert half.out == ""
    assert half.err == (
        "one half: 10 samples; eval without --shard and with -o 'one half' adds greedy, default and others\n"
    )


def timeless(table: str) -> list[str]:
    """Without the last column, which is the speed."""
    return [line.rpartition("  ")[0].rstrip() or line for line in table.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["-o", "all"], "Missing argument 'DIR...'", 2),
        (["a"], "Missing option '-o' / '--output'", 2),
        (["nowhere", "-o", "all"], "nowhere/evaluation.jsonl: cannot be read: No such file or directory", 1),
        (["sums.jsonl", "-o", "all"], "sums.jsonl/evaluation.jsonl: cannot be read: Not a directory", 1),
    ],
)
def test_join_refuses(arguments: list[str], words: str, status: int, tasks: Path, capfd: Capture) -> None:
    assert_refused(invoke(capfd, "join", *arguments), words, status=status)
    assert not Path("all").exists()
