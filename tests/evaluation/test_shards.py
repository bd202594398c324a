"""Shards of an evaluation, joined: the same as if there had been none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_engine
import pytest
from fake_engine import (
    METHODS,
    SETTINGS,
    TASKS,
    FakeEngine,
    FakeGrader,
    failing,
    place,
    results_of,
    run,
    samples_of,
    timeless,
)

from autodeco_gguf.errors import AutoDecoError, BadFile, Busy
from autodeco_gguf.evaluation.as_json import to_json
from autodeco_gguf.evaluation.drawing import Progress
from autodeco_gguf.evaluation.methods import Config, Method, parse_methods
from autodeco_gguf.evaluation.settings import Shard
from autodeco_gguf.evaluation.shards import Joined, join
from autodeco_gguf.files.lock import locked


def sharded(tmp_path: Path, n: int, methods: Sequence[str] = METHODS) -> list[Path]:
    parts = [tmp_path / f"part{i}" for i in range(n)]
    for i, part in enumerate(parts):
        run(part, methods, shard=Shard(i + 1, n))
    return parts


@pytest.mark.parametrize("n", [1, 2, 5])
def test_shards_make_the_undisturbed_run(n: int, undisturbed: Path, tmp_path: Path) -> None:
    parts = sharded(tmp_path, n)
    direct = ("autodeco", "greedy", "default", "static:1,1", "llama.cpp", "dynatemp")
    assert [[row["name"] for row in results_of(part)["methods"]] for part in parts] == [list(direct)] * n
    joined = join(parts, tmp_path / "all", plots=False)
    assert (joined.complete, joined.incomplete) == (direct, ())
    assert joined.samples == 4 * 20 + 5
    run(tmp_path / "direct", direct)
    assert results_of(tmp_path / "all") == results_of(tmp_path / "direct")
    assert timeless(to_json(joined.results)) == results_of(tmp_path / "all")
    engine = FakeEngine()
    run(tmp_path / "all", engine=engine)
    assert len(engine.drawn) == len(samples_of(undisturbed)) - joined.samples
    assert results_of(tmp_path / "all") == results_of(undisturbed)
    assert sorted(map(place, samples_of(tmp_path / "all"))) == sorted(map(place, samples_of(undisturbed)))


def test_the_order_of_the_tasks_does_not_matter(tmp_path: Path) -> None:
    parts = [tmp_path / "part1", tmp_path / "part2"]
    for tasks, methods in ((TASKS, ["greedy"]), (TASKS[::-1], ["greedy", "default"])):  # continued in another order
        for i, part in enumerate(parts):
            run(part, methods, shard=Shard(i + 1, 2), tasks=tasks[:: 1 - 2 * i])
    joined = join(parts, tmp_path / "all", plots=False)
    assert (joined.samples, joined.complete) == (5 + 20, ("greedy", "default"))


def test_a_shard_has_its_problems_only(tmp_path: Path) -> None:
    run(tmp_path, ["greedy"], shard=Shard(2, 3))
    assert [(s["task"], s["problem"]) for s in samples_of(tmp_path)] == [("words", 1), ("sums", 1)]


def test_a_setting_that_holds_none_is_as_good_as_missing(tmp_path: Path) -> None:
    parts = sharded(tmp_path, 2, ["greedy"])
    path = parts[1] / "evaluation.jsonl"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps({**json.loads(first), "more": {}}) + "\n" + rest)
    assert join(parts, tmp_path / "all", plots=False).complete == ("greedy",)


def test_some_shards_are_completed_later(undisturbed: Path, tmp_path: Path) -> None:
    parts = sharded(tmp_path, 2)
    joined = join(parts[:1], tmp_path / "all", plots=False)
    assert joined == Joined(
        4 * 12 + 3, (), ("autodeco", "greedy", "default", "static:1,1", "llama.cpp", "dynatemp"), None
    )
    assert not (tmp_path / "all" / "results.json").exists()
    run(tmp_path / "all")
    assert results_of(tmp_path / "all") == results_of(undisturbed)


def test_shards_without_results(undisturbed: Path, tmp_path: Path) -> None:
    parts = sharded(tmp_path, 2)
    for part in parts:
        (part / "results.json").unlink()
    assert join(parts, tmp_path / "all", plots=False) == Joined(85, (), (), None)
    run(tmp_path / "all")
    assert results_of(tmp_path / "all") == results_of(undisturbed)


def test_where_mean_shift_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_constants(*args: Any) -> list[Method]:
        found = parse_methods(*args)
        return [replace(m, config=Config.static(0.5, 0.9)) if m.name == "mean-shift" else m for m in found]

    monkeypatch.setattr(fake_engine, "parse_methods", with_constants)
    parts, held = [tmp_path / "part1", tmp_path / "part2"], replace(SETTINGS, validation="held")
    for i, part in enumerate(parts):
        run(part, ("autodeco", "mean-shift"), held, shard=Shard(i + 1, 2))
    run(parts[0], ("autodeco",), SETTINGS, shard=Shard(1, 2))  # now without it
    joined = join(parts, tmp_path / "all", plots=False)
    assert joined.results is not None
    assert (joined.complete, joined.results.settings.validation) == (("autodeco", "mean-shift"), "held")
    run(parts[0], ("autodeco", "mean-shift"), replace(SETTINGS, validation="other"), shard=Shard(1, 2))
    with pytest.raises(BadFile, match=r"part2: has mean-shift from held, .*part1 from other; evaluate both with"):
        join(parts, tmp_path / "both", plots=False)
    assert not (tmp_path / "both").exists()


def test_shards_of_different_size(tmp_path: Path) -> None:
    run(tmp_path / "a", ["greedy", "default"], replace(SETTINGS, k=3), shard=Shard(1, 2))
    run(tmp_path / "b", ["default", "llama.cpp"], replace(SETTINGS, seeds=1), shard=Shard(2, 2))
    joined = join([tmp_path / "a", tmp_path / "b"], tmp_path / "all", plots=False)
    assert (joined.complete, joined.incomplete) == (("default",), ("greedy", "llama.cpp"))
    assert joined.results is not None
    assert (joined.results.settings.k, joined.results.settings.seeds) == (2, 1)


def test_speeds_are_joined(tmp_path: Path) -> None:
    parts = sharded(tmp_path, 2, ["greedy"])
    for part, (tokens, seconds) in zip(parts, ((30, 1.0), (10, 3.0)), strict=True):
        line = {"config": "static:0,1", "tokens": tokens, "seconds": seconds, "date": f"2026-01-0{tokens // 10}"}
        header = (part / "evaluation.jsonl").read_text().splitlines()[0]
        (part / "evaluation.jsonl").write_text(f"{header}\n{json.dumps(line)}\n")
    joined = join(parts, tmp_path / "all", plots=False)
    assert joined.results is not None
    assert joined.results.methods[0].overall.tokens_s == 10.0
    assert joined.results.origin is not None
    assert (joined.results.origin.model, joined.results.origin.date) == ("m.gguf", "2026-01-03")


def test_the_graded_one_of_two_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "b", ["default"])
    monkeypatch.setattr(FakeGrader, "FAILS", {failing(tmp_path / "b", "static:1,1")})
    with pytest.raises(AutoDecoError, match="could not be graded"):
        run(tmp_path / "a", ["default"])
    for i, order in enumerate((("a", "b"), ("b", "a"))):
        joined = join([tmp_path / name for name in order], tmp_path / f"all{i}", plots=False)
        assert joined.samples == 20
        assert sorted(samples_of(tmp_path / f"all{i}"), key=place) == sorted(samples_of(tmp_path / "b"), key=place)


def test_what_cannot_be_joined(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(AutoDecoError, match=r"nothing/evaluation.jsonl: cannot be read: No such file"):
        join([undisturbed, tmp_path / "nothing"], out)
    run(tmp_path / "other", ["greedy"], replace(SETTINGS, seed=3))
    with pytest.raises(AutoDecoError, match=rf"other: has seed 3, {undisturbed} has 0$"):
        join([undisturbed, tmp_path / "other"], out)
    with pytest.raises(AutoDecoError, match=r"undisturbed\d+: has an evaluation in it; give a new directory"):
        join([undisturbed], undisturbed)
    shutil.copytree(undisturbed, tmp_path / "changed")
    lines = (tmp_path / "changed" / "samples.jsonl").read_text().splitlines()
    sample = json.loads(lines[3])
    lines[3] = json.dumps({**sample, "text": "else"})
    (tmp_path / "changed" / "samples.jsonl").write_text("\n".join(lines) + "\n")
    words = f"sample {sample['sample']} of seed {sample['seed']} of autodeco on problem {sample['problem']} of sums has"
    with pytest.raises(AutoDecoError, match=f"changed: {words} another text than in {undisturbed}"):
        join([undisturbed, tmp_path / "changed"], out)
    lines[3] = "{}"
    (tmp_path / "changed" / "samples.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(AutoDecoError, match=r"changed/samples\.jsonl:4: damaged: no sample"):
        join([tmp_path / "changed"], out)
    (tmp_path / "changed" / "evaluation.jsonl").write_text('{"evaluation": 1}\n')
    with pytest.raises(BadFile, match=r"changed/evaluation\.jsonl:1: damaged: no tasks"):
        join([tmp_path / "changed"], out)
    known = json.loads((tmp_path / "other" / "results.json").read_text())
    broken: list[object] = [{}, [], {**known, "settings": {"k": "2"}}, {**known, "methods": [{"name": []}]}]
    for i, values in enumerate([*map(json.dumps, broken), "[" * 100_000, '{"settings": ' + "1" * 5000 + "}"]):
        (tmp_path / "other" / "results.json").write_text(values)
        with pytest.raises(BadFile, match=r"other/results\.json: cannot be read as results: .*; delete it, or finish"):
            join([tmp_path / "other"], tmp_path / f"out{i}")


def test_a_directory_in_use_is_not_joined(tmp_path: Path) -> None:
    def meanwhile(progress: Progress) -> None:
        with pytest.raises(AutoDecoError, match=r"evaluation\.jsonl: in use by another run"):
            join([tmp_path / "a"], tmp_path / "b")

    run(tmp_path / "a", ["greedy"], watch=meanwhile)


FILES = ["evaluation.jsonl", "problems.jsonl", "samples.jsonl", "results.json"]


@pytest.mark.parametrize("killed_at", FILES)
def test_a_join_that_was_killed_can_be_run_again(
    killed_at: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = sharded(tmp_path, 2, ["greedy", "default"])
    join(parts, tmp_path / "whole", plots=False)
    rename = os.replace

    def strike(source: Path, target: Path) -> None:
        if target.name == killed_at:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", strike)
        with pytest.raises(KeyboardInterrupt):
            join(parts, tmp_path / "all", plots=False)
    assert sorted(os.listdir(tmp_path / "all")) == sorted(FILES[: FILES.index(killed_at)])
    again = join(parts, tmp_path / "all", plots=False)
    assert again.complete == ("greedy", "default")
    for name in FILES:
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for more in (parts[:1], [parts[0], *parts]):  # other samples; results that know more methods
        with pytest.raises(AutoDecoError, match="all: has an evaluation in it; give a new directory"):
            join(more, tmp_path / "all", plots=False)
        shutil.copy(undisturbed / "results.json", tmp_path / "all")
    assert results_of(tmp_path / "all") == results_of(undisturbed)


@pytest.mark.parametrize("of_another", [False, True])
def test_a_join_takes_no_other_begun_one_for_its_own(of_another: bool, tmp_path: Path) -> None:
    parts = sharded(tmp_path, 2, ["greedy"])
    (tmp_path / "all").mkdir()
    content = (parts[0] / "evaluation.jsonl").read_bytes() if of_another else b"some notes"
    (tmp_path / "all" / "evaluation.jsonl").write_bytes(content)
    with pytest.raises(BadFile, match="all: has an evaluation in it; give a new directory"):
        join(parts, tmp_path / "all", plots=False)
    assert (tmp_path / "all" / "evaluation.jsonl").read_bytes() == content


def test_two_joins_into_one_directory(tmp_path: Path) -> None:
    parts = sharded(tmp_path, 2, ["greedy"])
    (tmp_path / "all").mkdir()
    with locked(tmp_path / "all"), pytest.raises(Busy, match="all: in use by another run; wait for its end"):
        join(parts, tmp_path / "all", plots=False)
    assert os.listdir(tmp_path / "all") == []
