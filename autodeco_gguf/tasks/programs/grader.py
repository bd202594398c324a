"""Runs the programs of responses against the tests of their problems."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Literal

from autodeco_gguf.errors import InvalidInput
from autodeco_gguf.tasks.programs.cases import Case, Suite, program, read_answer, same_output, same_value
from autodeco_gguf.tasks.workers import Service, Workers, python_command

Leave = Literal["isolated", "unisolated"]
"""To run programs: where the system isolates them only, or also where they can read and write what this user can."""

_GRACE_S = 20.0
"""For all that a run is besides the program's own time, on a busy machine."""

_ROOM = 1 << 20
"""Bytes of output that are read of every program, and 16 times as many as are expected, in whole ones of these."""

_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
}


class ProgramGrader:
    """Tells whether a response's program passes all tests; a context manager, for one thread at a time.

    Args:
        leave: how programs may run.
        time_limit: seconds of a test.

    Raises:
        InvalidInput: this system cannot confine programs so, and why.
    """

    def __init__(self, leave: Leave, time_limit: float) -> None:
        self._time_limit = time_limit
        self._last: tuple[str, Suite] | None = None
        try:
            self._workers = self._start("isolated")
        except InvalidInput as e:
            if leave == "isolated":
                also = "--allow-code-unisolated runs them all the same, with every file that you can read or write"
                raise InvalidInput(f"programs cannot be run isolated here: {e}; {also}", key="allow_code") from e
            self._workers = self._start(leave)

    def _start(self, leave: Leave) -> Workers:
        limit = self._time_limit
        command = python_command("autodeco_gguf.tasks.programs.sandbox", str(limit), leave, *_packages())
        # where Python itself may have its library, as by the environment modules of a cluster; programs are not told
        path = {"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
        return Workers(Service(command, "checker", "code", _ENVIRONMENT | path), limit + _GRACE_S)

    def close(self) -> None:
        """End the processes."""
        self._workers.close()

    def grade(self, text: str, answer: str) -> tuple[bool | None, str | None]:
        """Whether all tests are passed, and an error: None and why where the program could not be run, which says
        nothing about it.

        A response without a code block is wrong. After a test that fails no other one is run.

        Raises:
            InvalidInput: an answer that is none, or the system can no longer confine programs.
        """
        tests, code = self.read(answer), program(text)
        if code is None:
            return False, None
        for number, case in enumerate(tests.cases, 1):
            try:
                outcome, output = self._workers.ask(code, tests.function, case.input, _most(case))
            except (TimeoutError, EOFError) as e:
                return None, f"the process that runs programs failed: {e or 'no answer'}"
            where = f"test {number} of {len(tests.cases)}"
            if outcome == "broken":
                return None, f"{where}: {output}"
            if outcome == "late":
                return False, f"{where}: the program took longer than {self._time_limit:g} s"
            if outcome == "endless":
                return False, f"{where}: the program wrote more than {_most(case)} bytes"
            same = same_output if tests.function is None else same_value
            if outcome != "ended" or not same(output, case.output):
                return False, None
        return True, None

    def read(self, answer: str) -> Suite:
        """The tests of a problem, kept for its next response; raises as :meth:`grade` does."""
        if self._last is None or self._last[0] != answer:
            self._last = answer, read_answer(answer)
        return self._last[1]


def _most(case: Case) -> int:
    """In steps, since a program can read it: the same for all outputs that are shorter than 64 KiB."""
    return _ROOM * (1 + 16 * len(case.output.encode("utf-8", "surrogatepass")) // _ROOM)


def _packages() -> list[str]:
    """Directories that programs may import, besides the standard library: NumPy, where it is installed."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        return []
    package = Path(spec.origin).resolve().parent  # an absolute link in its name would lead out of the old root
    return [str(path) for path in (package, package.with_name("numpy.libs")) if path.is_dir()]
