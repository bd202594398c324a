"""The process that starts programs, asked directly; and where nothing isolates them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.programs.grader import _ENVIRONMENT
from autodeco_gguf.tasks.workers import Service, Workers, python_command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are run on Linux only")


@pytest.fixture(scope="module", params=["isolated", "unisolated"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Workers]:
    command = python_command("autodeco_gguf.tasks.programs.sandbox", "1.0", request.param)
    try:
        workers = Workers(Service(command, "checker", "code", _ENVIRONMENT), 30.0)
    except InvalidInput as e:
        if request.param == "unisolated" and "it runs as another user than root" in str(e):
            pytest.skip(str(e))
        raise
    yield workers
    workers.close()


RUNS = [
    ("print(input())", None, "a", ["ended", "a\n"]),
    ("def f(x):\n    return x", "f", "[1]", ["ended", "[1]"]),
    ("1 / 0", None, "", ["failed", ""]),
    ("fs = [open(str(i), 'w') for i in range(12)]\nprint(7, flush=True)\nraise OSError", None, "", ["failed", ""]),
    ("def f(x):\n    f.files = [open(str(i), 'w') for i in range(12)]\n    open('none')", "f", "[1]", ["failed", ""]),
    ("while True:\n    pass", None, "", ["late", ""]),
    ("while True:\n    print('x' * 1000)", None, "", ["endless", ""]),
    ("import os\nos.fork()", None, "", ["failed", ""]),
    ("import os\nos.kill(os.getppid(), 9)", None, "", ["failed", ""]),
    ("import os\nos.kill(-1, 9)", None, "", ["failed", ""]),
    ("import _socket\n_socket.socket()", None, "", ["failed", ""]),
    ("x = bytearray(64 << 30)", None, "", ["failed", ""]),
    ("open('x', 'wb').write(bytes(100 << 20))", None, "", ["failed", ""]),
    ("import os\nprint(os.getuid() == 0, len(os.listdir()))", None, "", ["ended", "False 0\n"]),
]


@pytest.mark.parametrize(("code", "function", "text", "outcome"), RUNS)
def test_runs(code: str, function: str | None, text: str, outcome: list[str], sandbox: Workers) -> None:
    if "getuid" in code and os.getuid() != 0:
        pytest.skip("for root, which becomes another user")
    assert sandbox.ask(code, function, text, 10_000) == outcome
    assert sandbox.ask("print(1)", None, "", 10_000) == ["ended", "1\n"]


LOOKS = """
import ctypes, os
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
reading, writing = os.pipe()
mark = bytes(reversed(b"MARK"))
for begin in (libc.sbrk(0) - (32 << 20) & ~0xFFF, id(object()) - (64 << 20) & ~0xFFF):
    for page in range(begin, begin + (96 << 20), 4096):
        if libc.write(writing, ctypes.c_void_p(page), 4096) == 4096:
            _, _, behind = os.read(reading, 4096).partition(mark)
            if behind.startswith(b"x" * 500):
                print("found")
""".replace("MARK", "an earlier program"[::-1])


def test_a_program_finds_nothing_of_earlier_ones(sandbox: Workers) -> None:
    filler = f"an earlier program{'x' * 1000}"
    for text in ("", filler):
        assert sandbox.ask(f"# {filler}\nprint(input()[:0])", None, f"{text}\n", 10_000) == ["ended", "\n"]
        assert sandbox.ask(f"print({filler!r})", None, "", 10_000) == ["ended", f"{filler}\n"]
    assert sandbox.ask(LOOKS, None, "", 10_000) == ["ended", ""]


@pytest.mark.parametrize("umask", [0o027, 0o077])
def test_programs_run_whatever_the_umask(umask: int) -> None:
    command = python_command("autodeco_gguf.tasks.programs.sandbox", "1.0", "isolated")
    before = os.umask(umask)
    try:
        workers = Workers(Service(command, "checker", "code", _ENVIRONMENT), 30.0)
    finally:
        os.umask(before)
    assert workers.ask("print(input())", None, "a", 10_000) == ["ended", "a\n"]
    workers.close()
