"""Evaluations on an engine that is made up: nothing drawn twice, nothing lost, the same results however they came."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autodeco_gguf import AutoDecoError
from autodeco_gguf.engine.request import Request
from autodeco_gguf.evaluation import runner
from autodeco_gguf.evaluation.control import control_table, evaluate_control
from autodeco_gguf.evaluation.methods import parse_methods
from autodeco_gguf.evaluation.runner import Progress, evaluate
from autodeco_gguf.evaluation.samples import Key, parameter, sample_seed
from autodeco_gguf.evaluation.settings import EvalSettings, Shard
from autodeco_gguf.evaluation.shards import Joined, join
from autodeco_gguf.files.journal import Journal, reading
from autodeco_gguf.model.sampling import Sampling
from autodeco_gguf.tasks.commands import Commands
from autodeco_gguf.tasks.grading import Grade
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task

BOTH = frozenset(("temperature", "top_p"))
SETTINGS = EvalSettings(k=2, seeds=2)
METHODS = ("autodeco", "greedy", "default", "static:1,1", "oracle", "mean-shift", "llama.cpp", "dynatemp")

TASKS = tuple(
    Task(name, tuple(Problem(f"{name} {i}", f"{name}{i}", i + 1, f"{name}.jsonl") for i in range(n)), "exact")
    for name, n in (("sums", 3), ("words", 2))
)


class FakeEngine:
    """Draws what the prompt, the seed and the sampling say, as the real one does, but in no time.

    Right with probability ``accuracy(temperature, top_p)``, in one of ``variety(temperature, top_p)`` forms.
    """

    def __init__(self, heads: frozenset[str] = BOTH, stop_after: int | None = None) -> None:
        self.heads, self.n_ctx, self.n_parallel, self.fingerprint = heads, 48, 4, "0123456789abcdef" * 4
        self.context = SimpleNamespace(metadata={})
        self.drawn: list[Request] = []
        self.calls = 0
        self.stop_after = stop_after
        self.finish: dict[int, str] = {}  # by request
        self.variety: Any = lambda t, p: 3

    def accuracy(self, t: float, p: float) -> float:
        if (t, p) == (0.3, 0.7):
            return 0.95
        return 0.8 if t == 0.3 else 0.4

    def prompt(self, message: str) -> tuple[str, list[int]]:
        return f"<{message}>", list(f"<{message}>".encode())

    def check(self, request: Request) -> None:
        request.check()
        if len(request.prompt) >= self.n_ctx:
            raise AutoDecoError(
                f"the prompt has {len(request.prompt)} tokens, the context holds {self.n_ctx}; raise it"
            )

    def as_completed(self, requests: Iterable[Request]) -> Iterator[Any]:
        self.calls += 1
        numbered = enumerate(requests)
        while window := list(itertools.islice(numbered, self.n_parallel)):
            for index, request in reversed(window):
                if self.stop_after is not None and len(self.drawn) >= self.stop_after:
                    raise KeyboardInterrupt
                self.drawn.append(request)
                yield self._result(index, request)

    def _result(self, index: int, request: Request) -> Any:
        message = bytes(request.prompt).decode()[1:-1]  # type: ignore[arg-type]
        rng = random.Random(f"{message} {request.seed}")
        n = rng.randrange(2, 6)
        t, p = (
            np.full(n, value, np.float32) if value is not None else np.float32([top * rng.random() for _ in range(n)])
            for value, top in ((request.temperature, 2.0), (request.top_p, 1.0))
        )
        fixed = (float(t[0]), float(p[0])) if None in (request.temperature, request.top_p) else (
            request.temperature, request.top_p
        )  # fmt: skip
        right = rng.random() < self.accuracy(*fixed) or request.temperature == 0
        text = f"{message.replace(' ', '')}{'!' * rng.randrange(self.variety(*fixed))}" if right else f"no {n}"
        reason = self.finish.get(len(self.drawn), "stop")
        error = "out of memory" if reason == "error" else None
        return SimpleNamespace(
            index=index, tokens=[1] * n, text=text, finish_reason=reason, error=error, temperature=t, top_p=p
        )


class FakeGrader:
    """Right is the answer, whatever exclamation marks follow it; fails for the texts in ``FAILS``."""

    FAILS: Set[str] = frozenset()
    graded = 0

    def __init__(self, checker: str, time_limit: float) -> None:
        pass

    def __enter__(self) -> FakeGrader:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def validate(self, problems: Sequence[Problem]) -> None:
        bad = next((p for p in problems if p.answer == "?"), None)
        if bad is not None:
            raise AutoDecoError(f"{bad.where}: answer '?' will not do")

    def grade(self, text: str, answer: str) -> Grade:
        FakeGrader.graded += 1
        if text in self.FAILS:
            return Grade(None, f"cannot read {text!r}")
        return Grade(text.rstrip("!") == answer, None)


@pytest.fixture(autouse=True)
def _grader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Grader", FakeGrader)
    monkeypatch.setattr(FakeGrader, "FAILS", frozenset())
    monkeypatch.setattr(FakeGrader, "graded", 0)


def run(
    directory: Path,
    methods: Sequence[str] = METHODS,
    settings: EvalSettings = SETTINGS,
    engine: FakeEngine | None = None,
    tasks: Sequence[Task] = TASKS,
    **kwargs: Any,
) -> dict[str, Any]:
    engine = engine or FakeEngine()
    parsed = parse_methods(methods, engine.heads, engine.context.metadata)
    return evaluate(engine, tasks, directory, parsed, settings, plots=False, **kwargs)  # type: ignore[arg-type]


def timeless(value: Any) -> Any:
    """Results without the speed."""
    if isinstance(value, dict):
        return {key: timeless(v) for key, v in value.items() if key != "tokens_s"}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def results_of(directory: Path) -> Any:
    return timeless(json.loads((directory / "results.json").read_text()))


def samples_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()[1:]]


def place(sample: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sample[key] for key in ("config", "task", "problem", "seed", "sample"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Grader", FakeGrader)
        run(directory)
    return directory


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


def test_a_line_of_samples(tmp_path: Path) -> None:
    run(tmp_path, ["autodeco", "autodeco:top_p", "default", "llama.cpp", "dynatemp", "mirostat2"])
    header, *_ = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert json.loads(header) == {
        "samples": 1, "model": "0123456789abcdef", "ctx": 48, "seed": 0, "max_tokens": None,
        "tasks": {
            "sums": {"problems": 3, "checker": "exact", "digest": json.loads(header)["tasks"]["sums"]["digest"]},
            "words": {"problems": 2, "checker": "exact", "digest": json.loads(header)["tasks"]["words"]["digest"]},
        },
        "shard": None,
    }  # fmt: skip
    found = {place(sample): sample for sample in samples_of(tmp_path)}
    at = ("words", 1, 1, 0)
    seed = sample_seed(0, Key("words", 1, 1, 0))
    engine = FakeEngine()
    drawn = engine._result(0, Request(list(b"<words 1>"), seed=seed))
    sample = found[("autodeco", *at)]
    assert list(sample) == [
        *("task", "problem", "config", "seed", "sample", "text", "correct", "error", "finish_reason", "tokens"),
        *("temperature", "top_p"),
    ]
    assert (sample["text"], sample["correct"], sample["error"]) == (drawn.text, not drawn.text.startswith("no"), None)
    assert (sample["finish_reason"], sample["tokens"]) == ("stop", len(drawn.temperature))
    for name, top in (("temperature", 2.0), ("top_p", 1.0)):
        values = getattr(drawn, name)
        assert sample[name]["mean"] == pytest.approx(values.mean(), abs=1e-6)
        assert sample[name]["sd"] == pytest.approx(values.std(), abs=1e-6)
        expected = [0] * 40
        for value in values.tolist():
            expected[min(39, int(value / top * 40))] += 1
        assert sample[name]["bins"] == expected
    assert found[("autodeco:top_p", *at)]["temperature"] == {"mean": 1.0, "sd": 0.0}
    assert "bins" in found[("autodeco:top_p", *at)]["top_p"]
    assert found[("static:1,1", *at)]["top_p"] == {"mean": 1.0, "sd": 0.0}
    # of llama.cpp's order a trace tells nothing: what is set, or nothing where it moves
    assert found[("llama.cpp", *at)]["temperature"] == {"mean": 0.8, "sd": 0.0}
    assert found[("llama.cpp", *at)]["top_p"] == {"mean": 0.95, "sd": 0.0}
    assert found[("dynatemp:0.5", *at)]["temperature"] == {"mean": None, "sd": None}
    assert found[("mirostat2", *at)]["top_p"] == {"mean": None, "sd": None}


@pytest.mark.parametrize(
    ("value", "name", "place"),
    [
        (2.0, "temperature", 39),
        (2.5, "temperature", 39),
        (0.0, "temperature", 0),
        (1.0, "top_p", 39),
        (0.3, "top_p", 12),
    ],
)
def test_where_a_value_is_counted(value: float, name: str, place: int) -> None:
    result: Any = SimpleNamespace(**{name: np.full(3, value, np.float32)})
    found = parameter(name, Sampling(), result, BOTH)
    assert [(i, n) for i, n in enumerate(found["bins"]) if n] == [(place, 3)]
    assert "bins" not in parameter(name, Sampling(), result, BOTH - {name})
    assert "bins" not in parameter(name, Sampling(temperature=value, top_p=0.5), result, BOTH)


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
    (tmp_path / "samples.jsonl").write_bytes(b"".join(kept) + torn[: len(torn) // 2])
    engine = FakeEngine()
    run(tmp_path, engine=engine)
    assert len(engine.drawn) == len(lines) - max(1, len(kept))
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
    timing = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert sum(line["tokens"] for line in timing[1:]) == sum(s["tokens"] for s in samples_of(tmp_path))
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
    lines = [{"timing": 1}, *({"config": "static:0,1", "tokens": n, "seconds": s} for n, s in ((30, 1.0), (10, 3.0)))]
    (tmp_path / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(tmp_path, ["greedy"])["methods"][0]["overall"]["tokens_s"] == 10.0


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


def without(task: Task, n: int) -> Task:
    return replace(task, problems=task.problems[:-n])


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


@pytest.mark.parametrize("other", OTHERS)
def test_other_settings_are_refused(other: str, undisturbed: Path) -> None:
    kwargs, words = OTHERS[other]
    before = (undisturbed / "samples.jsonl").read_bytes()
    with pytest.raises(AutoDecoError, match=rf"samples\.jsonl: {words}; use the same settings, or another directory$"):
        run(undisturbed, **kwargs)
    assert (undisturbed / "samples.jsonl").read_bytes() == before


def test_another_model_is_refused(undisturbed: Path) -> None:
    engine = FakeEngine()
    engine.fingerprint = "f" * 64
    with pytest.raises(AutoDecoError, match="begun with another model; use"):
        run(undisturbed, engine=engine)
    engine = FakeEngine()
    engine.n_ctx = 64
    with pytest.raises(AutoDecoError, match="begun with ctx 48, this run has 64; use"):
        run(undisturbed, engine=engine)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("samples.jsonl", b"[1]\n", r"samples.jsonl: not the beginning of samples; use"),
        ("samples.jsonl", b"some notes", r"samples.jsonl: not the beginning of samples; use"),
        ("samples.jsonl", b'{"samples": 2}\n', r"samples.jsonl: not the beginning of samples; use"),
        (
            "timing.jsonl",
            b'{"timing": 1}\n{"config": "static:0,1"}\n',
            r"timing.jsonl:2: damaged: no config, tokens and",
        ),
        ("timing.jsonl", b'{"timing": 1}\nx\n', r"timing.jsonl:2: damaged: not JSON: .* at column 1; use"),
    ],
)
def test_files_that_are_something_else(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AutoDecoError, match=words):
        run(tmp_path, ["greedy"])
    assert (tmp_path / name).read_bytes()[: len(content)] == content


SAMPLE = {
    "task": "sums", "problem": 2, "config": "autodeco", "seed": 1, "sample": 0, "text": "x", "correct": True,
    "error": None, "finish_reason": "stop", "tokens": 3, "temperature": {}, "top_p": {},
}  # fmt: skip
STRANGE = [
    json.dumps({**SAMPLE, **changed}).encode()
    for changed in (
        {"task": "others"}, {"problem": 3}, {"problem": -1}, {"seed": None}, {"sample": "1"}, {"correct": "yes"},
        {"text": 1}, {"tokens": None}, {"top_p": None},
    )
]  # fmt: skip


@pytest.mark.parametrize("line", [b"{}", b"[]", b'{"task": 1', b"\xff", b'"x"', b"", b'{"config": []}', *STRANGE])
def test_damaged_lines_are_named(line: bytes, undisturbed: Path, tmp_path: Path) -> None:
    lines = (undisturbed / "samples.jsonl").read_bytes().splitlines()
    (tmp_path / "samples.jsonl").write_bytes(b"\n".join([*lines[:7], line, *lines[8:]]) + b"\n")
    with pytest.raises(AutoDecoError, match=r"samples\.jsonl:8: damaged: "):
        run(tmp_path)


def test_two_runs_in_one_directory_are_refused(tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        if progress.done == 3:
            with pytest.raises(
                AutoDecoError, match=r"samples\.jsonl: in use by another run; wait for its end, or choose"
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


def failing(directory: Path, config: str) -> str:
    """Make the grader fail for one of the right answers of a config."""
    return next(s["text"] for s in samples_of(directory) if s["config"] == config and s["correct"] and s["seed"] == 1)


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
    monkeypatch.setattr(runner, "Grader", Grader)
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


# ---- shards ----


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
    assert timeless(joined.results) == results_of(tmp_path / "all")
    engine = FakeEngine()
    run(tmp_path / "all", engine=engine)
    assert len(engine.drawn) == len(samples_of(undisturbed)) - joined.samples
    assert results_of(tmp_path / "all") == results_of(undisturbed)
    assert sorted(map(place, samples_of(tmp_path / "all"))) == sorted(map(place, samples_of(undisturbed)))


def test_a_shard_has_its_problems_only(tmp_path: Path) -> None:
    run(tmp_path, ["greedy"], shard=Shard(2, 3))
    assert [(s["task"], s["problem"]) for s in samples_of(tmp_path)] == [("words", 1), ("sums", 1)]


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
        (part / "timing.jsonl").unlink()
    assert join(parts, tmp_path / "all", plots=False) == Joined(85, (), (), None)
    run(tmp_path / "all")
    assert results_of(tmp_path / "all") == results_of(undisturbed)


def test_shards_of_different_size(tmp_path: Path) -> None:
    run(tmp_path / "a", ["greedy", "default"], replace(SETTINGS, k=3), shard=Shard(1, 2))
    run(tmp_path / "b", ["default", "llama.cpp"], replace(SETTINGS, seeds=1), shard=Shard(2, 2))
    joined = join([tmp_path / "a", tmp_path / "b"], tmp_path / "all", plots=False)
    assert (joined.complete, joined.incomplete) == (("default",), ("greedy", "llama.cpp"))
    assert joined.results is not None
    assert (joined.results["settings"]["k"], joined.results["settings"]["seeds"]) == (2, 1)


def test_speeds_are_joined(tmp_path: Path) -> None:
    parts = sharded(tmp_path, 2, ["greedy"])
    for part, (tokens, seconds) in zip(parts, ((30, 1.0), (10, 3.0)), strict=True):
        line = {"config": "static:0,1", "tokens": tokens, "seconds": seconds}
        (part / "timing.jsonl").write_text(f'{{"timing": 1}}\n{json.dumps(line)}\n')
    joined = join(parts, tmp_path / "all", plots=False)
    assert joined.results is not None
    assert joined.results["methods"][0]["overall"]["tokens_s"] == 10.0


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
    with pytest.raises(AutoDecoError, match=r"nothing/samples.jsonl: cannot be read: No such file"):
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
    (tmp_path / "other" / "results.json").write_text("{}")
    with pytest.raises(
        AutoDecoError, match=r"other/results\.json: cannot be read as results: .*; delete it, or finish"
    ):
        join([tmp_path / "other"], tmp_path / "out2")


def test_a_directory_in_use_is_not_joined(tmp_path: Path) -> None:
    def meanwhile(progress: Progress) -> None:
        with pytest.raises(AutoDecoError, match=r"samples\.jsonl: in use by another run"):
            join([tmp_path / "a"], tmp_path / "b")

    run(tmp_path / "a", ["greedy"], watch=meanwhile)


# ---- control ----

COMMANDS = Commands(("be plain", "be exact"), ("surprise me",))


class Controlled(FakeEngine):
    """Commands move T; P moves the wrong way for one task."""

    def _result(self, index: int, request: Request) -> Any:
        result = super()._result(index, request)
        message = bytes(request.prompt).decode()  # type: ignore[arg-type]
        shift = 0.1 * (("surprise" in message) - ("be " in message))
        result.temperature = np.full(4, 1 + shift, np.float32)
        result.top_p = np.full(4, 0.5 + (shift if "sums" in message else -shift), np.float32)
        return result


def control(directory: Path, engine: FakeEngine, **kwargs: Any) -> dict[str, Any]:
    values = {"tasks": TASKS, "commands": COMMANDS, "settings": SETTINGS, **kwargs}
    tasks, commands, settings = (values.pop(key) for key in ("tasks", "commands", "settings"))
    return evaluate_control(engine, tasks, directory, commands, settings, **values)  # type: ignore[arg-type]


def test_control(tmp_path: Path) -> None:
    engine = Controlled()
    seen: list[tuple[int, int]] = []
    result = control(tmp_path, engine, watch=lambda done, total: seen.append((done, total)))
    assert json.loads((tmp_path / "control.json").read_text()) == result
    assert (result["problems"], result["k"], result["left_out"]) == (5, 1, 0)
    assert result["mean"]["plain"] == pytest.approx({"temperature": 1.0, "top_p": 0.5})
    assert result["difference"]["low"] == pytest.approx({"temperature": -0.1, "top_p": (3 * -0.1 + 2 * 0.1) / 5})
    assert result["difference"]["high"] == pytest.approx({"temperature": 0.1, "top_p": (3 * 0.1 + 2 * -0.1) / 5})
    assert result["consistency"] == {kind: {"temperature": 1.0, "top_p": 0.6} for kind in ("low", "high")}
    assert seen == [(i, 15) for i in range(16)]
    messages = Counter(bytes(r.prompt).decode()[1:-1] for r in engine.drawn)  # type: ignore[arg-type]
    plain = [problem.text for task in TASKS for problem in task.problems]
    assert all(messages[text] == messages[f"{text} surprise me"] == 1 for text in plain)
    assert all(messages[f"{text} be plain"] + messages[f"{text} be exact"] == 1 for text in plain)
    assert {r.temperature for r in engine.drawn} == {r.top_p for r in engine.drawn} == {None}
    by_problem: dict[str, set[int | None]] = {}
    for r in engine.drawn:
        by_problem.setdefault(bytes(r.prompt).decode().strip("<>")[:8].strip(), set()).add(r.seed)  # type: ignore[arg-type]
    assert {len(seeds) for seeds in by_problem.values()} == {1}


def test_the_commands_of_a_problem_are_drawn_by_the_seed(tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1), ("d", 2)):
        engine = Controlled()
        control(tmp_path / name, engine, settings=replace(SETTINGS, seed=seed))
        drawn.append({bytes(r.prompt).decode() for r in engine.drawn})  # type: ignore[arg-type]
    assert drawn[0] == drawn[1]
    assert len(set(map(frozenset, drawn))) > 1
    assert {m.split(" ", 2)[2] for m in drawn[0] if m.count(" ") > 1} >= {"surprise me>"}


def test_control_goes_on_where_it_was(tmp_path: Path) -> None:
    expected = control(tmp_path / "at once", Controlled(), k=2)
    for n in (4, 5):
        with pytest.raises(KeyboardInterrupt):
            control(tmp_path / "d", Controlled(stop_after=n), k=2)
    engine = Controlled()
    assert control(tmp_path / "d", engine, k=2) == expected
    assert len(engine.drawn) == 30 - 9
    with pytest.raises(
        AutoDecoError, match=r"control\.jsonl: begun with other problems or prompts in tasks.sums; use the"
    ):
        control(tmp_path / "d", engine, commands=Commands(("be brief",), ("surprise me",)))
    with (tmp_path / "d" / "control.jsonl").open("a") as f:
        f.write("{}\n")
    with pytest.raises(AutoDecoError, match=r"control\.jsonl:32: damaged: no answer; use"):
        control(tmp_path / "d", engine, k=2)


def test_problems_with_a_command_are_left_out(tmp_path: Path) -> None:
    problems = (*TASKS[0].problems, Problem("surprise me", "x", 9, "sums.jsonl"))
    result = control(tmp_path, Controlled(), tasks=[replace(TASKS[0], problems=problems)])
    assert (result["problems"], result["left_out"]) == (3, 1)
    with pytest.raises(AutoDecoError, match="control: every problem has a command in it already"):
        control(tmp_path, Controlled(), tasks=[replace(TASKS[0], problems=problems[3:])])


def test_control_table() -> None:
    result = {
        "problems": 12, "k": 1, "left_out": 2,
        "mean": {"plain": {"temperature": 0.71, "top_p": 0.9}, "low": {"temperature": 0.6, "top_p": 0.8},
                 "high": {"temperature": 0.8, "top_p": 0.91}},
        "difference": {"low": {"temperature": -0.11, "top_p": -0.1}, "high": {"temperature": 0.09, "top_p": 0.01}},
        "consistency": {"low": {"temperature": 0.95, "top_p": 1.0}, "high": {"temperature": 0.5, "top_p": 0.25}},
    }  # fmt: skip
    assert control_table(result).splitlines() == [
        "| command | mean T | to plain | moved so | mean P | to plain | moved so |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| none | 0.710 |  |  | 0.900 |  |  |",
        "| low | 0.600 | -0.110 | 95 % | 0.800 | -0.100 | 100 % |",
        "| high | 0.800 | +0.090 | 50 % | 0.910 | +0.010 | 25 % |",
        "",
        "- 12 problems, 1 answer to each of every kind; 2 with a command in them already left out. moved so: share of "
        "problems whose mean the command moves its way.",
    ]


def test_control_with_one_head(tmp_path: Path) -> None:
    result = control(tmp_path, Controlled(frozenset(["temperature"])))
    assert result["mean"].keys() == {"plain", "low", "high"}
    assert all(values.keys() == {"temperature"} for values in result["mean"].values())
    assert control_table(result).count("mean P") == 0


@pytest.mark.parametrize(
    ("heads", "kwargs", "words"),
    [
        ((), {}, "control: the model has no heads"),
        (BOTH, {"k": 0}, "control: k 0, expected at least 1"),
        (BOTH, {"settings": EvalSettings(seed=-1)}, "seed -1, expected"),
        (
            BOTH,
            {"commands": Commands(("x" * 50,), ("y",))},
            r"sums.jsonl:1: the prompt has 5\d tokens, the context holds 48",
        ),
    ],
)
def test_control_refuses(heads: Any, kwargs: dict[str, Any], words: str, tmp_path: Path) -> None:
    engine = Controlled(frozenset(heads))
    with pytest.raises(AutoDecoError, match=words):
        control(tmp_path / "d", engine, **kwargs)
    assert engine.drawn == []
    assert not (tmp_path / "d").exists()


def test_control_stops_at_an_error(tmp_path: Path) -> None:
    engine = Controlled()
    engine.finish = {3: "error"}
    with pytest.raises(AutoDecoError, match=r"control: (sums|words)\.jsonl:\d: out of memory"):
        control(tmp_path, engine)


# ---- the journal ----

HEADER = {"things": 1, "model": "abc", "nested": {"size": 2, "digest": "x"}}


def test_a_journal_keeps_what_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, HEADER) as journal:
        places = [journal.append(value) for value in ({"a": "é\n\ud800"}, [1, 2])]
        seen = list(journal.lines())
        assert [(line.number, line.value) for line in seen] == [(2, {"a": "é\n\ud800"}), (3, [1, 2])]
        assert [line.place for line in seen] == places
        assert journal.read(places[0]) == {"a": "é\n\ud800"}
        for line in journal.lines():  # appending meanwhile disturbs nothing
            journal.append(line.value)
        assert len(list(journal.lines())) == 4
        assert len(path.read_bytes().splitlines()) == 5  # at once, not at the end
    with Journal(path, HEADER) as journal:
        assert [line.value for line in journal.lines()][2:] == [{"a": "é\n\ud800"}, [1, 2]]
        assert journal.read(places[1]) == [1, 2]
    with reading(path, "things", 1) as (header, lines):
        assert header == HEADER
        assert [line.number for line in lines] == [2, 3, 4, 5]


def test_lines_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autodeco_gguf.files import journal as module

    monkeypatch.setattr(module, "_BLOCK", 90)
    values = ["x" * n for n in (0, 85, 86, 87, 88, 89, 200, 300)]
    with Journal(tmp_path / "j", HEADER) as journal:
        places = [journal.append(value) for value in values]
        assert [line.value for line in journal.lines()] == values
        assert [journal.read(place) for place in places] == values
    with (tmp_path / "j").open("ab") as f:
        f.write(b'"' + b"y" * 400)
    with Journal(tmp_path / "j", HEADER) as journal:
        assert [line.value for line in journal.lines()] == values


@pytest.mark.parametrize("cut", range(len(json.dumps(HEADER)) + 1))
def test_a_torn_header_is_begun_anew(cut: int, tmp_path: Path) -> None:
    (tmp_path / "j").write_text(json.dumps(HEADER)[:cut])
    with Journal(tmp_path / "j", HEADER) as journal:
        journal.append(1)
    assert (tmp_path / "j").read_text() == f"{json.dumps(HEADER)}\n1\n"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({**HEADER, "model": "def"}, "j: begun with another model; delete it to begin anew"),
        ({**HEADER, "nested": {"size": 3, "digest": "x"}}, "begun with nested.size 2, this run has 3; delete"),
        ({**HEADER, "nested": {"size": 2, "digest": "y"}}, "begun with other things in nested; delete"),
        ({**HEADER, "more": (1, 2)}, r"begun with more none, this run has \[1, 2\]; delete"),
        ({"things": 2}, "j: not the beginning of things; delete"),
    ],
)
def test_another_header_is_refused_or_replaced(header: dict[str, Any], words: str, tmp_path: Path) -> None:
    digests = {"model": "another model", "digest": "other things"}
    with Journal(tmp_path / "j", HEADER) as journal:
        journal.append(1)
    with pytest.raises(AutoDecoError, match=words), Journal(tmp_path / "j", header, digests=digests):
        pass
    with Journal(tmp_path / "j", header, force=True) as journal:
        assert list(journal.lines()) == []
    with Journal(tmp_path / "j", header) as journal:
        journal.append(2)


def test_a_journal_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) < 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:-1])

    with (
        pytest.raises(AutoDecoError, match=r"nothing/j: cannot be written: No such file"),
        Journal(tmp_path / "nothing" / "j", HEADER),
    ):
        pass
    with pytest.raises(AutoDecoError, match=r": cannot be written: Is a directory"), Journal(tmp_path, HEADER):
        pass
    with Journal(tmp_path / "j", HEADER) as journal:
        journal.append(1)
        with monkeypatch.context() as patch:
            patch.setattr("os.write", full)
            with pytest.raises(AutoDecoError, match="j: cannot be written: No space left on device"):
                journal.append(2)
    with Journal(tmp_path / "j", HEADER) as journal:
        assert [line.value for line in journal.lines()] == [1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "j: not the beginning of things"),
        (b'{"things": 1}', "j: not the beginning of things"),
        (b'{"things": 2}\n', "j: not the beginning of things"),
        (b'{"others": 1}\n', "j: not the beginning of things"),
        (b"x\n", "j:1: damaged: not JSON"),
        (b'{"things": 1}\n1\nx\n', "j:3: damaged: not JSON"),
    ],
)
def test_what_is_no_journal(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(AutoDecoError, match=words), reading(tmp_path / "j", "things", 1) as (_, lines):
        list(lines)
    assert (tmp_path / "j").read_bytes() == content


def test_reading_passes_over_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b'{"things": 1}\n1\n2')
    with reading(tmp_path / "j", "things", 1) as (_, lines):
        assert [line.value for line in lines] == [1]
