"""The paper's figures with a model of one's own, each by one command.

    python benchmarks/figures.py mask -o mask.png                     # figure 2: the soft cut against the hard one
    python benchmarks/figures.py sweep -o sweep MODEL --task TASK     # figure 3: T, then P at the best T, and AutoDeco
    python benchmarks/figures.py ablation -o ablation MODEL --task TASK     # accuracy of each head alone, over seeds
    autodeco-gguf eval MODEL --task TASK --control --methods autodeco -k 1 --seeds 1 -o control  # figure 4: control.png

What follows MODEL goes to `autodeco-gguf eval`: --heads, --limit, -k, --seeds and all others. It is continued after an
interruption by the same command. Without MODEL it is the demo model. The table of efficiency: efficiency.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from autodeco_gguf.errors import BadFile
from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.evaluation.results import GridRow, Results
from autodeco_gguf.evaluation.samples import Sample
from autodeco_gguf.evaluation.settings import EvalSettings
from autodeco_gguf.evaluation.shards import read_samples
from autodeco_gguf.files.reading import read_json
from autodeco_gguf.view.figures import write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHAS = (5, 10, 30, 100)
"""Steepness of the soft mask; the paper trains with 30."""

TEMPERATURES = tuple(round(0.1 * i, 1) for i in range(1, 16))
TOP_PS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)

ABLATION = {
    "default": "T = 1, P = 1",
    "autodeco:temperature": "T alone",
    "autodeco:top_p": "P alone",
    "autodeco": "both",
}
"""The methods, and how the figure calls them."""
_OURS, _GREY = "#0072B2", "#777777"

Seeds = Mapping[str, Sequence[float]]
"""The share of right answers of each seed, by method."""


def figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


# ---- figure 2 ----


def masks(probs: np.ndarray, top_p: float, alphas: Iterable[float] = ALPHAS) -> dict[str, np.ndarray]:
    """What the masks, the hard one last, leave of each token, most likely first; by name, not normalized."""
    import torch

    from autodeco_gguf.training.losses import soft_mask

    cumulative = torch.from_numpy(probs.cumsum())[None]
    found = {f"alpha = {a:g}": soft_mask(cumulative, torch.tensor([top_p]), a)[0].numpy() for a in alphas}
    before = np.concatenate([[0.0], probs.cumsum()[:-1]])
    return {**found, "hard cut": (before < top_p).astype(float)}


def mask_figure(top_p: float, n: int = 20) -> Figure:
    """Masks over a vocabulary whose probabilities fall by Zipf's law, and the distributions that they leave."""
    probs = 1.0 / np.arange(1, n + 1)
    probs /= probs.sum()
    drawn = figure(10, 3.8)
    left, right = drawn.subplots(1, 2)
    shades = np.linspace(0.75, 0.1, len(ALPHAS))
    right.bar(range(1, n + 1), probs, color="#DDDDDD", label="no cut")
    for place, (name, mask) in enumerate(masks(probs, top_p).items()):
        hard = name == "hard cut"
        style = {"color": "#D55E00" if hard else str(shades[place]), "linewidth": 2 if hard else 1.2}
        kept = probs * mask / (probs * mask).sum()
        for axes, values in ((left, mask), (right, kept)):
            axes.step(range(1, n + 1), values, where="mid", label=name, linestyle="--" if hard else "-", **style)
    left.set_ylabel("mask")
    right.set_ylabel("probability")
    for axes in (left, right):
        axes.set_xlabel("tokens, most likely first")
        axes.set_xticks(range(0, n + 1, 5))
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    left.set_title(f"soft masks at P = {top_p:g}", fontsize="medium")
    right.set_title("what is drawn from", fontsize="medium")
    return drawn


# ---- figure 3 ----


def line(results: Results, *, temperature: float | None = None) -> list[GridRow]:
    """The static pairs on all problems with P = 1 by T, or with this T by P."""
    problems = sum(results.tasks.values())
    rows = [row for row in results.grid if row.problems == problems]
    if temperature is None:
        return sorted((row for row in rows if row.top_p == 1), key=lambda row: row.temperature)
    return sorted((row for row in rows if row.temperature == temperature), key=lambda row: row.top_p)


def best_temperature(results: Results) -> float:
    """The T with the most right answers at P = 1; of equal ones the highest, which varies most."""
    return max(line(results), key=lambda row: (row.pass_1, row.temperature)).temperature


def sweep_figure(results: Results) -> Figure:
    """T at P = 1, then P at the best T, with AutoDeco's line across both."""
    best = best_temperature(results)
    ours = next(row.overall for row in results.methods if row.name == "autodeco")
    drawn = figure(10, 3.8)
    panels = drawn.subplots(1, 2, sharey=True)
    halves = (
        (line(results), "temperature", "T, with P = 1"),
        (line(results, temperature=best), "top_p", f"P, with T = {best:g}"),
    )
    for axes, (rows, name, label) in zip(panels, halves, strict=True):
        x, y = [getattr(row, name) for row in rows], [100 * row.pass_1 for row in rows]
        axes.errorbar(x, y, yerr=[100 * (row.se or 0) for row in rows], color=_GREY, marker=".", label="constant")
        value, error = 100 * ours.pass_1, 100 * (ours.se_problems or 0)
        axes.axhline(value, color=_OURS, label="AutoDeco", zorder=3)
        axes.axhspan(value - error, value + error, color=_OURS, alpha=0.2, linewidth=0)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("pass@1 ± standard error over problems, %")
    panels[0].legend(fontsize="small")
    return drawn


# ---- the ablation ----


def by_seed(samples: Iterable[Sample], settings: EvalSettings) -> dict[str, list[float]]:
    """The share of right answers of each seed, by the key of the config; of those that the settings ask for."""
    found: dict[str, dict[int, list[bool]]] = {}
    for sample in samples:
        if sample.correct is not None and settings.covers(sample.seed, sample.sample):
            found.setdefault(sample.config.key, {}).setdefault(sample.seed, []).append(sample.correct)
    return {key: [float(np.mean(seeds[seed])) for seed in sorted(seeds)] for key, seeds in found.items()}


def ablation_figure(accuracy: Seeds) -> Figure:
    """A box for each method, with a point for each seed."""
    drawn = figure(1.5 * len(accuracy) + 1.4, 3.8)
    axes = drawn.subplots()
    values = [[100 * value for value in seeds] for seeds in accuracy.values()]
    axes.boxplot(values, widths=0.5, showfliers=False, medianprops={"color": _OURS, "linewidth": 2})
    for place, seeds in enumerate(values, 1):
        axes.plot([place] * len(seeds), seeds, ".", color=_GREY, alpha=0.7)
    axes.set_xticks(range(1, len(values) + 1), [ABLATION.get(name, name) for name in accuracy])
    axes.set_ylabel("pass@1 of a seed, %")
    axes.set_title(f"{max(map(len, values))} seeds", fontsize="medium")
    axes.grid(axis="y", alpha=0.3)
    return drawn


# ---- commands ----


def evaluate(output: Path, arguments: Sequence[str], methods: Iterable[str]) -> Results:
    """`autodeco-gguf eval` with these methods and the arguments of one's own; BadFile where it is not finished."""
    from autodeco_gguf.cli import cli

    args = ["eval", *arguments, "--methods", ",".join(methods), "-o", str(output), "--no-plots"]
    cli.main(args, standalone_mode=False)
    path = output / "results.json"
    results = from_json(Results, read_json(path)) if path.exists() else None
    if results is None or results.unfinished:
        raise BadFile.of(output, "not every method is complete; the same command goes on from there")
    return results


@click.group(help=__doc__)
def main() -> None:
    """See above."""


passes_on = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
output_option = click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
arguments = click.argument("arguments", nargs=-1, type=click.UNPROCESSED)


@main.command()
@output_option
@click.option("--top-p", type=click.FloatRange(0, 1), default=0.8, show_default=True)
def mask(output: Path, top_p: float) -> None:
    """Figure 2: the soft mask as alpha grows, against the hard cut; OUTPUT is a PNG."""
    write_png(mask_figure(top_p), output)


@main.command(context_settings=passes_on)
@output_option
@arguments
def sweep(output: Path, arguments: tuple[str, ...]) -> None:
    """Figure 3: T swept at P = 1, then P at the best T, with AutoDeco's line; OUTPUT is a directory."""
    first = ["autodeco", *(f"static:{t:g},1" for t in TEMPERATURES)]
    best = best_temperature(evaluate(output, arguments, first))
    results = evaluate(output, arguments, [*first, *(f"static:{best:g},{p:g}" for p in TOP_PS if p < 1)])
    write_png(sweep_figure(results), output / "sweep.png")


@main.command(context_settings=passes_on)
@output_option
@arguments
def ablation(output: Path, arguments: tuple[str, ...]) -> None:
    """Accuracy over seeds: T = 1 and P = 1, each head alone, both; OUTPUT is a directory."""
    results = evaluate(output, arguments, ABLATION)
    found = by_seed((sample for _, _, sample in read_samples([output])), results.settings)
    keys = {row.name: row.config.key for row in results.methods}
    write_png(ablation_figure({name: found[keys[name]] for name in ABLATION}), output / "ablation.png")


if __name__ == "__main__":
    from autodeco_gguf.cli import run_command

    run_command(main)
