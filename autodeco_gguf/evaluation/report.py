"""The results of an evaluation for a reader: a table, and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autodeco_gguf.evaluation.estimates import holm
from autodeco_gguf.evaluation.methods import AUTODECO
from autodeco_gguf.evaluation.results import Comparison, Moments, Results, Row, Stats

FEW_PROBLEMS = 30
"""Below this the verdict says that they are few."""

ALPHA = 0.05
"""A claim's corrected p-value is below this."""


def table(results: Results) -> str:
    """The results as Markdown that reads well in a terminal: a table, with several tasks one of each and one of all."""
    tasks, methods, k = results.tasks, results.methods, results.settings.k
    ahead = {c.config: c for c in results.comparisons if c.metric == "pass@1"}
    parts = []
    for task, size in tasks.items() if len(tasks) > 1 else ():
        parts.append(f"{task}, {count(size, 'problem')}:")
        parts.append(_markdown([_cells(row, row.tasks[task], k, None) for row in methods]))
    parts.append(f"{'all tasks' if len(tasks) > 1 else next(iter(tasks))}, {count(sum(tasks.values()), 'problem')}:")
    parts.append(_markdown([_cells(row, row.overall, k, ahead.get(row.config)) for row in methods]))
    parts.append("\n".join(f"- {note}" for note in _notes(results)))
    return "\n\n".join(parts)


def _cells(row: Row, stats: Stats, k: int, ahead: Comparison | None) -> dict[str, str]:
    """A row of the table: column -> text."""
    cells = {"method": row.label, "pass@1, %": _passed(row, stats), "autodeco ahead by": ""}
    if ahead is not None:
        value, low, high = (_signed(100 * x, 1) for x in (ahead.difference, *ahead.ci))
        cells["autodeco ahead by"] = f"{value} [{low}, {high}]"
    if k > 1:
        cells[f"pass@{k}, %"] = f"{100 * stats.pass_k[k]:.1f}"
        cells[f"distinct@{k}"] = _with_error(stats.distinct, stats.distinct_se, 2)
    cells["tokens"] = f"{stats.tokens_mean:.0f}"
    cells["T"], cells["P"] = _parameter(stats.temperature), _parameter(stats.top_p)
    cells["tokens/s"] = "" if stats.tokens_s is None else f"{stats.tokens_s:.0f}"
    return cells


def _parameter(moments: Moments | None) -> str:
    if moments is None:
        return ""
    return _with_error(moments.mean, moments.sd if moments.sd > 1e-6 else None, 2)


def _passed(row: Row, stats: Stats) -> str:
    """pass@1 in percent, with the error over seeds, or else over problems; greedy has none over seeds."""
    error = stats.se_problems
    if stats.se_seeds is not None:
        error = None if row.deterministic else stats.se_seeds
    return _with_error(100 * stats.pass_1, None if error is None else 100 * error, 1)


def _with_error(value: float, error: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


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
    """A number of things.

    Examples:
        >>> count(1, "problem"), count(2000, "problem")
        ('1 problem', '2,000 problems')
    """
    return f"{n:,} {what}{'s' * (n != 1)}"


def _notes(results: Results) -> list[str]:
    """What the table's figures are, and what to beware of."""
    methods, k, seeds = results.methods, results.settings.k, results.settings.seeds
    error = f"over {seeds} seeds" if seeds > 1 else "over problems"
    notes = [f"pass@1 ± standard error {error}; {count(k * seeds, 'sample')} a problem. T and P ± standard deviation."]
    if k > 1:
        notes.append(f"distinct@{k}: different right answers among {k} samples ± standard error over problems.")
    if results.comparisons:
        notes.append("autodeco ahead by: points of pass@1 with a 95 % interval, problem by problem (bootstrap-t).")
    if len(results.tasks) > 1:
        notes.append("all tasks: every problem counts the same.")
    fixed = [row.name for row in methods if row.deterministic]
    if fixed:
        notes.append(f"{_listed(fixed)}: deterministic, one sample a problem that counts for all.")
    tuned = [row.name for row in methods if row.name in ("oracle", "distinct")]
    if tuned:
        it = "it" if len(tuned) == 1 else "them"
        notes.append(f"{_listed(tuned)}: chosen on these test problems themselves, which favours {it}.")
    if any(row.name == "mean-shift" for row in methods):
        notes.append("mean-shift: autodeco's own mean T and P, as constants.")
    stats = [row.overall for row in methods]
    for words, affected in (
        ("cut off by length", [round(s.truncated * s.samples) for s in stats]),
        ("not graded, which count neither as right nor as wrong", [s.ungraded for s in stats]),
        ("that failed, or took too long to check, which count as wrong", [s.failed for s in stats]),
    ):
        found = [f"{row.name} {n:,} of {row.overall.samples:,}" for row, n in zip(methods, affected, strict=True) if n]
        if found:
            notes.append(f"samples {words}: {', '.join(found)}.")
    return notes


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# ---- verdict ----


def verdict(results: Results) -> str:
    """What the comparisons say, in a few sentences; their p-values are corrected for being several."""
    constants = [row for row in results.methods if row.kind == "constant"]
    metrics = ("pass@1", "distinct") if results.settings.k > 1 else ("pass@1",)
    best = {metric: _best(constants, metric) for metric in metrics} if constants else {}
    if all(row.config != AUTODECO for row in results.methods):
        return _without_autodeco(results, best)
    if not best:
        return "There is no constant to compare AutoDeco with."
    shift = next((row for row in constants if row.name == "mean-shift"), None)
    claims = [(row.config, metric) for metric, row in best.items()]
    claims += [(shift.config, metric) for metric in best] if shift else []
    compared = {(c.config, c.metric): c for c in results.comparisons}
    made = [compared[claim] for claim in dict.fromkeys(claims)]
    corrected = holm([c.p for c in made])
    found = {(c.config, c.metric): _finding(c, p) for c, p in zip(made, corrected, strict=True)}
    sentences = []
    for metric, row in best.items():
        is_so, than, margin = found[row.config, metric]
        which = f"{_WHICH[metric]} ({row.label})"
        sentences.append(f"On {_what(metric, results)} AutoDeco is {is_so} {than} {which}: {margin}.")
    if shift:
        parts = []
        for metric in best:
            is_so, _, margin = found[shift.config, metric]
            parts.append(f"{is_so} on {_what(metric, results)}: {margin}")
        sentences.append(f"Against its own mean T and P as constants ({shift.label}) it is {'; and '.join(parts)}.")
    remark = "Which constant is best was seen on these same problems, which favours it"
    remark += f"; p is corrected for {len(found)} claims (Holm), the intervals are not." if len(found) > 1 else "."
    return " ".join([*sentences, remark + _few(results)])


_WHICH = {"pass@1": "the best constant", "distinct": "the constant with the most"}


def _best(constants: Sequence[Row], metric: str) -> Row:
    """By a metric; of those that are level, by the other."""
    order = 1 if metric == "pass@1" else -1
    return max(constants, key=lambda row: (row.overall.pass_1, row.overall.distinct)[::order])


def _what(metric: str, results: Results) -> str:
    return metric if metric == "pass@1" else f"different right answers among {results.settings.k}"


def _finding(c: Comparison, p: float) -> tuple[str, str, str]:
    """What AutoDeco is ("better", "than"), and by how much; ``p`` is corrected."""
    scale, unit = (100, " points") if c.metric == "pass@1" else (1, "")
    value, low, high = (scale * x for x in (c.difference, *c.ci))
    if value == low == high == 0:
        return "as good", "as", "the same on every problem"
    digits = 1 if scale > 1 and max(-low, high) >= 1 else 2
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.{3 if p < 0.1 else 2}f}"
    certainty = f"(95 % interval {_signed(low, digits)} to {_signed(high, digits)}, {chance})"
    if p < ALPHA:
        return "better" if value > 0 else "worse", "than", f"by {abs(value):.{digits}f}{unit} {certainty}"
    margin = f"{_signed(value, digits)}{unit} {certainty}"
    ends = ((min(low, 0.0), "worse"), (max(high, 0.0), "better"))
    possible = " or ".join(f"{abs(x):.{digits}f} {word}" for x, word in ends if x)
    return "not shown to differ", "from", f"{margin}, so it may be up to {possible}"


def _few(results: Results) -> str:
    n = sum(results.tasks.values())
    return f" With {count(n, 'problem')} only large differences show." if n < FEW_PROBLEMS else ""


def _without_autodeco(results: Results, best: Mapping[str, Row]) -> str:
    """The best constants, where there is nothing to compare them with."""
    if not best:
        return "There is neither AutoDeco nor a constant to compare."
    row = best["pass@1"]
    passed = _passed(row, row.overall)
    text = f"AutoDeco is not among the methods. The best constant on pass@1 is {row.label} ({passed} %)"
    if "distinct" in best:
        row = best["distinct"]
        found = _with_error(row.overall.distinct, row.overall.distinct_se, 2)
        text += f", that with the most {_what('distinct', results)} is {row.label} ({found})"
    return f"{text}, as seen on these same problems, which favours the best.{_few(results)}"
