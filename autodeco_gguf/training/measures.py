"""What a training on reward shows of groups of answers, and its report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autodeco_gguf.errors import ModelFailed
from autodeco_gguf.files.jsonl import read_lines
from autodeco_gguf.training.report import LEAST_EXAMPLES
from autodeco_gguf.training.rewards import Group


@dataclass(frozen=True)
class Measures:
    """What some groups of k answers are: means over groups, and over the tokens drawn.

    Attributes:
        reward: what the reward is after, as ``Group.value`` says.
        pass_at_1: share of right answers.
        pass_at_k: share of groups with a right one.
        distinct: different right answers of a group.
        differing: share of groups whose answers have different rewards.
        temperature: mean T; ``temperature_sd``: its standard deviation.
        top_p: mean P; ``top_p_sd``: its standard deviation.
        length: tokens of an answer.
        cut: share of answers that were cut by length.
        values: ``reward`` of each group, whose mean it is.
    """

    reward: float
    pass_at_1: float
    pass_at_k: float
    distinct: float
    differing: float
    temperature: float
    temperature_sd: float
    top_p: float
    top_p_sd: float
    length: float
    cut: float
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, found: Sequence[Group]) -> Measures:
        """Of all of them. Raises ModelFailed where no token was drawn: there is no mean."""
        results = [one.result for group in found for one in group.answers]
        t, p = (np.concatenate([getattr(r, name) for r in results]) for name in ("temperature", "top_p"))
        if not len(t):
            raise ModelFailed(f"no answer has a token: {results[0].error}")
        n = len(found)
        return cls(
            reward=sum(group.value for group in found) / n,
            pass_at_1=sum(group.right for group in found) / len(results),
            pass_at_k=sum(group.right > 0 for group in found) / n,
            distinct=sum(group.different for group in found) / n,
            differing=sum(not group.flat for group in found) / n,
            temperature=float(t.mean()),
            temperature_sd=float(t.std()),
            top_p=float(p.mean()),
            top_p_sd=float(p.std()),
            length=len(t) / len(results),
            cut=sum(r.finish_reason == "length" for r in results) / len(results),
            values=tuple(float(group.value) for group in found),
        )


@dataclass(frozen=True)
class RewardReport:
    """A training on reward on its validation problems: each validation by its round, and which one is kept, in words.

    ``validations`` are the rounds of ``log.jsonl`` that have one, 0 for the start, with their measures.
    """

    reward: str
    k: int
    problems: int
    validations: tuple[tuple[int, Measures], ...]
    kept: int
    verdict: str


def report_of(log: Path, reward: str, k: int, problems: int, kept: int) -> RewardReport | None:
    """The report of a training by its log; None where nothing was held out for validation."""
    records = [json.loads(line) for _, line in read_lines(log)]
    of = {r["round"]: Measures(**r["validation"]) for r in records if "validation" in r}
    if not of:
        return None
    words = _verdict(of, problems, kept)
    return RewardReport(reward, k, problems, tuple(of.items()), kept, words)


def _verdict(of: Mapping[int, Measures], problems: int, kept: int) -> str:
    if kept == 0:
        return f"No round was better than the start, which is kept: reward {of[0].reward:.3f} on {problems} problems."
    words = f"Round {kept} is kept: reward {of[kept].reward:.3f} on {problems} validation problems, "
    words += f"{of[0].reward:.3f} at the start"
    if problems < LEAST_EXAMPLES:
        words += ", too few for a verdict."
    elif not of[0].values:  # a log of an earlier version
        words += "."
    else:
        differences = np.subtract(of[kept].values, of[0].values)
        error = differences.std(ddof=1) / math.sqrt(problems)
        words += f", a difference of {differences.mean():+.3f} ± {error:.3f}."
    return words + " It was chosen on these same problems, which favours it."
