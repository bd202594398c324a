"""What keeps the tree readable: short files, short functions, few parameters, a test file for each module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "autodeco_gguf"
SOURCES = [
    path
    for folder in ("autodeco_gguf", "convert", "demo", "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*.py")
]
CORE = [path for path in (ROOT / "csrc").iterdir() if path.suffix in (".cpp", ".h")]
TESTS = list((ROOT / "tests").rglob("*.py"))


Function = ast.FunctionDef | ast.AsyncFunctionDef


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def parameters(function: Function) -> int:
    a = function.args
    names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None]
    return len([name for name in names if name not in ("self", "cls")])


def is_command(function: Function) -> bool:
    return any("click.command" in ast.unparse(decorator) for decorator in function.decorator_list)


def core_functions(path: Path) -> Iterator[tuple[str, int]]:
    """First line and length of what begins in the first column with a line that ends in a brace."""
    begin, head = 0, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r"[A-Za-z].*\) (?:const )?\{$", line) or (head and line == ") {"):
            begin, head = number, line
        elif line.startswith("}") and begin:
            yield head, number - begin + 1
            begin = 0


def test_there_is_something_to_look_at() -> None:
    assert len(SOURCES) > 60
    assert len(CORE) > 10
    assert sum(1 for path in CORE for _ in core_functions(path)) > 100


def test_files_are_short() -> None:
    assert [str(path) for path in (*SOURCES, *CORE) if lines_of(path) > 400] == []
    assert [str(path) for path in TESTS if lines_of(path) > 600] == []


def test_functions_are_short() -> None:
    long = [
        (str(path), function.name)
        for path in SOURCES
        for function in functions(path)
        if function.end_lineno - function.lineno >= 60  # type: ignore[operator]
    ]
    assert long + [(str(path), head) for path in CORE for head, n in core_functions(path) if n > 60] == []


def test_functions_have_few_parameters() -> None:
    found = [
        (str(path), function.name, n)
        for path in SOURCES
        for function in functions(path)
        if (n := parameters(function)) > 8 and not is_command(function)
    ]
    assert found == []


def test_every_module_has_its_tests() -> None:
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE)
        definitions = [
            n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, Function | ast.ClassDef)
        ]
        if not definitions or module.name == "__main__.py":
            continue
        name = module.stem.strip("_")
        if not (ROOT / "tests" / module.parent / f"test_{name}.py").exists():
            missing.append(str(module))
    assert missing == []


def test_every_example_runs() -> None:
    assert [str(path) for path in SOURCES if "doctest: +SKIP" in path.read_text(encoding="utf-8")] == []
