"""Evaluations with different heads in one table."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import SETTINGS, FakeEngine, results_of, run, samples_of, timeless

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.evaluation.as_json import to_json
from autodeco_gguf.evaluation.compare import compare
from autodeco_gguf.evaluation.report import page, table

METHODS = ("autodeco", "autodeco:top_p", "greedy", "default", "mean-shift", "shuffle", "llama.cpp")


class OtherHeads(FakeEngine):
    """With heads of which more is right."""

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = f"{'0123456789abcdef' * 4} {'0' * 64}"

    def accuracy(self, t: float, p: float) -> float:
        return 0.9


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    run(tmp_path / "a", METHODS)
    run(tmp_path / "b", ("autodeco", "mean-shift", "shuffle", "greedy"), engine=OtherHeads())
    return tmp_path / "a", tmp_path / "b"


def by_name(results: Any) -> dict[str, Any]:
    return {row["name"]: row for row in results["methods"]}


def test_rows_are_those_of_their_evaluations(both: tuple[Path, Path]) -> None:
    a, b = both
    found = timeless(to_json(compare([("by reward", a), ("new", b)])))
    rows, first, second = by_name(found), by_name(results_of(a)), by_name(results_of(b))
    assert list(rows) == [
        *("autodeco (by reward)", "autodeco:top_p (by reward)", "autodeco (new)"),
        *("greedy", "default", "mean-shift (by reward)", "shuffle (by reward)", "llama.cpp"),
        *("mean-shift (new)", "shuffle (new)"),
    ]
    for name, row in rows.items():
        base, bracket, label = name.partition(" (")
        origin = (second if label == "new)" else first)[base]
        assert row["config"] == origin["config"] + bracket + label
        assert (row["overall"], row["tasks"]) == (origin["overall"], origin["tasks"])


def test_differences_are_those_of_each(both: tuple[Path, Path]) -> None:
    a, b = both
    found = timeless(to_json(compare([("x", a), ("y", b)])))["comparisons"]
    by = {(c["ahead"], c["method"], c["metric"]): (c["difference"], c["ci"], c["p"]) for c in found}
    assert {c["ahead"] for c in found} == {"autodeco (x)", "autodeco (y)"}
    for label, directory in (("x", a), ("y", b)):
        for c in results_of(directory)["comparisons"]:
            own = c["method"] in ("mean-shift", "shuffle", "autodeco:top_p")
            method = f"{c['method']} ({label})" if own else c["method"]
            assert by[f"autodeco ({label})", method, c["metric"]] == (c["difference"], c["ci"], c["p"])
    there, back = by["autodeco (x)", "autodeco (y)", "pass@1"], by["autodeco (y)", "autodeco (x)", "pass@1"]
    assert there[0] == -back[0] != 0


def test_what_it_says(both: tuple[Path, Path]) -> None:
    results = compare([("x", both[0]), ("y", both[1])])
    lines = results.verdict.splitlines()
    claims = [line for line in lines if line.startswith("On ")]
    for label, other in (("x", "y"), ("y", "x")):
        mine = [line for line in claims if f" AutoDeco ({label}) is" in line]
        assert len(mine) >= 4  # the best constants, which may be mean-shift, and shuffle, on two counts each
        assert any("its own T and P at other tokens (shuffle)" in line for line in mine)
        between = [line for line in mine if f"AutoDeco ({other})" in line]
        assert len(between) == (2 if label == "x" else 0)  # on both counts, of each two once
        assert not any(f"({other})" in line for line in mine if line not in between)
    assert f"p is corrected for {len(claims)} claims" in lines[-1]
    text = table(results)
    assert "| autodeco (x) ahead by |" in " ".join(text.split())
    assert "| autodeco (y) ahead by |" in " ".join(text.split())
    assert "- shuffle: autodeco's own pairs" in text
    assert page(results).startswith("# Evaluation of sums, words\n\nsums")


def test_the_least_is_compared(both: tuple[Path, Path]) -> None:
    run(both[1], ("autodeco", "mean-shift", "shuffle", "greedy"), replace(SETTINGS, k=3), OtherHeads())
    results = compare([("x", both[0]), ("y", both[1])])
    assert (results.settings.k, results.settings.seeds) == (2, 2)
    assert {row.overall.samples for row in results.methods if not row.deterministic} == {20}


def test_where_mean_shift_is_from(both: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = both
    c = tmp_path / "c"
    run(c, ("autodeco", "mean-shift"), replace(SETTINGS, validation="held"), OtherHeads())
    words = f"c: has mean-shift from held, {a} from the problems evaluated; evaluate both with --mean-shift-from, or"
    with pytest.raises(BadFile, match=words):
        compare([("x", a), ("y", c)])
    run(a, ("autodeco", "greedy"))  # now without mean-shift
    assert "- mean-shift: autodeco's own mean T and P on the validation problems of held" in table(
        compare([("x", a), ("y", c)])
    )
    assert "own mean T and P on these same problems" in table(compare([("x", a), ("y", b)]))


def test_one_is_as_it_is(both: tuple[Path, Path]) -> None:
    found, whole = timeless(to_json(compare([("x", both[0])]))), results_of(both[0])
    assert [row["overall"] for row in by_name(found).values()] == [
        by_name(whole)[name.partition(" (")[0]]["overall"] for name in by_name(found)
    ]
    assert found["verdict"].replace(" (x)", "") == whole["verdict"]


def test_what_cannot_be_compared(both: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = both
    with pytest.raises(InvalidInput, match="label 'x', expected a directory at least, and each label once"):
        compare([("x", a), ("x", b)])
    with pytest.raises(InvalidInput, match="a directory at least"):
        compare([])
    run(tmp_path / "seed", ["autodeco"], replace(SETTINGS, seed=1))
    with pytest.raises(BadFile, match=r"seed: has seed 1, .*a has 0"):
        compare([("x", a), ("y", tmp_path / "seed")])
    shutil.copytree(b, tmp_path / "c")
    (tmp_path / "c" / "results.json").unlink()
    with pytest.raises(BadFile, match="c: has no results; finish its evaluation"):
        compare([("x", a), ("y", tmp_path / "c")])
    lines = (b / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (b / "samples.jsonl").write_bytes(b"".join(lines[1:]))
    assert len(samples_of(b)) == len(lines) - 1
    with pytest.raises(BadFile, match=r"autodeco \(y\): task .*: 3 samples, expected 4"):
        compare([("x", a), ("y", b)])
