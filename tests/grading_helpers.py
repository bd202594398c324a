"""A user's own checkers in the working directory, and what they leave there."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

OWN = """
    import os, subprocess, sys, time

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

    def raised(error):
        raise error

    def fork_and_return_twice(right):
        return right if os.fork() else not right

    def fork_and_raise():
        if not os.fork():
            raise KeyboardInterrupt
        return True

    def daemon():
        return subprocess.Popen(["sleep", "20"], start_new_session=True).pid

    def leave_the_pipe_to_a_child(status):
        if os.fork():
            while not os.path.exists("pid"):
                time.sleep(0.01)
            os._exit(status)
        put_pid("", "30")
        os._exit(0)

    def write_everywhere(data):
        for fd in range(3, 20):
            try:
                os.write(fd, data)
            except OSError:
                pass
        return True
"""


def write_own(directory: Path) -> str:
    """The name of their module."""
    (directory / "own_checkers.py").write_text(textwrap.dedent(OWN))
    return "own_checkers"


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
