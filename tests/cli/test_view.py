"""``autodeco-gguf view``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from broken import invoke
from page_helpers import STORY

from autodeco_gguf.cli import view


@pytest.fixture(autouse=True)
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("t.jsonl")
    path.write_text("".join(json.dumps(token) + "\n" for token in STORY))
    return path


def data_of(page: Path) -> Any:
    return json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])


def test_a_page_is_written_beside_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    done = invoke(capfd, "view", "t.jsonl")
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith("t.html: 1 trace, ")
    assert data_of(Path("t.html"))["sections"][0]["columns"]["text"] == ["Near", " the", " café", " 🙂", "."]
    assert sorted(p.name for p in Path().iterdir()) == ["t.html", "t.jsonl"]
    again = invoke(capfd, "view", "t.jsonl")
    assert (again.status, again.err) == (1, "error: t.html: exists; use --force to replace it\n")
    assert invoke(capfd, "view", "t.jsonl", "--force").status == 0


def test_several_files_on_a_page(capfd: pytest.CaptureFixture[str]) -> None:
    Path("u.jsonl").write_text('{"tokens": [{"text": "x"}]}\n')
    assert invoke(capfd, "view", "t.jsonl", "u.jsonl", "-o", "both.html").status == 0
    page = data_of(Path("both.html"))
    assert page["title"] == "t.jsonl, u.jsonl"
    assert [section["title"] for section in page["sections"]] == ["t.jsonl, answer 1", "u.jsonl, answer 1"]


def test_standard_input_has_a_name(trace: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    with trace.open() as f:
        monkeypatch.setattr(sys, "stdin", f)
        done = invoke(capfd, "view", "-")
    assert (done.status, done.err.split(":")[0]) == (0, "trace.html")
    page = data_of(Path("trace.html"))
    assert (page["title"], page["sections"][0]["title"]) == ("standard input", "standard input, answer 1")


def test_a_page_stays_small(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MOST_BYTES", 1000)
    Path("many.jsonl").write_text(f"{json.dumps({'tokens': STORY})}\n" * 9)
    assert "traces" in invoke(capfd, "view", "many.jsonl").err
    note, *traces = data_of(Path("many.html"))["sections"]
    assert len(traces) == 1
    assert note["lines"] == ["8 more traces were left out, or this page would be too large; name fewer files."]


def test_a_line_that_a_killed_server_tore_is_passed_over(capfd: pytest.CaptureFixture[str]) -> None:
    whole = json.dumps({"tokens": STORY})
    Path("torn.jsonl").write_bytes(f"{whole}\n{whole[:50]}\n{whole}\n".encode() + b'{"prompt": "caf\xc3')
    done = invoke(capfd, "view", "torn.jsonl")
    assert (done.status, len(data_of(Path("torn.html"))["sections"])) == (0, 2)
    reason = "torn.jsonl:2: no line of a trace: not JSON: Unterminated string starting at column 41"
    assert done.err.startswith(f"warning: torn.jsonl: lines passed over: 2; the first: {reason}\ntorn.html: 2 traces, ")


def test_a_plot(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert invoke(capfd, "view", "t.jsonl", "-o", "t.PNG").status == 0
    assert Path("t.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "content", "status", "message"),
    [
        (["no.jsonl"], None, 1, "error: no.jsonl: cannot be read: No such file or directory\n"),
        (
            ["t.jsonl"],
            "Once upon\n",
            1,
            "error: t.jsonl:1: no line of a trace: not JSON: Expecting value",
        ),
        (["t.jsonl", "-o", "t.txt"], None, 2, "error: t.txt: ends in .txt, expected .html or .png"),
        (["t.jsonl", "-o", "page"], None, 2, "error: page: ends in nothing, expected .html or .png"),
        ([], None, 2, "error: Missing argument 'TRACE.jsonl...'"),
        (
            ["t.jsonl", "-o", "t.png"],
            '{"task": "a", "problem": 0, "config": "greedy", "seed": 0, "sample": 0, "text": "x"}',
            1,
            "error: t.jsonl: no values of single tokens in it, which a plot needs",
        ),
    ],
)
def test_what_will_not_do_is_one_line(
    capfd: pytest.CaptureFixture[str], trace: Path, arguments: list[str], content: str | None, status: int, message: str
) -> None:
    if content is not None:
        trace.write_text(content)
    done = invoke(capfd, "view", *arguments)
    assert (done.status, done.err.count("\n")) == (status, 1)
    assert done.err.startswith(message)
    assert sorted(p.name for p in Path().iterdir()) == ["t.jsonl"]
