"""The pages show the evaluation that is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
import publish
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "demo/README.md", "docs/evaluation.md"])
def test_tables_are_those_of_the_evaluation(page: str, published: dict[str, Any]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for mark, content in publish.tables(published)[page].items():
        assert f"<!-- {mark} -->\n{content}\n<!-- /{mark} -->" in text


def test_publishing_it_again_changes_nothing(
    published: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, evaluation = tmp_path / "root", tmp_path / "evaluation"
    evaluation.mkdir()
    for name in ("results", "control"):
        (evaluation / f"{name}.json").write_text(json.dumps(published[name]), encoding="utf-8")
    for plot in ("accuracy", "pass_at_1", "pass_at_k", "parameters"):
        (evaluation / f"{plot}.png").write_bytes(plot.encode())
    pages = ["README.md", "demo/README.md", "docs/evaluation.md"]
    for page in pages:
        (root / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, root / page)
    monkeypatch.setattr(publish, "ROOT", root)
    monkeypatch.setattr(publish, "EVALUATION", root / "demo" / "evaluation.json")
    publish.publish(evaluation, seconds=published["seconds"])
    for name in (*pages, "demo/evaluation.json"):
        assert (root / name).read_bytes() == (ROOT / name).read_bytes()
    assert (root / "docs" / "evaluation-pass_at_k.png").read_bytes() == b"pass_at_k"


@pytest.mark.parametrize("marked", ["", "<!-- a -->\nkept\n", "kept\n<!-- /a -->\n"])
def test_a_page_without_its_marks_is_left_as_it_is(marked: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n{marked}", encoding="utf-8")
    with pytest.raises(click.ClickException, match=f"{page}: no place for a: expected <!-- a --> and <!-- /a -->"):
        publish.replace_parts(page, {"a": "new"})
    assert page.read_text(encoding="utf-8") == f"# Page\n{marked}"
