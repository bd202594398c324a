"""The steps that confine a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

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


def begin(text: str) -> subprocess.Popen[str]:
    """A process that has the steps at hand."""
    text = f"import os, sys, threading, time\nfrom autodeco_gguf.tasks.programs import isolation\n{text}"
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{text}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_libraries_behind_an_absolute_link_and_below_tmp(tmp_path: Path) -> None:
    """As a home that is /export/home, and a Python in a node's scratch."""
    (tmp_path / "real" / "lib").mkdir(parents=True)
    (tmp_path / "real" / "lib" / "module.py").write_text("found")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    text = f"""
of_python = isolation.libraries
isolation.libraries = lambda: [*of_python(), {str(tmp_path / "link" / "lib")!r}]
try:
    isolation.enter_namespaces()
    isolation.enter_root([], b"")
except OSError as e:
    print("refused", e)
    raise SystemExit
print(open({str(tmp_path / "link" / "lib" / "module.py")!r}).read(), oct(os.stat(isolation.HOME).st_mode)[-4:])
"""
    with begin(text) as process:
        said = process.communicate(timeout=30)[0].strip()
    if said.startswith("refused") and os.getuid() != 0:
        pytest.skip(said)
    assert said == "found 1777"


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_has_become_another_user_still_ends_with_its_parent() -> None:
    text = """
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    isolation.end_with_parent()
    isolation.give_up(60, isolation.user_of(os.getpid()), isolated=False)
    os.write(writing, b"x")
    time.sleep(30)
os.close(writing)
os.read(reading, 1)
print(pid, flush=True)
time.sleep(30)
"""
    with begin(text) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().strip()
        assert is_running(pid)
        process.kill()
    end = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_running(pid)


def test_what_a_user_runs_besides_takes_no_threads_away() -> None:
    text = """
if os.getuid() == 0:
    os.setresuid(61184, 61184, 61184)
for _ in range(100):
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
pid = os.fork()
if pid == 0:
    isolation.give_up(5, 0, isolated=False)
    thread = threading.Thread(target=print, args=("ran",), kwargs={"flush": True})
    thread.start()
    thread.join()
    os._exit(0)
os._exit(os.waitpid(pid, 0)[1])
"""
    with begin(text) as process:
        assert process.communicate(timeout=30)[0] == "ran\n"
