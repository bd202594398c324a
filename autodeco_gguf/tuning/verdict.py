"""What a comparison says: which way to decode to take, and why, in words."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from autodeco_gguf.evaluation.estimates import Difference, holm, paired_bootstrap
from autodeco_gguf.evaluation.report import ALPHA, FEW_PROBLEMS, chance
from autodeco_gguf.tuning.scores import Row

GREEDY, DEFAULT, LLAMA_CPP, PAIR, HEADS, OWN = "greedy", "default", "llama.cpp", "pair", "heads", "own heads"
"""Names of rows. ``pair`` is the one that the search found, ``own heads`` those that the model came with."""

MEANS = {HEADS: "mean of heads", OWN: "mean of own heads"}
"""Heads -> the row with their mean T and P as constants."""


@dataclass(frozen=True)
class Claim:
    """How far one row is ahead of another, problem by problem; the p-value is corrected for all claims (Holm)."""

    ahead: str
    of: str
    difference: Difference
    p: float

    @property
    def better(self) -> bool:
        """Whether it is shown to be better."""
        return self.p < ALPHA and self.difference.mean > 0

    @property
    def worse(self) -> bool:
        """Whether it is shown to be worse."""
        return self.p < ALPHA and self.difference.mean < 0


@dataclass(frozen=True)
class Verdict:
    """The row to take, the one that heads had to be better than, and the claims that tell."""

    chosen: str
    without_heads: str
    claims: tuple[Claim, ...]


def decide(rows: Mapping[str, Row], pair: str, tasks: Sequence[Hashable], limit: float) -> Verdict:
    """The simplest row that no other is shown to be better than: greedy, then the fixed pair, then heads.

    The pair is taken if it is better than greedy; should a usual default be better than the pair, it is taken instead.
    Heads are taken if they are better than what is taken until then, or their mean, where it is ahead of what they are
    better than, and they are not better than it. Better is what a paired bootstrap shows.

    ``rows`` by name have values for the same problems, ``pair`` names the one with what the search found, ``tasks`` are
    those of the problems, and ``limit`` is the largest difference there can be.
    """
    usual = [name for name in (DEFAULT, LLAMA_CPP) if name != pair]
    heads = [name for name in (OWN, HEADS) if name in rows]
    wanted = [(pair, name) for name in (GREEDY, *usual)]
    wanted += [(h, name) for h in heads for name in (pair, GREEDY, *usual, MEANS[h])]
    wanted = [claim for claim in dict.fromkeys(wanted) if claim[0] != claim[1]]
    found = [paired_bootstrap(rows[a].values, rows[b].values, strata=tasks, limit=limit) for a, b in wanted]
    corrected = holm([difference.p for difference in found])
    claims = {names: Claim(*names, d, p) for names, d, p in zip(wanted, found, corrected, strict=True)}

    def best(names: Sequence[str]) -> str:
        return max(names, key=lambda name: float(rows[name].values.mean()))

    chosen = pair if pair == GREEDY or claims[pair, GREEDY].better else GREEDY
    chosen = best([chosen, *(name for name in usual if claims[pair, name].worse)])
    against = chosen
    winners = [h for h in heads if claims[h, against].better]
    plain = {h: best([chosen, MEANS[h]]) == MEANS[h] and not claims[h, MEANS[h]].better for h in winners}
    chosen = best([chosen, *(MEANS[h] if plain[h] else h for h in winners)])
    return Verdict(chosen, against, tuple(claims.values()))


# ---- in words ----


@dataclass(frozen=True)
class Unit:
    """How values of a measure are written: its name, times what, with how many digits, and what a difference is in."""

    measure: str
    scale: float = 1.0
    digits: int = 2
    unit: str = ""

    @classmethod
    def of(cls, measure: str, largest: float) -> Unit:
        """That of a measure: shares are in percent, and their differences in points; else two digits of the largest."""
        if measure.startswith("pass@"):
            return cls(measure, 100.0, 1, " points")
        return cls(measure, digits=max(2, 1 - math.floor(math.log10(abs(largest) or 1.0))))

    def value(self, x: float) -> str:
        """A value, or an error."""
        return f"{self.scale * x:.{self.digits}f}"

    def signed(self, x: float) -> str:
        """A difference, without its unit."""
        text = f"{self.scale * x:+.{self.digits}f}"
        return text.replace("-", "+") if float(text) == 0 else text


def label(row: Row) -> str:
    """What a row is, for a reader."""
    pair = row.config.pair or (0.0, 0.0)
    mean = f"T = {pair[0]:.2f}, P = {pair[1]:.2f}"
    return {
        GREEDY: "greedy (T = 0)",
        DEFAULT: "T = 1, P = 1",
        LLAMA_CPP: "llama.cpp's defaults",
        PAIR: f"T = {pair[0]:g}, P = {pair[1]:g}",
        HEADS: "the trained heads",
        OWN: "the model's own heads",
        MEANS[HEADS]: f"{mean}, the mean of heads",
        MEANS[OWN]: f"{mean}, the mean of own heads",
    }[row.name]


def words(verdict: Verdict, rows: Mapping[str, Row], pair: str, unit: Unit) -> list[str]:
    """Sentences: what to take, and the claims that tell why."""
    said = [f"Take {label(rows[verdict.chosen])}."]
    n = len(rows[GREEDY].values)
    if verdict.chosen == GREEDY and not any(claim.p < ALPHA for claim in verdict.claims):
        said.append(f"Nothing that was tried is shown to differ from it by {unit.measure} on {n} problems.")
    for claim in sorted(verdict.claims, key=lambda claim: verdict.chosen not in (claim.ahead, claim.of)):
        if pair == claim.ahead or claim.of in (verdict.without_heads, *MEANS.values()):
            said.append(_sentence(claim, label(rows[claim.ahead]), label(rows[claim.of]), unit))
    if n < FEW_PROBLEMS:
        said.append(f"With {n} problems to compare on only large differences show.")
    return said


def _sentence(claim: Claim, ahead: str, of: str, unit: Unit) -> str:
    d = claim.difference
    verb = "better than" if claim.better else "worse than" if claim.worse else "not shown to differ from"
    be = "are" if ahead.endswith(("heads", "defaults")) else "is"
    start = f"{ahead[0].upper()}{ahead[1:]} {be} {verb} {of}"
    if d.mean == d.low == d.high == 0:
        return f"{start}: the same on every problem."
    interval = f"95 % interval {unit.signed(d.low)} to {unit.signed(d.high)}"
    return f"{start}: {unit.signed(d.mean)}{unit.unit} ({interval}, {chance(claim.p)})."
