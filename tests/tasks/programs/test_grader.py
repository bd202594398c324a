"""Programs of responses, graded by public and private tests."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.tasks.checkers import get_checker
from autodeco_gguf.tasks.grading import Grade, Grader
from autodeco_gguf.tasks.problems import Problem
from autodeco_gguf.tasks.programs import grader as module
from autodeco_gguf.tasks.programs.cases import Case, write_answer
from autodeco_gguf.tasks.programs.grader import ProgramGrader

linux = pytest.mark.skipif(sys.platform != "linux", reason="programs are run on Linux only")

SUM = write_answer(None, [{"input": "1 2\n", "output": "3\n"}], json.dumps([{"input": "5 5", "output": "10"}]))
ADD = write_answer("add", [{"input": "1\n[2]", "output": "[1, 2]"}, {"input": "2\n[]", "output": "[2]"}], None)

PROGRAMS = [
    (SUM, "print(sum(map(int, input().split())))", True),
    (SUM, "if __name__ == '__main__':\n    a, b = map(int, open(0).read().split())\n    print(a + b, ' ')", True),
    (SUM, "import sys\nsys.stdout.write(str(sum(map(int, sys.stdin.buffer.readline().split()))))", True),
    (SUM, "print(sum(map(int, open('/dev/stdin').read().split())))", True),
    (SUM, "print(float(sum(map(int, stdin.read().split()))))\nexit()", True),  # names that every program finds
    (SUM, "import threading\nthreading.Thread(target=lambda: print(sum(map(int, input().split())))).start()", True),
    (SUM, "import atexit\natexit.register(lambda: print(sum(map(int, input().split()))))", True),
    (SUM, "import numpy\nprint(numpy.fromstring(input(), dtype=int, sep=' ').sum())", True),
    (
        SUM,
        "from dataclasses import *\n@dataclass\nclass A:\n    x: str\nprint(sum(map(int, A(input()).x.split())))",
        True,
    ),
    (SUM, "def f(x: Unknown): ...\nprint(sum(map(int, input().split())))", sys.version_info >= (3, 14)),
    (SUM, "print(3)", False),  # the public test only
    (SUM, "print(10)", False),
    (SUM, "a, b = map(int, input().split())\nprint(a, b)", False),
    (ADD, "class Solution:\n    def add(self, x: int, xs: List[int]) -> List[int]:\n        return [x, *xs]", True),
    (ADD, "def add(x, xs):\n    print('not the answer')\n    return (x, *xs)", True),
    (ADD, "import numpy\ndef add(x, xs):\n    return [numpy.int64(x), *xs]", True),
    (ADD, "class Solution:\n    def add(self, x, xs):\n        return [(x, *xs)]", False),
    (ADD, "class Solution:\n    def add(self, x, xs):\n        return {x, *xs}", False),
]


def test_packages_are_named_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy", "numpy.libs"):
        (tmp_path / "real" / name).mkdir(parents=True)
    (tmp_path / "real" / "numpy" / "__init__.py").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    spec = SimpleNamespace(origin=str(tmp_path / "link" / "numpy" / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert module._packages() == [str(tmp_path / "real" / name) for name in ("numpy", "numpy.libs")]


@linux
def test_python_s_own_library_may_be_found_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has it that runs programs, these do not."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    commands: list[Any] = []
    workers = module.Workers
    monkeypatch.setattr(module, "Workers", lambda service, limit: commands.append(service) or workers(service, limit))
    grader = ProgramGrader("isolated", 10.0)
    told = "import os\nprint(os.environ.get('LD_LIBRARY_PATH', 3))"
    found = grader.grade(f"```python\n{told}\n```", write_answer(None, [{"input": "", "output": "3\n"}], None))
    grader.close()
    assert found == (True, None)
    assert commands[0].environment["LD_LIBRARY_PATH"] == "/nowhere"


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader("code", 10.0, "isolated") as grader:
        yield grader


@linux
@pytest.mark.parametrize(("answer", "code", "right"), PROGRAMS)
def test_programs(answer: str, code: str, right: bool, grader: Grader) -> None:
    if "numpy" in code:
        pytest.importorskip("numpy")
    assert grader.grade(f"So:\n```python\n{code}\n```\n", answer) == Grade(right)


@linux
def test_a_program_leaves_nothing_to_the_next(grader: Grader) -> None:
    code = "import os\nopen('x', 'x')\nprint(sum(map(int, input().split())))"
    assert [grader.grade(f"```\n{code}\n```", SUM) for _ in range(2)] == [Grade(True)] * 2


def test_what_may_be_written_says_little_of_what_is_expected() -> None:
    room = [module._most(Case("", "x" * length)) for length in (0, 1, 65_535, 65_536, 1 << 20)]
    assert [most >> 20 for most in room] == [1, 1, 1, 2, 17]
    assert all(most % (1 << 20) == 0 for most in room)


@linux
def test_answers_are_validated(grader: Grader) -> None:
    grader.validate([Problem("a", SUM, 1)])
    with pytest.raises(BadFile, match=r"^p:7: tests is null, expected a list$"):
        grader.validate([Problem("a", "{}", 7, "p")])


def test_without_leave() -> None:
    with pytest.raises(InvalidInput, match=r"^checker code: runs programs that a model wrote, .* --allow-code, "):
        Grader("code")
    with pytest.raises(InvalidInput, match=r"^checker code: runs programs, which only a Grader with leave to does$"):
        get_checker("code")("", SUM)


def test_where_nothing_can_be_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, and the reason; with the flag that names the risk it goes on."""

    def command(name: str, limit: str, leave: str, *packages: str) -> list[str]:
        said = "unshare: Operation not permitted" if leave == "isolated" else None
        return [sys.executable, "-c", f"print({json.dumps([0, said])!r}, flush=True); input()"]

    monkeypatch.setattr(module, "python_command", command)
    reason = (
        r"^programs cannot be run isolated here: unshare: Operation not permitted; --allow-code-unisolated runs them "
        r"all the same, with every file that you can read or write$"
    )
    with pytest.raises(InvalidInput, match=reason):
        ProgramGrader("isolated", 1.0)
    ProgramGrader("unisolated", 1.0).close()
