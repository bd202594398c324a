"""The results of an evaluation as a page: tables, plots, and every sample with its colours."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autodeco_gguf.errors import BadFile
from autodeco_gguf.evaluation.as_json import from_json
from autodeco_gguf.evaluation.plots import PLOTS
from autodeco_gguf.evaluation.questions import QUESTIONS, read_questions
from autodeco_gguf.evaluation.report import facts, notes, tables
from autodeco_gguf.evaluation.results import RESULTS, Results
from autodeco_gguf.evaluation.samples import SAMPLES, ProblemKey, Sample
from autodeco_gguf.evaluation.shards import read_samples
from autodeco_gguf.evaluation.traces import Place, read_traces
from autodeco_gguf.files.reading import MAX_JSON, parse_json, read_bytes
from autodeco_gguf.view.page import Section, as_data, columns, page, picture
from autodeco_gguf.view.traces import Token

MOST_BYTES = 18_000_000
"""Of the samples on a page, with their questions."""

_MOST_PICTURE = 2_000_000


def report_page(directory: Path) -> tuple[bytes, int, int]:
    """The page of an evaluation's directory, the samples on it, and all that its settings ask for.

    Raises:
        BadFile: no results there, a damaged file, or one that cannot be read.
    """
    results = _results(directory)
    asked_for = (s for _, _, s in read_samples([directory]) if results.settings.covers(s.seed, s.sample))
    samples = {(s.config.key, s.key): s for s in asked_for}  # of two lines the later one counts
    counts = Counter(key for key, _ in samples)
    for row in results.methods:
        have, wanted = counts[row.config.key], row.overall.samples
        if have < wanted:
            reason = f"{have} samples of {row.label}, {RESULTS} is of {wanted}; run the same eval again"
            raise BadFile.of(directory / SAMPLES, reason, expected=wanted, found=have)
    labels: dict[str, str] = {}
    for row in results.methods:  # two may draw alike, and share their samples
        key = row.config.key
        labels[key] = f"{labels[key]} and {row.label}" if key in labels else row.label
    questions = read_questions(directory)
    shown = _shown(directory, samples, labels, questions)
    sections: list[Section] = [
        {"kind": "words", "lines": facts(results)},
        *({"kind": "table", "title": title, **_table(rows)} for title, rows in tables(results)),
        {"kind": "words", "lines": [*results.verdict.splitlines(), *(f"- {note}" for note in notes(results))]},
        *_plots(directory),
    ]
    if len(shown) < len(samples):
        lines = [
            f"{len(shown):,} of {len(samples):,} samples are on this page, of each method and problem the first ones."
        ]
        sections.append({"kind": "words", "lines": [f"{lines[0]} All of them: {SAMPLES}."]})
    if not questions:
        lines = [f"An older version made this directory, without {QUESTIONS}: the same eval again adds what was asked."]
        sections.append({"kind": "words", "lines": lines})
    asked = {sample["question"] for sample in shown}
    texts = {name: text for key, text in questions.items() if (name := _name(key)) in asked}
    sections.append({"kind": "samples", "questions": texts, "list": shown})
    return page(f"Evaluation of {', '.join(results.tasks)}", sections), len(shown), len(samples)


def _results(directory: Path) -> Results:
    path = directory / RESULTS
    if directory.is_dir() and not path.exists():
        raise BadFile.of(directory, f"has no {RESULTS}; give the directory of an evaluation that is finished")
    try:
        return from_json(Results, parse_json(read_bytes(path, MAX_JSON)))
    except (TypeError, LookupError, AttributeError, ValueError) as e:
        if isinstance(e, BadFile):
            raise
        raise BadFile.of(path, f"cannot be read as results: {e}") from e


def _table(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    head = [name for name in rows[0] if any(row[name] for row in rows)]
    return {"head": head, "rows": [[row[name] for name in head] for row in rows]}


def _plots(directory: Path) -> list[Section]:
    paths = [directory / name for name in PLOTS]
    found = [path for path in paths if path.exists()]
    return [
        {"kind": "plot", "title": path.stem.replace("_", " "), "src": picture(read_bytes(path, _MOST_PICTURE))}
        for path in found
    ]


# ---- samples ----


def _shown(
    directory: Path, samples: Mapping[Place, Sample], labels: Mapping[str, str], questions: Mapping[ProblemKey, str]
) -> list[dict[str, Any]]:
    """As many samples as there is room for, in the order of the problems."""
    first = sorted(samples, key=lambda place: (place[1].seed, place[1].sample))
    traces: dict[Place, list[Token]] = {}

    def shown(place: Place) -> dict[str, Any]:
        return _sample(samples[place], labels.get(place[0], place[0]), traces.get(place))

    candidates = _within(first, questions, shown)
    traces |= read_traces(directory, set(candidates))
    kept = _within(candidates, questions, shown)
    order = list(labels)
    kept.sort(key=lambda p: (p[1][:2], order.index(p[0]) if p[0] in labels else len(order), p[0], p[1][2:]))
    return list(map(shown, kept))


def _within(
    places: Sequence[Place], questions: Mapping[ProblemKey, str], shown: Callable[[Place], object]
) -> list[Place]:
    """The first of them for which there is room, each question once; one at least."""
    unasked = dict(questions)
    sums = itertools.accumulate(len(as_data([unasked.pop(place[1][:2], ""), shown(place)])) for place in places)
    n = sum(1 for _ in itertools.takewhile(lambda total: total <= MOST_BYTES, sums))
    return list(places[: max(n, 1)])


def _sample(sample: Sample, method: str, tokens: Sequence[Token] | None) -> dict[str, Any]:
    verdict = {True: "right", False: "wrong", None: "not graded"}[sample.correct]
    where = f"seed {sample.seed + 1}, sample {sample.sample + 1}"
    about = [] if sample.answer is None else [f"answer {sample.answer}" if sample.answer else "no answer found"]
    if tokens is None:
        means = {"T": sample.temperature.mean, "P": sample.top_p.mean}
        about += [f"{sample.tokens} tokens", *(f"mean {n} {v:.2f}" for n, v in means.items() if v is not None)]
    about += ["cut by its length"] if sample.finish_reason == "length" else []
    about += [] if sample.error is None else [sample.error]
    shown = {"text": sample.text} if tokens is None else {"columns": columns(tokens)}
    title = f"{sample.task}, problem {sample.problem + 1}: {method}, {where}"
    chosen_by = {"method": method, "task": sample.task, "verdict": verdict}
    return {"title": title, "question": _name(sample.key[:2]), **chosen_by, "about": about, **shown}


def _name(problem: ProblemKey) -> str:
    """Of a question on the page."""
    return f"{problem[0]} {problem[1] + 1}"
