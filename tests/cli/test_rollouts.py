"""autodeco-gguf rollouts: what it prints, and a line for every bad input."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken import Outcome, assert_refused
from conftest import Case
from training_helpers import tame

from autodeco_gguf.cli import run_command
from autodeco_gguf.cli.rollouts import rollouts_command
from autodeco_gguf.tasks import checkers

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def _tame() -> Iterator[None]:
    with tame():
        yield


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


def test_right_but_cut(
    merged: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    monkeypatch.setitem(checkers.CHECKERS, "boxed", lambda text, answer: True)
    outcome = run(capfd, merged, "--task", problems, "-o", tmp_path / "out.jsonl", "-k", 8, "-n", 4, "-c", 128)
    (kept, cut) = map(
        int, re.findall(r"(\d+) of 24 samples are correct, .* have none; (\d+) more are right but cut", outcome.err)[0]
    )
    assert (kept + cut, cut > 0) == (24, True)
    assert "which a larger -n or --keep all would keep" in outcome.err


def test_command(merged: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setitem(checkers.CHECKERS, "boxed", lambda text, answer: answer == "1")
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


def test_several_tasks_and_all_answers(merged: Path, problems: Path, tmp_path: Path, capfd: Capture) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text('{"prompt": "Hi", "answer": "x"}\n')
    output = tmp_path / "out.jsonl"
    args = ("--task", problems, "--task", more, "--checker", "exact", "--keep", "all", "-k", 2, "-n", 5, "-c", 128)
    outcome = run(capfd, merged, *args, "-o", output)
    assert outcome.status == 0, outcome.err
    lines = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [(line["task"], line["problem"]) for line in lines] == [
        (task, n) for task, n in (("p", 1), ("p", 2), ("p", 3), ("more", 1)) for _ in range(2)
    ]
    assert {line["correct"] for line in lines} == {False}
    assert outcome.err.startswith(f"{output}: 0 of 8 samples are correct, 4 of 4 problems have none; ")


def test_command_interrupted(
    qwen2: Case, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    def stop(text: str, answer: str) -> bool:
        if text:
            raise KeyboardInterrupt
        return False

    monkeypatch.setitem(checkers.CHECKERS, "boxed", stop)
    output = tmp_path / "out.jsonl"
    outcome = run(capfd, qwen2.base, "--problems", problems, "-o", output, "-k", 3, "-c", 256)
    goes_on = f"{output}: what is finished is kept; the same command goes on from there"
    assert (outcome.status, outcome.out, outcome.err.split("\n\n")[-1]) == (130, "", "interrupted\n")
    assert goes_on in outcome.err
    assert not output.exists()
    assert (tmp_path / "out.jsonl.partial").read_bytes().startswith(b'{"rollouts": 4, ')


USAGE: dict[str, tuple[list[object], int, str]] = {
    "two of a name": (["--task", "p.jsonl"], 2, "two tasks are called 'p'; rename a file"),
    "k": (["-k", 0], 2, "Invalid value for '-k': 0 is not in the range x>=1."),
    "checker": (["--checker", "rhyme"], 2, "checker 'rhyme', expected one of boxed, "),
    "temperature": (["--temperature", -1], 2, "-1.0 is not in the range x>=0."),
    "no temperature": (["--temperature", "nan"], 2, "nan is no number."),
    "top-p": (["--top-p", 2], 2, "2.0 is not in the range 0<=x<=1."),
    "seed": (["--seed", 2**32], 2, "4294967296 is not in the range"),
    "parallel": (["--parallel", 257], 2, "n_parallel 257, expected 1 to 256"),
    "context": (["-c", 1], 1, "p.jsonl:1: the prompt has "),
    "no problems": (["--problems", "nowhere.jsonl"], 2, "nowhere.jsonl: no such file; a task is demo, questions, "),
    "keep": (["--keep", "best"], 2, "'best' is not one of 'correct', 'all'"),
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


EXPECTED = '{"problem", "gt"}, {"prompt", "answer"} or {"question", "answer"}'
BAD_PROBLEMS: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", ": no record in it"),
    "blank": (b"\n \n", ": no record in it"),
    "no JSON": (b'{"problem": "a", "gt": "b"}\n{"problem": \n', ":2: not JSON: Expecting value at column "),
    "no UTF-8": (b'{"problem": "caf\xe9"}', ":1: not UTF-8 at byte 16"),
    "a list": (b"[1]", ":1: is a list, expected an object"),
    "other keys": (b'{"ask": "a", "b": 1}', f":1: has the keys ['ask', 'b'], expected {EXPECTED}"),
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
