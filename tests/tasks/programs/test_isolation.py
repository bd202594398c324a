"""The steps that confine a process."""

from __future__ import annotations

import os
import sys

import pytest

from autodeco_gguf.tasks.programs import isolation, seccomp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces of Linux")


def test_libraries_are_there_and_none_twice() -> None:
    found = isolation.libraries()
    assert any(os.path.dirname(os.__file__).startswith(path) for path in found)
    assert all(os.path.exists(path) for path in found)
    assert len(found) == len(set(found))
    assert not {"/", "/usr", "/home", "/root", "/tmp"} & set(found)


def test_users_are_nobodys() -> None:
    assert {isolation.user_of(pid) for pid in range(1, 40_000)} == set(range(61184, 65520))


def test_a_step_that_the_system_refuses_is_named() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        isolation._call("prctl", 38, 1, 0, 0, 0)
        seccomp.install()
        try:
            isolation.enter_namespaces()
        except OSError as e:
            os.write(writing, str(e.strerror).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 100) == b"unshare: Operation not permitted"
    os.close(reading)
    os.close(writing)
