"""Puts an evaluation of the demo model into the pages: python demo/publish.py build/demo/evaluation

The directory is that of `autodeco-gguf eval --control`. Its figures go into demo/evaluation.json, README.md,
demo/README.md and docs/evaluation.md, its plots into docs/.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.evaluation.control import ControlResult, control_table
from autodeco_gguf.evaluation.report import table
from autodeco_gguf.evaluation.results import Results

ROOT = Path(__file__).parent.parent
EVALUATION = ROOT / "demo" / "evaluation.json"
SHORT = {
    "autodeco": "AutoDeco",
    "greedy": "greedy",
    "default": "default",
    "mean-shift": "its own mean as constants",
    "shuffle": "its own T and P at other tokens",
    "oracle": "oracle for pass@1",
}
"""Methods of the short table, and how it calls them, besides the static pair with the most distinct right answers."""


def short_table(results: Results) -> str:
    """pass@1, distinct right answers, and mean T and P of some methods, as Markdown."""
    lines = [f"| | pass@1 | distinct correct of {results.settings.k} | mean T | mean P |", "|---|---|---|---|---|"]
    named = [(SHORT[row.name] + row.label.removeprefix(row.name), row) for row in results.methods if row.name in SHORT]
    most = max((row for row in results.methods if row.kind == "constant"), key=lambda row: row.overall.distinct)
    for name, row in (*named, ("most distinct static pair", most)):
        if row.temperature and row.top_p:
            s = row.overall
            passed = f"{s.pass_1:.4f} ± {s.se_problems:.4f}"
            distinct = f"{s.distinct:.2f} ± {s.distinct_se:.2f}"
            lines.append(f"| {name} | {passed} | {distinct} | {row.temperature.mean:.2f} | {row.top_p.mean:.2f} |")
    return "\n".join(lines)


def tables(published: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What stands between which marks of which page."""
    results, control = from_json(Results, published["results"]), from_json(ControlResult, published["control"])
    short = {"demo table": short_table(results)}
    full = f"{table(results)}\n\n**{results.verdict}**"
    return {
        "README.md": short,
        "demo/README.md": short,
        "docs/evaluation.md": {"evaluation": full, "control": control_table(control)},
    }


def publish(directory: Path, **more: Any) -> None:
    """Write the pages; ``more`` goes into evaluation.json as it is."""
    published = {name: json.loads((directory / f"{name}.json").read_text("utf-8")) for name in ("results", "control")}
    EVALUATION.write_text(json.dumps({**published, **more}, indent=1) + "\n", encoding="utf-8")
    for name, parts in tables(published).items():
        replace_parts(ROOT / name, parts)
    for plot in ("accuracy", "pass_at_1", "pass_at_k", "parameters"):
        shutil.copyfile(directory / f"{plot}.png", ROOT / "docs" / f"evaluation-{plot}.png")


def replace_parts(page: Path, parts: Mapping[str, str]) -> None:
    """Put texts between their marks on a page; raises ClickException where one is missing."""
    text = page.read_text(encoding="utf-8")
    for mark, content in parts.items():
        before, begin, rest = text.partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition(f"<!-- /{mark} -->\n")
        if not end:
            raise click.ClickException(f"{page}: no place for {mark}: expected <!-- {mark} --> and <!-- /{mark} -->")
        text = f"{before}{begin}{content}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
def main(directory: Path) -> None:
    """Put the evaluation in DIRECTORY into the pages."""
    kept = json.loads(EVALUATION.read_text(encoding="utf-8")) if EVALUATION.exists() else {}
    publish(directory, **{key: kept[key] for key in ("seconds",) if key in kept})


if __name__ == "__main__":
    main()
