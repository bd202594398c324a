"""docs/clients.md: its Python runs against a served demo model."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_helpers import demo_engine, served, serving

PAGE = (Path(__file__).parent.parent.parent / "docs" / "clients.md").read_text(encoding="utf-8")
BLOCKS = {
    title.lower(): code
    for title, text in re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with demo_engine() as engine, served(serving(engine)) as url:
        yield url


def test_each_client_that_the_tests_have_is_run() -> None:
    assert BLOCKS.keys() == {"llm", "openai", "ollama"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a page does not close its clients
@pytest.mark.parametrize("client", BLOCKS)
def test_python_runs(client: str, url: str, user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS[client].replace("http://127.0.0.1:8080", url), client, "exec"), {})
    gc.collect()
    shown = capsys.readouterr().out
    assert "Mia" in shown
    assert re.search(r"\[0\.76\d+, 0\.\d+, ", shown), shown
