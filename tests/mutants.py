"""Switches off each check of a reader or the sampler in turn, and runs the tests of it: ``python tests/mutants.py``.

A check is a ``raise`` (or, with --core, a ``throw refusal``); a mutant that no test notices has survived. Which tests
come by a ``raise`` is found by tracing them once. All is copied: without its checks a writer writes over anything.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "autodeco_gguf"
OWN = (ROOT, ROOT / "tests")
"""Of the path, what a copy stands for."""

TARGETS = {
    "files/*.py": ["tests/files", "tests/bad_input/test_bad_commands.py", "tests/heads/test_export.py"],
    "heads/*.py": ["tests/heads", "tests/bad_input/test_bad_commands.py", "tests/training/test_records.py"],
    "model/vetting.py": ["tests/model/test_vetting.py", "tests/bad_input/test_bad_commands.py"],
    "model/gbnf*.py": ["tests/model/test_gbnf.py", "tests/model/test_gbnf_rules.py", "tests/model/test_grammar.py"],
    "model/sampling.py": ["tests/model/test_sampling.py"],
    "view/traces.py": ["tests/view/test_traces.py", "tests/bad_input/test_bad_commands.py"],
    "training/*.py": ["tests/training", "tests/bad_input/test_bad_commands.py"],
    "tasks/*.py": ["tests/tasks", "tests/bad_input/test_bad_commands.py"],
    "cli/verify.py": ["tests/cli/test_verify.py", "tests/bad_input/test_bad_commands.py"],
}
"""Files with checks, and the tests of them."""

CORE = {
    "csrc/gguf_file.cpp": ["tests/test_core.py", "tests/files", "tests/heads", "tests/bad_input/test_bad_commands.py"],
    "csrc/arrays.cpp": ["tests/test_core.py", "tests/heads"],
    "csrc/sampler.cpp": ["tests/test_core.py", "tests/model/test_not_finite.py", "tests/model/test_sampler.py",
                         "tests/model/test_llama.py"],
}  # fmt: skip

COPIED = ("autodeco_gguf", "csrc", "tests", "convert", "demo", "docs")

# ---- which tests come by which raise ----

TRACED, WRITTEN = "MUTANTS_TRACED", "MUTANTS_WRITTEN"
"""Environment of the traced run: lines by file, as JSON; the file for what was found."""

_lines: dict[str, set[int]] = {}
_seen: dict[str, set[str]] = defaultdict(set)
_test = ""


def pytest_configure() -> None:
    """This module is the plugin of the traced run too."""
    if TRACED in os.environ:
        _lines.update({file: set(lines) for file, lines in json.loads(os.environ[TRACED]).items()})
        sys.settrace(_trace)


def pytest_runtest_logstart(nodeid: str) -> None:
    global _test
    _test = nodeid
    if _lines:
        sys.settrace(_trace)


def pytest_unconfigure() -> None:
    if _lines:
        sys.settrace(None)
        Path(os.environ[WRITTEN]).write_text(json.dumps({line: sorted(tests) for line, tests in _seen.items()}))


def _trace(frame: FrameType, event: str, arg: object) -> Any:
    wanted = _lines.get(frame.f_code.co_filename)
    if wanted is None:
        return None

    def local(frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and frame.f_lineno in wanted:
            _seen[f"{frame.f_code.co_filename}:{frame.f_lineno}"].add(_test)
        return local

    return local


# ---- mutants ----


def checks(source: str) -> Iterator[ast.Raise]:
    yield from (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise))


def without(source: str, check: ast.Raise) -> str:
    """The source with ``pass`` in the place of a statement, on as many lines."""
    lines = source.splitlines(keepends=True)
    begin, end = check.lineno - 1, (check.end_lineno or check.lineno) - 1
    head, tail = (
        lines[begin].encode()[: check.col_offset].decode(),
        lines[end].encode()[check.end_col_offset :].decode(),
    )
    lines[begin : end + 1] = [f"{head}pass{tail}", *["\n"] * (end - begin)]
    return "".join(lines)


def warm_up() -> None:
    """Import what takes its time and is none of what is mutated: each run of tests is a fork of this process."""
    for name in ("numpy", "torch", "llama_cpp", "pytest", "click", "safetensors.torch"):
        with suppress(ImportError):  # an extra
            importlib.import_module(name)


def run_tests(tests: list[str], package: Path, *plugins: str, limit: int, env: dict[str, str] | None = None) -> bool:
    """Whether tests pass with the package of a directory; with ``env``, of the tree as it is, they say so too."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 5)
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGKILL))
        signal.alarm(limit)
        if env is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.path[:] = [str(package), str(package / "tests"), *[p for p in sys.path if Path(p).resolve() not in OWN]]
        path = os.pathsep.join(sys.path[:2] + [p for p in sys.path[2:] if p in os.environ.get("PYTHONPATH", "")])
        os.environ.update({"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})})
        sys.dont_write_bytecode = True
        os.chdir(package)
        options = ["-q", "-x", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
        status = importlib.import_module("pytest").main([*options, *plugins, *tests])
    except Exception:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def python_mutants(pattern: str, tests: list[str], package: Path) -> Iterator[tuple[str, bool]]:
    """Each check of some files, and whether a test noticed that it was off."""
    files = [p for p in sorted(PACKAGE.glob(pattern)) if any(checks(p.read_text("utf-8")))]
    copies = {p: package / "autodeco_gguf" / p.relative_to(PACKAGE) for p in files}
    lines = {str(copies[p]): sorted({c.lineno for c in checks(p.read_text("utf-8"))}) for p in files}
    written = package / "seen.json"
    env = {TRACED: json.dumps(lines), WRITTEN: str(written)}
    passed = run_tests(tests, package, "-p", "mutants", limit=3600, env=env)
    assert passed, f"{pattern}: the tests fail as it is"
    seen = json.loads(written.read_text())
    for path in files:
        source = path.read_text("utf-8")
        for check in checks(source):
            # all where none is known: a RecursionError ends the tracing, and threads are not traced
            nodes = seen.get(f"{copies[path]}:{check.lineno}", [])[:40] or tests
            name = f"{path.relative_to(ROOT)}:{check.lineno}: {ast.unparse(check)[:90]}"
            copies[path].write_text(without(source, check), "utf-8")
            yield name, not run_tests(nodes, package, limit=300)
            shutil.copytree(ROOT / "tests" / "fixtures", package / "tests" / "fixtures", dirs_exist_ok=True)
        copies[path].write_text(source, "utf-8")


def core_mutants(file: str, tests: list[str], build: str, package: Path) -> Iterator[tuple[str, bool]]:
    """Each ``throw refusal`` of a file; ``build`` compiles the core of the tree in $TREE into its autodeco_gguf/."""
    source, copy = (ROOT / file).read_text("utf-8"), package / file
    for match in re.finditer(r"throw (?=refusal\()", source):
        number = source.count("\n", 0, match.start()) + 1
        copy.write_text(source[: match.start()] + "(void) " + source[match.end() :], "utf-8")
        name = f"{file}:{number}: {source[match.start() :].splitlines()[0][:90]}"
        done = subprocess.run(
            build, shell=True, env={**os.environ, "TREE": str(package)}, capture_output=True, check=False
        )
        yield name, done.returncode != 0 or not run_tests(tests, package, limit=900)
    copy.write_text(source, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[*TARGETS, *CORE], help="of these files")
    parser.add_argument(
        "--core", metavar="BUILD", help="mutants of csrc too; a command that compiles the tree in $TREE"
    )
    args = parser.parse_args()
    warm_up()
    survived, n = [], 0
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory)
        for name in COPIED:
            shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("CMakeLists.txt", "Makefile", "README.md", "pyproject.toml"):
            shutil.copy(ROOT / name, package)
        runs = [python_mutants(p, t, package) for p, t in TARGETS.items() if not args.only or p in args.only]
        if args.core:
            runs += [core_mutants(p, t, args.core, package) for p, t in CORE.items() if not args.only or p in args.only]
        for run in runs:
            for name, noticed in run:
                n += 1
                if not noticed:
                    survived.append(name)
                    print(f"survived: {name}", flush=True)
    print(f"{n} mutants, {len(survived)} survived")
    sys.exit(bool(survived))


if __name__ == "__main__":
    main()
