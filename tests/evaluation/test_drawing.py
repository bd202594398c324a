"""What is drawn, and when: pairs at other tokens, how much is left, an end before all is done, answers read later."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import BOTH, SETTINGS, TASKS, FakeEngine, place, results_of, run, samples_of, timeless

from autodeco_gguf.evaluation.drawing import Enough, Progress
from autodeco_gguf.evaluation.pairs import PAIRS, PairsFile
from autodeco_gguf.evaluation.samples import Key
from autodeco_gguf.evaluation.settings import Shard
from autodeco_gguf.evaluation.shards import join
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task

# ---- shuffle ----

SHUFFLED = ("shuffle", "autodeco", "default")


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fake_engine import FakeGrader

    from autodeco_gguf.answers import items

    directory = tmp_path_factory.mktemp("shuffled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(items, "Grader", FakeGrader)
        run(directory, SHUFFLED)
    return directory


def prompt_of(request: Any) -> str:
    return bytes(request.prompt).decode()[1:-1]


def test_each_token_has_a_pair_of_another_answer_to_its_problem(tmp_path: Path) -> None:
    engine = FakeEngine()
    run(tmp_path, SHUFFLED, engine=engine)
    requests = [request for request in engine.drawn if request.pairs is not None]
    assert len(requests) == len(engine.drawn) / 3 == 20
    places = {s["text"]: s for s in samples_of(tmp_path)}
    with PairsFile(tmp_path) as file:
        of = {
            (s["task"], s["problem"], s["seed"], s["sample"]): {tuple(p) for p in file.of(Key(*place(s)[1:])).tolist()}
            for s in samples_of(tmp_path)
            if s["config"] == "autodeco"
        }
    assert places
    seeds = {(prompt_of(r), r.seed): r for r in engine.drawn if r.pairs is None and r.temperature is None}
    own = {(prompt_of(r), r.seed): key for key, r in zip(of, seeds.values(), strict=False)}
    assert len(own) == 20
    for request in requests:
        name, number = prompt_of(request).split()
        others = {key: pairs for key, pairs in of.items() if key[:2] == (name, int(number))}
        assert len(request.pairs) == FakeEngine().n_ctx - len(request.prompt)
        used = set(request.pairs)
        assert used <= set().union(*others.values())
        missing = [key for key, pairs in others.items() if not used & pairs]
        assert len(missing) == 1  # its own


def test_what_was_drawn_is_what_was_given(shuffled: Path) -> None:
    """Its mean T and P are those of autodeco, but for chance."""
    rows = {row["name"]: row for row in results_of(shuffled)["methods"]}
    assert (rows["shuffle"]["kind"], rows["shuffle"]["config"]) == ("peer", "shuffle:2,2")
    for name in ("temperature", "top_p"):
        ours, theirs = rows["autodeco"][name], rows["shuffle"][name]
        assert abs(ours["mean"] - theirs["mean"]) < 5 * ours["sd"] / 8
        assert "bins" in next(s for s in samples_of(shuffled) if s["config"] == "shuffle:2,2")[name]


def test_longest_answers_bound_the_pairs(tmp_path: Path) -> None:
    engine = FakeEngine()
    run(tmp_path, SHUFFLED, replace(SETTINGS, max_tokens=7), engine)
    assert {len(request.pairs) for request in engine.drawn if request.pairs is not None} == {7}


@pytest.mark.parametrize("cut", range(0, 61, 6))
def test_cut_anywhere_it_goes_on_to_the_same(cut: int, shuffled: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluation.jsonl").write_bytes((shuffled / "evaluation.jsonl").read_bytes().splitlines(True)[0])
    for name, n in (("samples.jsonl", cut), (PAIRS, cut // 3)):
        lines = (shuffled / name).read_bytes().splitlines(keepends=True)
        (tmp_path / name).write_bytes(b"".join(lines[:n]))
    run(tmp_path, SHUFFLED)
    assert results_of(tmp_path) == results_of(shuffled)
    assert sorted(map(place, samples_of(tmp_path))) == sorted(map(place, samples_of(shuffled)))


def test_what_was_drawn_without_its_pairs_is_drawn_again_for_these(shuffled: Path, tmp_path: Path) -> None:
    first, again = FakeEngine(), FakeEngine()
    run(tmp_path, ["autodeco", "default"], engine=first)
    assert not (tmp_path / PAIRS).exists()
    run(tmp_path, SHUFFLED, engine=again)
    assert (len(first.drawn), len(again.drawn)) == (40, 20 + 20)
    assert results_of(tmp_path) == results_of(shuffled)
    assert len(samples_of(tmp_path)) == 60


def test_with_more_answers_it_is_drawn_from_all_of_them(shuffled: Path, tmp_path: Path) -> None:
    shutil.copytree(shuffled, tmp_path / "grown")
    run(tmp_path / "grown", SHUFFLED, replace(SETTINGS, k=3))
    run(tmp_path / "at once", SHUFFLED, replace(SETTINGS, k=3))
    assert results_of(tmp_path / "grown") == results_of(tmp_path / "at once")


def test_shards_keep_the_pairs(shuffled: Path, tmp_path: Path) -> None:
    parts = [tmp_path / "a", tmp_path / "b"]
    for i, part in enumerate(parts):
        run(part, SHUFFLED, shard=Shard(i + 1, 2))
    join(parts, tmp_path / "all", plots=False)
    engine = FakeEngine()
    run(tmp_path / "all", SHUFFLED, engine=engine)
    assert len(engine.drawn) == 20
    assert results_of(tmp_path / "all") == results_of(shuffled)


# ---- the engine's heads ----


def test_heads_that_a_method_leaves_out_are_back_for_the_next(tmp_path: Path) -> None:
    engine, used = FakeEngine(), {}

    def watch(p: Progress) -> None:
        used[str(p.config)] = engine.heads  # the last time after an answer

    run(tmp_path, ["autodeco:top_p", "autodeco"], engine=engine, watch=watch)
    assert used == {"autodeco:top_p-alone": {"top_p"}, "autodeco": BOTH}
    assert engine.heads == BOTH


def test_heads_are_back_after_an_interruption(tmp_path: Path) -> None:
    engine = FakeEngine(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ["autodeco:top_p"], engine=engine)
    assert engine.heads == BOTH


# ---- what is left, and enough of it ----


@pytest.mark.parametrize("methods", [("autodeco", "greedy", "mean-shift"), ("greedy", "oracle", "distinct", "shuffle")])
def test_what_is_left(methods: tuple[str, ...], tmp_path: Path) -> None:
    seen: list[Progress] = []
    engine = FakeEngine()
    run(tmp_path, methods, engine=engine, watch=seen.append)
    total = len(engine.drawn)
    assert total <= seen[0].left <= 1.1 * total  # what a search finds may have been drawn already
    assert seen[-1].left <= 0.1 * total
    assert all(a.left - b.left == b.drawn - a.drawn for a, b in itertools.pairwise(seen) if b.drawn)
    seen.clear()
    run(tmp_path, methods, replace(SETTINGS, k=3, search_samples=2), watch=seen.append)
    assert seen[0].left < 20 * len(methods)  # of the searches nothing


def stop_after(n: int) -> Any:
    count = iter(range(10**6))

    def watch(p: Progress) -> None:
        if p.drawn and next(count) >= n - 1:
            raise Enough

    return watch


@pytest.mark.parametrize(
    ("n", "complete"),
    [
        (4, None),
        (5, ["greedy"]),
        (24, ["greedy"]),
        (25, ["greedy", "default"]),
        (80, ["greedy", "default", "autodeco"]),
        (10**6, ["greedy", "oracle", "default", "autodeco", "mean-shift"]),
    ],
)
def test_enough(n: int, complete: list[str] | None, tmp_path: Path) -> None:
    methods = ["greedy", "oracle", "default", "autodeco", "mean-shift"]
    results = run(tmp_path, methods, watch=stop_after(n))
    assert n > 10**5 or len(samples_of(tmp_path)) == n
    if complete is None:
        assert results is None
        assert not (tmp_path / "results.json").exists()
    else:
        assert [row["name"] for row in results["methods"]] == complete
        assert results["unfinished"] == [name for name in methods if name not in complete]
    whole = run(tmp_path, methods)
    run(tmp_path / "at once", methods)
    assert timeless(whole) == results_of(tmp_path / "at once")


def test_what_was_complete_before_is_in_the_results(tmp_path: Path) -> None:
    run(tmp_path, ["default", "autodeco", "mean-shift"])
    results = run(tmp_path, ["min-p", "default", "autodeco", "mean-shift"], watch=stop_after(3))
    assert [row["name"] for row in results["methods"]] == ["default", "autodeco", "mean-shift"]
    assert results["unfinished"] == ["min-p"]


# ---- answers ----


BOXED = (Task("boxes", tuple(Problem(f"boxes {i}", f"boxes{i}", i + 1, "b.jsonl") for i in range(3)), "boxed"),)


def test_answers_are_read_when_they_are_graded(tmp_path: Path) -> None:
    results = run(tmp_path, ["default"], tasks=BOXED)
    samples = samples_of(tmp_path)
    assert all(s["answer"] == (f"boxes{s['problem']}" if s["correct"] else "") for s in samples)
    overall = results["methods"][0]["overall"]
    assert overall["formless"] == sum(not s["correct"] for s in samples)
    assert overall["distinct"] == overall["pass@k"]["2"]  # but one right answer


def test_answers_that_an_older_version_did_not_read_are_read_now(tmp_path: Path) -> None:
    run(tmp_path / "new", ["default"], tasks=BOXED)
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    lines = samples_of(tmp_path / "new")
    old = "".join(json.dumps({k: v for k, v in line.items() if k != "answer"}) + "\n" for line in lines)
    (tmp_path / "old" / "samples.jsonl").write_text(old)
    engine = FakeEngine()
    run(tmp_path / "old", ["default"], tasks=BOXED, engine=engine)
    assert engine.drawn == []
    assert results_of(tmp_path / "old") == results_of(tmp_path / "new")
    assert (tmp_path / "old" / "samples.jsonl").read_text().startswith(old)
    assert samples_of(tmp_path / "old")[len(lines) :] == lines
    run(tmp_path / "old", ["default"], tasks=BOXED)
    assert len(samples_of(tmp_path / "old")) == 2 * len(lines)


def test_whole_texts_are_not_written_twice(tmp_path: Path) -> None:
    run(tmp_path, ["default"], tasks=TASKS)
    assert not any("answer" in s for s in samples_of(tmp_path))
