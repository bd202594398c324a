"""Graders: checkers that hang, raise, end their process, print or return nonsense."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from grading_helpers import gone, read_pid, wait_for, write_own

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.tasks import grading, workers
from autodeco_gguf.tasks.checkers import CHECKERS
from autodeco_gguf.tasks.grading import Grade, Grader
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.scoring import Scorer


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_own(tmp_path)


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
    ("raised(KeyboardInterrupt)", None, "KeyboardInterrupt"),
    ("raised(GeneratorExit('no'))", None, "GeneratorExit: no"),
    ("bytearray(10 << 30) is not None", None, "MemoryError"),
    # what it leaves behind
    ("fork_and_return_twice(False)", False, None),
    ("True", True, None),
    ("fork_and_return_twice(True)", True, None),
    ("False", False, None),
    ("fork_and_raise()", True, None),
    ("daemon() > 0", True, None),
    ("leave_the_pipe_to_a_child(5)", None, "the checker ended its process (exit status 5)"),
    ("os.closerange(3, 100) is None", None, "the checker ended its process (exit status 1)"),
    ("write_everywhere(b'noise\\n')", None, "the checker ended its process (it wrote to our pipe)"),
    ("write_everywhere(b'[99, true, null]\\n')", True, None),
    ("False", False, None),
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


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Whatever waits for longer than a test may take is interrupted."""

    def hangs(*_: object) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, 60)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_half_a_reply(own: str) -> None:
    with Grader(f"{own}:evaluate", time_limit=0.5) as grader:
        slow = Grade(False, "the checker took longer than 0.5 s")
        assert grader.grade("", "write_everywhere(b'[1, tr') and time.sleep(60)") == slow
        assert grader.grade("", "True") == Grade(True)


def test_a_process_that_reads_no_request(own: str) -> None:
    with Grader(f"{own}:put_pid", time_limit=0.5) as grader:
        assert grader.grade("", "0") == Grade(True)
        os.kill(read_pid(), signal.SIGSTOP)
        assert grader.grade("x" * 2_000_000, "0") == Grade(False, "the checker took longer than 0.5 s")
        assert grader.grade("", "0") == Grade(True)


def test_the_end_of_a_process_whose_child_keeps_the_pipes(own: str) -> None:
    start = time.monotonic()
    with Grader(f"{own}:evaluate", time_limit=30) as grader:
        assert grader.grade("", "leave_the_pipe_to_a_child(5)").correct is None
    assert time.monotonic() - start < 15
    wait_for(lambda: gone(read_pid()))


def test_a_checker_of_ours_that_dies_of_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str, answer: str) -> bool:
        raise MemoryError

    monkeypatch.setattr(grading, "IN_PROCESS", {"literal"})
    monkeypatch.setitem(CHECKERS, "literal", broken)
    with Grader("literal") as grader:
        assert grader.grade("[", "5") == Grade(False, "MemoryError")
        assert grader.grade("[", "five") == Grade(None, "MemoryError")


def test_boxed_from_a_thread() -> None:
    grades: list[Grade] = []

    def grade() -> None:
        with Grader("boxed", time_limit=2) as grader:
            grades.append(grader.grade(r"\boxed{\frac{1}{2}}", "0.5"))
            grades.append(grader.grade(r"\boxed{10^{10^{10}}}", "5"))
            grades.append(grader.grade(r"\boxed{5.0}", "5"))

    thread = threading.Thread(target=grade)
    thread.start()
    thread.join(40)
    assert grades == [Grade(True), Grade(False, "the checker took longer than 2 s"), Grade(True)]


HOSTILE = (
    r"9^{9^{9^9}}",
    r"10^{10^{10}}!",
    r"(10^{8})!",
    r"2^{2^{2^{2^{2^2}}}}",
    r"\binom{10^{10}}{10^9}",
    r"\sum_{n=1}^{10^{12}} n!",
)


def largest_child() -> int:
    """KiB of memory of the largest process that this one has started and that still runs; 0 without /proc."""
    sizes = [0]
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it has ended meanwhile
            found = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if int(found["PPid"]) == os.getpid() and "VmRSS" in found:
                sizes.append(int(found["VmRSS"].split()[0]))
    return max(sizes)


def test_hostile_boxes_in_a_row_from_a_thread() -> None:
    """None holds its process for ever, nor takes the machine's memory, nor the next answer's grade."""
    grades: list[tuple[str, Grade]] = []

    def grade() -> None:
        with Grader("boxed", time_limit=1) as grader:
            grades.extend((text, grader.grade(rf"\boxed{{{text}}}", "7")) for text in HOSTILE)
            grades.append(("7", grader.grade(r"\boxed{7}", "7")))

    thread = threading.Thread(target=grade)
    thread.start()
    largest, begin = 0, time.monotonic()
    while thread.is_alive() and time.monotonic() < begin + 60:
        largest = max(largest, largest_child())
        thread.join(0.05)
    too_long = Grade(False, "the checker took longer than 1 s")
    assert grades == [*((text, too_long) for text in HOSTILE), ("7", Grade(True))]
    assert largest < 5 << 20  # KiB; 4 GiB are a process's own, and what is mapped beside
    assert largest > 0 or sys.platform != "linux"


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


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), 1e10, 1000001])
def test_time_limit(limit: float) -> None:
    with pytest.raises(InvalidInput, match=r"^time limit .*, expected a number of seconds above 0, at most 1000000$"):
        Grader("exact", time_limit=limit)
    with pytest.raises(InvalidInput, match=r"^time limit .*, expected a number of seconds above 0, at most 1000000$"):
        Scorer("own_rewards:length", time_limit=limit)


def test_the_longest_time_limit(own: str) -> None:
    with Grader(f"{own}:evaluate", time_limit=workers.MOST_S) as grader:
        assert grader.grade("", "True") == Grade(True)


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
        monkeypatch.setattr(workers, "START_LIMIT_S", 1.0)
    with pytest.raises(InvalidInput, match=f"^checker '{checker}': {re.escape(message)}$"):
        Grader(checker)


def test_unknown_checker() -> None:
    with pytest.raises(InvalidInput, match=r"^checker 'maths', expected one of boxed, ") as error:
        Grader("maths")
    assert (error.value.key, error.value.found) == ("checker", "maths")


@pytest.mark.parametrize("sys_path", ["as it is", "with the working directory first"])
def test_another_package_of_our_name_in_the_working_directory(
    sys_path: str, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the root of a checkout, whose sources are not compiled."""
    Path("autodeco_gguf").mkdir()
    Path("autodeco_gguf/__init__.py").write_text('raise ImportError("not this one")\n')
    Path("json.py").write_text('raise ImportError("nor this one")\n')
    if sys_path != "as it is":
        Path("json.py").unlink()
        monkeypatch.setattr(sys, "path", [os.getcwd(), *sys.path])
    with Grader("regex") as grader:
        assert grader.grade("abc", "b") == Grade(True)
    with Grader(f"{own}:same") as grader:
        assert grader.grade("a", "a") == Grade(True)


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
        with pytest.raises(BadFile, match=rf"^data\.jsonl:3: {re.escape(message)}$") as error:
            grader.validate(problems)
    assert (error.value.file, error.value.key, error.value.found) == ("data.jsonl", "answer", answer)


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


@pytest.mark.parametrize(
    ("checker", "answer"),
    [
        ("ifeval", '[["punctuation:no_comma", {}]]'),
        ("exact", "Good morning"),
        ("regex", "^Good"),
        ("number", "5"),
        ("literal", "5"),
    ],
)
def test_what_stands_behind_thoughts_is_graded(checker: str, answer: str) -> None:
    said = "```python\n5\n```" if answer == "5" else "Good morning"
    thoughts = "Okay, no commas, none: \\boxed{4} or ```python\n4\n```"
    with Grader(checker) as grader:
        assert grader.grade(f"<think>\n{thoughts}\n</think>\n\n{said}", answer).correct
        assert not grader.grade(f"<think>\n{said}\n</think>\n\nBye, 4", answer).correct
