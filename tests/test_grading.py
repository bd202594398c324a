"""Graders: checkers that hang, raise, end their process, print or return nonsense."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autodeco_gguf import AutoDecoError
from autodeco_gguf.tasks import grading
from autodeco_gguf.tasks.grading import Grade, Grader
from autodeco_gguf.tasks.problems import Problem

OWN = """
    import os, sys, time

    LOADED = set(sys.modules)
    import numpy

    print("imported")

    def evaluate(text, answer):
        return eval(answer)

    def same(text, answer):
        return text == answer

    def put_pid(text, answer):
        with open("pid", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(float(answer))
        return True
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working directory."""
    name = "own_checkers"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    return name


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has, whose new parent takes its time."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and ") Z " in status.read_text()


def read_pid() -> int:
    wait_for(lambda: Path("pid").is_file() and Path("pid").read_text())
    return int(Path("pid").read_text())


# ---- what a checker gives ----

GRADES = [
    ("True", True, None),
    ("False", False, None),
    ("1", True, None),
    ("0.0", False, None),
    ("numpy.bool_(True)", True, None),
    ("numpy.float32(0)", False, None),
    ("None", None, "the checker returned None, expected a bool, 0 or 1"),
    ("'yes'", None, "the checker returned 'yes', expected a bool, 0 or 1"),
    ("0.5", None, "the checker returned 0.5, expected a bool, 0 or 1"),
    ("float('nan')", None, "the checker returned nan, expected a bool, 0 or 1"),
    ("[True]", None, "the checker returned [True], expected a bool, 0 or 1"),
    ("numpy.zeros(2)", None, "ValueError: can only convert an array of size 1 to a Python scalar"),
    ("1 / 0", None, "ZeroDivisionError: division by zero"),
    ("int('a\\nb')", None, "ValueError: invalid literal for int() with base 10: 'a\\nb'"),
    ("[][0]", None, "IndexError: list index out of range"),
    # what it does to its streams
    ("print('noise', flush=True) or True", True, None),
    ("os.write(1, b'noise') > 0", True, None),
    ("os.system('echo noise') == 0", True, None),
    ("sys.stdin.read() == ''", True, None),
    # what else is in its process
    ("LOADED & {'llama_cpp', 'math_verify', 'numpy', 'torch'} == set()", True, None),
    (f"os.getsid(0) != {os.getsid(0)}", True, None),
    # the end of it, and a new one
    ("sys.exit(3)", None, "the checker ended its process (exit status 3)"),
    ("os._exit(0)", None, "the checker ended its process (exit status 0)"),
    ("os.kill(os.getpid(), 9)", None, "the checker ended its process (killed)"),
    ("os.kill(os.getpid(), 11)", None, "the checker ended its process (segmentation fault)"),
    ("True", True, None),
]


def test_grades(own: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Grader(f"{own}:evaluate") as grader:
        for answer, correct, error in GRADES:
            assert (answer, grader.grade("", answer)) == (answer, Grade(correct, error))
    out, err = capfd.readouterr()
    assert out == ""
    assert "imported" in err
    assert err.count("noise") == 3


def test_a_long_error_is_cut_and_on_one_line(own: str) -> None:
    with Grader(f"{own}:evaluate") as grader:
        assert len(str(grader.grade("", "__import__('x' * 1000)").error)) == 500
        answer = "(_ for _ in ()).throw(ValueError('a\\n\\n b'))"
        assert grader.grade("", answer) == Grade(None, "ValueError: a b")


@pytest.mark.parametrize("text", ["", "a\nb\r\x00\u2028", "\ud800", "\U0001f600", "x" * 2_000_000], ids=len)
def test_texts_arrive_as_they_are(own: str, text: str) -> None:
    with Grader(f"{own}:same") as grader:
        assert grader.grade(text, text) == Grade(True)
        assert grader.grade(text, text + " ") == Grade(False)


# ---- time ----


def test_a_checker_that_hangs(own: str) -> None:
    with Grader(f"{own}:evaluate", time_limit=0.5) as grader:
        start = time.monotonic()
        assert grader.grade("", "time.sleep(60)") == Grade(False, "the checker took longer than 0.5 s")
        assert time.monotonic() - start < 5
        assert grader.grade("", "True") == Grade(True)


def test_a_catastrophic_regular_expression() -> None:
    with Grader("regex", time_limit=0.5) as grader:
        assert grader.grade("a" * 40 + "b", "^(a+)+$") == Grade(False, "the checker took longer than 0.5 s")
        assert grader.grade("aaa", "^(a+)+$") == Grade(True)


def test_boxed() -> None:
    with Grader("boxed", time_limit=2) as grader:
        assert grader.grade(r"\boxed{\frac{1}{2}}", "0.5") == Grade(True)
        assert grader.grade(r"\boxed{10^{10^{10}}}", "5") == Grade(False, "the checker took longer than 2 s")
        assert grader.grade(r"\boxed{5.0}", "5") == Grade(True)


@pytest.mark.parametrize(
    ("checker", "text", "answer"),
    [("choice", "The answer is C.", "C"), ("exact", "a", "a"), ("literal", "[1]", "[ 1 ]"), ("regex", "abc", "b")],
)
def test_built_in(checker: str, text: str, answer: str) -> None:
    with Grader(checker) as grader:
        assert grader.grade(text, answer) == Grade(True)
        assert grader.grade("", answer) == Grade(False)


def test_an_answer_that_will_not_do_is_an_error() -> None:
    with Grader("choice") as grader:
        assert grader.grade("C", "5") == Grade(None, "answer '5': expected one letter, A to Z")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are read on Linux only")
def test_memory_of_built_in_checkers_is_limited(own: str) -> None:
    for checker, limit in (("regex", 4 << 30), (f"{own}:same", resource.getrlimit(resource.RLIMIT_AS)[1])):
        with Grader(checker) as grader:
            assert grader._worker is not None
            assert resource.prlimit(grader._worker._process.pid, resource.RLIMIT_AS)[1] == limit


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_time_limit(limit: float) -> None:
    with pytest.raises(AutoDecoError, match=r"^time limit .*, expected a number of seconds above 0$"):
        Grader("exact", time_limit=limit)


# ---- checkers that cannot be had ----

BROKEN = [
    ("broken:check", "1 / 0", "'broken' cannot be imported: ZeroDivisionError: division by zero"),
    ("broken:check", "def", "'broken' cannot be imported: SyntaxError: invalid syntax (broken.py, line 1)"),
    ("broken:check", "import numpi", "'broken' cannot be imported: ModuleNotFoundError: No module named 'numpi'"),
    ("broken:check", "check = 5", "'check' of 'broken' is of type int, expected a function"),
    ("broken:chek", "def check(text, answer): ...", "'chek' of 'broken' is missing, expected a function"),
    ("broken:check", "import os; os._exit(4)", "importing it ended the process (exit status 4)"),
    ("broken:check", "import time; time.sleep(60)", "importing it took longer than 1 s"),
]


@pytest.mark.parametrize(("checker", "source", "message"), BROKEN)
def test_broken_module(
    checker: str, source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(source + "\n")
    monkeypatch.chdir(tmp_path)
    if "sleep" in source:
        monkeypatch.setattr(grading, "START_LIMIT_S", 1.0)
    with pytest.raises(AutoDecoError, match=f"^checker '{checker}': {re.escape(message)}$"):
        Grader(checker)


def test_unknown_checker() -> None:
    with pytest.raises(AutoDecoError, match=r"^checker 'maths', expected one of boxed, "):
        Grader("maths")


# ---- validate ----


@pytest.mark.parametrize(
    ("checker", "answer", "message"),
    [
        ("regex", "(a", "answer '(a': not a regular expression: missing ), unterminated subpattern at position 0"),
        ("choice", "c", "answer 'c': expected one letter, A to Z"),
        ("literal", "five", "answer 'five': not a Python literal"),
        ("own_checkers:evaluate", "1 / 0", "ZeroDivisionError: division by zero"),
        ("own_checkers:evaluate", "'x'", "the checker returned 'x', expected a bool, 0 or 1"),
        ("own_checkers:evaluate", "time.sleep(60)", "the checker took longer than 1 s"),
        ("own_checkers:evaluate", "os._exit(3)", "the checker ended its process (exit status 3)"),
    ],
)
def test_validate(own: str, checker: str, answer: str, message: str) -> None:
    good = {"regex": "a", "choice": "A"}.get(checker, "0")
    problems = [Problem("?", good, 1, "data.jsonl"), Problem("?", answer, 3, "data.jsonl")]
    with Grader(checker, time_limit=1) as grader:
        grader.validate(problems[:1])
        with pytest.raises(AutoDecoError, match=rf"^data\.jsonl:3: {re.escape(message)}$"):
            grader.validate(problems)


# ---- processes ----


def test_no_process_is_left(own: str) -> None:
    with Grader(f"{own}:put_pid") as grader:
        assert grader.grade("", "0") == Grade(True)
        pid = read_pid()
        assert not gone(pid)
    with pytest.raises(ProcessLookupError):  # not even a zombie
        os.kill(pid, 0)


def test_no_process_is_left_that_hung(own: str) -> None:
    with Grader(f"{own}:put_pid", time_limit=0.5) as grader:
        assert grader.grade("", "60").correct is False
        with pytest.raises(ProcessLookupError):
            os.kill(read_pid(), 0)


def test_what_a_checker_started_ends_with_it(own: str) -> None:
    start = "__import__('subprocess').Popen(['sh', '-c', 'echo $$ > pid; sleep 60']).wait()"
    with Grader(f"{own}:evaluate", time_limit=0.5) as grader:
        assert grader.grade("", start).correct is False
        wait_for(lambda: gone(read_pid()))


def test_interrupt(own: str) -> None:
    def interrupt() -> None:
        read_pid()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with Grader(f"{own}:put_pid") as grader:
        thread.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            grader.grade("", "8")
        assert time.monotonic() - start < 5
        thread.join()
        with pytest.raises(ProcessLookupError):
            os.kill(read_pid(), 0)
        assert grader.grade("", "0") == Grade(True)


# the parent has a longer limit than its process, so that it is surely waiting when it is killed
PARENT = """
    import sys
    from autodeco_gguf.tasks.grading import Grader
    grader = Grader("own_checkers:put_pid", time_limit=0.5)
    grader._time_limit = 60
    grader.grade("", sys.argv[1])
    sys.stdin.read()
"""


@pytest.fixture
def parent(own: str, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", textwrap.dedent(PARENT), request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("parent", ["0", "60"], indirect=True, ids=["idle", "hanging"])
def test_the_process_ends_when_its_parent_is_killed(parent: subprocess.Popen[bytes]) -> None:
    pid = read_pid()
    parent.kill()
    wait_for(lambda: gone(pid))
