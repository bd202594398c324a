"""The comparison with stock llama-cpp-python: its cases end as it says, and the table shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reliability import CASES, ended, outcome, prepare, table

ROOT = Path(__file__).parents[2]
QUICK = {
    "closed": "error: Closed: base.gguf: the model is closed",
    "recursive": "error: InvalidInput: the grammar does not parse: rule 'root' begins with itself",
    "cut": "error: BadFile: cut.gguf: truncated: ",
    "raises": "the exception, then answers as before",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reliability")
    prepare(path)
    return path


@pytest.mark.parametrize("case", QUICK)
def test_what_this_package_does(case: str, directory: Path) -> None:
    assert outcome(case, "autodeco_gguf", directory).startswith(QUICK[case])


def test_what_ends_a_process() -> None:
    assert (ended(-11), ended(3)) == ("SIGSEGV", "status 3")


def test_the_figures_are_those_of_the_document() -> None:
    figures = json.loads((ROOT / "benchmarks" / "reliability.json").read_text())
    assert list(figures["results"]) == list(CASES)
    assert table(figures["results"], figures["runs"]) in (ROOT / "docs" / "reliability.md").read_text()
