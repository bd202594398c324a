"""Evaluations on an engine that is made up: nothing drawn twice, nothing lost, the same results however they came."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
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
    without,
)

import autodeco_gguf
from autodeco_gguf.answers import items
from autodeco_gguf.engine.request import Request
from autodeco_gguf.errors import AutoDecoError, BadFile
from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.evaluation.drawing import Progress
from autodeco_gguf.evaluation.report import page
from autodeco_gguf.evaluation.results import Results
from autodeco_gguf.evaluation.runner import WRITTEN, write_json, write_results
from autodeco_gguf.evaluation.settings import EvalSettings, Shard
from autodeco_gguf.evaluation.shards import join
from autodeco_gguf.files.reading import parse_json
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.tasks.checkers import RULES
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task

# ---- what is drawn ----


def test_every_sample_is_drawn_once(undisturbed: Path) -> None:
    samples = samples_of(undisturbed)
    counts = Counter(sample["config"] for sample in samples)
    assert max(Counter(map(place, samples)).values()) == 1
    methods = {row["name"]: row["config"] for row in results_of(undisturbed)["methods"]}
    assert list(methods) == list(METHODS)
    assert methods["default"] == methods["static:1,1"] == "static:1,1"
    assert counts["static:0,1"] == 5
    full = {config for name, config in methods.items() if name != "greedy"}
    assert {counts[config] for config in full} == {5 * 2 * 2}
    grid = set(counts) - full - {"static:0,1"}
    assert {counts[config] for config in grid} == {5 * 2}
    assert len(grid) == 29 - 2  # T = 1 at P = 1 and the pair that was found have all their samples


def test_requests_share_prompts_and_seeds(tmp_path: Path) -> None:
    engine = FakeEngine()
    run(tmp_path, ["autodeco", "default", "llama.cpp"], replace(SETTINGS, max_tokens=7), engine)
    assert engine.calls == 3
    by_config = [engine.drawn[i : i + 20] for i in (0, 20, 40)]
    assert [{r.order for r in part} for part in by_config] == [{"autodeco"}, {"autodeco"}, {"llama.cpp"}]
    seeds = [{(bytes(r.prompt), r.seed) for r in part} for part in by_config]  # type: ignore[arg-type]
    assert seeds[0] == seeds[1] == seeds[2]
    assert len(seeds[0]) == 20
    for part in by_config:  # windows of four, reversed: one problem each
        assert [len({tuple(r.prompt) for r in part[i : i + 4]}) for i in range(0, 20, 4)] == [1] * 5
        assert {r.max_tokens for r in part} == {7}


def test_the_seed_has_an_effect(tmp_path: Path) -> None:
    for seed in (0, 1):
        run(tmp_path / str(seed), ["autodeco"], replace(SETTINGS, seed=seed))
    first, second = ({place(s): s["text"] for s in samples_of(tmp_path / str(seed))} for seed in (0, 1))
    assert first.keys() == second.keys()
    assert first != second


def test_errors_and_cut_off_answers_are_samples(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.finish = {1: "error", 2: "length"}
    results = run(tmp_path, ["default"], engine=engine)
    failed, cut = (next(s for s in samples_of(tmp_path) if s["finish_reason"] == r) for r in ("error", "length"))
    assert (failed["correct"], failed["error"]) == (False, "out of memory")
    assert (cut["correct"], cut["error"]) == (not cut["text"].startswith("no"), None)
    assert FakeGrader.graded == 19
    assert results["methods"][0]["overall"]["truncated"] == 1 / 20


def test_progress(tmp_path: Path) -> None:
    seen: list[Progress] = []
    run(tmp_path, ["greedy", "default"], watch=seen.append)
    assert [(p.number, p.of) for p in (seen[0], seen[-1])] == [(1, 2), (2, 2)]
    assert [(p.method, p.done, p.total) for p in seen[:7]] == [
        *(("greedy", i, 5) for i in range(6)),
        ("default", 0, 20),
    ]
    assert (seen[5].drawn, seen[5].correct) == (5, 5)
    assert seen[5].tokens == sum(s["tokens"] for s in samples_of(tmp_path) if s["config"] == "static:0,1")
    assert seen[5].seconds > 0
    seen.clear()
    run(tmp_path, ["greedy", "default"], replace(SETTINGS, k=3), watch=seen.append)
    assert [(p.method, p.done, p.drawn) for p in (seen[0], seen[-1])] == [("default", 20, 0), ("default", 30, 10)]


# ---- interruptions ----


@pytest.mark.parametrize("cut", range(0, 440, 40))
def test_a_run_cut_anywhere_gives_the_same_results(cut: int, undisturbed: Path, tmp_path: Path) -> None:
    lines = (undisturbed / "samples.jsonl").read_bytes().splitlines(keepends=True)
    kept, torn = lines[:cut], lines[cut] if cut < len(lines) else b""
    header, *_ = (undisturbed / "evaluation.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "evaluation.jsonl").write_bytes(header)
    (tmp_path / "samples.jsonl").write_bytes(b"".join(kept) + torn[: len(torn) // 2])
    engine = FakeEngine()
    run(tmp_path, engine=engine)
    assert len(engine.drawn) == len(lines) - len(kept)
    assert results_of(tmp_path) == results_of(undisturbed)
    whole = (tmp_path / "samples.jsonl").read_bytes()
    assert whole.startswith(b"".join(kept))
    assert sorted(whole.splitlines()) == sorted(line.rstrip() for line in lines)


@pytest.mark.parametrize("n", [0, 1, 37, 100, 350])
def test_ctrl_c_loses_nothing(n: int, undisturbed: Path, tmp_path: Path) -> None:
    engine = FakeEngine(stop_after=n)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, engine=engine)
    assert len(samples_of(tmp_path)) == n
    assert not (tmp_path / "results.json").exists()
    log = [json.loads(line) for line in (tmp_path / "evaluation.jsonl").read_text().splitlines()]
    assert sum(line["tokens"] for line in log[1:]) == sum(s["tokens"] for s in samples_of(tmp_path))
    again = FakeEngine()
    run(tmp_path, engine=again)
    assert n + len(again.drawn) == len(samples_of(undisturbed))
    assert results_of(tmp_path) == results_of(undisturbed)


def test_a_finished_run_draws_nothing(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "d")
    engine = FakeEngine()
    before = (tmp_path / "d" / "results.json").read_bytes()
    run(tmp_path / "d", engine=engine)
    assert engine.drawn == []
    assert (tmp_path / "d" / "results.json").read_bytes() == before


def test_speeds_are_over_all_sessions(tmp_path: Path) -> None:
    results = run(tmp_path, ["greedy"])
    assert results["methods"][0]["overall"]["tokens_s"] > 0
    header, _ = (tmp_path / "evaluation.jsonl").read_text().splitlines()
    sessions = ((30, 1.0, "2026-02-01"), (10, 3.0, "2026-01-01"))
    lines = [{"config": "static:0,1", "tokens": n, "seconds": s, "date": d} for n, s, d in sessions]
    (tmp_path / "evaluation.jsonl").write_text("\n".join([header, *map(json.dumps, lines)]) + "\n")
    results = run(tmp_path, ["greedy"])
    assert results["methods"][0]["overall"]["tokens_s"] == 10.0
    assert results["origin"]["date"] == "2026-02-01"


@pytest.mark.parametrize(
    ("methods", "settings"),
    [
        (METHODS, replace(SETTINGS, k=3)),
        (METHODS, replace(SETTINGS, seeds=4)),
        ((*METHODS, "min-p", "static:0.5,0.5"), SETTINGS),
    ],
    ids=["k", "seeds", "methods"],
)
def test_more_of_it_later(methods: tuple[str, ...], settings: EvalSettings, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "grown")
    run(tmp_path / "grown", methods, settings)
    engine = FakeEngine()
    run(tmp_path / "at once", methods, settings, engine)
    assert max(Counter(map(place, samples_of(tmp_path / "grown"))).values()) == 1
    # what only the first run's own mean asked for is no part of it
    grown, at_once = results_of(tmp_path / "grown"), results_of(tmp_path / "at once")
    wanted = {row["config"] for row in at_once["grid"]}
    assert {**grown, "grid": [row for row in grown["grid"] if row["config"] in wanted]} == at_once
    assert {place(s) for s in samples_of(tmp_path / "at once")} <= {place(s) for s in samples_of(tmp_path / "grown")}


def test_less_of_it_later_takes_the_samples_there_are(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "d")
    engine = FakeEngine()
    results = run(tmp_path / "d", ["greedy", "default"], replace(SETTINGS, k=1, seeds=1), engine)
    assert engine.drawn == []
    assert [row["overall"]["samples"] for row in results["methods"]] == [5, 5]


# ---- other settings, broken files ----


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"settings": replace(SETTINGS, seed=1)}, "begun with seed 0, this run has 1"),
    "tokens": ({"settings": replace(SETTINGS, max_tokens=9)}, "begun with max_tokens none, this run has 9"),
    "problems": ({"tasks": [TASKS[0], without(TASKS[1], 1)]}, "begun with tasks.words.problems 2, this run has 1"),
    "checker": (
        {"tasks": [replace(TASKS[0], checker="boxed"), TASKS[1]]},
        "begun with tasks.sums.checker exact, this run has boxed",
    ),
    "answers": (
        {"tasks": [TASKS[0], replace(TASKS[1], problems=TASKS[1].problems[::-1])]},
        "begun with other problems or prompts in tasks.words",
    ),
    "fewer tasks": ({"tasks": TASKS[:1]}, "begun with tasks.words.problems 2, this run has none"),
    "shard": ({"shard": Shard(1, 2), "methods": ["greedy"]}, "begun with shard none, this run has 1/2"),
}


def test_what_was_graded_by_other_rules_is_refused(tmp_path: Path) -> None:
    """As an earlier version's, whose checkers judged some answers otherwise."""
    tasks = [replace(TASKS[0], checker="boxed")]
    run(tmp_path, ["greedy"], tasks=tasks)
    log = tmp_path / "evaluation.jsonl"
    text = log.read_text()
    noted = f'"rules": {RULES["boxed"]}, '
    assert noted in text
    log.write_text(text.replace(noted, ""))
    words = "begun with other rules of the checker, by which an earlier or later version graded in tasks.sums"
    with pytest.raises(
        AutoDecoError, match=rf"evaluation\.jsonl: {words}; use the same settings, or another directory$"
    ):
        run(tmp_path, ["greedy", "default"], tasks=tasks)


@pytest.mark.parametrize("other", OTHERS)
def test_other_settings_are_refused(other: str, undisturbed: Path) -> None:
    kwargs, words = OTHERS[other]
    before = (undisturbed / "samples.jsonl").read_bytes()
    with pytest.raises(
        AutoDecoError, match=rf"evaluation\.jsonl: {words}; use the same settings, or another directory$"
    ):
        run(undisturbed, **kwargs)
    assert (undisturbed / "samples.jsonl").read_bytes() == before


ENGINES: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"fingerprint": f"{'f' * 64} {'fedcba9876543210' * 4}"}, "begun with another model"),
    "heads": ({"fingerprint": f"{'0123456789abcdef' * 4} {'f' * 64}"}, "begun with other heads"),
    "no heads": ({"fingerprint": f"{'0123456789abcdef' * 4} "}, "begun with other heads"),
    "context": ({"n_ctx": 64}, "begun with ctx 48, this run has 64"),
    "cache": ({"machine": Machine(cache_type="f32", flash_attn=True)}, "begun with cache_type f16, this run has f32"),
    "attention": ({"machine": Machine(flash_attn=False)}, "begun with flash_attn True, this run has False"),
}


@pytest.mark.parametrize("other", ENGINES)
def test_another_model_is_refused(other: str, undisturbed: Path) -> None:
    changes, words = ENGINES[other]
    engine = FakeEngine()
    vars(engine).update(changes)
    with pytest.raises(AutoDecoError, match=f"{words}; use"):
        run(undisturbed, engine=engine)
    assert engine.drawn == []


def test_threads_are_no_setting(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "d")
    engine = FakeEngine()
    engine.machine = replace(engine.machine, n_threads=7)
    run(tmp_path / "d", engine=engine)
    assert engine.drawn == []


# ---- what is written for a reader ----


def test_results_say_of_what_they_are(undisturbed: Path) -> None:
    origin = json.loads((undisturbed / "results.json").read_text())["origin"]
    date = datetime.fromisoformat(origin.pop("date"))
    assert timedelta() <= datetime.now(timezone.utc) - date < timedelta(hours=1)
    assert origin == {
        "model": "m.gguf", "model_digest": "0123456789abcdef",
        "heads": ["temperature", "top_p"], "heads_file": "h.gguf", "heads_digest": "fedcba9876543210",
        "context": 48, "cache_type": "f16", "flash_attn": True,
        "version": autodeco_gguf.__version__, "llama_cpp_python": metadata.version("llama-cpp-python"),
    }  # fmt: skip


def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"model": "b\udcff.gguf"})
    assert parse_json((tmp_path / "x.json").read_bytes()) == {"model": "b?.gguf"}


def test_the_report_is_beside_the_results(undisturbed: Path) -> None:
    results = from_json(Results, json.loads((undisturbed / "results.json").read_text()))
    assert (undisturbed / "report.md").read_text() == page(results)


def test_plots_of_older_results_are_removed(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "accuracy.png").write_bytes(b"older")
    results = from_json(Results, json.loads((tmp_path / "results.json").read_text()))
    write_results(tmp_path, results, plots=False)
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("evaluation.jsonl", b"[1]\n", r"evaluation.jsonl: not the beginning of evaluation; use"),
        ("evaluation.jsonl", b"some notes", r"evaluation.jsonl: not the beginning of evaluation; use"),
        ("evaluation.jsonl", b'{"evaluation": 2}\n', r"evaluation.jsonl: not the beginning of evaluation; use"),
        (
            "samples.jsonl",
            b"some notes",
            r"evaluation.jsonl: missing beside samples.jsonl, whose settings it tells; use",
        ),
        ("samples.jsonl", b'{"samples": 1}\n', r"evaluation.jsonl: missing beside samples.jsonl"),  # an older version's
    ],
)
def test_files_that_are_something_else(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AutoDecoError, match=words):
        run(tmp_path, ["greedy"])
    assert (tmp_path / name).read_bytes()[: len(content)] == content


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_there_without_an_evaluation_is_not_replaced(name: str, undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    words = rf"/{name}: is there without the evaluation\.jsonl that it would be of; use the same"
    with pytest.raises(BadFile, match=words):
        run(tmp_path, ["greedy"])
    with pytest.raises(BadFile, match=words):
        join([undisturbed], tmp_path)
    (tmp_path / "evaluation.jsonl").touch()  # of no evaluation
    with pytest.raises(BadFile, match=words):
        run(tmp_path, ["greedy"])
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("nbytes", [0, 30])
def test_samples_whose_settings_are_lost(nbytes: int, undisturbed: Path, tmp_path: Path) -> None:
    for name in ("samples.jsonl", "evaluation.jsonl"):
        shutil.copy(undisturbed / name, tmp_path)
    os.truncate(tmp_path / "evaluation.jsonl", nbytes)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(BadFile, match=r"evaluation.jsonl: empty, or cut short, beside samples.jsonl, whose settings"):
        run(tmp_path, ["greedy"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"config": "static:0,1"}', r"evaluation.jsonl:2: damaged: no config, tokens, seconds and date; use"),
        (
            b'{"config": "static:0,1", "tokens": "1", "seconds": 1, "date": ""}',
            r"evaluation.jsonl:2: damaged: no config",
        ),
        (b"x", r"evaluation.jsonl:2: damaged: not JSON: .* at column 1; use"),
    ],
)
def test_damaged_lines_of_its_log(line: bytes, words: str, undisturbed: Path, tmp_path: Path) -> None:
    header, *_ = (undisturbed / "evaluation.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "evaluation.jsonl").write_bytes(header + line + b"\n")
    with pytest.raises(BadFile, match=words):
        run(tmp_path, ["greedy"])


def test_two_runs_in_one_directory_are_refused(tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        if progress.done == 3:
            with pytest.raises(
                AutoDecoError, match=r"evaluation\.jsonl: in use by another run; wait for its end, or choose"
            ):
                run(tmp_path, ["greedy"])

    run(tmp_path, ["greedy"], watch=second)
    assert len(samples_of(tmp_path)) == 5


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"settings": EvalSettings(k=0)}, "k 0, expected at least 1"),
        ({"tasks": [TASKS[0], TASKS[0]]}, "two tasks are called 'sums'"),
        (
            {"tasks": [Task("t", (Problem("x" * 50, "a", 4, "t.jsonl"),), "exact")]},
            r"t.jsonl:4: the prompt has 52 tokens",
        ),
        ({"tasks": [Task("t", (Problem("x", "?", 4, "t.jsonl"),), "exact")]}, r"t.jsonl:4: answer '\?' will not do"),
        ({"shard": Shard(6, 6)}, "shard 6/6: no problem is left for it, there are 5 in all"),
        ({"shard": Shard(1, 2), "methods": ["oracle", "distinct"]}, "shard 1/2: oracle, distinct: to be found on all"),
    ],
)
def test_what_will_not_do_is_named_before_anything_is_drawn(kwargs: dict[str, Any], words: str, tmp_path: Path) -> None:
    engine = FakeEngine()
    with pytest.raises(AutoDecoError, match=words):
        run(tmp_path / "d", engine=engine, **kwargs)
    assert engine.drawn == []
    assert not (tmp_path / "d").exists()


def test_bad_metadata_is_named_before_anything_is_drawn(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.context.metadata["general.sampling.temp"] = "warm"
    with pytest.raises(AutoDecoError, match=r"general\.sampling\.temp is 'warm'"):
        run(tmp_path, ["greedy", "model"], engine=engine)
    assert engine.drawn == []


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AutoDecoError, match=r"file: no directory can be made there: "):
        run(tmp_path / "file", ["greedy"])


# ---- checkers that fail ----


def test_ungraded_samples_are_graded_anew_and_not_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods, settings, d = ("autodeco", "greedy", "default", "llama.cpp"), SETTINGS, tmp_path / "d"
    run(tmp_path / "at once", methods, settings)
    texts = {failing(tmp_path / "at once", config) for config in ("autodeco", "llama.cpp")}
    monkeypatch.setattr(FakeGrader, "FAILS", texts)
    words = (
        r"d: \d+ of 65 samples could not be graded; the first, problem \d of (sums|words) with autodeco: cannot read "
    )
    with pytest.raises(AutoDecoError, match=words + "'.*'; run again to grade them, nothing is drawn twice"):
        run(d, methods, settings)
    failed = [s for s in samples_of(d) if s["correct"] is None]
    assert {s["text"] for s in failed} == texts
    assert {s["error"] for s in failed} == {f"cannot read {text!r}" for text in texts}
    graded, engine = FakeGrader.graded, FakeEngine()
    with pytest.raises(AutoDecoError, match=f"d: {len(failed)} of 65 samples could not be graded"):
        run(d, methods, settings, engine)
    assert FakeGrader.graded - graded == len(failed)
    assert len(samples_of(d)) == 65  # nothing new to say about them
    monkeypatch.setattr(FakeGrader, "FAILS", frozenset())
    run(d, methods, settings, engine)
    assert engine.drawn == []
    assert results_of(d) == results_of(tmp_path / "at once")
    lines = samples_of(d)
    assert len(lines) == 65 + len(failed)
    last = {place(s): s for s in lines}
    assert all(s["correct"] is not None and s["error"] is None for s in last.values())
    run(d, methods, settings, engine)
    assert len(samples_of(d)) == len(lines)


def test_results_are_written_although_some_samples_are_not_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, seeds=8)
    run(tmp_path / "at once", ["default"], settings)
    monkeypatch.setattr(FakeGrader, "FAILS", {failing(tmp_path / "at once", "static:1,1")})
    with pytest.raises(AutoDecoError, match="could not be graded"):
        run(tmp_path / "d", ["default"], settings)
    ungraded = sum(s["correct"] is None for s in samples_of(tmp_path / "d"))
    assert ungraded
    assert results_of(tmp_path / "d")["methods"][0]["overall"]["ungraded"] == ungraded


def test_a_checker_that_always_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeGrader, "FAILS", frozenset(f"{t.name}{i}" for t in TASKS for i in range(3)))
    with pytest.raises(
        AutoDecoError, match=r"5 of 5 samples could not be graded; the first, problem . of .* with static:0,1: "
    ):
        run(tmp_path, ["greedy"], tasks=TASKS, engine=Certain())


class Certain(FakeEngine):
    def _result(self, index: int, request: Request) -> Any:
        result = super()._result(index, request)
        result.text = result.text.rstrip("!")
        return result


CHECKERS = """
def raising(text, answer):
    if text.startswith("sums"):
        raise RuntimeError("sums are too hard")
    return text.rstrip("!") == answer

def hanging(text, answer):
    while text.startswith("sums"):
        pass
    return text.rstrip("!") == answer
"""


@pytest.mark.parametrize("checker", ["raising", "hanging"])
def test_real_checkers_that_raise_or_hang(checker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autodeco_gguf.tasks.grading import Grader

    (tmp_path / "checkers_of_mine.py").write_text(CHECKERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(items, "Grader", Grader)
    tasks = [replace(task, checker=f"checkers_of_mine:{checker}") for task in (without(TASKS[0], 2), TASKS[1])]
    if checker == "raising":
        words = "1 of 3 samples could not be graded; the first, .*: RuntimeError: sums are too hard; run again"
        with pytest.raises(AutoDecoError, match=words):
            run(tmp_path / "d", ["greedy"], tasks=tasks)
    else:
        run(tmp_path / "d", ["greedy"], tasks=tasks, time_limit=0.5)
    found = {s["task"]: (s["correct"], s["error"]) for s in samples_of(tmp_path / "d")}
    assert found == {
        "sums": (None, "RuntimeError: sums are too hard")
        if checker == "raising"
        else (False, "the checker took longer than 0.5 s"),
        "words": (True, None),
    }


# ---- searches ----


def test_the_oracle_finds_the_best_pair(undisturbed: Path) -> None:
    results = results_of(undisturbed)
    assert next(row["config"] for row in results["methods"] if row["name"] == "oracle") == "static:0.3,0.7"
    grid = {row["config"]: row["problems"] for row in results["grid"]}
    assert {"static:0.1,1", "static:2,1", "static:0.3,0.1"} <= set(grid)
    assert "static:0.5,0.5" not in grid


def test_distinct_finds_the_pair_of_most_right_answers(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.variety = lambda t, p: 50 if (t, p) == (1.5, 0.4) else 2
    engine.accuracy = lambda t, p: 0.8  # type: ignore[method-assign]
    tasks = [Task("t", tuple(Problem(f"t {i}", f"t{i}", i, "t.jsonl") for i in range(10)), "exact"), TASKS[1]]
    results = run(tmp_path, ["distinct"], EvalSettings(k=4, seeds=1, search_samples=3), engine, tasks)
    (row,) = results["methods"]
    assert row["config"] == "static:1.5,0.4"
    samples = samples_of(tmp_path)
    counts = Counter(Counter(s["config"] for s in samples).values())
    # the first 8 problems of each task, 3 samples each; the finalists on all of them; 4 samples in the end
    assert counts == {(8 + 2) * 3: 200 - 8, (10 + 2) * 3: 7, (10 + 2) * 4: 1}
    assert {s["seed"] for s in samples} == {0}


def test_mean_shift_is_the_mean_over_tokens(undisturbed: Path) -> None:
    ours = [s for s in samples_of(undisturbed) if s["config"] == "autodeco"]
    total = sum(s["tokens"] for s in ours)
    t, p = (sum(s[name]["mean"] * s["tokens"] for s in ours) / total for name in ("temperature", "top_p"))
    config = next(row["config"] for row in results_of(undisturbed)["methods"] if row["name"] == "mean-shift")
    assert config == f"static:{round(t, 4):g},{round(p, 4):g}"


def test_mean_shift_alone_draws_what_it_needs(undisturbed: Path, tmp_path: Path) -> None:
    results = run(tmp_path, ["mean-shift"])
    expected = next(row for row in results_of(undisturbed)["methods"] if row["name"] == "mean-shift")
    assert timeless(results["methods"]) == [expected]
    assert {s["config"] for s in samples_of(tmp_path)} == {"autodeco", expected["config"]}


def test_mean_shift_of_nothing(tmp_path: Path) -> None:
    class Silent(FakeEngine):
        def _result(self, index: int, request: Request) -> Any:
            result = super()._result(index, request)
            result.temperature = result.top_p = np.zeros(0, np.float32)
            return result

    with pytest.raises(AutoDecoError, match="mean-shift: autodeco has drawn no token"):
        run(tmp_path, ["mean-shift"], engine=Silent())
    assert {s["temperature"]["mean"] for s in samples_of(tmp_path)} == {None}
