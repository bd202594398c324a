"""From samples to results: how those of a config did, problem by problem, and what they come to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autodeco_gguf.errors import BadFile
from autodeco_gguf.evaluation import estimates
from autodeco_gguf.evaluation.estimates import Array, distinct_at_k, majority_at_k, mean_se, pass_at_k
from autodeco_gguf.evaluation.methods import Config, Method
from autodeco_gguf.evaluation.report import verdict
from autodeco_gguf.evaluation.results import Comparison, GridRow, Moments, Point, Results, Row, Stats
from autodeco_gguf.evaluation.samples import PARAMETERS, Drawn, ProblemKey, Sample
from autodeco_gguf.evaluation.settings import EvalSettings

Groups = Mapping[ProblemKey, list[Sample]]


@dataclass(frozen=True)
class Scores:
    """How the samples of one config did: [problems] values.

    ``right`` is the share of right ones among those graded, ``by_seed`` that of each seed, [seeds, problems], nan where
    none is graded. ``passed`` is pass@k, and ``distinct`` the different right answers among k, for k of 1, 2, 4, ...,
    that of the settings and the largest that there is. ``majority`` is maj@k for the k of the settings, or the largest
    there is; nan for tasks whose answers are whole texts.
    """

    samples: list[list[Sample]]
    tasks: NDArray[np.str_]
    right: Array
    by_seed: Array
    passed: dict[int, Array]
    distinct: dict[int, Array]
    majority: Array

    @property
    def by_task(self) -> dict[str, Scores]:
        """Those of every task."""
        parts = {}
        for task in dict.fromkeys(self.tasks.tolist()):
            at = self.tasks == task
            passed, distinct = ({k: x[at] for k, x in curve.items()} for curve in (self.passed, self.distinct))
            samples = [group for group, inside in zip(self.samples, at, strict=True) if inside]
            right, by_seed, majority = self.right[at], self.by_seed[:, at], self.majority[at]
            parts[task] = Scores(samples, self.tasks[at], right, by_seed, passed, distinct, majority)
        return parts


def by_config(samples: Iterable[Sample], settings: EvalSettings) -> dict[Config, dict[ProblemKey, list[Sample]]]:
    """The samples that the settings ask for; of two in the same place, the later."""
    found = {(s.config, s.key): s for s in samples if s.task in settings.tasks and settings.covers(s.seed, s.sample)}
    grouped: dict[Config, dict[ProblemKey, list[Sample]]] = {}
    for s in found.values():
        grouped.setdefault(s.config, {}).setdefault((s.task, s.problem), []).append(s)
    return grouped


def all_problems(grouped: Mapping[Config, Groups], settings: EvalSettings) -> list[ProblemKey]:
    """Those that any config was sampled on, in the tasks' order; a shard has only some of a task."""
    found = {problem for groups in grouped.values() for problem in groups}
    if not found:
        raise BadFile("no samples of these tasks; run the evaluation again to draw them")
    return sorted(found, key=lambda problem: (settings.tasks.index(problem[0]), problem[1]))


def complete_scores(config: Config, groups: Groups, problems: Iterable[ProblemKey], settings: EvalSettings) -> Scores:
    """The scores of a config on all these problems; raises BadFile where a sample is missing, or too few are graded."""
    seeds, least = settings.draws(config)
    expected = seeds * least
    complete = {problem: groups.get(problem, []) for problem in problems}
    for (task, problem), samples in complete.items():
        where = f"{config}: task {task}, problem {problem}: {len(samples)} samples"
        if len(samples) < expected:
            raise BadFile(f"{where}, expected {expected}; run the evaluation again to draw the rest")
        failed = [s.error for s in samples if s.correct is None]
        if len(samples) - len(failed) < least:
            raise BadFile(f"{where}, {len(failed)} of them not graded: {failed[0]}; run again to grade them")
    return score(config, complete, settings)


def score(config: Config, groups: Groups, settings: EvalSettings) -> Scores:
    """The scores of a config on some problems, each with a graded sample at least.

    The one sample of a deterministic config counts for all that the settings ask for: they would be the same.
    """
    copies = settings.k * settings.seeds if config.deterministic else 1
    graded = [[s for s in samples if s.correct is not None] for samples in groups.values()]
    n = [copies * len(samples) for samples in graded]
    answers = [Counter(s.answered for s in samples if s.correct) for samples in graded]
    counts = [[copies * count for count in different.values()] for different in answers]
    right, least = [sum(count) for count in counts], min(n)
    ks = sorted({1 << i for i in range(least.bit_length())} | {min(settings.k, least), least})
    seeds = [None if config.deterministic else seed for seed in range(settings.seeds)]
    return Scores(
        samples=list(groups.values()),
        tasks=np.array([task for task, _ in groups]),
        right=np.array(right) / np.array(n),
        by_seed=np.array([[_share(samples, seed) for samples in graded] for seed in seeds]),
        passed={i: pass_at_k(n, right, i) for i in ks},
        distinct={i: np.array([distinct_at_k(c, m, i) for c, m in zip(counts, n, strict=True)]) for i in ks},
        majority=np.array([_majority(samples, copies, min(settings.k, least)) for samples in graded]),
    )


def _majority(samples: Sequence[Sample], copies: int, k: int) -> float:
    """maj@k of a problem, each of its samples taken so many times; nan where they have no answers but their texts."""
    if all(s.answer is None for s in samples):
        return math.nan
    votes: dict[str, list[bool]] = {}
    for s in samples:
        if s.answer != "":
            votes.setdefault(s.answered, []).append(bool(s.correct))
    ordered = sorted(votes.values(), key=lambda right: (len(right), sum(right)))  # the same for the same votes
    counts = tuple(copies * len(right) for right in ordered)
    return majority_at_k(counts, tuple(sum(right) / len(right) for right in ordered), copies * len(samples), k)


def _share(samples: Iterable[Sample], seed: int | None) -> float:
    """Of right ones among those of a seed, or among all; nan where there are none."""
    right = [bool(s.correct) for s in samples if seed is None or s.seed == seed]
    return sum(right) / len(right) if right else math.nan


# ---- results ----


def summarize(
    samples: Iterable[Sample], methods: Sequence[Method], settings: EvalSettings, tokens_s: Mapping[Config, float]
) -> Results:
    """The results of an evaluation.

    Every problem counts the same, of whatever task. Right answers are different where what the checker takes out of
    them is, or else where their texts are, but for white space around them. Samples that are not graded count neither
    as right nor as wrong; those that the settings do not ask for are passed over. ``methods`` are the rows, their
    configs found, and ``tokens_s`` tokens drawn a second.

    Raises:
        BadFile: a sample is missing, or a problem has fewer than k that are graded.
    """
    grouped = by_config(samples, settings)
    problems = all_problems(grouped, settings)
    configs = dict.fromkeys(method.found for method in methods)
    scores = {config: complete_scores(config, grouped.get(config, {}), problems, settings) for config in configs}
    results = Results(
        settings=settings,
        tasks=dict(Counter(task for task, _ in problems)),
        methods=tuple(_row(m, scores[m.found], settings.k, tokens_s.get(m.found)) for m in methods),
        comparisons=tuple(_comparisons(methods, scores, settings.k)),
        grid=tuple(_grid(grouped, settings)),
    )
    return replace(results, verdict=verdict(results))


def _row(method: Method, scores: Scores, k: int, tokens_s: float | None) -> Row:
    overall, tasks = _stats(scores, k, tokens_s), scores.by_task
    if len(tasks) > 1:
        seeds = [np.nanmean(seeds, axis=1) for seeds in (_drawn_seeds(part) for part in tasks.values())]
        mean, same = float(np.mean([part.right.mean() for part in tasks.values()])), len({len(of) for of in seeds}) == 1
        sd = estimates.sd_over_seeds(np.mean(seeds, axis=0)) if same else None
        overall = replace(overall, mean_of_tasks=mean, mean_of_tasks_sd=sd)
    of_task = tokens_s if len(tasks) == 1 else None  # it is measured over all of them
    return Row(
        name=method.name,
        kind=method.kind,
        config=method.found,
        deterministic=method.found.deterministic,
        temperature=overall.temperature,
        top_p=overall.top_p,
        overall=overall,
        tasks={task: _stats(part, k, of_task) for task, part in tasks.items()},
    )


def _stats(scores: Scores, k: int, tokens_s: float | None) -> Stats:
    samples = [s for group in scores.samples for s in group]
    right, se_problems = mean_se(scores.right, scores.tasks.tolist())
    distinct, distinct_se = mean_se(scores.distinct[k], scores.tasks.tolist())
    voted = not np.isnan(scores.majority).any()
    majority, majority_se = mean_se(scores.majority, scores.tasks.tolist()) if voted else (None, None)
    boxes = {name: _box([getattr(s, name) for s in samples], top) for name, top in PARAMETERS.items()}
    seeds = np.nanmean(_drawn_seeds(scores), axis=1)
    return Stats(
        problems=len(scores.samples),
        samples=len(samples),
        pass_1=right,
        se_seeds=mean_se(seeds)[1],
        sd_seeds=estimates.sd_over_seeds(seeds),
        se_problems=se_problems,
        pass_k={n: float(values.mean()) for n, values in scores.passed.items()},
        distinct=distinct,
        distinct_se=distinct_se,
        distinct_k={n: float(values.mean()) for n, values in scores.distinct.items()},
        majority=majority,
        majority_se=majority_se,
        tokens_mean=float(np.mean([s.tokens for s in samples])),
        temperature=_moments((s.tokens, s.temperature) for s in samples),
        top_p=_moments((s.tokens, s.top_p) for s in samples),
        tokens_s=tokens_s,
        truncated=sum(s.finish_reason == "length" for s in samples) / len(samples),
        ungraded=sum(s.correct is None for s in samples),
        formless=sum(s.answer == "" for s in samples),
        failed=sum(s.finish_reason == "error" or (s.correct is False and bool(s.error)) for s in samples),
        boxes={name: box for name, box in boxes.items() if box is not None},
    )


def _drawn_seeds(scores: Scores) -> Array:
    """The shares of right ones of every seed that has some, [seeds, problems]."""
    return scores.by_seed[~np.isnan(scores.by_seed).all(axis=1)]


def _moments(parts: Iterable[tuple[int, Drawn]]) -> Moments | None:
    """Over all tokens; None where nobody can tell."""
    rows = [(tokens, drawn.mean, drawn.sd) for tokens, drawn in parts if tokens and drawn.mean is not None]
    return Moments(*estimates.pooled(*zip(*rows, strict=True))) if rows else None


def _box(parts: Iterable[Drawn], top: float) -> tuple[float, ...] | None:
    bins = [drawn.bins for drawn in parts if drawn.bins is not None]
    return estimates.histogram_box(np.sum(bins, axis=0), top) if bins else None


def _comparisons(methods: Sequence[Method], scores: Mapping[Config, Scores], k: int) -> Iterator[Comparison]:
    """AutoDeco against every other method, problem by problem."""
    every = [(a, b) for a in methods if a.of_heads is not None for b in methods if a.found != b.found]
    for first, method in every:
        ours, other = scores[first.found], scores[method.found]
        most = max(ours.distinct.keys() & other.distinct.keys())  # of all seeds together
        of = {"distinct": k, f"distinct@{most}": most} if most > k else {"distinct": k}
        for metric, a, b, limit in (
            ("pass@1", ours.right, other.right, 1.0),
            *((name, ours.distinct[n], other.distinct[n], float(n)) for name, n in of.items()),
            ("maj", ours.majority, other.majority, 1.0),
        ):
            if np.isnan(a).any() or np.isnan(b).any():
                continue
            d = estimates.paired_bootstrap(a, b, strata=ours.tasks.tolist(), limit=limit)
            yield Comparison(method.name, method.found, metric, d.mean, (d.low, d.high), d.p, first.name)


def _grid(grouped: Mapping[Config, Groups], settings: EvalSettings) -> list[GridRow]:
    """Every static pair, on as many problems and from as many samples as it has, over all tasks and for each."""
    rows = []
    for config, groups in grouped.items():
        graded = {key: s for key, s in groups.items() if any(one.correct is not None for one in s)}
        if config.pair is not None and graded:
            scores = score(config, graded, settings)
            tasks = {task: _point(part, settings.k) for task, part in scores.by_task.items()}
            rows.append(GridRow(config, *config.pair, **vars(_point(scores, settings.k)), tasks=tasks))
    return sorted(rows, key=lambda row: (row.temperature, row.top_p))


def _point(scores: Scores, k: int) -> Point:
    right, se = mean_se(scores.right, scores.tasks.tolist())
    least = min(k, max(scores.distinct))
    return Point(len(scores.right), right, se, float(scores.distinct[least].mean()), least)
