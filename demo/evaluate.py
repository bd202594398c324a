"""Measures the demo model on held-out prompts: python demo/evaluate.py model.gguf -o evaluation.json

Sixteen stories a prompt: how many are right, and how many different right ones there are. AutoDeco against greedy and
default sampling, its own mean T and P as constants, and every static pair of a grid of 0.1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from autodeco_gguf import stories
from autodeco_gguf.engine import Engine, Request

K = 16
N_CTX = 160
TEMPERATURES = tuple(round(0.1 * i, 1) for i in range(1, 21))
TOP_PS = tuple(round(0.1 * i, 1) for i in range(1, 11))
COARSE_PROMPTS = 8
FINALISTS = 8


@dataclass(frozen=True)
class Score:
    """How one way to decode does: means over prompts, with standard errors.

    ``temperature`` and ``top_p`` are None where predicted; ``distinct`` counts the different right stories of K.
    """

    name: str
    temperature: float | None
    top_p: float | None
    prompts: int
    pass_at_1: float
    pass_at_1_se: float
    distinct: float
    distinct_se: float
    mean_temperature: float
    mean_top_p: float


def make_engine(model: Path, n_threads: int | None = None) -> Engine:
    """An engine for many short stories."""
    return Engine(model, n_parallel=64, n_ctx=N_CTX, n_threads=n_threads)


def score(
    engine: Engine,
    problems: Sequence[stories.Problem],
    name: str,
    temperature: float | None = None,
    top_p: float | None = None,
    *,
    k: int = K,
    seed: int = 0,
) -> Score:
    """Sample k stories of every problem and check them."""
    prompts = [engine.prompt(p.prompt)[1] for p in problems]
    requests = (
        Request(tokens, seed=(seed * 100_003 + i) * 1009 + j, temperature=temperature, top_p=top_p)
        for i, tokens in enumerate(prompts)
        for j in range(k)
    )
    right: list[list[str]] = [[] for _ in problems]
    means = []
    for result in engine.generate(requests):
        i = result.index // k
        if stories.check(result.text, problems[i].answer):
            right[i].append(result.text.strip())
        means.append((result.temperature.mean(), result.top_p.mean()))
    passed = np.array([len(texts) / k for texts in right])
    distinct = np.array([len(set(texts)) for texts in right], float)
    t, p = np.mean(means, axis=0).tolist()
    return Score(name, temperature, top_p, len(problems), *_mean(passed), *_mean(distinct), t, p)


def _mean(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


class Scorer:
    """Scores ways to decode one model, and keeps them in a file: an interrupted evaluation goes on from there."""

    def __init__(self, engine: Engine, kept: Path | None) -> None:
        self._engine, self._kept = engine, kept
        lines = kept.read_text(encoding="utf-8").splitlines() if kept is not None and kept.exists() else []
        self._scores = {key: Score(**values) for key, values in map(json.loads, lines)}

    def __call__(
        self,
        problems: Sequence[stories.Problem],
        name: str,
        temperature: float | None = None,
        top_p: float | None = None,
        *,
        seed: int,
    ) -> Score:
        """:func:`score`, or what it was before."""
        key = f"{name}, {len(problems)} prompts, seed {seed}"
        if key not in self._scores:
            self._scores[key] = score(self._engine, problems, name, temperature, top_p, seed=seed)
            if self._kept is not None:
                with self._kept.open("a", encoding="utf-8") as f:
                    f.write(json.dumps([key, asdict(self._scores[key])]) + "\n")
        return self._scores[key]


def static_pairs(scorer: Scorer, problems: Sequence[stories.Problem], seed: int) -> dict[str, Any]:
    """Every pair of the grid on some prompts; the most distinct, and the paper's oracle, on all of them."""
    coarse = [
        scorer(problems[:COARSE_PROMPTS], f"T = {t}, P = {p}", t, p, seed=seed)
        for t in _progress(TEMPERATURES, "static grid")
        for p in TOP_PS
    ]
    best = sorted(coarse, key=lambda s: -s.distinct)[:FINALISTS]
    oracle = oracle_pair(coarse)
    return {
        "grid": coarse,
        "finalists": [scorer(problems, s.name, s.temperature, s.top_p, seed=seed + 1) for s in best],
        "oracle": scorer(problems, oracle.name, oracle.temperature, oracle.top_p, seed=seed + 1),
    }


def oracle_pair(grid: Iterable[Score]) -> Score:
    """The paper's expert tuning on the test set: the best T at P = 1, then the best P at that T, by pass@1."""
    scores = list(grid)
    best_t = max((s for s in scores if s.top_p == 1.0), key=lambda s: s.pass_at_1).temperature
    return max((s for s in scores if s.temperature == best_t), key=lambda s: s.pass_at_1)


def control(engine: Engine, n: int = 100, seed: int = 0) -> dict[str, Any]:
    """Share of held-out prompts for which commands move mean T and mean P of one answer the way they should."""
    plain = stories.problems(n, seed=f"control {seed}", held_out=True)
    rng = np.random.default_rng(seed)
    texts = {
        kind: [f"{p.prompt} {rng.choice(sentences)}" for p in plain] for kind, sentences in stories.commands().items()
    }
    texts["plain"] = [p.prompt for p in plain]
    means = {}
    for kind, prompts in texts.items():
        found = np.zeros((n, 2))
        requests = [Request(engine.prompt(text)[1], seed=seed * 7919 + i) for i, text in enumerate(prompts)]
        for result in engine.generate(requests):
            found[result.index] = result.temperature.mean(), result.top_p.mean()
        means[kind] = found
    lower, higher = means["low"] < means["plain"], means["high"] > means["plain"]
    return {
        "prompts": n,
        "mean": {
            kind: dict(zip(("temperature", "top_p"), m.mean(0).tolist(), strict=True)) for kind, m in means.items()
        },
        "low_lowers": dict(zip(("temperature", "top_p"), lower.mean(0).tolist(), strict=True)),
        "high_raises": dict(zip(("temperature", "top_p"), higher.mean(0).tolist(), strict=True)),
    }


def evaluate(model: Path, n_prompts: int, seed: int = 0, kept: Path | None = None) -> dict[str, Any]:
    """All of it, for JSON; ``kept`` is the file of a :class:`Scorer`."""
    engine = make_engine(model)
    scorer = Scorer(engine, kept)
    problems = stories.problems(n_prompts, seed=f"test {seed}", held_out=True)
    ours = scorer(problems, "AutoDeco", seed=seed + 1)
    t, p = round(ours.mean_temperature, 4), round(ours.mean_top_p, 4)
    main = [
        ours,
        scorer(problems, "greedy", 0.0, 1.0, seed=seed + 1),
        scorer(problems, "default", 1.0, 1.0, seed=seed + 1),
        scorer(problems, "mean-shift", t, p, seed=seed + 1),
    ]
    static = static_pairs(scorer, problems, seed)
    result = {
        "methods": [asdict(s) for s in main],
        "oracle": asdict(static["oracle"]),
        "best_static": asdict(max(static["finalists"], key=lambda s: s.distinct)),
        "finalists": [asdict(s) for s in static["finalists"]],
        "grid": [asdict(s) for s in static["grid"]],
        "control": control(engine, seed=seed),
    }
    engine.close()
    return result


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = list(result["methods"])
    for key, label in (("oracle", "oracle for pass@1"), ("best_static", "most distinct static pair")):
        rows.append({**result[key], "name": f"{label}: {_pair(result[key])}"})
    lines = ["| | pass@1 | distinct correct of 16 | mean T | mean P |", "|---|---|---|---|---|"]
    for r in rows:
        passed = f"{r['pass_at_1']:.3f} ± {r['pass_at_1_se']:.3f}"
        distinct = f"{r['distinct']:.2f} ± {r['distinct_se']:.2f}"
        lines.append(f"| {r['name']} | {passed} | {distinct} | {r['mean_temperature']:.2f} | {r['mean_top_p']:.2f} |")
    return "\n".join(lines)


def _pair(row: dict[str, Any]) -> str:
    return f"T = {row['temperature']:g}, P = {row['top_p']:g}"


def _progress(values: Sequence[float], label: str) -> Iterable[float]:
    with click.progressbar(values, label=label, file=click.get_text_stream("stderr")) as bar:
        yield from bar


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON to write.")
@click.option("--kept", type=click.Path(path_type=Path), help="Keep every score here, and go on from it.")
@click.option("--prompts", type=int, default=100, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(model: Path, output: Path | None, kept: Path | None, prompts: int, seed: int) -> None:
    """Measure a demo model on held-out prompts."""
    result = evaluate(model, prompts, seed, kept)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(table(result))
    click.echo(json.dumps(result["control"], indent=1))


if __name__ == "__main__":
    main()
