"""Figures as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.view.figures import write_png


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
