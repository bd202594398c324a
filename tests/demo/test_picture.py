"""The picture of a story."""

from __future__ import annotations

from pathlib import Path

import picture

from autodeco_gguf.tasks.stories import EXAMPLE


def test_a_picture_has_the_prompt_and_fetches_nothing(tmp_path: Path) -> None:
    picture.draw(tmp_path / "trace.svg")
    text = (tmp_path / "trace.svg").read_text(encoding="utf-8").replace("&#160;", " ")
    assert f"&gt; {EXAMPLE}" in text
    assert "@font-face" not in text
    assert "boxed" in text
