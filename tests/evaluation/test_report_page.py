"""An evaluation as a page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import SETTINGS, FakeEngine, run, samples_of

from autodeco_gguf.errors import BadFile
from autodeco_gguf.evaluation import report_page as module
from autodeco_gguf.evaluation.questions import QUESTIONS
from autodeco_gguf.evaluation.report_page import report_page

METHODS = ("autodeco", "greedy", "default")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluated")
    run(path, METHODS, also=["traces"])
    return path


def data_of(content: bytes) -> dict[str, Any]:
    page: dict[str, Any] = json.loads(content.decode().split('id="data">')[1].split("</script>")[0])
    return page


def of_kind(content: bytes, kind: str) -> list[dict[str, Any]]:
    return [section for section in data_of(content)["sections"] if section["kind"] == kind]


def test_every_sample_is_on_it_right_and_wrong(directory: Path) -> None:
    content, shown, total = report_page(directory)
    (section,) = of_kind(content, "samples")
    samples = samples_of(directory)
    assert shown == total == len(samples) == len(section["list"]) == 45
    verdicts = [s["verdict"] for s in section["list"]]
    assert verdicts.count("right") == sum(s["correct"] for s in samples)
    assert verdicts.count("wrong") == sum(not s["correct"] for s in samples) > 0
    assert sorted("".join(s["columns"]["text"]) for s in section["list"]) == sorted(s["text"] for s in samples)
    asked = {f"{task} {i + 1}": f"{task} {i}" for task, n in (("sums", 3), ("words", 2)) for i in range(n)}
    assert section["questions"] == asked
    assert all(s["title"].startswith(s["question"].replace(" ", ", problem ")) for s in section["list"])
    titles = [s["title"] for s in section["list"][:6]]
    assert titles[0] == "sums, problem 1: autodeco, seed 1, sample 1"
    assert titles[4] == "sums, problem 1: greedy, seed 1, sample 1"


def test_it_has_the_tables_and_what_they_say(directory: Path) -> None:
    content, _, _ = report_page(directory)
    page = data_of(content)
    assert page["title"] == "Evaluation of sums, words"
    tables = of_kind(content, "table")
    assert [table["title"] for table in tables] == ["sums, 3 problems", "words, 2 problems", "all tasks, 5 problems"]
    assert [row[0] for row in tables[2]["rows"]] == list(METHODS)
    assert tables[2]["head"][:2] == ["method", "pass@1, %"]
    report = (directory / "report.md").read_text()
    words = [line for section in of_kind(content, "words") for line in section["lines"]]
    assert len(words) > 6
    assert all(line in report for line in words)
    assert all(cell in report for table in tables for row in table["rows"] for cell in row)


def test_samples_that_the_results_are_not_of(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    lines = (tmp_path / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "samples.jsonl").write_bytes(b"".join(lines[:3]))
    with pytest.raises(BadFile, match=r"samples\.jsonl: \d samples of .*, results\.json is of \d+; run the same eval"):
        report_page(tmp_path)


def test_it_has_the_plots_that_are_there(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    assert of_kind(report_page(tmp_path)[0], "plot") == []
    (tmp_path / "pass_at_1.png").write_bytes(b"\x89PNG")
    (plot,) = of_kind(report_page(tmp_path)[0], "plot")
    assert plot == {"kind": "plot", "title": "pass at 1", "src": "data:image/png;base64,iVBORw=="}


def test_samples_of_a_larger_evaluation_are_not_on_it(tmp_path: Path) -> None:
    run(tmp_path, ["autodeco"])
    for settings, ends in (
        (replace(SETTINGS, k=1), {"seed 1, sample 1", "seed 2, sample 1"}),
        (replace(SETTINGS, seeds=1), {"seed 1, sample 1", "seed 1, sample 2"}),
    ):
        run(tmp_path, ["autodeco"], settings)
        content, shown, total = report_page(tmp_path)
        (section,) = of_kind(content, "samples")
        assert (shown, total, len(samples_of(tmp_path))) == (10, 10, 20)
        assert {s["title"].partition("autodeco, ")[2] for s in section["list"]} == ends


def test_methods_that_draw_alike_are_both_named(tmp_path: Path) -> None:
    run(tmp_path, ["default", "static:1,1", "greedy"])
    (section,) = of_kind(report_page(tmp_path)[0], "samples")
    assert {s["method"] for s in section["list"]} == {"default and static:1,1", "greedy"}


def test_samples_without_traces_have_their_means(tmp_path: Path) -> None:
    run(tmp_path, ["autodeco"])
    (section,) = of_kind(report_page(tmp_path)[0], "samples")
    first, line = section["list"][0], samples_of(tmp_path)
    of = next(s for s in line if (s["task"], s["problem"], s["seed"], s["sample"]) == ("sums", 0, 0, 0))
    assert first["text"] == of["text"]
    assert f"{of['tokens']} tokens" in first["about"]
    assert f"mean T {of['temperature']['mean']:.2f}" in first["about"]
    assert "columns" not in first


def test_a_directory_of_an_older_version_says_what_is_missing(directory: Path) -> None:
    kept, before = directory / QUESTIONS, report_page(directory)[0]
    content = kept.read_bytes()
    kept.unlink()
    older = report_page(directory)[0]
    (section,) = of_kind(older, "samples")
    assert (section["questions"], len(section["list"])) == ({}, 45)
    said = [line for part in of_kind(older, "words") for line in part["lines"] if QUESTIONS in line]
    assert said == [
        "An older version made this directory, without problems.jsonl: the same eval again adds what was asked."
    ]
    engine = FakeEngine()
    run(directory, METHODS, engine=engine, also=["traces"])
    assert (engine.drawn, kept.read_bytes()) == ([], content)
    assert report_page(directory)[0] == before


def test_a_question_counts_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 60_000)
    for size, expected in ((30_000, 45), (70_000, 1)):
        monkeypatch.setattr(module, "read_questions", lambda _, size=size: {("sums", 0): "x" * size})
        content, shown, _ = report_page(directory)
        assert (shown, of_kind(content, "samples")[0]["questions"]) == (expected, {"sums 1": "x" * size})


def test_a_large_evaluation_has_the_first_samples_and_says_so(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 5000)
    content, shown, total = report_page(directory)
    assert (shown < 25, total) == (True, 45)
    (section,) = of_kind(content, "samples")
    assert len(section["list"]) == shown
    assert all("seed 1, sample " in s["title"] for s in section["list"])
    assert {s["method"] for s in section["list"]} == set(METHODS)
    words = [line for part in of_kind(content, "words") for line in part["lines"]]
    assert any(line.startswith(f"{shown} of 45 samples are on this page") for line in words)


@pytest.mark.parametrize("text", ["a", "<b>", "你好", "🙂"])
def test_its_bytes_are_counted(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, ["autodeco"])
    path = tmp_path / "samples.jsonl"
    lines = list(map(json.loads, path.read_text().splitlines()))
    path.write_text("".join(json.dumps({**v, "text": text * 1000} if "text" in v else v) + "\n" for v in lines))
    sizes = []
    for most in (1, 20_000):  # one sample, and some
        monkeypatch.setattr(module, "MOST_BYTES", most)
        content, shown, total = report_page(tmp_path)
        sizes.append(len(content))
    assert 1 < shown < total
    assert 8000 < sizes[1] - sizes[0] < 20_000


def test_a_directory_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"has no results\.json; give the directory of an evaluation that is finished"):
        report_page(tmp_path)
    with pytest.raises(BadFile, match=r"nowhere/results\.json: cannot be read: No such file"):
        report_page(tmp_path / "nowhere")
    for content, words in (
        ("{}", "cannot be read as results"),
        ("{", "not JSON"),
        ("[1]", "cannot be read as results"),
    ):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(BadFile, match=words):
            report_page(tmp_path)
