"""Rollouts: which samples are kept, that nothing is lost to an interruption, and a line for every bad input."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broken import Outcome, assert_refused, replaced, rewrite, tensors_of
from conftest import Case

from autodeco_gguf import AutoDecoError
from autodeco_gguf.cli import run_command
from autodeco_gguf.cli.rollouts import rollouts_command
from autodeco_gguf.engine.engine import Engine
from autodeco_gguf.engine.generation import Generation
from autodeco_gguf.engine.request import Request
from autodeco_gguf.model.machine import Machine
from autodeco_gguf.tasks import checkers, grading
from autodeco_gguf.tasks.problems import Problem, read_problems
from autodeco_gguf.training.rollouts import Settings, Summary, rollouts

Capture = pytest.CaptureFixture[str]
SETTINGS = Settings(k=5, checker="even", seed=3, max_tokens=8)
PROBLEMS = [Problem(text, "1", 10 + i) for i, text in enumerate(("Hello", "What?", "é", "Hello"))]


CHECKERS = {"even": lambda text, answer: len(text) % 2 == 0, "never": lambda text, answer: False}


@pytest.fixture(scope="module", autouse=True)
def _tame() -> Iterator[None]:
    """A random model ends an answer once in a while, and a checker takes about half of what it says."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        drawn = Generation.drawn
        monkeypatch.setattr(Generation, "drawn", lambda self, token, ends: drawn(self, token, token % 8 == 0))
        monkeypatch.setattr(grading, "_IN_PROCESS", {*grading._IN_PROCESS, *CHECKERS, "boxed"})
        for name, checker in CHECKERS.items():
            monkeypatch.setitem(checkers._CHECKERS, name, checker)
        yield


@pytest.fixture(scope="module")
def engine(qwen2: Case) -> Iterator[Engine]:
    engine = Engine(qwen2.base, n_parallel=4, n_ctx=128, machine=Machine(n_threads=1))
    yield engine
    engine.close()


def sample(engine: Engine, output: Path, settings: Settings = SETTINGS, **kwargs: Any) -> Summary:
    return rollouts(engine, PROBLEMS, output, settings, **kwargs)


@pytest.fixture(scope="module")
def undisturbed(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("undisturbed") / "out.jsonl"
    sample(engine, path)
    return path.read_bytes()


# ---- what is kept ----


def test_the_correct_samples_that_ended_are_kept(engine: Engine, tmp_path: Path) -> None:
    drawn: list[tuple[int, str, str]] = []
    as_completed = engine.as_completed

    def spy(requests: Any) -> Any:
        for result in as_completed(requests):
            drawn.append((result.index, result.text, result.finish_reason))
            assert (result.temperature == 1).all()
            assert (result.top_p == 1).all()
            yield result

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(engine, "as_completed", spy)
        summary = sample(engine, tmp_path / "out.jsonl")
    assert {(reason, len(text) % 2) for _, text, reason in drawn} == {
        ("stop", 0),
        ("stop", 1),
        ("length", 0),
        ("length", 1),
    }
    kept = [(i, text) for i, text, reason in sorted(drawn) if reason == "stop" and len(text) % 2 == 0]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert lines == [
        {"prompt": PROBLEMS[i // 5].text, "completion": text, "problem": 10 + i // 5, "sample": i % 5}
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


def test_every_problem_and_sample_has_a_seed_of_its_own(engine: Engine) -> None:
    from autodeco_gguf.training.rollouts import _request

    def seeds(settings: Settings) -> set[int | None]:
        requests: list[Request] = [
            _request(("", [1]), settings, problem, sample) for problem in range(12) for sample in range(12)
        ]
        return {request.seed for request in requests}

    assert len(seeds(SETTINGS)) == 144
    assert not seeds(SETTINGS) & seeds(Settings(seed=4))


@pytest.mark.parametrize(
    "other", [{"seed": 4}, {"temperature": 0.7}, {"top_p": 0.5}, {"max_tokens": 5}, {"k": 4}], ids=lambda o: min(o)
)
def test_settings_have_an_effect(other: dict[str, Any], engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    settings = {"k": 5, "checker": "even", "seed": 3, "max_tokens": 8, **other}
    sample(engine, tmp_path / "out.jsonl", Settings(**settings))
    assert (tmp_path / "out.jsonl").read_bytes() != undisturbed


# ---- interruptions ----


def interrupt_after(n: int) -> Any:
    def watch(summary: Summary, total: int) -> None:
        assert total == 4
        if summary.problems >= n:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("done", [0, 1, 3, 4])
def test_it_goes_on_after_an_interruption(done: int, engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    with pytest.raises(KeyboardInterrupt):
        sample(engine, output, watch=interrupt_after(done))
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl.partial"]
    assert partial.read_bytes().count(b"\n") == 1 + done
    with partial.open("ab") as f:
        f.write(b'[2, {"0": "half a li')
    summary = sample(engine, output)
    assert (summary.continued, summary.problems, summary.samples) == (done, 4, 20)
    assert (summary.tokens == 0) == (done == 4)
    assert output.read_bytes() == undisturbed
    assert not partial.exists()


def test_an_interruption_while_the_settings_were_written(engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.partial").write_bytes(b'{"rollouts": 2, "mo')
    sample(engine, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed


def test_another_interruption(engine: Engine, undisturbed: bytes, tmp_path: Path) -> None:
    for n in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            sample(engine, tmp_path / "out.jsonl", watch=interrupt_after(n))
        with (tmp_path / "out.jsonl.partial").open("ab") as f:
            f.write(b"[3, {")
    assert sample(engine, tmp_path / "out.jsonl").continued == 3
    assert (tmp_path / "out.jsonl").read_bytes() == undisturbed


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "k": ({"k": 6}, "begun with k 5, this run has 6"),
    "seed": ({"seed": 4}, "begun with seed 3, this run has 4"),
    "checker": ({"checker": "never"}, "begun with checker even, this run has never"),
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


def assert_other(engine: Engine, output: Path, message: str, problems: list[Problem], settings: Settings) -> None:
    before = output.with_name("out.jsonl.partial").read_bytes()
    with pytest.raises(AutoDecoError) as error:
        rollouts(engine, problems, output, settings)
    assert str(error.value) == f"{output}.partial: {message}; delete it, or use --force to begin anew"
    assert output.with_name("out.jsonl.partial").read_bytes() == before


@pytest.mark.parametrize("name", OTHERS)
def test_a_partial_file_of_other_settings(name: str, engine: Engine, interrupted: Path) -> None:
    change, message = OTHERS[name]
    settings = Settings(**{"k": 5, "checker": "even", "seed": 3, "max_tokens": 8, **change})
    assert_other(engine, interrupted, message, PROBLEMS, settings)


def test_a_partial_file_of_other_problems_and_models(
    engine: Engine, qwen2: Case, interrupted: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert_other(engine, interrupted, "begun with other problems", PROBLEMS[:3], SETTINGS)
    name, norm, _ = next(t for t in tensors_of(qwen2.base) if t[0] == "output_norm.weight")
    tuned = rewrite(qwen2.base, tmp_path_factory.mktemp("tuned") / "x.gguf", edit=replaced(name, norm * 1.01))
    other = Engine(tuned, n_ctx=128, machine=Machine(n_threads=1))
    assert_other(other, interrupted, "begun with another model", PROBLEMS, SETTINGS)
    longer = Engine(qwen2.base, n_ctx=200, machine=Machine(n_threads=1))
    assert_other(longer, interrupted, "begun with ctx 128, this run has 200", PROBLEMS, SETTINGS)
    assert rollouts(longer, PROBLEMS, interrupted, SETTINGS, force=True).continued == 0
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


@pytest.mark.parametrize("line", [b"x\n", b"[1]\n", b'["a", {}]\n', b"[0, 5]\n", b"{}\n"])
def test_a_damaged_partial_file(line: bytes, engine: Engine, interrupted: Path) -> None:
    partial = interrupted.with_name("out.jsonl.partial")
    partial.write_bytes(partial.read_bytes() + line)
    with pytest.raises(AutoDecoError, match=r"out\.jsonl\.partial:4: damaged(: not JSON.*)?; delete it, or use"):
        sample(engine, interrupted)


def test_nothing_correct(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(AutoDecoError, match=r"^none of 4 samples is correct, so there is nothing for .*out\.jsonl$"):
        sample(engine, tmp_path / "out.jsonl", Settings(k=1, checker="never", max_tokens=3))
    assert list(tmp_path.iterdir()) == []


def test_problems_are_looked_at_before_anything_is_drawn(engine: Engine, tmp_path: Path) -> None:
    good = Problem("x", "Mia 47 38", 6, "p.jsonl")
    long, wrong = Problem("word " * 100, "Mia 47 38", 7, "p.jsonl"), Problem("x", "no story", 8, "p.jsonl")
    for problem, message in (
        (long, r"^p\.jsonl:7: the prompt has \d+ tokens, the context holds 128; raise it$"),
        (wrong, r'^p\.jsonl:8: answer \'no story\': not of the form "NAME A B"'),
    ):
        with pytest.raises(AutoDecoError, match=message):
            rollouts(engine, [good, problem], tmp_path / "out.jsonl", Settings(checker="story"))
        assert list(tmp_path.iterdir()) == []


# ---- problems ----


def test_read_problems(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"problem": "a", "gt": "\\\\frac{1}{2}", "id": 7}\n\n{"prompt": "b", "answer": 5}\n'
        '{"problem": "c", "gt": 0.5}\n{"problem": "d", "gt": 1e20}\n{"prompt": "e", "answer": -3.0}'
    )
    problems = read_problems(path)
    assert [(p.text, p.answer, p.line) for p in problems] == [
        ("a", r"\frac{1}{2}", 1), ("b", "5", 3), ("c", "0.5", 4), ("d", "100000000000000000000", 5), ("e", "-3.0", 6),
    ]  # fmt: skip
    assert problems[1].where == f"{path}:3"
    assert read_problems(path, 2) == problems[:2]


EXPECTED = '{"problem", "gt"} or {"prompt", "answer"}'
BAD_PROBLEMS: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", f": no problem in it, expected lines of {EXPECTED}"),
    "blank": (b"\n \n", f": no problem in it, expected lines of {EXPECTED}"),
    "no JSON": (b'{"problem": "a", "gt": "b"}\n{"problem": \n', ":2: not JSON: Expecting value at column "),
    "no UTF-8": (b'{"problem": "caf\xe9"}', ":1: not UTF-8 at byte 16"),
    "a list": (b"[1]", f":1: is a list, expected {EXPECTED}"),
    "other keys": (b'{"question": "a", "b": 1}', f":1: has the keys ['b', 'question'], expected {EXPECTED}"),
    "no answer": (b'{"problem": "a", "answer": "b"}', f":1: gt is missing, expected {EXPECTED}"),
    "null": (b'{"prompt": "a", "answer": null}', ":1: answer is null, expected a string or a number"),
    "true": (b'{"prompt": "a", "answer": true}', ":1: answer is a boolean, expected a string or a number"),
    "NaN": (b'{"prompt": "a", "answer": NaN}', ":1: answer is nan, expected a finite number"),
    "empty answer": (b'{"prompt": "a", "answer": " "}', ":1: answer is empty"),
    "number": (b'{"problem": 5, "gt": 5}', ":1: problem is a number, expected a string"),
    "empty problem": (b'{"problem": "", "gt": 5}', ":1: problem is empty"),
    "digits": (b'{"problem": "a", "gt": ' + b"1" * 5000 + b"}", ":1: not JSON that can be read: a number is too long"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PROBLEMS)
def test_bad_problems(name: str, qwen2: Case, tmp_path: Path, capfd: Capture) -> None:
    content, message = BAD_PROBLEMS[name]
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    outcome = run(capfd, qwen2.base, "--problems", path, "-o", tmp_path / "out.jsonl")
    assert_refused(outcome, f"error: {path}{message}")
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


# ---- the command ----


def run(capfd: Capture, *args: object) -> Outcome:
    """autodeco-gguf rollouts in this process."""
    capfd.readouterr()
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit_:
        run_command(rollouts_command, ["-t", "1", *map(str, args)])
    signal.signal(signal.SIGTERM, handler)
    return Outcome(int(exit_.value.code or 0), *capfd.readouterr())


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(f'{{"problem": "{text}", "gt": 1}}\n' for text in ("Hello", "What?", "x")))
    return path


def test_command(merged: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setitem(checkers._CHECKERS, "boxed", lambda text, answer: answer == "1")
    output = tmp_path / "out.jsonl"
    args = (merged, "--problems", problems, "-o", output, "-k", 4, "-n", 100, "-c", 128, "--limit", 2)
    outcome = run(capfd, *args)
    lines = output.read_bytes().splitlines()
    assert outcome.err.startswith(f"{output}: {len(lines)} of 8 samples are correct, 0 of 2 problems have none; ")
    assert outcome.err.endswith(" tokens/s\n")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (0, "", 1)
    assert {json.loads(line)["problem"] for line in lines} == {1, 2}
    assert_refused(run(capfd, *args), f"error: {output}: exists; use --force to replace it")
    assert run(capfd, *args, "--force", "--parallel", 3).status == 0
    assert output.read_bytes().splitlines() == lines
    assert run(capfd, *args, "--force", "--seed", 1).status == 0
    assert output.read_bytes().splitlines() != lines


def test_command_interrupted(
    qwen2: Case, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    def stop(text: str, answer: str) -> bool:
        if text:
            raise KeyboardInterrupt
        return False

    monkeypatch.setitem(checkers._CHECKERS, "boxed", stop)
    output = tmp_path / "out.jsonl"
    outcome = run(capfd, qwen2.base, "--problems", problems, "-o", output, "-k", 3, "-c", 256)
    assert (outcome.status, outcome.out, outcome.err.strip()) == (130, "", "interrupted")
    assert not output.exists()
    assert (tmp_path / "out.jsonl.partial").read_bytes().startswith(b'{"rollouts": 2, ')


USAGE: dict[str, tuple[list[object], int, str]] = {
    "k": (["-k", 0], 2, "Invalid value for '-k': 0 is not in the range x>=1."),
    "checker": (["--checker", "rhyme"], 1, "checker 'rhyme', expected one of boxed, "),
    "temperature": (["--temperature", -1], 2, "-1.0 is not in the range x>=0."),
    "no temperature": (["--temperature", "nan"], 1, "temperature nan, expected a number >= 0"),
    "top-p": (["--top-p", 2], 2, "2.0 is not in the range 0<=x<=1."),
    "seed": (["--seed", 2**32], 2, "4294967296 is not in the range"),
    "parallel": (["--parallel", 257], 1, "n_parallel 257, expected 1 to 256"),
    "context": (["-c", 1], 1, "p.jsonl:1: the prompt has "),
    "no problems": (["--problems", "nowhere.jsonl"], 1, "nowhere.jsonl: cannot be read: No such file or directory"),
    "over its input": (["-o", "p.jsonl", "--force"], 1, "p.jsonl: is the input p.jsonl; choose another output"),
    "no directory": (["-o", "nowhere/x.jsonl"], 1, "nowhere/x.jsonl: no such directory as "),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage(
    name: str, qwen2: Case, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    args, status, message = USAGE[name]
    before = problems.read_bytes()
    outcome = run(capfd, qwen2.base, "--problems", "p.jsonl", "-o", "out.jsonl", *args)
    assert_refused(outcome, message, status=status)
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]
    assert problems.read_bytes() == before


def test_no_model(problems: Path, tmp_path: Path, capfd: Capture) -> None:
    outcome = run(capfd, tmp_path / "x.gguf", "--problems", problems, "-o", tmp_path / "out.jsonl")
    assert_refused(outcome, f"error: {tmp_path / 'x.gguf'}: cannot be opened: No such file or directory")
