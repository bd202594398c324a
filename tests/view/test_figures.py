"""Figures as files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.view.figures import MOST_PANELS, commands_figure, trace_figure, write_png
from autodeco_gguf.view.traces import ReadTrace


def test_a_figure_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    write_png(figure, tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")) == (240, 120)
    (tmp_path / "directory").mkdir()
    with pytest.raises(AutoDecoError, match=r"directory: is no regular file; give another name"):
        write_png(figure, tmp_path / "directory")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "directory"]


def test_traces_as_a_figure() -> None:
    pytest.importorskip("matplotlib")
    tokens = [{"text": "a", "temperature": 0.5, "top_p": 1.0}, {"text": "b"}, {"text": "c", "temperature": 3.0}]
    traces = [ReadTrace(f"costs $1 {i}", tokens=tokens) for i in range(12)]
    figure = trace_figure(traces)
    panels = figure.axes[: len(figure.axes) // 2]
    assert len(panels) == MOST_PANELS == 8
    (line,) = panels[0].lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 3], [0.5, 3.0])
    assert panels[0].get_ylim()[1] > 3.0
    (p,) = figure.axes[MOST_PANELS].lines
    assert (list(p.get_xdata()), list(p.get_ydata())) == ([1], [1.0])
    assert figure.axes[MOST_PANELS].get_ylim()[1] == pytest.approx(1.02)


@pytest.mark.parametrize("title", ["a\udcff", "\ud800", "x" * 10**6], ids=["no UTF-8", "no character", "long"])
def test_a_figure_of_what_files_say(title: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_png(trace_figure([ReadTrace(title, tokens=[{"text": "a", "temperature": 1.79e308}])]), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_figure_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AutoDecoError, match="matplotlib is not installed; pip install matplotlib"):
        trace_figure([ReadTrace("a")])


def test_commands_figure_has_three_lines_a_panel() -> None:
    one = {"temperature": {"plain": [1.0, 2.0], "low": [0.5, 1.0], "high": [1.5, 1.9]}}
    mean = {"temperature": {kind: [1.0] * 4 for kind in one["temperature"]}}
    left, right = commands_figure(one, mean, 7).axes
    assert [line.get_xydata().tolist() for line in left.lines] == [
        [[1, a], [2, b]] for a, b in one["temperature"].values()
    ]
    assert right.lines[0].get_xdata().tolist() == [12.5, 37.5, 62.5, 87.5]
    assert right.get_title() == "7 answers in the mean"
    assert len({line.get_color() for line in left.lines}) == 3


def test_settings_of_matplotlib_that_are_none() -> None:
    pytest.importorskip("matplotlib")
    code = "from autodeco_gguf.view.figures import check_matplotlib; check_matplotlib('; or do without')"
    env = {**os.environ, "MPLBACKEND": "foo"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "AutoDecoError: matplotlib cannot be used: " in last
    assert last.endswith("; or do without")
