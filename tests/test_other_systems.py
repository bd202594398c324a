"""What Windows lacks of modules, calls and signals: everything is imported and commands run without it.

What is Windows' own, as its names of files and its refusal to rename open ones, is not tried.
Then what make does, and what older processors lack.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Case

from autodeco_gguf.model.shipped import DEMO_MODEL

ROOT = Path(__file__).parent.parent

CRIPPLED = """
import importlib, os, pkgutil, signal, sys
import autodeco_gguf
import autodeco_gguf._native

LINUX_ONLY = [f"autodeco_gguf.tasks.programs.{name}" for name in ("isolation", "sandbox", "seccomp")]
names = [module.name for module in pkgutil.walk_packages(autodeco_gguf.__path__, "autodeco_gguf.")]
names = [name for name in names if name not in [*LINUX_ONLY, "autodeco_gguf.__main__"]]
for name in names:  # and with them what others wrote, whose affair this is
    importlib.import_module(name)
for name in [name for name in sys.modules if name.split(".")[0] == "autodeco_gguf" and name != "autodeco_gguf._core"]:
    del sys.modules[name]

for name in ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp"):
    sys.modules[name] = None
for module, missing in {
    os: "fchmod fork geteuid getuid killpg pread register_at_fork sched_getaffinity setsid sysconf uname",
    signal: "SIGALRM SIGBUS SIGHUP SIGKILL setitimer",
}.items():
    for name in missing.split():
        delattr(module, name)
import select
del select.poll

for name in names:
    importlib.import_module(name)
assert not [name for name in LINUX_ONLY if name in sys.modules]
from autodeco_gguf.cli import main
sys.argv[0] = "autodeco-gguf"
main()
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CRIPPLED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_a_model_runs() -> None:
    result = run("run", DEMO_MODEL, "-p", "Tell a story about Mia with 47 and 38.", "-n", "6", "--seed", "1")
    assert result.returncode == 0, result.stderr
    usual = [sys.executable, "-m", "autodeco_gguf", "run", DEMO_MODEL, "-n", "6", "--seed", "1"]
    usual += ["-p", "Tell a story about Mia with 47 and 38."]
    assert result.stdout == subprocess.run(usual, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout != ""


def test_a_file_is_written(qwen2: Case, tmp_path: Path) -> None:
    result = run("export", "--base", qwen2.base, "--heads", qwen2.heads, "-o", tmp_path / "m.gguf")
    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_what_cannot_be_done_says_so(tmp_path: Path) -> None:
    """Answers are checked in a process that can be ended with all that it starts."""
    task = tmp_path / "task.jsonl"
    task.write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    result = run("rollouts", DEMO_MODEL, "--task", task, "-k", "1", "-o", tmp_path / "out.jsonl")
    assert result.returncode == 2, result.stderr
    words = "error: checker 'boxed': what it starts cannot be ended on this system; on Windows use WSL"
    assert result.stderr.splitlines()[-1].startswith(words), result.stderr


COLLECT = """
import sys
for name in ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp"):
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "@tests/windows.txt"]))
"""


def test_the_tests_for_windows_are_found_there() -> None:
    result = subprocess.run([sys.executable, "-c", COLLECT], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    for path in (ROOT / "tests" / "windows.txt").read_text().splitlines():
        assert f"{path}::" in result.stdout


def test_names_and_a_prompt_are_given_to_make_as_they_are() -> None:
    given = ["MODEL=a b.gguf", "HEADS=c d.gguf", 'PROMPT=say "hi" `id`']
    command = ["make", "--no-print-directory", "-n", "run", *given]
    last = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert last.endswith('run "a b.gguf" --heads "c d.gguf" --trace -p "$PROMPT" </dev/null')


def made(**variables: str) -> str:
    """What make would do, and with which variables."""
    env = {key: value for key, value in os.environ.items() if key != "CMAKE_ARGS"}
    command = ["make", "--no-print-directory", "-np", "run", *(f"{key}={value}" for key, value in variables.items())]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout


def test_make_goes_on_with_what_an_environment_was_compiled_with(tmp_path: Path) -> None:
    plain, gpu = made(VENV=str(tmp_path)), made(VENV=str(tmp_path), CMAKE_ARGS="-DGGML_CUDA=on")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / ".cmake-args").write_text("-DGGML_CUDA=on\n")
    keys = [re.findall(r"^KEY := (.+)$", text, re.M) for text in (plain, gpu, made(VENV=str(tmp_path)))]
    assert keys[0] != keys[1] == keys[2]
    assert re.findall(r"^KEY := (.+)$", made(VENV=str(tmp_path), CXX="clang++"), re.M) != keys[2]
    assert f"echo '-DGGML_CUDA=on' > {tmp_path}/bin/.cmake-args" in gpu


def test_make_refuses_names_with_spaces_before_it_compiles() -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        made(VENV="a b")
    assert "make knows no spaces in names" in error.value.stderr


def test_the_workflow_calls_what_is_there() -> None:
    workflow = (ROOT / ".github" / "workflows" / "build.yml").read_text()
    makefile = (ROOT / "Makefile").read_text()
    called = re.findall(r"run: make (\S+)", workflow)
    assert len(called) == 3
    assert all(re.search(f"^{target}:", makefile, re.M) for target in called)
    for path in re.findall(r"(?:^|[ @])(tests/[\w./]+)", workflow):
        assert (ROOT / path).exists()


@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("c++"), reason="needs a compiler for x86-64")
@pytest.mark.parametrize("processor", ["x86-64", "sandybridge", "ivybridge", "bdver2", "haswell", "skylake-avx512"])
def test_the_vectors_compile_for_other_processors(processor: str) -> None:
    """Of the third and fourth, conversions of F16 come without AVX2."""
    command = ["c++", "-std=c++17", f"-march={processor}", "-Wno-psabi", "-fsyntax-only", "-x", "c++", "-"]
    source = '#include "csrc/vector_math.h"\n'
    result = subprocess.run([*command, "-I", ROOT], input=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
