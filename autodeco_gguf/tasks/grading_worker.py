"""The process in which :class:`autodeco_gguf.tasks.grading.Grader` calls a checker: JSON lines in, JSON lines out.

Started with the checker's name and the seconds that a call may take. It first answers with null, or with why it has no
checker, and then every ``[text, answer]`` with ``[correct, error]``, until its input ends.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import BinaryIO

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.tasks.checkers import CHECKERS, get_checker
from autodeco_gguf.tasks.grading import judge

_MEMORY = 4 << 30
"""Bytes that a built-in checker may use, so that no expression takes the whole machine's."""


def main() -> None:
    """Serve one checker."""
    requests, replies = _streams()
    name, limit = sys.argv[1], float(sys.argv[2])

    def reply(value: object) -> None:
        replies.write(json.dumps(value).encode() + b"\n")
        replies.flush()

    if name in CHECKERS:
        with suppress(ValueError, OSError):  # not on every system
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        checker = get_checker(name)
    except AutoDecoError as e:
        reply(str(e))
        return
    reply(None)
    for line in requests:
        text, answer = json.loads(line)
        _end_after(limit + 1)
        grade = judge(checker, text, answer)
        _end_after(0)
        reply([grade.correct, grade.error])
    _end_after(limit + 1)


def _streams() -> tuple[BinaryIO, BinaryIO]:
    """Our input and output, out of a checker's reach: it reads nothing and prints to stderr."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def _end_after(seconds: float) -> None:
    """Have the system end this process if it hangs when nobody is left to kill it; 0: not any more."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
