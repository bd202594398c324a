"""What an evaluation found: results.json from the samples, a table of it, and what it says in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from autodeco_gguf.errors import AutoDecoError
from autodeco_gguf.evaluation.estimates import (
    Groups,
    Scores,
    all_problems,
    by_config,
    complete_scores,
    histogram_box,
    holm,
    mean_se,
    paired_bootstrap,
    pooled,
    score,
)
from autodeco_gguf.evaluation.methods import SEARCHED, Method, is_deterministic, static_pair
from autodeco_gguf.evaluation.samples import PARAMETERS, Sample
from autodeco_gguf.evaluation.settings import EvalSettings

Results = Mapping[str, Any]
"""Of :func:`summarize`."""

Row = Mapping[str, Any]
"""A method in the results."""

REFERENCE = "autodeco"
"""Config of the method that the others are compared with."""

FEW_PROBLEMS = 30
"""Below this the verdict says that they are few."""

ALPHA = 0.05
"""A claim's corrected p-value is below this."""


# ---- results ----


def summarize(
    samples: Iterable[Sample], methods: Sequence[Method], settings: EvalSettings, tokens_s: Mapping[str, float]
) -> dict[str, Any]:
    """The results of an evaluation, for JSON.

    Every problem counts the same, of whatever task. Right answers are different where their texts are, but for white
    space around them. Samples that are not graded count neither as right nor as wrong.

    Args:
        samples: of all configs, those of a search among them; what the settings do not ask for is passed over.
        methods: the rows, their configs found.
        settings: what was sampled.
        tokens_s: config -> tokens drawn a second.

    Raises:
        AutoDecoError: a sample is missing, or a problem has fewer than k that are graded.
    """
    grouped = by_config(samples, settings)
    problems = all_problems(grouped, settings)
    configs = dict.fromkeys(map(_config, methods))
    scores = {config: complete_scores(config, grouped.get(config, {}), problems, settings) for config in configs}
    results: dict[str, Any] = {
        "settings": {**asdict(settings), "tasks": list(settings.tasks)},
        "tasks": dict(Counter(task for task, _ in problems)),
        "methods": [_method(m, scores[_config(m)], settings.k, tokens_s.get(_config(m))) for m in methods],
        "comparisons": _comparisons(methods, scores, settings.k),
        "grid": _grid(grouped, settings),
    }
    return {**results, "verdict": verdict(results)}


def _config(method: Method) -> str:
    if method.config is None:
        raise AutoDecoError(f"method {method.name}: has no config yet, expected what its search found")
    return method.config


def _method(method: Method, scores: Scores, k: int, tokens_s: float | None) -> dict[str, Any]:
    overall = _stats(scores, k, tokens_s)
    tasks = list(dict.fromkeys(scores.tasks.tolist()))
    of_task = tokens_s if len(tasks) == 1 else None  # it is measured over all of them
    return {
        "name": method.name,
        "kind": method.kind,
        "config": method.config,
        "deterministic": is_deterministic(_config(method)),
        "temperature": overall["temperature"],
        "top_p": overall["top_p"],
        "overall": overall,
        "tasks": {task: _stats(scores.of(task), k, of_task) for task in tasks},
    }


def _stats(scores: Scores, k: int, tokens_s: float | None) -> dict[str, Any]:
    samples = [s for group in scores.samples for s in group]
    right, se_problems = mean_se(scores.right, scores.tasks.tolist())
    distinct, distinct_se = mean_se(scores.distinct[k], scores.tasks.tolist())
    boxes = {name: _box(samples, name) for name in PARAMETERS}
    seeds = scores.by_seed[~np.isnan(scores.by_seed).all(axis=1)]
    return {
        "problems": len(scores.samples),
        "samples": len(samples),
        "pass@1": right,
        "se_seeds": mean_se(np.nanmean(seeds, axis=1))[1],
        "se_problems": se_problems,
        "pass@k": {str(n): float(values.mean()) for n, values in scores.passed.items()},
        "distinct": distinct,
        "distinct_se": distinct_se,
        "distinct@k": {str(n): float(values.mean()) for n, values in scores.distinct.items()},
        "tokens_mean": float(np.mean([s["tokens"] for s in samples])),
        "temperature": _moments(samples, "temperature"),
        "top_p": _moments(samples, "top_p"),
        "tokens_s": tokens_s,
        "truncated": sum(s["finish_reason"] == "length" for s in samples) / len(samples),
        "ungraded": sum(s["correct"] is None for s in samples),
        "failed": sum(s["finish_reason"] == "error" or (s["correct"] is False and bool(s["error"])) for s in samples),
        "boxes": {name: box for name, box in boxes.items() if box is not None},
    }


def _moments(samples: Iterable[Sample], name: str) -> dict[str, float] | None:
    """Mean and standard deviation over all tokens; None where nobody can tell."""
    rows = [(s["tokens"], s[name]["mean"], s[name]["sd"]) for s in samples if s["tokens"]]
    rows = [row for row in rows if row[1] is not None]
    return dict(zip(("mean", "sd"), pooled(*zip(*rows, strict=True)), strict=True)) if rows else None


def _box(samples: Iterable[Sample], name: str) -> list[float] | None:
    bins = [s[name]["bins"] for s in samples if "bins" in s[name]]
    return histogram_box(np.sum(bins, axis=0), PARAMETERS[name]) if bins else None


def _comparisons(methods: Sequence[Method], scores: Mapping[str, Scores], k: int) -> list[dict[str, Any]]:
    """AutoDeco against every other method, problem by problem."""
    if REFERENCE not in scores:
        return []
    ours, rows = scores[REFERENCE], []
    for method in methods:
        other = scores[_config(method)]
        for metric, a, b, limit in (
            ("pass@1", ours.right, other.right, 1.0),
            ("distinct", ours.distinct[k], other.distinct[k], float(k)),
        ):
            d = paired_bootstrap(a, b, strata=ours.tasks.tolist(), limit=limit)
            of = {"method": method.name, "config": method.config, "metric": metric}
            rows.append({**of, "difference": d.mean, "ci": [d.low, d.high], "p": d.p})
    return [row for row in rows if row["config"] != REFERENCE]


def _grid(grouped: Mapping[str, Groups], settings: EvalSettings) -> list[dict[str, Any]]:
    """Every static pair, on as many problems and from as many samples as it has, over all tasks and for each."""
    rows = []
    for config, groups in grouped.items():
        pair = static_pair(config)
        graded = {key: s for key, s in groups.items() if any(one["correct"] is not None for one in s)}
        if pair is None or not graded:
            continue
        scores = score(config, graded, settings)
        tasks = {task: _point(scores.of(task), settings.k) for task in dict.fromkeys(scores.tasks.tolist())}
        point = {"config": config, "temperature": pair[0], "top_p": pair[1], **_point(scores, settings.k)}
        rows.append({**point, "tasks": tasks})
    return sorted(rows, key=lambda row: (row["temperature"], row["top_p"]))


def _point(scores: Scores, k: int) -> dict[str, Any]:
    """``distinct`` is that of ``k`` samples: of the settings' k, or of as many as every problem has."""
    right, se = mean_se(scores.right, scores.tasks.tolist())
    least = min(k, max(scores.distinct))
    distinct = float(scores.distinct[least].mean())
    return {"problems": len(scores.right), "pass@1": right, "se": se, "distinct": distinct, "k": least}


# ---- table ----


def label(row: Row) -> str:
    """A method's name, with the constants that a search found for it."""
    pair = static_pair(row["config"])
    if pair is None or row["name"] not in SEARCHED:
        return str(row["name"])
    return f"{row['name']}: T = {pair[0]:g}, P = {pair[1]:g}"


def table(results: Results) -> str:
    """The results as Markdown that reads well in a terminal: a table, with several tasks one of each and one of all."""
    tasks, methods = results["tasks"], results["methods"]
    ahead = {c["config"]: c for c in results["comparisons"] if c["metric"] == "pass@1"}
    k = results["settings"]["k"]
    parts = []
    for task, size in tasks.items() if len(tasks) > 1 else ():
        parts.append(f"{task}, {count(size, 'problem')}:")
        parts.append(_markdown([_cells(row, row["tasks"][task], k, None) for row in methods]))
    parts.append(f"{'all tasks' if len(tasks) > 1 else next(iter(tasks))}, {count(sum(tasks.values()), 'problem')}:")
    parts.append(_markdown([_cells(row, row["overall"], k, ahead.get(row["config"])) for row in methods]))
    parts.append("\n".join(f"- {note}" for note in _notes(results)))
    return "\n\n".join(parts)


def _cells(row: Row, stats: Row, k: int, ahead: Row | None) -> dict[str, str]:
    """A row of the table: column -> text."""
    cells = {
        "method": label(row),
        "pass@1, %": _passed(row, stats),
        "autodeco ahead by": "" if ahead is None else _interval(ahead),
    }
    if k > 1:
        cells[f"pass@{k}, %"] = f"{100 * stats['pass@k'][str(k)]:.1f}"
        cells[f"distinct@{k}"] = _with_error(stats["distinct"], stats["distinct_se"], 2)
    cells["tokens"] = f"{stats['tokens_mean']:.0f}"
    for head, name in (("T", "temperature"), ("P", "top_p")):
        moments = stats[name]
        sd = moments["sd"] if moments and moments["sd"] > 1e-6 else None
        cells[head] = _with_error(moments["mean"], sd, 2) if moments else ""
    cells["tokens/s"] = "" if stats["tokens_s"] is None else f"{stats['tokens_s']:.0f}"
    return cells


def _passed(row: Row, stats: Row | None = None) -> str:
    """pass@1 in percent, with the error over seeds, or else over problems; greedy has none over seeds."""
    stats = row["overall"] if stats is None else stats
    if stats["se_seeds"] is not None:
        error = None if row["deterministic"] else stats["se_seeds"]
    else:
        error = stats["se_problems"]
    return _with_error(100 * stats["pass@1"], None if error is None else 100 * error, 1)


def _with_error(value: float, error: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _interval(c: Row) -> str:
    """Of pass@1, in points."""
    value, low, high = (_signed(100 * x, 1) for x in (c["difference"], *c["ci"]))
    return f"{value} [{low}, {high}]"


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # + 0.0: no -0


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Columns padded to the same width, the first to the left; without those that say nothing."""
    shown = [head for head in rows[0] if any(row[head] for row in rows)]
    lines = [dict(zip(shown, shown, strict=True)), *rows]
    widths = {head: max(len(line[head]) for line in lines) for head in shown}
    padded = [[line[h].ljust(w) if h == shown[0] else line[h].rjust(w) for h, w in widths.items()] for line in lines]
    rule = ["-" * (w + 2) if h == shown[0] else "-" * (w + 1) + ":" for h, w in widths.items()]
    text = [f"| {' | '.join(cells)} |" for cells in padded]
    return "\n".join([text[0], f"|{'|'.join(rule)}|", *text[1:]])


def count(n: int, what: str) -> str:
    """``1 problem``, ``2 problems``."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def _notes(results: Results) -> list[str]:
    """What the table's figures are, and what to beware of."""
    settings, methods = results["settings"], results["methods"]
    k, seeds = settings["k"], settings["seeds"]
    error = f"over {seeds} seeds" if seeds > 1 else "over problems"
    notes = [f"pass@1 ± standard error {error}; {count(k * seeds, 'sample')} a problem. T and P ± standard deviation."]
    if k > 1:
        notes.append(f"distinct@{k}: different right answers among {k} samples ± standard error over problems.")
    if results["comparisons"]:
        notes.append("autodeco ahead by: points of pass@1 with a 95 % interval, problem by problem (bootstrap-t).")
    if len(results["tasks"]) > 1:
        notes.append("all tasks: every problem counts the same.")
    fixed = [row["name"] for row in methods if row["deterministic"]]
    if fixed:
        notes.append(f"{_listed(fixed)}: deterministic, one sample a problem that counts for all.")
    tuned = [row["name"] for row in methods if row["name"] in ("oracle", "distinct")]
    if tuned:
        notes.append(f"{_listed(tuned)}: chosen on these test problems themselves, which favours {_it(tuned)}.")
    if any(row["name"] == "mean-shift" for row in methods):
        notes.append("mean-shift: autodeco's own mean T and P, as constants.")
    for key, words in _BEWARE.items():
        found = [
            f"{row['name']} {n:,} of {row['overall']['samples']:,}" for row in methods if (n := _affected(row, key))
        ]
        if found:
            notes.append(f"samples {words}: {', '.join(found)}.")
    return notes


_BEWARE = {
    "truncated": "cut off by length",
    "ungraded": "not graded, which count neither as right nor as wrong",
    "failed": "that failed, or took too long to check, which count as wrong",
}


def _affected(row: Row, key: str) -> int:
    """Samples; "truncated" is their share."""
    value, samples = row["overall"][key], row["overall"]["samples"]
    return round(value * samples) if key == "truncated" else int(value)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


# ---- verdict ----


def verdict(results: Results) -> str:
    """What the comparisons say, in a few sentences; their p-values are corrected for being several."""
    constants = [row for row in results["methods"] if row["kind"] == "constant"]
    metrics = ("pass@1", "distinct") if results["settings"]["k"] > 1 else ("pass@1",)
    best = {metric: _best(constants, metric) for metric in metrics} if constants else {}
    if all(row["config"] != REFERENCE for row in results["methods"]):
        return _without_autodeco(results, best)
    if not best:
        return "There is no constant to compare AutoDeco with."
    shift = next((row for row in constants if row["name"] == "mean-shift"), None)
    claims = [(row["config"], metric) for metric, row in best.items()]
    claims += [(shift["config"], metric) for metric in best] if shift else []
    found = _findings(results, list(dict.fromkeys(claims)))
    sentences = []
    for metric, row in best.items():
        (is_so, than), margin = found[row["config"], metric]
        which = f"{_WHICH[metric]} ({label(row)})"
        sentences.append(f"On {_what(metric, results)} AutoDeco is {is_so} {than} {which}: {margin}.")
    if shift:
        parts = []
        for metric in best:
            (is_so, _), margin = found[shift["config"], metric]
            parts.append(f"{is_so} on {_what(metric, results)}: {margin}")
        sentences.append(f"Against its own mean T and P as constants ({label(shift)}) it is {'; and '.join(parts)}.")
    return " ".join([*sentences, _remark(results, len(found))])


_WHICH = {"pass@1": "the best constant", "distinct": "the constant with the most"}


def _best(constants: Sequence[Row], metric: str) -> Row:
    """By a metric; of those that are level, by the other."""
    other = {"pass@1": "distinct", "distinct": "pass@1"}[metric]
    return max(constants, key=lambda row: (row["overall"][metric], row["overall"][other]))


def _what(metric: str, results: Results) -> str:
    return metric if metric == "pass@1" else f"different right answers among {results['settings']['k']}"


def _findings(
    results: Results, claims: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[tuple[str, str], str]]:
    """(config, metric) -> what AutoDeco is ("better", "than"), and by how much."""
    compared = {(c["config"], c["metric"]): c for c in results["comparisons"]}
    corrected = holm([compared[claim]["p"] for claim in claims])
    return {claim: _finding(compared[claim], p) for claim, p in zip(claims, corrected, strict=True)}


def _finding(c: Row, p: float) -> tuple[tuple[str, str], str]:
    scale, unit = (100, " points") if c["metric"] == "pass@1" else (1, "")
    value, low, high = (scale * x for x in (c["difference"], *c["ci"]))
    if value == low == high == 0:
        return ("as good", "as"), "the same on every problem"
    digits = 1 if scale > 1 and max(-low, high) >= 1 else 2
    certainty = f"(95 % interval {_signed(low, digits)} to {_signed(high, digits)}, {_p(p)})"
    if p < ALPHA:
        return ("better" if value > 0 else "worse", "than"), f"by {abs(value):.{digits}f}{unit} {certainty}"
    margin = f"{_signed(value, digits)}{unit} {certainty}"
    possible = [
        f"{abs(x):.{digits}f} {word}" for x, word in ((min(low, 0.0), "worse"), (max(high, 0.0), "better")) if x
    ]
    return ("not shown to differ", "from"), f"{margin}, so it may be up to {' or '.join(possible)}"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.{3 if p < 0.1 else 2}f}"


def _remark(results: Results, n_claims: int) -> str:
    """What to beware of."""
    text = "Which constant is best was seen on these same problems, which favours it"
    text += f"; p is corrected for {n_claims} claims (Holm), the intervals are not." if n_claims > 1 else "."
    return text + _few(results)


def _few(results: Results) -> str:
    n = sum(results["tasks"].values())
    return f" With {count(n, 'problem')} only large differences show." if n < FEW_PROBLEMS else ""


def _without_autodeco(results: Results, best: Mapping[str, Row]) -> str:
    """The best constants, where there is nothing to compare them with."""
    if not best:
        return "There is neither AutoDeco nor a constant to compare."
    row = best["pass@1"]
    text = f"AutoDeco is not among the methods. The best constant on pass@1 is {label(row)} ({_passed(row)} %)"
    if "distinct" in best:
        row = best["distinct"]
        found = _with_error(row["overall"]["distinct"], row["overall"]["distinct_se"], 2)
        text += f", that with the most {_what('distinct', results)} is {label(row)} ({found})"
    return f"{text}, as seen on these same problems, which favours the best.{_few(results)}"
