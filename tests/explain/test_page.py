"""The tables of an explanation, and its page."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from explain_helpers import BOTH, made_up

from autodeco_gguf.explain.explain import findings
from autodeco_gguf.explain.findings import Estimate
from autodeco_gguf.explain.page import render, tables

FOUND = findings(made_up(), BOTH)


def test_tables_name_the_figures_of_the_findings() -> None:
    (first, temperature), (second, top_p) = tables(FOUND)
    assert (first[:11], second[:5]) == ("Temperature", "Top-p")
    t, p = FOUND.temperature, FOUND.top_p
    assert t is not None
    assert p is not None
    values = {name: value for name, value, _ in (*temperature, *top_p[:6])}
    assert values["gain of the heads"] == f"{t.gain.value:+.4f} ± {t.gain.se:.4f}"
    assert values["curvature"] == f"{-t.penalty:+.4f}"
    assert values["leverage"] == f"{100 * (t.leverage.half or 0):.1f} %, {100 * (t.leverage.ninety or 0):.1f} %"
    assert values["no breakpoint"] == f"{100 * p.without_breakpoint:.1f} %"
    assert all(what for _, _, what in (*temperature, *top_p))
    shares = f"{100 * p.smaller:.1f} %, {100 * p.larger:.1f} %"
    assert top_p[1] == ("smaller, larger", shares, "of tokens"), "and not of those that are changed"


def test_each_row_has_a_figure_of_its_own() -> None:
    """Where two findings are near each other: told apart here."""
    t, p = FOUND.temperature, FOUND.top_p
    assert t is not None
    assert p is not None
    t = replace(t, at_lowest=0.11, at_highest=0.12, share=0.13, share_over_best=0.14, gain_over_best=Estimate(5, 1, 9))
    p = replace(p, lost=0.15, constant_lost=0.16, single=0.17, share=0.18, gain=Estimate(6, 1, 9))
    (_, temperature), (_, top_p) = tables(replace(FOUND, temperature=t, top_p=p))
    of_t, of_p = ({name: value for name, value, _ in rows} for rows in (temperature, top_p))
    assert [of_t[f"best T is the {end}"] for end in ("lowest", "highest")] == ["11.0 %", "12.0 %"]
    assert [of_t[f"share {what}"] for what in ("reached", "over the best single T")] == ["13.0 %", "14.0 %"]
    assert of_t["gain over the best single T"] == "+5.0000 ± 1.0000"
    assert [of_p[name] for name in ("right token lost", "by the constant")] == ["15.0 %", "16.0 %"]
    assert [of_p[name] for name in ("one token left", "share reached")] == ["17.0 %", "18.0 %"]
    assert of_p["gain where kept"] == "+6.0000 ± 1.0000"


def test_the_page_has_verdict_plot_and_tables() -> None:
    content = render(FOUND, ["Model: m.gguf."], b"\x89PNG").decode()
    data = json.loads(re.findall(r'id="data">(.*?)</script>', content)[0].replace("\\u003c", "<"))
    assert [s["kind"] for s in data["sections"]] == ["words", "plot", "words", "table", "table"]
    assert data["sections"][0]["lines"] == ["Model: m.gguf.", *FOUND.verdict.split("\n")]
    without = render(findings(made_up(), frozenset(["top_p"])), [], None).decode()
    kinds = re.findall(r'"kind":"(\w+)"', without)
    assert kinds == ["words", "table"]
    one = render(findings(made_up(), frozenset(["top_p"])), [], b"\x89PNG").decode()
    assert re.findall(r'"kind":"(\w+)"', one) == ["words", "plot", "table"], "of one panel nothing is to be told apart"
