"""The results of an evaluation for a reader: a table, and what they say in words."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from autodeco_gguf.evaluation.estimates import holm
from autodeco_gguf.evaluation.methods import Config, heads_of
from autodeco_gguf.evaluation.results import Comparison, Moments, Results, Row, Stats

WIDTH = 80
"""Characters of a line for a terminal."""

FEW_PROBLEMS = 30
"""Below this the verdict says that they are few."""

ALPHA = 0.05
"""A claim's corrected p-value is below this."""

_AHEAD = "autodeco ahead"

_Ahead = Mapping[str, Comparison | None]
"""By the name of the method that is ahead of a row, or behind."""

_Cells = Callable[[Row, Stats, int, _Ahead], dict[str, str]]


def summary(results: Results, *, wide: bool = False) -> str:
    """Table and verdict: for a terminal of 80 characters, or ``wide``, with every column, as :func:`table` has them."""
    if wide:
        return f"{table(results)}\n\n{results.verdict}"
    below = [f"- {note}" for note in (*notes(results, wide=False), "All columns: --wide, or report.md.")]
    texts = ("\n".join(map(_wrapped, lines)) for lines in (below, results.verdict.splitlines()))
    return "\n\n".join([*_tables(results, _narrow_cells, _narrow), *texts])


def table(results: Results) -> str:
    """The results as Markdown with every column, with several tasks a table of each and one of all."""
    below = "\n".join(f"- {note}" for note in notes(results))
    return "\n\n".join([*_tables(results, _cells, markdown), below])


def page(results: Results) -> str:
    """The report as a Markdown page: what was evaluated, the table, and the verdict."""
    what = facts(results)
    head = "\n".join([f"# Evaluation of {', '.join(results.tasks)}", *([""] if what else []), *what])
    return "\n\n".join([head, table(results), *results.verdict.splitlines()]) + "\n"


def facts(results: Results) -> list[str]:
    """What was evaluated, and with what; nothing where an older version wrote them."""
    origin, heads = results.origin, "none"
    if origin is None:
        return []
    if origin.heads:
        of = "the model's own" if origin.heads_file is None else f"of {origin.heads_file}"
        heads = f"{', '.join(origin.heads)}, {of} ({origin.heads_digest})"
    flash = "with" if origin.flash_attn else "without"
    made = f"autodeco-gguf {origin.version}, llama-cpp-python {origin.llama_cpp_python}"
    return [
        f"- model: {origin.model} ({origin.model_digest})",
        f"- heads: {heads}",
        f"- context: {origin.context} tokens, {origin.cache_type} cache, {flash} flash attention",
        f"- made by {made}" + ("" if origin.date is None else f"; last samples of {origin.date}"),
    ]


def _tables(results: Results, cells: _Cells, lay_out: Callable[[Sequence[Mapping[str, str]]], str]) -> list[str]:
    """Headings and tables."""
    return [part for title, rows in tables(results, cells) for part in (f"{title}:", lay_out(rows))]


def tables(results: Results, cells: _Cells | None = None) -> list[tuple[str, list[dict[str, str]]]]:
    """Headings and rows, with the cells of every column where none are given; with several tasks each has a table."""
    cells, tasks, methods, k = cells or _cells, results.tasks, results.methods, results.settings.k
    compared = {(c.ahead, c.config): c for c in results.comparisons if c.metric == "pass@1"}
    ours = dict.fromkeys(c.ahead for c in results.comparisons)
    found = []
    for task, size in tasks.items() if len(tasks) > 1 else ():
        found.append((f"{task}, {count(size, 'problem')}", [cells(row, row.tasks[task], k, {}) for row in methods]))
    ahead = [{name: compared.get((name, row.config)) for name in ours} for row in methods]
    rows = [cells(row, row.overall, k, by) for row, by in zip(methods, ahead, strict=True)]
    name = "all tasks" if len(tasks) > 1 else next(iter(tasks))
    return [*found, (f"{name}, {count(sum(tasks.values()), 'problem')}", rows)]


def _cells(row: Row, stats: Stats, k: int, ahead: _Ahead) -> dict[str, str]:
    """A row of the table: column -> text."""
    cells = {"method": row.label, "pass@1, %": _passed(row, stats)}
    for name, by in ahead.items():
        value, low, high = ("", "", "") if by is None else (_signed(100 * x, 1) for x in (by.difference, *by.ci))
        cells[f"{name} ahead by"] = f"{value} [{low}, {high}]" if value else ""
    cells["pass@1 ± sd over seeds"] = "" if stats.sd_seeds is None else _official(stats.pass_1, stats.sd_seeds)
    cells["mean of tasks ± sd over seeds"] = _official(stats.mean_of_tasks, stats.mean_of_tasks_sd)
    if k > 1:
        cells[f"pass@{k}, %"] = f"{100 * stats.pass_k[k]:.1f}"
        cells[f"maj@{k}, %"] = _majority(stats)
        cells[f"distinct@{k}"] = _with_error(stats.distinct, stats.distinct_se, 2)
    cells["tokens"] = f"{stats.tokens_mean:.0f}"
    cells["T"], cells["P"] = _parameter(stats.temperature), _parameter(stats.top_p)
    cells["tokens/s"] = "" if stats.tokens_s is None else f"{stats.tokens_s:.0f}"
    return cells


def _narrow_cells(row: Row, stats: Stats, k: int, ahead: _Ahead) -> dict[str, str]:
    """The same for a narrow table: the constants stand in their columns, and the rightmost may be left out."""
    cells = {"method": row.name, "pass@1, %": _passed(row, stats)}
    for name, by in ahead.items():
        cells[f"{name} ahead"] = "" if by is None else " to ".join(_signed(100 * x, 1) for x in by.ci)
    if k > 1:
        cells["maj"] = "" if stats.majority is None else f"{100 * stats.majority:.1f}"
        cells["distinct"] = f"{stats.distinct:.2f}"
    for name, moments in (("T", stats.temperature), ("P", stats.top_p)):
        cells[name] = "" if moments is None else f"{moments.mean:.2f}"
    cells["tokens"] = f"{stats.tokens_mean:.0f}"
    cells["tokens/s"] = "" if stats.tokens_s is None else f"{stats.tokens_s:.0f}"
    return cells


def _majority(stats: Stats) -> str:
    if stats.majority is None:
        return ""
    return _with_error(100 * stats.majority, None if stats.majority_se is None else 100 * stats.majority_se, 1)


def _official(value: float | None, sd: float | None) -> str:
    """In percent, as the official evaluation gives it."""
    if value is None:
        return ""
    return _with_error(100 * value, None if sd is None else 100 * sd, 1)


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


def _padded(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Head and rows, the columns padded to the same width, the first to the left; without those that say nothing."""
    shown = [head for head in rows[0] if any(row[head] for row in rows)]
    lines = [dict(zip(shown, shown, strict=True)), *rows]
    widths = {head: max(len(line[head]) for line in lines) for head in shown}
    return [[line[h].ljust(w) if h == shown[0] else line[h].rjust(w) for h, w in widths.items()] for line in lines]


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a table, the same columns in each: those that say nothing are left out."""
    lines = _padded(rows)
    first, *others = map(len, lines[0])
    rule = ["-" * (first + 2), *("-" * (width + 1) + ":" for width in others)]
    text = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([text[0], f"|{'|'.join(rule)}|", *text[1:]])


def _narrow(rows: Sequence[Mapping[str, str]]) -> str:
    """Without lines between columns, and with as many of them as a terminal has room for."""
    lines = _padded(rows)
    while len("  ".join(lines[0])) > WIDTH and len(lines[0]) > 2:
        lines = [line[:-1] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _wrapped(text: str) -> str:
    indent = "  " * text.startswith("- ")
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def count(n: int, what: str) -> str:
    """A number of things.

    Examples:
        >>> count(1, "problem"), count(2000, "problem")
        ('1 problem', '2,000 problems')
    """
    return f"{n:,} {what}{'s' * (n != 1)}"


def chance(p: float) -> str:
    """A p-value for a reader.

    Examples:
        >>> chance(0.0004), chance(0.0312), chance(0.5)
        ('p < 0.001', 'p = 0.031', 'p = 0.50')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.{3 if p < 0.1 else 2}f}"


def notes(results: Results, *, wide: bool = True) -> list[str]:
    """What the table's figures are, and what to beware of."""
    methods, k, seeds = results.methods, results.settings.k, results.settings.seeds
    error = f"over {seeds} seeds" if seeds > 1 else "over problems"
    moments = " T and P ± standard deviation." if wide else ""
    found = [f"pass@1 ± standard error {error}; {count(k * seeds, 'sample')} a problem.{moments}"]
    if k > 1:
        if any(s.majority is not None for row in methods for s in (row.overall, *row.tasks.values())):
            of = f"the most frequent answer of {k} is right, of those that are level one at random"
            found.append(f"maj@{k}: {of} ± standard error over problems." if wide else f"maj: {of}.")
        of = f"different right answers among {k} samples"
        found.append(f"distinct@{k}: {of} ± standard error over problems." if wide else f"distinct: {of}.")
    if wide and any(row.overall.sd_seeds is not None for row in methods):
        of = f"standard deviation over {seeds} seeds, as the official evaluation gives it"
        found.append(f"± sd over seeds: {of}; a standard error is smaller.")
    if wide and any(row.overall.mean_of_tasks is not None for row in methods):
        found.append("mean of tasks: every task counts the same, as in the paper's averages.")
    if results.comparisons:
        by = "by: points of pass@1 with a 95 % interval, problem by problem (bootstrap-t)."
        found.append(f"{_AHEAD} {by}" if wide else f"{_AHEAD}: by so many points of pass@1 (95 % interval).")
    if not wide:
        found.append("T and P: means.")
    if len(results.tasks) > 1:
        found.append("all tasks: every problem counts the same.")
    fixed = [row.name for row in methods if row.deterministic]
    if fixed:
        found.append(f"{_listed(fixed)}: deterministic, one sample a problem that counts for all.")
    tuned = [row.name for row in methods if row.name in ("oracle", "distinct")]
    if tuned:
        it = "it" if len(tuned) == 1 else "them"
        found.append(f"{_listed(tuned)}: chosen on these test problems themselves, which favours {it}.")
    names = {row.name.partition(" (")[0] for row in methods}
    if "mean-shift" in names:
        validation = results.settings.validation
        where = "on these same problems" if validation is None else f"on the validation problems of {validation}"
        found.append(f"mean-shift: autodeco's own mean T and P {where}, as constants.")
    if "shuffle" in names:
        found.append("shuffle: autodeco's own pairs of T and P, at other tokens.")
    rows = [(row.name, row.overall) for row in methods]
    each = [(f"{row.name} on {task}", s) for row in methods for task, s in row.tasks.items()]
    parts = each if len(results.tasks) > 1 else rows  # their checkers look for several forms
    form = "the form that the checker looks for, which is another thing than a wrong answer"
    for words, affected in (
        ("cut off by length", [(name, round(s.truncated * s.samples), s) for name, s in rows]),
        (f"without {form}", [(name, s.formless, s) for name, s in parts if 2 * s.formless > s.samples]),
        ("not graded, which count neither as right nor as wrong", [(name, s.ungraded, s) for name, s in rows]),
        ("that failed, or took too long to check, which count as wrong", [(name, s.failed, s) for name, s in rows]),
    ):
        named = [f"{name} {n:,} of {s.samples:,}" for name, n, s in affected if n]
        if named:
            found.append(f"samples {words}: {', '.join(named)}.")
    if results.unfinished:
        found.append(f"not finished, and not in the table: {', '.join(results.unfinished)}; the same command goes on.")
    return found


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# ---- verdict ----


def verdict(results: Results) -> str:
    """What the comparisons say, a line each; their p-values are corrected for being several."""
    metrics = ("pass@1", "distinct") if results.settings.k > 1 else ("pass@1",)
    ours = {row.name: suffix for row in results.methods if (suffix := heads_of(row.name)) is not None}
    if not ours:
        constants = [row for row in results.methods if row.kind == "constant"]
        return _without_autodeco(results, {m: _best(constants, m) for m in metrics} if constants else {})
    compared = {(c.ahead, c.config, c.metric): c for c in results.comparisons}
    claims = [
        (suffix, compared[name, config, metric], who)
        for name, suffix in ours.items()
        for (config, metric), who in _claims(results, suffix, metrics).items()
    ]
    heads = [row for row in results.methods if row.name in ours]
    claims += [
        (ours[a.name], compared[a.name, b.config, metric], f"AutoDeco{ours[b.name]}")
        for a, b in combinations(heads, 2)
        for metric in metrics
    ]
    if not claims:
        return "There is no constant to compare AutoDeco with."
    corrected = holm([comparison.p for _, comparison, _ in claims])
    said = [
        _finding(comparison, p, f"On {_what(comparison.metric, results)} AutoDeco{suffix} is", who)
        for (suffix, comparison, who), p in zip(claims, corrected, strict=True)
    ]
    remarks = []
    if any(row.kind == "constant" for row in results.methods):
        remarks.append("Which constant is best was seen on these same problems, which favours it.")
    if len(claims) > 1:
        remarks.append(f"p is corrected for {len(claims)} claims (Holm), the intervals are not.")
    return "\n".join([*said, " ".join([*remarks, *_few(results)])]).rstrip()


def _claims(results: Results, suffix: str, metrics: Sequence[str]) -> dict[tuple[Config, str], str]:
    """What AutoDeco with some heads is compared with in words, and on what: the best constants, and its own T and P."""
    names = {f"{name}{suffix}": who for name, who in _OWN.items()}
    others = [row for row in results.methods if row.name in names or row.name.partition(" (")[0] not in _OWN]
    constants = [row for row in others if row.kind == "constant"]
    best = {metric: _best(constants, metric) for metric in metrics} if constants else {}
    claims = {(row.config, metric): f"{_WHICH[metric]} ({row.label})" for metric, row in best.items()}
    for row in others:
        if row.name in names:
            for metric in metrics:
                claims.setdefault((row.config, metric), names[row.name])
    return claims


_OWN = {
    "mean-shift": "its own mean T and P as constants (mean-shift)",
    "shuffle": "its own T and P at other tokens (shuffle)",
}
_WHICH = {"pass@1": "the best constant", "distinct": "the constant with the most"}


def _best(constants: Sequence[Row], metric: str) -> Row:
    """By a metric; of those that are level, by the other."""
    order = 1 if metric == "pass@1" else -1
    return max(constants, key=lambda row: (row.overall.pass_1, row.overall.distinct)[::order])


def _what(metric: str, results: Results) -> str:
    return metric if metric == "pass@1" else f"different right answers among {results.settings.k}"


def _finding(c: Comparison, p: float, where: str, who: str) -> str:
    """Sentences: ``where`` AutoDeco is better or worse than ``who``, and by how much; ``p`` is corrected."""
    scale, unit = (100, " points") if c.metric == "pass@1" else (1, "")
    value, low, high = (scale * x for x in (c.difference, *c.ci))
    if value == low == high == 0:
        return f"{where} not shown to differ from {who}: the same on every problem."
    digits = 1 if scale > 1 and max(-low, high) >= 1 else 2
    margin = f"{_signed(value, digits)}{unit}"
    by = f"The difference is {margin} (95 % interval {_signed(low, digits)} to {_signed(high, digits)}, {chance(p)})."
    if p < ALPHA:
        return f"{where} {'better' if value > 0 else 'worse'} than {who}. {by}"
    ends = ((min(low, 0.0), "worse"), (max(high, 0.0), "better"))
    possible = " or ".join(f"{abs(x):.{digits}f} {word}" for x, word in ends if x)
    return f"{where} not shown to differ from {who}. {by} It may be up to {possible}."


def _few(results: Results) -> list[str]:
    n = sum(results.tasks.values())
    return [f"With {count(n, 'problem')} only large differences show."] if n < FEW_PROBLEMS else []


def _without_autodeco(results: Results, best: Mapping[str, Row]) -> str:
    """The best constants, where there is nothing to compare them with."""
    if not best:
        return "There is neither AutoDeco nor a constant to compare."
    row = best["pass@1"]
    said = [
        "AutoDeco is not among the methods.",
        f"The best constant on pass@1 is {row.label} ({_passed(row, row.overall)} %).",
    ]
    if "distinct" in best:
        row = best["distinct"]
        found = _with_error(row.overall.distinct, row.overall.distinct_se, 2)
        said.append(f"The constant with the most {_what('distinct', results)} is {row.label} ({found}).")
    said.append("The best was seen on these same problems, which favours it.")
    return " ".join([*said, *_few(results)])
