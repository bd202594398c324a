"""``autodeco-gguf report``."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken import assert_refused, invoke
from fake_engine import run


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run(Path("results"), ["autodeco", "greedy"], also=["traces"])
    return tmp_path


def test_a_page_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    done = invoke(capfd, "report", "results")
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith("report.html: 25 samples, ")
    assert Path("report.html").read_bytes().startswith(b"<!doctype html>")
    again = invoke(capfd, "report", "results")
    assert (again.status, again.err) == (1, "error: report.html: exists; use --force to replace it\n")
    assert invoke(capfd, "report", "results", "--force").status == 0
    assert invoke(capfd, "report", "results", "-o", "other.html").status == 0
    before = Path("results/samples.jsonl").read_bytes()
    png = invoke(capfd, "report", "results", "-o", "plot.png")
    assert_refused(png, "plot.png: ends in .png, expected .html", status=2)
    own = invoke(capfd, "report", "results", "-o", "results/samples.jsonl", "--force")
    assert_refused(own, "results/samples.jsonl: is the input results/samples.jsonl; choose another output")
    assert Path("results/samples.jsonl").read_bytes() == before


def test_what_is_no_evaluation_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    done = invoke(capfd, "report", "empty")
    words = "empty: has no results.json; give the directory of an evaluation that is finished"
    assert (done.status, done.err) == (1, f"error: {words}\n")
    assert not Path("report.html").exists()
