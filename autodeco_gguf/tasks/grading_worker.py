"""The process in which a checker, or a reward of the user's own, is called: JSON lines in, JSON lines out.

Started by :class:`autodeco_gguf.tasks.workers.Worker` with the function's name, the seconds that a call may take, and
"checker" or "reward". It first answers with ``[0, null]``, or with why it has no function instead of null, and then
every ``[number, *arguments]`` with ``[number, value, error]``, until its input ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.tasks.checkers import get_checker, own_function
from autodeco_gguf.tasks.grading import Grade, failure, judge
from autodeco_gguf.tasks.scoring import Score, rate

_MEMORY = 4 << 30
"""Bytes of data that a checker may have, so that no expression takes the whole machine's. Of data and not of addresses:
libraries for GPUs reserve more of these than there is memory.
"""


def main() -> None:
    """Serve one function."""
    requests, replies = _streams()
    name, limit, kind = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    process = os.getpid()

    def reply(*value: object) -> None:
        if os.getpid() != process:  # the checker forked, and its child has returned too
            os._exit(0)
        try:
            replies.write(json.dumps(value).encode() + b"\n")
            replies.flush()
        except BrokenPipeError:  # who asked was killed
            os._exit(0)

    _limit_memory()
    try:
        function = get_checker(name) if kind == "checker" else own_function(name, kind)
    except AutoDecoError as e:
        reply(0, str(e))
        return
    reply(0, None)
    for line in requests:
        if not line.endswith(b"\n"):  # who asks was killed in the midst of it
            break
        number, *arguments = json.loads(line)
        _end_after(limit + 1)
        verdict = _verdict(judge if kind == "checker" else rate, function, arguments)
        _end_after(0)
        reply(number, *verdict)
    _end_after(limit + 1)


def _verdict(
    judged: Callable[..., Grade | Score], function: Callable[..., Any], arguments: list[str]
) -> tuple[object, ...]:
    """The value and the error of a call, where nobody presses Ctrl-C: only an exit ends the process."""
    try:
        return tuple(vars(judged(function, *arguments)).values())
    except SystemExit:
        raise
    except BaseException as e:
        return None, failure(e).error


def _limit_memory() -> None:
    """Of this process and, each by itself, of those that it starts; a checker that needs more raises the soft limit."""
    with suppress(ImportError, ValueError, OSError):  # not on every system, and not above a limit that there is
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))


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
