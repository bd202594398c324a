"""The panels of an explanation."""

from __future__ import annotations

import numpy as np
import pytest
from explain_helpers import BOTH, made_up

from autodeco_gguf.explain import plots
from autodeco_gguf.explain.explain import findings


def titles(heads: frozenset[str]) -> list[str]:
    at = made_up()
    return [axes.get_title() for axes in plots.draw(findings(at, heads), at).axes if axes.get_visible()]


def test_a_panel_for_each_question() -> None:
    assert len(titles(BOTH)) == 6
    assert len(titles(frozenset(["temperature"]))) == 5
    assert titles(frozenset(["top_p"])) == ["Where P makes a difference"]


def test_the_panels_show_the_findings() -> None:
    at = made_up()
    found = findings(at, BOTH)
    assert found.temperature is not None
    t = found.temperature
    parts, curve, alignment, _, localized, _ = plots.draw(found, at).axes
    heights = [bar.get_height() for bar in parts.patches]
    assert heights == pytest.approx([t.first_order, -t.penalty, t.remainder, t.gain.value, t.oracle_gain])
    assert [tuple(point) for point in curve.lines[0].get_xydata()] == list(t.constants)
    assert [line.get_ydata()[0] for line in curve.lines[1:]] == [t.heads, t.oracle]
    slopes = alignment.lines[0].get_ydata()
    assert len(slopes) == 10
    assert slopes[-1] > slopes[0], "heads that know where it helps"
    x, y = localized.lines[0].get_data()
    assert y[list(x).index(100 * (t.leverage.half or 0))] >= 50


def test_the_panels_of_the_best_t_and_of_p_show_theirs() -> None:
    at = made_up()
    found = findings(at, BOTH)
    t, p = found.temperature, found.top_p
    assert t is not None
    assert p is not None
    *_, best, _, cuts = plots.draw(found, at).axes
    assert best.get_xticklabels()[0].get_text() == f"≤0.1\n{100 * t.at_lowest:.0f} %"
    middle = np.median(at.temperature[(at.best > 0.9) & (at.best <= 1.1)])
    assert min(abs(float(y) - middle) for line in best.lines for y in line.get_ydata()) < 1e-9
    shares = p.without_breakpoint, p.single, p.smaller, p.larger, p.lost, p.constant_lost
    assert p.smaller != p.larger
    assert [bar.get_width() for bar in cuts.patches] == pytest.approx([100 * share for share in shares])


def test_few_tokens() -> None:
    at = made_up(3)
    assert plots.draw(findings(at, BOTH), at).axes
