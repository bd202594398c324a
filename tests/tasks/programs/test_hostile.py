"""Programs that mean harm: none gets out, each is wrong within its limit, and the next one is graded right."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autodeco_gguf.tasks.grading import Grade, Grader
from tests.tasks.programs.hostile_programs import HOSTILE, NOT_RUN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are run on Linux only")

LIMIT_S = 1.03125
"""Also a mark by which to know our processes."""

SECRET = f"secret-{os.getpid()}-7c1b"
ANSWER = json.dumps({"function": None, "tests": [{"input": "canary", "output": SECRET}]})
RIGHT = f"```python\nassert input() == 'canary'\nprint({SECRET!r})\n```"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that any user may read and write, as far as files go."""
    path = tmp_path_factory.mktemp("programs")
    path.chmod(0o777)
    (path / "canary").write_text("canary")
    return path


@pytest.fixture(scope="module")
def names(folder: Path) -> Iterator[dict[str, str]]:
    """What the programs are told, with servers that listen where they try to connect to."""
    abstract = f"programs-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as hidden,
        socket.socket(socket.AF_UNIX) as file,
    ):
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        udp.setblocking(False)
        hidden.bind(f"\0{abstract}")
        file.bind(str(folder / "socket"))
        for server in (hidden, file):
            server.listen()
        told = {"SECRET": SECRET, "FOLDER": str(folder), "PORT": port, "GRADER": os.getpid(), "ABSTRACT": abstract}
        yield {**{name: repr(value) for name, value in told.items()}, "PART": "'-terces'[::-1]"}
        with pytest.raises(BlockingIOError):
            udp.recv(1)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    os.environ["PROGRAMS_CANARY"] = "canary"
    with Grader("code", LIMIT_S, "isolated") as grader:
        yield grader
    del os.environ["PROGRAMS_CANARY"]
    assert ours() == []


def ours() -> list[str]:
    """The processes that are left, by their commands."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(LIMIT_S) in command:
            found.append(command)
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program(name: str, names: dict[str, str], grader: Grader, folder: Path) -> None:
    code = HOSTILE[name]
    for told, value in names.items():
        code = code.replace(told, value)
    began = time.monotonic()
    grade = grader.grade(f"```python\n{code}\n```", ANSWER)
    assert grade.correct is False
    assert time.monotonic() - began < LIMIT_S + 5
    assert sorted(os.listdir(folder)) == ["canary", "socket"]
    assert len(ours()) == 1
    assert grader.grade(RIGHT, ANSWER) == Grade(True)


@pytest.mark.parametrize("name", NOT_RUN)
def test_no_program(name: str, grader: Grader) -> None:
    assert grader.grade(NOT_RUN[name], ANSWER) == Grade(False)


ERRORS = [
    ("stays", f"test 1 of 1: the program took longer than {LIMIT_S:g} s"),
    ("ignores the limit of time", f"test 1 of 1: the program took longer than {LIMIT_S:g} s"),
    ("endless output", f"test 1 of 1: the program wrote more than {1 << 20} bytes"),
    ("memory", None),
]


@pytest.mark.parametrize(("name", "error"), ERRORS)
def test_how_it_was_wrong(name: str, error: str | None, grader: Grader, names: dict[str, str]) -> None:
    code = HOSTILE[name].replace("SECRET", names["SECRET"])
    assert grader.grade(f"```\n{code}\n```", ANSWER) == Grade(False, error)


FUNCTIONS = {
    "equal to all": "class Any:\n    __eq__ = lambda *_: True\n    __hash__ = None\ndef f(x):\n    return Any()",
    "a number equal to all": "class Any(int):\n    __eq__ = lambda *_: True\ndef f(x):\n    return Any(1)",
    "prints it": f"def f(x):\n    print({SECRET!r})",
    "prints it for good": f"import os\nprint('\"{SECRET}\"', flush=True)\nos._exit(0)",
    "no end": "def f(x):\n    while True:\n        pass",
    "no value": "def f(x):\n    pass",
    "a list that has itself": "def f(x):\n    x = []\n    x.append(x)\n    return x",
    "a long list": "def f(x):\n    return list(range(10**7))",
    "no function": "f = 1",
    "another name": "def g(x):\n    return x",
    "a class without it": "class Solution:\n    pass",
    "a class that ends": "class Solution:\n    def __init__(self):\n        raise SystemExit\ndef f(x):\n    return x",
    "other arguments": "def f():\n    return 1",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_hostile_function(name: str, grader: Grader) -> None:
    answer = json.dumps({"function": "f", "tests": [{"input": '"canary"', "output": json.dumps(SECRET)}]})
    assert grader.grade(f"```python\n{FUNCTIONS[name]}\n```", answer).correct is False
    right = f"```python\nclass Solution:\n    def f(self, x: str) -> str:\n        return {SECRET!r}\n```"
    assert grader.grade(right, answer) == Grade(True)
