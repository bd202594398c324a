"""The filter of system calls, as instructions, and installed in a child."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

import pytest

from autodeco_gguf.tasks.programs import seccomp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")


def test_jumps_stay_within_the_filter() -> None:
    code = seccomp._filter(7)
    count = len(code) // 8
    for at in range(count):
        if code[8 * at] & 0x07 == 0x05:  # a jump
            assert at + 1 + max(code[8 * at + 2], code[8 * at + 3]) < count
    assert code[-4:] == (0x7FFF0000).to_bytes(4, sys.byteorder)


def test_a_machine_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "sparc")
    with pytest.raises(OSError, match=r"seccomp: sparc is none of x86_64, aarch64"):
        seccomp._filter(7)


def test_what_a_child_is_refused() -> None:
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        refused = libc.prctl(38, 1, 0, 0, 0)
        seccomp.install()
        for call in (lambda: os.kill(os.getppid(), 0), os.fork, lambda: os.execv("/bin/true", ["true"])):
            try:
                call()
            except OSError as e:
                refused += e.errno == errno.EPERM
        os.kill(os.getpid(), 0)  # itself
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
