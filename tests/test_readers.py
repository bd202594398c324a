"""What no reader of files may do, looked for in the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [p for folder in ("autodeco_gguf", "convert", "demo", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
READERS = [ROOT / "autodeco_gguf" / name for name in ("files", "heads", "model/vetting.py", "model/loading.py")]


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def risks(source: str) -> list[str]:
    """Calls that can run what a file holds."""
    found = []
    for name, call in calls(source):
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        last = name.rpartition(".")[2]
        if name.startswith(("pickle.", "marshal.", "shelve.", "dill.", "joblib.")) and last in (
            "load",
            "loads",
            "open",
        ):
            found.append(ast.unparse(call))
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(ast.unparse(call))
        if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            found.append(ast.unparse(call))
        if last in ("read_array", "fromfile") and "allow_pickle" in given and given["allow_pickle"] != "False":
            found.append(ast.unparse(call))
        if name in ("eval", "exec", "yaml.load", "yaml.unsafe_load"):
            found.append(ast.unparse(call))
    return found


def numbers_of_names(source: str) -> list[str]:
    """Calls that make a number of a part of a text that a file has given: a group of a match, a piece of a name."""
    made = re.compile(r"int\(.*(\bm(atch)?\[|\.group\(|\.name\b|\.split\(|partition\()")
    return [ast.unparse(c) for name, c in calls(source) if name in ("int", "float") and made.search(ast.unparse(c))]


RUN_ON_PURPOSE = {"tasks/programs", "tasks/checkers.py"}


def test_no_reader_runs_what_it_reads() -> None:
    found = {
        str(path.relative_to(ROOT)): risks(path.read_text("utf-8"))
        for path in SOURCES
        if not any(str(part) in str(path) for part in RUN_ON_PURPOSE)
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


NUMBERS_OF_FILE_NAMES = {"int(match[1])", "int(match[2])"}
"""Of a shard, which the user has named: heads/base_model.py."""


def test_no_number_is_made_of_a_tensors_name() -> None:
    paths = [p for reader in READERS for p in ([reader] if reader.is_file() else reader.rglob("*.py"))]
    assert len(paths) > 15
    assert {line for path in paths for line in numbers_of_names(path.read_text("utf-8"))} == NUMBERS_OF_FILE_NAMES


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "pickle.loads(b)",
        "npy.read_array(f, allow_pickle=True)",
        "eval(x)",
    ],
)
def test_a_risk_is_seen(line: str) -> None:
    assert risks(f"x = {line}") == [line]


@pytest.mark.parametrize("line", ["int(m['index']) // 2", "int(tensor.name[3:])", "int(name.split('.')[1])"])
def test_a_number_of_a_name_is_seen(line: str) -> None:
    assert len(numbers_of_names(line)) == 1
