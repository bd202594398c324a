"""The plots of results of hand-made samples."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hand_made import AUTODECO, GREEDY, ORACLE, about, hand_made, make, sample
from matplotlib.colors import to_hex

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.evaluation import plots
from autodeco_gguf.evaluation.methods import HELP, Method, config_of
from autodeco_gguf.evaluation.results import Results
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.evaluation.summary import summarize


def sampled(tasks: Sequence[str] = ("t",), heads: bool = True) -> Results:
    """Results with a line of constants at P = 1, which fewer problems have at T = 2."""
    samples, methods = [], [GREEDY, ORACLE, Method("mirostat2", "peer", config_of("mirostat2"))]
    for task in tasks:
        line = [
            {**make(f"static:{t},1", p, 0, 0, "a" if t < 1.5 else None), "task": task} for t in (1, 1.5) for p in (0, 1)
        ]
        samples += [{**s, "task": task} for s in hand_made() if s["config"] != "static:0.5,1"]
        samples += [*line, {**make("static:2,1", 0, 0, 0, "a"), "task": task}]
        for config in ("static:0.1,0.2", "mirostat2"):
            samples += [{**make(config, i // 4, i // 2 % 2, i % 2, "a"), "task": task} for i in range(8)]
    settings = EvalSettings(tasks=tuple(tasks), k=2, seeds=2)
    return summarize(map(sample, samples), [AUTODECO, *methods] if heads else methods, settings, {})


def size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 5000
    return struct.unpack(">II", content[16:24])


def figures(results: Results, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be written."""
    found = {}

    def keep(figure: Any, path: Path) -> None:
        found[path.name] = figure

    with monkeypatch.context() as patch:
        patch.setattr(plots, "write_png", keep)
        plots.plot(results, Path())
    return found


def test_three_plots(tmp_path: Path) -> None:
    written = plots.plot(sampled(), tmp_path)
    assert written == [tmp_path / name for name in ("accuracy.png", "pass_at_1.png", "pass_at_k.png", "parameters.png")]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert [size(path) for path in written] == [(744, 432), (900, 309), (1320, 504), (768, 456)]


def test_nothing_predicted_has_no_box_plot(tmp_path: Path) -> None:
    """And one that is there, of samples with heads, goes."""
    (tmp_path / "parameters.png").write_bytes(b"older")
    written = plots.plot(sampled(heads=False), tmp_path)
    assert [path.name for path in written] == ["accuracy.png", "pass_at_1.png", "pass_at_k.png"]
    assert sorted(tmp_path.iterdir()) == sorted(written)


def test_accuracy_has_the_line_and_autodeco_across(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = figures(sampled(), monkeypatch)["accuracy.png"].axes[0]
    lines = {
        line.get_label(): line.get_xydata().tolist() for line in axes.lines if not line.get_label().startswith("_")
    }
    assert lines["constant T, P = 1"] == [[0, 50], [1, 100], [1.5, 0]], "T = 2 has not all problems"
    assert [y for _, y in lines["AutoDeco"]] == [37.5, 37.5]
    points = {text.get_text() for text in axes.figure.legends[0].get_texts()}
    assert points == {"constant T, P = 1", "AutoDeco", "greedy", "oracle: T = 0.1, P = 0.2"}
    assert (axes.get_title(), axes.get_xlabel()) == ("t, 2 problems", "temperature")


def test_six_tasks_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [f"task {i}" for i in range(8)]
    drawn = figures(sampled(tasks), monkeypatch)
    assert [axes.get_title() for axes in drawn["accuracy.png"].axes] == [f"{task}, 2 problems" for task in tasks[:6]]
    assert drawn["accuracy.png"].get_supxlabel() == "the first 6 of 8 tasks; report.md has all"
    assert [label.get_text() for label in drawn["parameters.png"].axes[0].get_xticklabels()] == tasks


def test_a_task_named_like_a_formula_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that would be a broken formula can be drawn."""
    results = sampled([r"a $\frac$"])
    drawn = figures(results, monkeypatch)
    assert drawn["accuracy.png"].axes[0].get_title() == r"a \$\frac\$, 2 problems"
    assert drawn["parameters.png"].axes[0].get_xticklabels()[0].get_text() == r"a \$\frac\$"
    assert len(plots.plot(results, tmp_path)) == 4


def test_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figures(sampled(), monkeypatch)["pass_at_k.png"]
    left, right = figure.axes
    assert figure.get_supxlabel() == ""
    curves = {line.get_label(): line.get_xydata().tolist() for line in left.lines}
    assert list(curves) == ["autodeco", "greedy", "oracle: T = 0.1, P = 0.2", "mirostat2"]
    assert curves["autodeco"] == [[1, 37.5], [2, about(50)], [4, about(50)]]
    assert right.lines[0].get_xydata().tolist() == [[1, 0.375], [2, about(2 / 3)], [4, about(1)]]
    assert len({(line.get_color(), line.get_marker()) for line in left.lines}) == 4


def test_a_bar_for_each_method_with_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    results = sampled()
    axes = figures(results, monkeypatch)["pass_at_1.png"].axes[0]
    names = ["autodeco", "greedy", "oracle: T = 0.1, P = 0.2", "mirostat2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert [bar.get_width() for bar in axes.patches] == [37.5, 50, 100, 100]
    ends = [[float(x) for x, _ in c.get_segments()[0]] for c in axes.collections]
    se = results.methods[0].overall.se_problems
    assert se is not None
    assert ends == [
        [about(max(0, 37.5 - 196 * se)), about(min(100, 37.5 + 196 * se))],
        [0, 100],
        [100, 100],
        [100, 100],
    ]


def test_a_method_has_one_color_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all plots of an evaluation, and whatever it is compared with."""
    drawn = figures(sampled(), monkeypatch)
    left, right = drawn["pass_at_k.png"].axes
    curves = [line.get_color() for line in left.lines]
    assert [line.get_color() for line in right.lines] == curves
    assert [to_hex(bar.get_facecolor()).upper() for bar in drawn["pass_at_1.png"].axes[0].patches] == curves
    points = {c.get_label(): c.lines[0].get_color() for c in drawn["accuracy.png"].axes[0].containers}
    assert points == {"greedy": curves[1], "oracle: T = 0.1, P = 0.2": curves[2]}
    boxes = {line.get_color() for axes in drawn["parameters.png"].axes for line in axes.lines if len(line.get_xdata())}
    assert boxes == {curves[0]}
    alone = replace(sampled(), methods=sampled().methods[2:])
    fewer, _ = figures(alone, monkeypatch)["pass_at_k.png"].axes
    assert [line.get_color() for line in fewer.lines] == curves[2:]


def test_every_method_has_a_color_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    row, names = sampled().methods[-1], [n.partition("[")[0] for n in HELP if n not in ("all", "static:T,P")]
    names += [f"static:{i},1" for i in range(5)]
    results = replace(sampled(), methods=tuple(replace(row, name=name) for name in names))
    bars = figures(results, monkeypatch)["pass_at_1.png"].axes[0].patches
    assert len({bar.get_facecolor() for bar in bars}) == len(names) == 23


def test_whole_numbers_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    left, _ = figures(sampled(), monkeypatch)["pass_at_k.png"].axes
    assert left.get_xticks().tolist() == [1, 2, 4]


def test_eight_curves_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    results = sampled()
    peers = [replace(results.methods[-1], name=f"peer {i}") for i in range(9)]
    results = replace(results, methods=(*peers, *results.methods))
    figure = figures(results, monkeypatch)["pass_at_k.png"]
    left, _ = figure.axes
    assert figure.get_supxlabel() == "the first 8 of 13 methods; report.md has all"
    names = ["autodeco", "greedy", "oracle: T = 0.1, P = 0.2", *(f"peer {i}" for i in range(5))]
    assert [line.get_label() for line in left.lines] == names
    assert len({line.get_color() for line in left.lines}) == 8


def test_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    temperature, top_p = figures(sampled(), monkeypatch)["parameters.png"].axes
    levels = {round(float(y), 5) for line in temperature.lines for y in line.get_ydata()}
    assert levels == {0.5, 0.5375, 0.9625, 0.98125, 1.0}
    assert (temperature.get_ylabel(), top_p.get_ylabel()) == ("predicted temperature, T", "predicted top-p, P")


def test_plots_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        AutoDecoError, match=r'^matplotlib is not installed; pip install matplotlib, or in .*"\.\[eval\]"$'
    ):
        plots.plot(sampled(), tmp_path)
    assert list(tmp_path.iterdir()) == []
