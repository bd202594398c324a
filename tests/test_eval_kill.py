"""An evaluation of a real model that is killed again and again ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

KILLS = 10
COMMAND = [
    *(sys.executable, "-m", "autodeco_gguf", "eval", "--limit", "12", "-k", "8", "--seeds", "2", "--parallel", "16"),
    *("--methods", "autodeco,default,greedy,mean-shift,mirostat2", "-c", "160", "-t", "1", "--no-plots", "-o"),
]


def start(output: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*COMMAND, output], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(output: Path) -> tuple[dict[str, Any], set[str]]:
    """Results without what depends on time, and the samples in any order."""
    _, err = (process := start(output)).communicate(timeout=200)
    assert process.returncode == 0, err.decode()
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    for row in results["methods"]:
        for stats in (row["overall"], *row["tasks"].values()):
            stats.pop("tokens_s")
    lines = (output / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == 1 + 4 * 12 * 16 + 12
    return results, set(lines)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    undisturbed = finish(tmp_path / "undisturbed")
    output, kept, rng = tmp_path / "killed", 0, random.Random(5)
    kills = 0
    while kills < KILLS:
        process = start(output)
        wanted = kept + rng.randrange(40, 75)  # lines: the time to start up differs from machine to machine
        samples = output / "samples.jsonl"
        while process.poll() is None and (not samples.exists() or samples.read_bytes().count(b"\n") < wanted):
            continue
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        kills += 1
        kept = samples.read_bytes().count(b"\n")
        assert kept >= wanted
    assert kept < len(undisturbed[1])
    assert finish(output) == undisturbed
