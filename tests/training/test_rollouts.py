"""Rollouts: which samples are kept, that nothing is lost to an interruption, and a line for every bad input."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from broken import replaced, rewrite, tensors_of
from conftest import Case

from autodeco_gguf.answers.items import GradedTasks, Item
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.files.journal import Journal
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.model.trace import Trace
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.tasks import Task
from autodeco_gguf.training.rollouts import (
    _LONGEST,
    Kept,
    RolloutSettings,
    RolloutSummary,
    _Partial,
    rollouts,
    wanted_samples,
)

pytestmark = pytest.mark.usefixtures("tamed")

SETTINGS = RolloutSettings(k=5, seed=3, max_tokens=8)
PROBLEMS = [Problem(text, "1", 10 + i) for i, text in enumerate(("Hello", "What?", "é", "Hello"))]


@pytest.fixture(scope="module")
def engine(qwen2: Case) -> Iterator[Engine]:
    engine = Engine(qwen2.base, n_parallel=4, n_ctx=128, machine=Machine(n_threads=1))
    yield engine
    engine.close()


def sample(
    engine: Engine,
    output: Path,
    settings: RolloutSettings = SETTINGS,
    *,
    problems: Sequence[Problem] = PROBLEMS,
    checker: str = "even",
    **kwargs: Any,
) -> RolloutSummary:
    with GradedTasks([Task("p", tuple(problems), checker)]) as tasks:
        return rollouts(engine, tasks, output, settings, **kwargs)


@pytest.fixture(scope="module")
def undisturbed(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("undisturbed") / "out.jsonl"
    sample(engine, path)
    return path.read_bytes()


# ---- what is kept ----


def test_an_answer_without_its_trace_is_kept_by_its_text(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a fleet gives them that was not told to send traces."""
    as_completed, texts = engine.as_completed, set()

    def without_traces(requests: Any) -> Any:
        for result in as_completed(requests):
            texts.add(result.text)
            yield dataclasses.replace(result, trace=Trace())

    monkeypatch.setattr(engine, "as_completed", without_traces)
    sample(engine, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert {line["completion"] for line in lines} <= texts
    assert len(lines) >= 3


def test_the_correct_samples_that_ended_are_kept(engine: Engine, tmp_path: Path) -> None:
    drawn: list[tuple[int, str, str, str]] = []
    as_completed = engine.as_completed

    def spy(requests: Any) -> Any:
        for result in as_completed(requests):
            whole = b"".join(map(engine.context.token_bytes, result.tokens))
            drawn.append((result.index, result.text, whole.decode("utf-8", "replace"), result.finish_reason))
            assert (result.temperature == 1).all()
            assert (result.top_p == 1).all()
            yield result

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(engine, "as_completed", spy)
        summary = sample(engine, tmp_path / "out.jsonl")
    assert {(reason, len(text) % 2) for _, text, _, reason in drawn} == {
        ("stop", 0),
        ("stop", 1),
        ("length", 0),
        ("length", 1),
    }
    kept = [(i, whole) for i, text, whole, reason in sorted(drawn) if reason == "stop" and len(text) % 2 == 0]
    assert any("<|im_end|>" in whole for _, whole in kept)  # no end here, and learnt as it was drawn
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert lines == [
        {"prompt": PROBLEMS[i // 5].text, "completion": text, "task": "p", "problem": 10 + i // 5, "sample": i % 5}
        for i, text in kept
    ]
    assert 3 <= len(kept) <= 17
    unsolved = 4 - len({i // 5 for i, _ in kept})
    assert (summary.problems, summary.samples, summary.correct, summary.unsolved) == (4, 20, len(kept), unsolved)
    assert summary.tokens > 20
    assert summary.seconds > 0
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("n_parallel", [1, 9])
def test_the_same_at_any_parallel(qwen2: Case, n_parallel: int, undisturbed: bytes, tmp_path: Path) -> None:
    sample(Engine(qwen2.base, n_parallel=n_parallel, n_ctx=128, machine=Machine(n_threads=1)), tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed


def test_every_problem_and_sample_has_a_seed_of_its_own() -> None:
    items = [Item("p", i, PROBLEMS[0], [1]) for i in range(12)]
    seeds = {one.seed for one in wanted_samples(items, range(12), 12, 3)}
    assert len(seeds) == 144
    assert not seeds & {one.seed for one in wanted_samples(items, range(12), 12, 4)}
    assert [one.seed for one in wanted_samples(items, [7], 2, 3)] == [
        one.seed for one in wanted_samples(items, range(12), 12, 3) if one.item.number == 7 and one.number < 2
    ]


def test_all_are_kept_with_their_grades(engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    summary = sample(engine, tmp_path / "out.jsonl", replace(SETTINGS, keep="all"))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [(line["problem"], line["sample"]) for line in lines] == [(10 + i, n) for i in range(4) for n in range(5)]
    for line in lines:
        assert line["correct"] == (len(line["completion"]) % 2 == 0)
        assert line["weight"] == int(line["correct"])
    kept = [{k: v for k, v in line.items() if k not in ("correct", "finish_reason", "weight")}
            for line in lines if line["correct"] and line["finish_reason"] == "stop"]  # fmt: skip
    assert kept == [json.loads(line) for line in undisturbed.splitlines()]
    assert {line["finish_reason"] for line in lines} == {"stop", "length"}
    assert (summary.kept, summary.correct, summary.samples) == (20, sum(line["correct"] for line in lines), 20)


def test_none_is_right_and_all_are_kept(engine: Engine, tmp_path: Path) -> None:
    settings = RolloutSettings(k=1, keep="all", max_tokens=3)
    summary = sample(engine, tmp_path / "out.jsonl", settings, checker="never")
    assert (summary.kept, summary.correct, summary.unsolved) == (4, 0, 4)
    assert (tmp_path / "out.jsonl").read_bytes().count(b'"correct": false') == 4


def test_several_tasks(engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    tasks = [Task("one", tuple(PROBLEMS[:3]), "even"), Task("two", tuple(PROBLEMS[3:]), "even")]
    with GradedTasks(tasks) as graded:
        rollouts(engine, graded, tmp_path / "out.jsonl", SETTINGS)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [{**line, "task": "p"} for line in lines] == [json.loads(line) for line in undisturbed.splitlines()]
    assert [line["task"] for line in lines] == ["one" if line["problem"] < 13 else "two" for line in lines]


@pytest.mark.parametrize(
    "other", [{"seed": 4}, {"temperature": 0.7}, {"top_p": 0.5}, {"max_tokens": 5}, {"k": 4}], ids=lambda o: min(o)
)
def test_settings_have_an_effect(other: dict[str, Any], engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    settings = {"k": 5, "seed": 3, "max_tokens": 8, **other}
    sample(engine, tmp_path / "out.jsonl", RolloutSettings(**settings))
    assert (tmp_path / "out.jsonl").read_bytes() != undisturbed


# ---- interruptions ----


def interrupt_after(n: int) -> Any:
    def watch(summary: RolloutSummary, total: int) -> None:
        assert total == 4
        if summary.problems >= n:
            raise KeyboardInterrupt

    return watch


def test_an_output_that_comes_meanwhile_stays(engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"

    def another(summary: RolloutSummary, total: int) -> None:
        output.write_bytes(b"theirs")

    with pytest.raises(BadFile, match=r"out\.jsonl: exists; use --force to replace it$"):
        sample(engine, output, watch=another)
    assert output.read_bytes() == b"theirs"
    assert sample(engine, output, force=True).continued == 4
    assert output.read_bytes() == undisturbed
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("done", [0, 1, 3, 4])
def test_it_goes_on_after_an_interruption(done: int, engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    with pytest.raises(KeyboardInterrupt):
        sample(engine, output, watch=interrupt_after(done))
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl.partial"]
    assert partial.read_bytes().count(b"\n") == 1 + done
    with partial.open("ab") as f:
        f.write(b'[2, [[0, "half a li')
    summary = sample(engine, output)
    assert (summary.continued, summary.problems, summary.samples) == (done, 4, 20)
    assert (summary.tokens == 0) == (done == 4)
    assert output.read_bytes() == undisturbed
    assert not partial.exists()


def test_an_interruption_while_the_settings_were_written(engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.partial").write_bytes(b'{"rollouts": 4, "mo')
    sample(engine, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed


def test_another_interruption(engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    for n in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            sample(engine, tmp_path / "out.jsonl", watch=interrupt_after(n))
        with (tmp_path / "out.jsonl.partial").open("ab") as f:
            f.write(b"[3, [")
    assert sample(engine, tmp_path / "out.jsonl").continued == 3
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed


def test_long_answers_to_one_problem_are_read_again(tmp_path: Path) -> None:
    """More than a line of JSON has elsewhere."""
    long = [Kept(i, "x" * (1 << 20), True, "stop") for i in range(20)]
    for _ in range(2):
        with Journal(tmp_path / "partial", {"a": 1}, longest=_LONGEST) as journal:
            partial = _Partial(journal)
            if not partial.places:
                partial.append(3, long)
            assert partial.read(3) == long


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "k": ({"k": 6}, "begun with k 5, this run has 6"),
    "seed": ({"seed": 4}, "begun with seed 3, this run has 4"),
    "keep": ({"keep": "all"}, "begun with keep correct, this run has all"),
    "max tokens": ({"max_tokens": None}, "begun with max_tokens 8, this run has none"),
    "temperature": ({"temperature": 0.5}, "begun with temperature 1.0, this run has 0.5"),
    "top-p": ({"top_p": 0.5}, "begun with top_p 1.0, this run has 0.5"),
}


@pytest.fixture
def interrupted(engine: Engine, tmp_path: Path) -> Path:
    """An output of which a partial file is left."""
    with pytest.raises(KeyboardInterrupt):
        sample(engine, tmp_path / "out.jsonl", watch=interrupt_after(2))
    return tmp_path / "out.jsonl"


def assert_other(
    engine: Engine,
    output: Path,
    message: str,
    problems: list[Problem],
    settings: RolloutSettings,
    checker: str = "even",
) -> None:
    before = output.with_name("out.jsonl.partial").read_bytes()
    with pytest.raises(BadFile) as error:
        sample(engine, output, settings, problems=problems, checker=checker)
    assert error.value.file == f"{output}.partial"
    assert str(error.value) == f"{output}.partial: {message}; delete it, or use --force to begin anew"
    assert output.with_name("out.jsonl.partial").read_bytes() == before


@pytest.mark.parametrize("name", OTHERS)
def test_a_partial_file_of_other_settings(name: str, engine: Engine, interrupted: Path) -> None:
    change, message = OTHERS[name]
    settings = RolloutSettings(**{"k": 5, "seed": 3, "max_tokens": 8, **change})
    assert_other(engine, interrupted, message, PROBLEMS, settings)


def test_a_partial_file_of_other_problems_and_models(
    engine: Engine, qwen2: Case, interrupted: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert_other(engine, interrupted, "begun with other problems", PROBLEMS[:3], SETTINGS)
    words = "begun with checker even, this run has never"
    assert_other(engine, interrupted, words, PROBLEMS, SETTINGS, "never")
    name, norm, _ = next(t for t in tensors_of(qwen2.base) if t[0] == "output_norm.weight")
    tuned = rewrite(qwen2.base, tmp_path_factory.mktemp("tuned") / "x.gguf", edit=replaced(name, norm * 1.01))
    other = Engine(tuned, n_ctx=128, machine=Machine(n_threads=1))
    assert_other(other, interrupted, "begun with another model", PROBLEMS, SETTINGS)
    longer = Engine(qwen2.base, n_ctx=200, machine=Machine(n_threads=1))
    assert_other(longer, interrupted, "begun with ctx 128, this run has 200", PROBLEMS, SETTINGS)
    for machine, words in (
        (Machine(n_threads=1, cache_type="f32", flash_attn=True), "begun with cache_type f16, this run has f32"),
        (Machine(n_threads=1, flash_attn=False), "begun with flash_attn True, this run has False"),
    ):
        assert_other(Engine(qwen2.base, n_ctx=128, machine=machine), interrupted, words, PROBLEMS, SETTINGS)
    assert sample(longer, interrupted, force=True).continued == 0
    assert not interrupted.with_name("out.jsonl.partial").exists()


def test_force_goes_on_as_well(engine: Engine, interrupted: Path, undisturbed: bytes) -> None:
    interrupted.write_text("older")
    assert sample(engine, interrupted, force=True).continued == 2
    assert interrupted.read_bytes() == undisturbed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"notes\n", "not the beginning of rollouts"),
        (b'{"a": 1}\n', "not the beginning of rollouts"),
        (b"[]\n", "not the beginning of rollouts"),
    ],
)
def test_some_other_partial_file(content: bytes, message: str, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.partial").write_bytes(content)
    assert_other(engine, tmp_path / "out.jsonl", message, PROBLEMS, SETTINGS)


@pytest.mark.parametrize("line", [b"x\n", b"[1]\n", b'["a", []]\n', b"[0, 5]\n", b"[0, [[1]]]\n", b"{}\n"])
def test_a_damaged_partial_file(line: bytes, engine: Engine, interrupted: Path) -> None:
    partial = interrupted.with_name("out.jsonl.partial")
    partial.write_bytes(partial.read_bytes() + line)
    with pytest.raises(BadFile, match=r"out\.jsonl\.partial:4: damaged(: not JSON.*)?; delete it, or use"):
        sample(engine, interrupted)


def test_nothing_correct(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"^none of 4 samples is correct, so there is nothing for .*out\.jsonl$"):
        sample(engine, tmp_path / "out.jsonl", RolloutSettings(k=1, max_tokens=3), checker="never")
    assert list(tmp_path.iterdir()) == []


def test_right_but_cut(engine: Engine, tmp_path: Path) -> None:
    """They are counted, the file has none of them, and where there is nothing else it is said."""
    sample(engine, tmp_path / "all.jsonl", replace(SETTINGS, keep="all"))
    lines = map(json.loads, (tmp_path / "all.jsonl").read_text().splitlines())
    right = [line["finish_reason"] for line in lines if line["correct"]]
    summary = sample(engine, tmp_path / "some.jsonl")
    assert (summary.correct, summary.cut) == (right.count("stop"), right.count("length"))
    assert 0 < summary.correct < len(right)
    assert len((tmp_path / "some.jsonl").read_text().splitlines()) == summary.correct
    short = RolloutSettings(k=9, max_tokens=1)  # what ends at once is empty
    with pytest.raises(BadFile, match=r"no right sample has ended, .*: [1-9] of 9 are right but cut; keep all, or let"):
        sample(engine, tmp_path / "out.jsonl", short, problems=[Problem("Hello", ".", 1)], checker="regex")


def test_problems_are_looked_at_before_anything_is_drawn(engine: Engine, tmp_path: Path) -> None:
    good = Problem("x", "Mia 47 38", 6, "p.jsonl")
    long, wrong = Problem("word " * 100, "Mia 47 38", 7, "p.jsonl"), Problem("x", "no story", 8, "p.jsonl")
    for problem, message in (
        (long, r"^p\.jsonl:7: the prompt has \d+ tokens, the context holds 128; raise it$"),
        (wrong, r'^p\.jsonl:8: answer \'no story\': not of the form "NAME A B"'),
    ):
        with pytest.raises(BadFile, match=message):
            sample(engine, tmp_path / "out.jsonl", problems=[good, problem], checker="story")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k": 0}, "k 0, expected at least 1"),
        ({"max_tokens": 0}, "max_tokens 0, expected at least 1"),
        ({"seed": 2**32}, "seed 4294967296, expected 0 to 2**32 - 1"),
        ({"temperature": -1.0}, "temperature -1.0, expected a number >= 0 (0 is greedy) and <= 1e6"),
        ({"top_p": 2.0}, "top_p 2.0, expected a number in [0, 1]"),
        ({"keep": "best"}, "keep 'best', expected 'correct' or 'all'"),
    ],
)
def test_settings_out_of_range(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        RolloutSettings(**setting).check()
    assert str(error.value).startswith(message)
