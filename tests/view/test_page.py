"""The self-contained page, opened from disk in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from page_helpers import STORY, Watched, token

from autodeco_gguf.errors import BadFile, InvalidInput
from autodeco_gguf.view.figures import write_png
from autodeco_gguf.view.page import STATIC, columns, page, picture, trace_page, within, write_page
from autodeco_gguf.view.traces import ReadTrace

HOSTILE = "</script><script>window.x=1</script><img src=x onerror=window.x=1><!-- \ud800 \u2028"


def png_of(directory: Path) -> bytes:
    figures = pytest.importorskip("matplotlib.figure")
    write_png(figures.Figure(figsize=(1, 1)), directory / "a.png")
    return (directory / "a.png").read_bytes()


def test_a_trace_opened_from_disk(watched: Watched, tmp_path: Path) -> None:
    trace = ReadTrace("first", prompt="Tell", tokens=STORY, about=["seed 7"])
    path = tmp_path / "page.html"
    path.write_bytes(trace_page("my traces", [trace, ReadTrace("second", text="a text alone")], left_out=1234))
    page = watched.open(path.as_uri())
    assert page.title() == page.locator("h1").inner_text() == "my traces"
    assert page.locator("h2").all_text_contents() == ["first", "second"]
    assert "1,234 more traces were left out" in page.locator("main").inner_text()
    answer = page.locator(".answer").first
    assert "".join(answer.locator(".tok").all_text_contents()) == "Near the café 🙂."
    assert page.locator(".about").all_text_contents() == ["5 tokens · mean T 0.77 · mean P 0.61 · seed 7", ""]
    answer.locator(".tok").first.hover()
    values = dict(zip(*(page.locator(f".tip {t}").all_text_contents() for t in ("dt", "dd")), strict=True))
    assert (values["T"], values["P"], values["by the model alone"]) == ("0.297", "0.823", "0.607")
    assert page.locator(".tip tbody tr").count() == 3
    assert not page.locator(".answer").nth(1).locator(".chart").is_visible()
    page.get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    page.get_by_role("button", name="Dark or light").click()
    assert watched.asked == [path.as_uri()]


def test_nothing_in_it_runs(watched: Watched, tmp_path: Path) -> None:
    trace = ReadTrace(HOSTILE, prompt=HOSTILE, tokens=[token(HOSTILE)], about=[HOSTILE])
    path = tmp_path / "page.html"
    path.write_bytes(trace_page(HOSTILE, [trace]))
    page = watched.open(path.as_uri())
    assert page.locator(".tok").inner_text() == HOSTILE
    assert page.evaluate("window.x") is None
    assert page.locator("img").count() == 0
    assert watched.asked == [path.as_uri()]
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.x = 1'}))"
    )
    assert page.evaluate("window.x") is None  # by the policy
    assert len(watched.said) == 1
    watched.said.clear()


def test_its_own_script_and_style_alone_are_allowed() -> None:
    """As the policy says it, where there is no browser too."""
    text = trace_page(HOSTILE, [ReadTrace(HOSTILE, text=HOSTILE)]).decode()
    style, script = (re.findall(tag, text, re.S) for tag in ("<style>(.*?)</style>", '"module">(.*?)</script>'))
    digests = [base64.b64encode(hashlib.sha256(x.encode()).digest()).decode() for (x,) in (script, style)]
    policy = "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:".format(*digests)
    assert text.partition("<title>")[0].count(f'<meta http-equiv="Content-Security-Policy" content="{policy}">') == 1


def test_sections_of_all_kinds(watched: Watched, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    samples = [
        {
            "title": f"sums, problem {i}", "question": f"sums {i}",
            "method": "greedy" if i % 2 else "autodeco", "task": "my  sums",
            "verdict": ("right", "wrong", "not graded")[i % 3], "about": [],
            **({"text": "text"} if i % 2 else {"columns": columns(STORY)}),
        }
        for i in range(50)
    ]  # fmt: skip
    content = page(
        "all", [
            {"kind": "words", "lines": ["one", "two"]},
            {"kind": "table", "title": "numbers", "head": ["method", "pass@1"], "rows": [["greedy", "50"], ["x", "1"]]},
            {"kind": "plot", "title": "a plot", "src": picture(png_of(tmp_path))},
            {"kind": "samples", "questions": {"sums 1": "What is 1 + 1?"}, "list": samples},
        ]
    )  # fmt: skip
    path = tmp_path / "page.html"
    path.write_bytes(content)
    shown = watched.open(path.as_uri(), viewport={"width": 360, "height": 700})
    assert shown.locator("td").all_text_contents() == ["greedy", "50", "x", "1"]
    assert shown.locator("img").evaluate("image => image.naturalWidth") == 120
    assert shown.locator(".sample").count() == 20
    assert shown.locator(".sample").nth(1).locator(".prompt").all_text_contents() == ["What is 1 + 1?"]
    assert shown.locator(".prompt").count() == 1
    marks = "all => all.map(e => getComputedStyle(e, '::before').content)"
    assert shown.locator("h3").evaluate_all(marks)[:3] == ['"✓ right"', '"✗ wrong"', '"? not graded"']
    shown.get_by_role("button", name="More").click()
    assert shown.locator(".sample").count() == 40
    shown.get_by_label("verdict").select_option("wrong")
    shown.get_by_label("method").select_option("greedy")
    shown.get_by_label("task").select_option(index=1)
    count = sum(s["verdict"] == "wrong" and s["method"] == "greedy" for s in samples)
    assert shown.locator(".sample").count() == count
    assert f"{count} of 50 samples" in shown.locator("main").inner_text()
    found = Axe().run(shown).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_table_is_whole_where_there_is_room(watched: Watched, tmp_path: Path) -> None:
    """As that of several tasks with several seeds, the widest of an evaluation."""
    path, n = tmp_path / "page.html", 9
    table = {"kind": "table", "title": "all tasks", "head": ["pass@1 \u00b1 sd over seeds"] * n, "rows": [["50"] * n]}
    path.write_bytes(page("wide", [table]))
    for width, whole in ((1920, True), (900, False)):
        shown = watched.open(path.as_uri(), viewport={"width": width, "height": 700})
        assert shown.locator(".wide").evaluate("wide => wide.scrollWidth == wide.clientWidth") == whole
        assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_what_a_page_can_bear(watched: Watched, tmp_path: Path) -> None:
    """Marks without end in one token; and what cannot be shown takes nothing else with it."""
    marks = {"text": "<think></think>" * 5000 + "so", "temperature": 0.5}
    trace = {"kind": "trace", "title": "marks", "about": [], "columns": columns([marks])}
    broken = {"kind": "table", "title": "no table", "head": ["a"], "rows": None}
    path = tmp_path / "page.html"
    path.write_bytes(page("odd", [broken, trace]))
    shown = watched.open(path.as_uri())
    assert shown.locator("details.think").count() == 5000
    assert shown.locator(".tokens > .tok").all_text_contents()[-1] == "so"
    assert "This part cannot be shown" in shown.locator("section").first.inner_text()


def test_charts_are_laid_out_together(watched: Watched, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(trace_page("many", [ReadTrace(f"answer {i}", tokens=STORY) for i in range(100)]))
    shown = watched.open(path.as_uri(), viewport={"width": 1000, "height": 700})
    session = shown.context.new_cdp_session(shown)
    session.send("Performance.enable")
    for width in (1000, 700):
        shown.set_viewport_size({"width": width, "height": 700})
        drawn = "all => all.filter(e => e.querySelector('.t') && e.clientWidth == e.firstChild.clientWidth).length"
        assert shown.locator(".chart").evaluate_all(drawn) == 100
    metrics = session.send("Performance.getMetrics")["metrics"]
    assert next(m["value"] for m in metrics if m["name"] == "LayoutCount") < 50


def test_a_large_temperature_fits_beside_its_chart(watched: Watched, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(trace_page("hot", [ReadTrace("hot", tokens=[token("a", t), token("b")]) for t in (1, 150, 1e6)]))
    shown = watched.open(path.as_uri(), viewport={"width": 360, "height": 700})
    shown.locator(".chart .t").last.wait_for(state="attached")
    labels = shown.locator(".chart text").evaluate_all("all => all.map(t => [t.textContent, t.getBBox().x])")
    assert {"2.0", "150.0", "1000000.0"} <= {text for text, _ in labels}
    assert min(x for _, x in labels) >= 0


def test_lines_and_sections_are_more_than_arguments_of_a_call(watched: Watched, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    lines = {"kind": "trace", "title": "lines", "about": [], "text": "\n" * 80_000}
    words = {"kind": "words", "lines": []}
    for sections, mark, count in (([lines], ".end", 80_000), ([words] * 130_000, "section", 130_000)):
        path.write_bytes(page("many", sections))
        shown = watched.open(path.as_uri())
        assert shown.evaluate("mark => document.querySelectorAll(mark).length", mark) == count


def test_answers_of_a_chat(tmp_path: Path) -> None:
    answers = [[{"prompt": "Tell", "ids": [1]}, *STORY, {"summary": {"seed": 7}}], [{"prompt": "And", "ids": [2]}]]
    write_page(tmp_path / "chat.html", answers)
    text = (tmp_path / "chat.html").read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["title"] == "chat"
    first, second = data["sections"]
    assert (first["title"], first["prompt"], first["about"]) == ("Answer 1", "Tell", ["seed 7"])
    assert first["columns"]["text"][0] == "Near"
    assert (second["title"], second["prompt"], second["text"]) == ("Answer 2", "And", "")
    with pytest.raises(InvalidInput, match="no token with a text"):
        write_page(tmp_path / "no.html", [[{"tokens": [7]}]])
    with pytest.raises(BadFile, match=r"no such directory|cannot be written"):
        write_page(tmp_path / "no" / "chat.html", answers)


@pytest.mark.parametrize("text", ["a", "<b>", "你好", "🙂", "\ud800", "\n"])
def test_a_page_is_as_large_as_it_may_be(text: str) -> None:
    """Whatever its bytes are for; and tokens count as the columns that are written."""
    frame = len(trace_page("", []))
    for trace in (ReadTrace("a", "Tell", text=text * 500), ReadTrace("a", tokens=[token(text, alternatives=STORY)])):
        found = list(within([trace] * 99, 50_000))
        assert 50_000 - 4000 < len(trace_page("", found)) - frame <= 50_000 + len(found)
    assert len(trace_page("", [ReadTrace("a", text="你" * 1000)])) < frame + 3100


def test_columns_have_what_some_tokens_have() -> None:
    found = columns([{"text": "a", "prob": 0.123456789}, {"text": "b", "alternatives": [{"text": "c", "prob": 1 / 3}]}])
    assert found == {
        "text": ["a", "b"], "prob": [0.123457, None], "alternatives": [None, [{"text": "c", "prob": 0.333333}]],
    }  # fmt: skip
    assert columns([]) == {"text": []}


def test_what_is_no_number_does_not_get_into_a_page() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        page("x", [{"kind": "words", "lines": [float("nan")]}])


def test_what_page_takes_out_of_modules_stands_on_a_line() -> None:
    for file in STATIC.glob("*.js"):
        text = file.read_text(encoding="utf-8")
        assert re.findall(r"^[ \t]+(?:import|export) ", text, re.M) == [], file
        assert all(line.endswith(";") for line in text.splitlines() if line.startswith("import ")), file


def test_the_served_page_has_nothing_inline() -> None:
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<style|style=|\son\w+=|<script(?![^>]* src=)|https?:", text) == []
    assert all((STATIC / name).is_file() for name in re.findall(r'(?:src|href)="([^"]+)"', text))
    for file in STATIC.glob("*.js"):
        script = file.read_text(encoding="utf-8")
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script) == []
    assert sum(file.read_text(encoding="utf-8").count("\n") for file in STATIC.glob("*.js")) < 950
